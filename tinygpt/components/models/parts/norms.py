"""Normalisation layers.  C width."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

Norm = Callable[[int], nn.Module]  # width -> a layer that normalises the last dimension


def norm_of(kind: str, *, gain: bool, shift: bool, eps: float) -> Norm:
    """What makes the norms of a model.

    layernorm: Ba et al. 2016, "Layer Normalization" (arXiv 1607.06450); `shift` is its bias.
    rmsnorm: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization" (arXiv 1910.07467).
    Without gain neither has parameters.
    """
    if kind == "layernorm":
        return partial(nn.LayerNorm, eps=eps, elementwise_affine=gain, bias=shift)
    assert kind == "rmsnorm"
    return partial(nn.RMSNorm, eps=eps, elementwise_affine=gain)
