"""The training loss as a module, and bits per byte.  B batch, T time; losses in nats."""

from __future__ import annotations

import math

from torch import Tensor, nn

from tinygpt.language_model import LanguageModel


class ModelLoss(nn.Module):
    """A model with its loss as one module, so that what wraps a module covers both."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Mean nats of targets (B, T).

        With `documents` (B, T), ids that grow from one to the next, attention keeps them apart.
        """
        return self.model.loss(tokens, targets, documents)


def bits_per_byte(total_nats: float, n_bytes: int) -> float:
    """Bits per UTF-8 byte of a text of `n_bytes`, whichever tokens it was cut into."""
    return total_nats / (math.log(2) * n_bytes)
