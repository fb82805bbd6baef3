"""Arithmetic on losses.  B batch, T time, V vocabulary; losses in nats."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F


class ModelLoss(nn.Module):
    """A model with its loss as one module, so that whatever wraps a module sees all of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Mean nats of targets (B, T): by `model.loss` where there is one, else of its logits.

        With `documents` (B, T) attention keeps them apart: ids that grow from one to the next.
        """
        apart = {} if documents is None else {"documents": documents}
        loss = getattr(self.model, "loss", None)
        if loss is not None:
            nats: Tensor = loss(tokens, targets, **apart)
            return nats
        return cross_entropy(self.model(tokens, **apart), targets)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean nats over all targets (B, T); logits (B, T, V) predict them without another shift."""
    # float32: a log-sum-exp in bfloat16 would keep three digits of the loss
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def bits_per_byte(total_nats: float, n_bytes: int) -> float:
    """What a text of `n_bytes` UTF-8 bytes cost, whichever tokens it was cut into."""
    return total_nats / (math.log(2) * n_bytes)
