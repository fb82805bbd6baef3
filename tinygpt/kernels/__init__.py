"""Operations of a transformer block and its loss on a CPU: in PyTorch, or fused in C.

Design: docs/kernels.md.
"""

import ctypes
import shutil

import torch
from torch import Tensor

from tinygpt.kernels.build import Build, NotBuiltError
from tinygpt.kernels.formulas import Dropout, Formulas
from tinygpt.kernels.fused import Fused
from tinygpt.kernels.products import FusedProducts

__all__ = [
    "Dropout",
    "Formulas",
    "NotBuiltError",
    "choose",
    "compute_dtype",
    "describe",
    "fuses",
    "kernels_for",
    "lacking",
    "library",
    "multiply",
]

_FORMULAS = Formulas()
_builds: dict[tuple[torch.dtype | None, str | None], Build] = {}  # of this process, by compiler
_chosen: Build | None = None  # the fused kernels in use


def choose(dtype: torch.dtype | None) -> None:
    """Use fused kernels for activations of this type from now on; None uses none.

    They are compiled in the background in about a second, and kept for later runs; so is the
    decoder, for samples of the run.
    """
    global _chosen
    _chosen = None
    if dtype is not None:
        _chosen = _build(dtype)
        _build(None)


def _build(dtype: torch.dtype | None) -> Build:
    key = dtype, shutil.which("gcc")
    if key not in _builds:
        _builds[key] = Build(dtype)
    return _builds[key]


def lacking() -> str | None:
    """Why the chosen fused kernels are not available; None if they are, or none were chosen."""
    if _chosen is not None:
        try:
            _chosen.finish()
        except NotBuiltError as error:
            return str(error)
    return None


def library() -> ctypes.CDLL:
    """The compiled decoder; raises NotBuiltError."""
    return _build(None).library()


def multiply() -> str | None:
    """The instructions of the chosen kernels' matrix products; None if PyTorch multiplies."""
    if _chosen is None or lacking():
        return None
    built = _chosen.finish()
    return built.instructions if isinstance(built, FusedProducts) else None


def describe() -> str:
    """The kernels in use, as the log names them."""
    if lack := lacking():
        return f"torch ({lack})"
    if instructions := multiply():
        return f"fused, products by {instructions}"
    return "torch" if _chosen is None else "fused"


def kernels_for(x: Tensor, dtype: torch.dtype) -> Formulas:
    """The operations for activations in `dtype`: fused if chosen, compiled and fit for x."""
    if _chosen is None or dtype != _chosen.dtype or torch.compiler.is_compiling():
        return _FORMULAS
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return _FORMULAS
    try:
        return _chosen.finish()
    except NotBuiltError:
        return _FORMULAS


def fuses(x: Tensor) -> bool:
    """Whether the operations for x are fused: the formulas drop elements more slowly than autograd.

    True on the meta device, where only sizes count.
    """
    return x.device.type == "meta" or isinstance(kernels_for(x, compute_dtype(x)), Fused)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type of the matrix products: that of autocast if it is enabled, else that of x."""
    kind = x.device.type
    enabled = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if enabled else x.dtype
