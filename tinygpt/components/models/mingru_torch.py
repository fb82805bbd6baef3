"""The network of minGRU.  B batch, T time, C d_model, S d_state, V vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.components.models.parts.feedforward import MLP
from tinygpt.components.models.parts.recurrence import MinGRULayer
from tinygpt.kernels import fuses
from tinygpt.kernels.formulas import Linear, Norm
from tinygpt.kernels.loss import linear_cross_entropy
from tinygpt.kernels.stream import feed_forward, norm
from tinygpt.language_model import LanguageModel

if TYPE_CHECKING:
    from tinygpt.components.models.mingru import MinGRUConfig

INIT_STD = 0.02
States = list[Tensor | None]  # of each layer (B, S); None before the first token


class Block(nn.Module):
    """The recurrence, then the feed-forward layer; each is normalised before and added."""

    def __init__(self, config: MinGRUConfig) -> None:
        super().__init__()
        width = config.d_model
        self.dropout = config.dropout
        self.recurrence_norm = nn.RMSNorm(width)
        self.recurrence = MinGRULayer(d_model=width, d_state=config.d_state)
        self.mlp_norm = nn.RMSNorm(width)
        self.mlp = MLP(
            d_model=width, d_ff=4 * width, activation="gelu", bias=True, dropout=config.dropout
        )

    def forward(
        self, x: Tensor, state: Tensor | None, begins: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, C) to the next block's, and the state after it."""
        by_kernels = self.recurrence.uses_kernels and fuses(x)
        of_norm = _rms_norm(self.recurrence_norm)
        normed = norm(x, of_norm) if by_kernels else self.recurrence_norm(x)
        update, state = self.recurrence(normed, state, begins)
        x = x + F.dropout(update, self.dropout, self.training)
        if by_kernels and not (self.dropout and self.training):
            up, down = (Linear(layer.weight, layer.bias) for layer in (self.mlp.up, self.mlp.down))
            return feed_forward(x, _rms_norm(self.mlp_norm), up, down, "gelu"), state
        return x + self.mlp(self.mlp_norm(x)), state


def _rms_norm(module: nn.RMSNorm) -> Norm:
    eps = torch.finfo(torch.float32).eps if module.eps is None else module.eps
    return Norm(module.weight, None, eps, rms=True)


class MinGRU(LanguageModel):
    """Tokens in, logits out; the output matrix is the embedding.

    All positions are computed at once in training.  A cache holds one state for each layer,
    however many tokens it has seen, so that a text may be of any length.
    """

    bounded_cache: ClassVar[bool] = False

    def __init__(self, config: MinGRUConfig, *, vocab_size: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.token_embedding = nn.Embedding(vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.RMSNorm(config.d_model)
        residual_std = INIT_STD / (2 * config.n_layer) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                is_output = name.endswith(("recurrence.out.weight", "mlp.down.weight"))
                nn.init.normal_(parameter, std=residual_std if is_output else INIT_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def new_cache(self) -> States:
        """No state of any layer yet; pass it to every call of one generation."""
        return [None] * len(self.blocks)

    def use_kernels(self, on: bool) -> list[str]:
        """See LanguageModel."""
        for module in self.modules():
            if isinstance(module, MinGRULayer):
                module.uses_kernels = on
        drops = on and self.dropout > 0
        return [f"feed-forward layers (model.dropout={self.dropout:g})"] if drops else []

    def output_norm(self) -> list[str]:
        """See LanguageModel."""
        return [f"norm.{name}" for name, _ in self.norm.named_parameters()]

    def stacked(self) -> dict[str, tuple[int, ...]]:
        """See LanguageModel."""
        return {
            f"{name}.gate_candidate.weight": (module.d_state,) * 2
            for name, module in self.named_modules()
            if isinstance(module, MinGRULayer)
        }

    def flops_per_token(self) -> int:
        """See LanguageModel: with the output matrix; the recurrence multiplies no matrices."""
        return super().flops_per_token() + 6 * self.token_embedding.weight.numel()

    def forward(
        self, tokens: Tensor, cache: States | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """Tokens (B, T) to logits (B, T, V): position t sees tokens up to and including t."""
        return F.linear(self.hidden(tokens, cache, documents), self.token_embedding.weight)

    def loss(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """See LanguageModel: equal to the default's, without all logits in memory at once."""
        hidden = self.hidden(tokens, documents=documents)
        weight = self.token_embedding.weight
        return linear_cross_entropy(hidden.flatten(0, 1), weight, targets.flatten())

    def hidden(
        self, tokens: Tensor, cache: States | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """Tokens (B, T) to what the output matrix reads, (B, T, C)."""
        begins = None
        if documents is not None:  # where another document than before begins
            begins = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0))
        x = F.dropout(self.token_embedding(tokens), self.dropout, self.training)
        for i, block in enumerate(self.blocks):
            x, state = block(x, cache[i] if cache else None, begins)
            if cache:
                cache[i] = state
        normed: Tensor = self.norm(x)
        return normed
