"""The network of GPT-2.  B batch, T time, C d_model, H heads, D = C / H, V vocabulary.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.components.models.parts.attention import Attention, LayerCache, same_document
from tinygpt.components.models.parts.feedforward import MLP
from tinygpt.components.models.parts.flops import flops_per_token
from tinygpt.kernels.gpt2_block import BlockParameters, block_forward
from tinygpt.kernels.loss import linear_cross_entropy
from tinygpt.language_model import LanguageModel

if TYPE_CHECKING:
    from tinygpt.components.models.gpt import GPTConfig

INIT_STD = 0.02


class Block(nn.Module):
    """Attention, then the MLP; each is normalised before and added to its input."""

    def __init__(self, *, d_model: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.n_head = n_head
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = Attention(d_model=d_model, n_head=n_head, dropout=dropout)
        self.mlp_norm = nn.LayerNorm(d_model)
        self.mlp = MLP(d_model=d_model, d_ff=4 * d_model, dropout=dropout)
        self.uses_kernels = False

    def forward(
        self, x: Tensor, cache: LayerCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """x (B, T, C) to the next block's."""
        dropped = self.dropout > 0 and self.training
        if self.uses_kernels and cache is None and mask is None and not dropped:
            return block_forward(
                x, self.kernel_parameters(), n_head=self.n_head, eps=self.attention_norm.eps
            )
        x = x + self.attention(self.attention_norm(x), cache, mask)
        update: Tensor = self.mlp(self.mlp_norm(x))
        return x + update

    def kernel_parameters(self) -> BlockParameters:
        """The weights in the order in which the kernels take them."""
        attention, mlp = self.attention, self.mlp
        return BlockParameters(
            *(self.attention_norm.weight, self.attention_norm.bias),
            *(attention.qkv.weight, attention.qkv.bias),
            *(attention.out.weight, attention.out.bias),
            *(self.mlp_norm.weight, self.mlp_norm.bias),
            *(mlp.up.weight, mlp.up.bias, mlp.down.weight, mlp.down.bias),
        )


class GPT(LanguageModel):
    """Tokens in, logits out. The names of its parameters are those in checkpoints."""

    def __init__(self, config: GPTConfig, *, vocab_size: int, seq_len: int) -> None:
        super().__init__()
        self.seq_len = seq_len
        self.dropout = config.dropout
        self.token_embedding = nn.Embedding(vocab_size, config.d_model)  # also the output matrix
        self.position_embedding = nn.Embedding(seq_len, config.d_model)
        self.blocks = nn.ModuleList(
            Block(d_model=config.d_model, n_head=config.n_head, dropout=config.dropout)
            for _ in range(config.n_layer)
        )
        self.norm = nn.LayerNorm(config.d_model)
        self._initialise(config.n_layer)

    def _initialise(self, n_layer: int) -> None:
        # every block adds two outputs to the residual stream: scaled so that their sum stays put
        residual_std = INIT_STD / (2 * n_layer) ** 0.5
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.out.weight", "mlp.down.weight")):
                nn.init.normal_(parameter, std=residual_std)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=INIT_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def new_cache(self) -> list[LayerCache]:
        """An empty cache; pass it to every call of one generation."""
        return [LayerCache(self.seq_len) for _ in self.blocks]

    def use_kernels(self, on: bool) -> list[str]:
        """See LanguageModel."""
        for block in self.blocks:
            assert isinstance(block, Block)
            block.uses_kernels = on
        return ["blocks in training (model.dropout)"] if on and self.dropout else []

    def stacked(self) -> dict[str, tuple[int, ...]]:
        """See LanguageModel."""
        width = self.token_embedding.embedding_dim
        return {f"blocks.{i}.attention.qkv.weight": (width,) * 3 for i in range(len(self.blocks))}

    def flops_per_token(self) -> int:
        """See LanguageModel: with attention over the window and the tied output matrix."""
        vocab_size, width = self.token_embedding.weight.shape
        # C x 12 C weights in a layer: C x 3 C qkv, C x C out, C x 4 C up and back down
        n_params = 12 * len(self.blocks) * width**2 + vocab_size * width
        return flops_per_token(
            n_params=n_params, n_layer=len(self.blocks), d_model=width, seq_len=self.seq_len
        )

    def forward(
        self,
        tokens: Tensor,
        cache: list[LayerCache] | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Tokens (B, T) to logits (B, T, V): position t sees tokens up to and including t.

        With a cache the tokens follow those of the calls before. With documents (B, T), ids that
        grow from one to the next, it sees only its own; positions count on through all of them.
        Raises ValueError beyond seq_len.
        """
        return F.linear(self.hidden(tokens, cache, documents), self.token_embedding.weight)

    def loss(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """See LanguageModel: equal to the default's, without all logits in memory at once."""
        hidden = self.hidden(tokens, documents=documents)
        weight = self.token_embedding.weight
        return linear_cross_entropy(hidden.flatten(0, 1), weight, targets.flatten())

    def hidden(
        self,
        tokens: Tensor,
        cache: list[LayerCache] | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Tokens (B, T) to what the output matrix reads, (B, T, C)."""
        start = cache[0].length if cache else 0
        end = start + tokens.size(1)
        if end > self.seq_len:
            raise ValueError(f"{end} tokens do not fit into seq_len={self.seq_len}")
        positions = torch.arange(start, end, device=tokens.device)
        x = self.token_embedding(tokens) + self.position_embedding(positions)  # (B, T, C)
        x = F.dropout(x, self.dropout, self.training)
        mask = None if documents is None else same_document(documents)
        for i, block in enumerate(self.blocks):
            x = block(x, cache[i] if cache else None, mask)
        normed: Tensor = self.norm(x)
        return normed
