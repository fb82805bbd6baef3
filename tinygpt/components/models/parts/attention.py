"""Causal self-attention.  B batch, T time, S keys, C width, H heads, G key heads, D = C / H."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.components.models.parts.norms import Norm
from tinygpt.components.models.parts.positions import Rotation, rotate

GATE_WIDTH = 32  # channels that the gates of value embeddings see, as nanochat has it


class LayerCache:
    """Keys and values of the positions that one layer has seen, with room for `seq_len`."""

    def __init__(self, seq_len: int) -> None:
        self.seq_len = seq_len
        self.length = 0
        self._keys_values: Tensor | None = None  # (2, B, G, seq_len, D), allocated when B is known

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add T positions of (B, G, T, D); return all positions so far, (B, G, length, D)."""
        if self._keys_values is None:
            batch, n_head, _, d_head = keys.shape
            self._keys_values = keys.new_empty(2, batch, n_head, self.seq_len, d_head)
        start, self.length = self.length, self.length + keys.size(2)
        self._keys_values[0, :, :, start : self.length] = keys
        self._keys_values[1, :, :, start : self.length] = values
        all_keys, all_values = self.keys_values
        return all_keys, all_values

    @property
    def keys_values(self) -> Tensor:
        """Keys and values of all positions so far, (2, B, G, length, D)."""
        assert self._keys_values is not None
        return self._keys_values[:, :, :, : self.length]


class SlotLayerCache:
    """Keys and values of N sequences that are at different positions; no shape ever changes."""

    def __init__(self, positions: Tensor, seq_len: int) -> None:
        """`positions` (N,) are those of the next call, which the caller sets."""
        self.positions, self.seq_len = positions, seq_len
        self._rows = torch.arange(len(positions), device=positions.device)
        self._keys_values: Tensor | None = None  # (2, N, G, S, D)

    def put(self, slot: int, cache: LayerCache) -> None:
        """Make a slot hold what the cache of one sequence holds."""
        held = cache.keys_values
        if self._keys_values is None:
            _, _, n_head, _, d_head = held.shape
            # one position more than the sequence has, for rows that are not of a call
            sizes = 2, len(self.positions), n_head, self.seq_len + 1, d_head
            self._keys_values = held.new_zeros(sizes)
        self._keys_values[:, slot, :, : cache.length] = held[:, 0]

    def copy(self, source: int, target: int) -> None:
        """Make one slot hold what another one holds."""
        assert self._keys_values is not None
        self._keys_values[:, target] = self._keys_values[:, source]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put one position of each, (N, G, 1, D), in its place; return all, (N, G, S, D)."""
        assert self._keys_values is not None
        all_keys, all_values = self._keys_values
        all_keys[self._rows, :, self.positions] = keys[:, :, 0]
        all_values[self._rows, :, self.positions] = values[:, :, 0]
        return all_keys, all_values


class Attention(nn.Module):
    """Multi-head causal self-attention (arXiv 1706.03762, section 3.2) and its variants.

    - n_kv_head < n_head: H / G query heads share a head of keys and values, "GQA" (arXiv
      2305.13245).
    - qk_norm: queries and keys are normalised over D before they are rotated, as in Qwen3 (Dehghani
      et al. 2023, "Scaling Vision Transformers to 22 Billion Parameters", arXiv 2302.05442).
    - mixes_values: values become a learned mixture of this layer's and the first layer's, "Value
      Residual Learning" (arXiv 2410.17897), section 3, with both weights 0.5 at first.
    - value_vocab: values get an embedding of the token on top, times a gate for each head that is
      2 sigmoid(linear(x)), as in nanochat (karpathy/nanochat, nanochat/gpt.py).
    """

    def __init__(
        self,
        *,
        d_model: int,
        n_head: int,
        n_kv_head: int,
        bias: bool,
        dropout: float,
        qk_norm: Norm | None = None,
        mixes_values: bool = False,
        value_vocab: int | None = None,
    ) -> None:
        super().__init__()
        self.n_head, self.n_kv_head = n_head, n_kv_head
        self.dropout = dropout
        d_head = d_model // n_head
        self.rows = (d_model, n_kv_head * d_head, n_kv_head * d_head)  # of q, k and v in `qkv`
        self.qkv = nn.Linear(d_model, sum(self.rows), bias=bias)
        self.out = nn.Linear(d_model, d_model, bias=bias)
        self.q_norm = qk_norm(d_head) if qk_norm else None
        self.k_norm = qk_norm(d_head) if qk_norm else None
        self.value_mix = nn.Parameter(torch.full((2,), 0.5)) if mixes_values else None
        self.value_embedding = self.value_gate = None
        if value_vocab is not None:
            self.value_embedding = nn.Embedding(value_vocab, self.rows[2])
            self.value_gate = nn.Linear(min(GATE_WIDTH, d_model), n_kv_head, bias=False)

    def forward(
        self,
        x: Tensor,
        *,
        cache: LayerCache | SlotLayerCache | None = None,
        mask: Tensor | None = None,
        by: Rotation | None = None,
        tokens: Tensor | None = None,
        first_values: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, C) to what is added to it, and the layer's own values (B, G, T, D).

        `mask` (B or 1, 1, T, S) is True where a query looks; without one it looks at itself and
        everything before.
        """
        q, k, v = (
            heads.unflatten(-1, (-1, x.size(-1) // self.n_head)).transpose(1, 2)
            for heads in self.qkv(x).split(self.rows, -1)
        )  # (B, H, T, D), (B, G, T, D)
        own_values = v
        if self.value_mix is not None:
            assert first_values is not None
            v = (self.value_mix[0] * v + self.value_mix[1] * first_values).to(v.dtype)
        if self.value_embedding is not None and self.value_gate is not None:
            assert tokens is not None
            gate = 2 * self.value_gate(x[..., : self.value_gate.in_features]).sigmoid()  # (B, T, G)
            added = self.value_embedding(tokens).unflatten(-1, (self.n_kv_head, -1))
            v = (v + (gate[..., None] * added).transpose(1, 2)).to(v.dtype)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if by is not None:
            q, k = rotate(q, by), rotate(k, by)
        if cache is not None:
            k, v = cache.append(k, v)
        if self.n_kv_head < self.n_head:
            k, v = (heads.repeat_interleave(self.n_head // self.n_kv_head, 1) for heads in (k, v))
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=dropout
        )
        y = self.out(y.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, C)
        return F.dropout(y, self.dropout, self.training), own_values


def attention_mask(
    n_queries: int,
    n_keys: int,
    *,
    window: int | None = None,
    documents: Tensor | None = None,
    device: torch.device,
) -> Tensor:
    """Mask (B or 1, 1, n_queries, n_keys): True where a query looks.

    Queries are the newest positions.  A query looks at itself and at what is before it: of that
    only the newest `window` positions, itself included (Beltagy et al. 2020, "Longformer", arXiv
    2004.05150), and only its own document, by ids (B, T) that grow from one document to the next.
    """
    mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    mask = mask.tril(n_keys - n_queries)
    if window is not None:
        mask = mask.triu(n_keys - n_queries - window + 1)
    if documents is None:
        return mask[None, None]
    same = documents[:, -n_queries:, None] == documents[:, None, :]
    return (same & mask)[:, None]


def first_keys(
    shape: Sequence[int], *, window: int | None = None, documents: Tensor | None = None
) -> Tensor:
    """The first position that each of (B, T) looks at, int64: `attention_mask` in other words."""
    batch, time = shape
    device = None if documents is None else documents.device
    positions = torch.arange(time, device=device).expand(batch, time)
    first = torch.zeros_like(positions)
    if documents is not None:
        begins = torch.ones_like(positions, dtype=torch.bool)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        first = torch.where(begins, positions, 0).cummax(1).values
    if window is not None:
        first = torch.maximum(first, positions - window + 1)
    return first.contiguous()
