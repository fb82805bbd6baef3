"""What a block and a loss of GPT-2 compute on a CPU, by PyTorch or fused in C."""

import torch
from torch import Tensor

from tinygpt.kernels.build import Build, NotBuiltError
from tinygpt.kernels.formulas import Formulas
from tinygpt.kernels.products import FusedProducts

__all__ = [
    "Formulas",
    "choose",
    "compute_dtype",
    "describe",
    "kernels_for",
    "lacking",
    "multiply",
]

_FORMULAS = Formulas()
_builds: dict[torch.dtype, Build] = {}  # of this process
_fused: torch.dtype | None = None  # activations of this type go through fused kernels


def choose(dtype: torch.dtype | None) -> None:
    """Have activations of this type go through fused kernels from now on; None: of no type.

    They are compiled beside what goes on until they are needed, half a second, and kept.
    """
    global _fused
    _fused = dtype
    if dtype is not None and dtype not in _builds:
        _builds[dtype] = Build(dtype)


def lacking() -> str | None:
    """Why there are none of the fused kernels that were chosen."""
    if _fused is not None:
        try:
            _builds[_fused].finish()
        except NotBuiltError as error:
            return str(error)
    return None


def multiply() -> str | None:
    """The instructions by which the chosen kernels multiply; None if PyTorch does that."""
    if _fused is None or lacking():
        return None
    built = _builds[_fused].finish()
    return built.instructions if isinstance(built, FusedProducts) else None


def describe() -> str:
    """Which ones are used, in words."""
    if lack := lacking():
        return f"torch ({lack})"
    if instructions := multiply():
        return f"fused, products by {instructions}"
    return "torch" if _fused is None else "fused"


def kernels_for(x: Tensor, dtype: torch.dtype) -> Formulas:
    """For activations in `dtype` beside what is as exact as x: fused if chosen, built and fit."""
    fit = x.device.type == "cpu" and x.dtype == torch.float32 and dtype == _fused
    if not fit or torch.compiler.is_compiling():
        return _FORMULAS
    try:
        return _builds[dtype].finish()
    except NotBuiltError:
        return _FORMULAS


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type of the matrix products: that of autocast if it is enabled, else that of x."""
    kind = x.device.type
    enabled = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if enabled else x.dtype
