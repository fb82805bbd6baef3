"""The network of GPT-2.  B batch, T time, C d_model, H heads, D = C / H, V vocabulary.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.kernels.gpt2_block import block_forward
from tinygpt.kernels.loss import linear_cross_entropy

if TYPE_CHECKING:
    from tinygpt.components.models.gpt import GPTConfig

INIT_STD = 0.02


class LayerCache:
    """Keys and values of the positions that one layer has seen, in room for `seq_len` of them."""

    def __init__(self, seq_len: int) -> None:
        self.seq_len = seq_len
        self.length = 0
        self._keys_values: Tensor | None = None  # (2, B, H, seq_len, D), made when B is known

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add T positions of (B, H, T, D); return all positions so far, (B, H, length, D)."""
        if self._keys_values is None:
            batch, n_head, _, d_head = keys.shape
            self._keys_values = keys.new_empty(2, batch, n_head, self.seq_len, d_head)
        start, self.length = self.length, self.length + keys.size(2)
        self._keys_values[0, :, :, start : self.length] = keys
        self._keys_values[1, :, :, start : self.length] = values
        all_keys, all_values = self._keys_values[:, :, :, : self.length]
        return all_keys, all_values


class Attention(nn.Module):
    """Causal self-attention with H heads of D = C / H dimensions (GPT-2)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, cache: LayerCache | None, mask: Tensor | None) -> Tensor:
        n_time = x.size(1)
        heads = self.qkv(x).unflatten(-1, (3, self.n_head, -1))  # (B, T, 3, H, D)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind()  # each (B, H, T, D)
        if cache is not None:
            k, v = cache.append(k, v)
            mask = torch.ones(n_time, cache.length, dtype=torch.bool, device=x.device)
            mask = mask.tril(cache.length - n_time)  # the queries are the newest T positions
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=dropout
        )
        y = self.out(y.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, C)
        return F.dropout(y, self.dropout, self.training)


def _same_document(documents: Tensor) -> Tensor:
    """Which positions a query sees, itself and earlier ones of its document: (B, 1, T, T)."""
    same = documents[:, :, None] == documents[:, None, :]
    return same.tril()[:, None]


class MLP(nn.Module):
    """Two linear layers, four times as wide between them, with the tanh form of GELU."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.up = nn.Linear(config.d_model, 4 * config.d_model)
        self.down = nn.Linear(4 * config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(F.gelu(self.up(x), approximate="tanh"))
        return F.dropout(y, self.dropout, self.training)


class Block(nn.Module):
    """Attention, then the MLP; each is normalised before and added to its input."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.d_model)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: LayerCache | None, mask: Tensor | None = None) -> Tensor:
        dropped = self.dropout > 0 and self.training
        if x.device.type == "cpu" and cache is None and mask is None and not dropped:
            return block_forward(self, x)
        x = x + self.attention(self.attention_norm(x), cache, mask)
        update: Tensor = self.mlp(self.mlp_norm(x))
        return x + update


class GPT(nn.Module):
    """Tokens in, logits out. The names of its parameters are those in checkpoints."""

    def __init__(self, config: GPTConfig, *, vocab_size: int, seq_len: int) -> None:
        super().__init__()
        self.seq_len = seq_len
        self.dropout = config.dropout
        self.token_embedding = nn.Embedding(vocab_size, config.d_model)  # also the output matrix
        self.position_embedding = nn.Embedding(seq_len, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
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
        """An empty cache; hand it to every call of one generation."""
        return [LayerCache(self.seq_len) for _ in self.blocks]

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
        """Mean nats of targets (B, T): what the logits give, without all of them in memory."""
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
        mask = None if documents is None else _same_document(documents)
        for i, block in enumerate(self.blocks):
            x = block(x, cache[i] if cache else None, mask)
        normed: Tensor = self.norm(x)
        return normed
