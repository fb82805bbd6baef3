"""Where a token stands.  T time, H heads, D width of a head."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """Cosines and sines (..., D) of the angles by which queries and keys are rotated."""

    cos: Tensor
    sin: Tensor


def rotation(positions: Tensor, *, d_head: int, base: float) -> Rotation:
    """Angles of RoPE at positions (...): position / base^(2 i / D) for the pair i of D / 2.

    Su et al. 2021, "RoFormer" (arXiv 2104.09864), section 3.4.2; in float32 whatever the model is.
    """
    pairs = torch.arange(0, d_head, 2, device=positions.device, dtype=torch.float32)
    angles = positions.float()[..., None] * base ** (-pairs / d_head)
    angles = torch.cat((angles, angles), -1)  # (..., D)
    return Rotation(angles.cos(), angles.sin())


def rotate(heads: Tensor, by: Rotation) -> Tensor:
    """Rotate heads (..., T, D) by halves: component i pairs with i + D / 2.

    That is the layout of Llama in Hugging Face's transformers and of GPT-NeoX; the paper pairs
    neighbours, which is the same function of weights whose rows are in another order.
    """
    first, second = heads.chunk(2, -1)
    turned = torch.cat((-second, first), -1)
    return (heads * by.cos + turned * by.sin).to(heads.dtype)
