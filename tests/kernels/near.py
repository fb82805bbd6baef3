"""How near kernels must come to the formulas in float64."""

import math

import torch
from torch import Tensor

# of what a result is rounded to, and of sums in fp32
PRECISION = {torch.bfloat16: 2**-8, torch.float32: 1e-6}


def random(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(shape)).to(dtype)


def assert_near(found: Tensor, expected: Tensor, *, sums: int = 1) -> None:
    """As near as the type of `found` allows, after so many terms were added."""
    precision = PRECISION[found.dtype]
    error = (found.double() - expected).abs()
    assert found.shape == expected.shape
    assert (error <= precision * (expected.abs() + math.sqrt(sums) * 2)).all(), error.max()
