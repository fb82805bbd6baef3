"""Embeddings of several tokens at once.  B batch, T time, C d_model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_FACTOR = 1_000_003  # a prime: of the polynomial that is the hash


class NgramEmbedding(nn.Module):
    """The sum over n = 2..N of an embedding of the last n tokens, found by their hash.

    Pagnoni et al. 2024, "Byte Latent Transformer" (arXiv 2412.09871), section 3.2.1, where n-grams
    of bytes are.  Different n-grams may share a row.  The rows are zero at first.
    """

    def __init__(self, *, n: int, rows: int, d_model: int) -> None:
        super().__init__()
        self.n, self.rows = n, rows
        self.tables = nn.ModuleList(nn.Embedding(rows, d_model) for _ in range(2, n + 1))

    def forward(
        self, tokens: Tensor, before: Tensor | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """Tokens (B, T) to (B, T, C).

        `before` (B, up to N - 1) are the tokens before them.  A token of another document does not
        count, by `documents` (B, T); nor does one before the beginning.
        """
        known = tokens if before is None else torch.cat((before, tokens), 1)
        n_new, total = tokens.size(1), 0
        hashes = tokens + 1  # 0 is no token
        for back, table in enumerate(self.tables, start=1):
            earlier = _shifted(known + 1, back)[:, -n_new:]
            if documents is not None:
                earlier = earlier * (_shifted(documents, back, fill=-1) == documents)
            hashes = hashes * _FACTOR + earlier  # int64 wraps around, the same everywhere
            total = total + table(hashes.remainder(self.rows))
        assert isinstance(total, Tensor)
        return total


def _shifted(ids: Tensor, by: int, *, fill: int = 0) -> Tensor:
    """Ids (B, T) moved to the right by some places, which are filled."""
    filled = ids.new_full((ids.size(0), min(by, ids.size(1))), fill)
    return torch.cat((filled, ids[:, : ids.size(1) - filled.size(1)]), 1)
