"""Arithmetic on losses and work.  B batch, T time, V vocabulary; losses in nats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean nats over all targets (B, T); logits (B, T, V) predict them without another shift."""
    from torch.nn import functional as F

    # float32: a log-sum-exp in bfloat16 would keep three digits of the loss
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def bits_per_byte(total_nats: float, n_bytes: int) -> float:
    """What a text of `n_bytes` UTF-8 bytes cost, whichever tokens it was cut into."""
    return total_nats / (math.log(2) * n_bytes)


def flops_per_token(*, n_params: int, n_layer: int, d_model: int, seq_len: int) -> int:
    """Forward and backward for one token; n_params counts the weights of matrix products.

    Attention is counted as if it were not causal. PaLM (arXiv 2204.02311), appendix B.
    """
    return 6 * n_params + 12 * n_layer * d_model * seq_len
