"""Causal self-attention.  B batch, T time, C width, H heads, D = C / H."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerCache:
    """Keys and values of the positions that one layer has seen, with room for `seq_len`."""

    def __init__(self, seq_len: int) -> None:
        self.seq_len = seq_len
        self.length = 0
        self._keys_values: Tensor | None = None  # (2, B, H, seq_len, D), allocated when B is known

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
    """Multi-head causal self-attention.

    Vaswani et al. 2017, "Attention Is All You Need" (arXiv 1706.03762), section 3.2.
    """

    def __init__(self, *, d_model: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.n_head = n_head
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(
        self, x: Tensor, cache: LayerCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """x (B, T, C) to what is added to it; `mask` (B, 1, T, T) is True where a query looks."""
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


def same_document(documents: Tensor) -> Tensor:
    """Mask (B, 1, T, T) from document ids (B, T): a query sees its own document up to itself."""
    same = documents[:, :, None] == documents[:, None, :]
    return same.tril()[:, None]
