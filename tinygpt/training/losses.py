"""The training loss as a module, and bits per byte.  B batch, T time; losses in nats."""

from __future__ import annotations

import math

from torch import Tensor, nn

from tinygpt.hardware.runtime import Runtime
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


def mean_nats(
    model_loss: nn.Module, tokens: Tensor, runtime: Runtime, *, masked_eot: int | None
) -> Tensor:
    """Mean nats per target of tokens (B, T + 1), in the precision of the runtime.

    With `masked_eot`, the id that ends a document, attention stays inside each document.
    """
    inputs, targets, documents = tokens[:, :-1], tokens[:, 1:], None
    if masked_eot is not None:
        documents = (inputs == masked_eot).cumsum(1)
    with runtime.autocast():
        loss: Tensor = model_loss(inputs, targets, documents)
    return loss


def bits_per_byte(total_nats: float, n_bytes: int) -> float:
    """Bits per UTF-8 byte of a text of `n_bytes`, whichever tokens it was cut into."""
    return total_nats / (math.log(2) * n_bytes)
