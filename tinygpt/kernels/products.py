"""Matrix products with an epilogue, and attention, in C for bfloat16."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from tinygpt.kernels.formulas import Dropout, Linear, MaybeTensor, Norm, Normed
from tinygpt.kernels.fused import Fused, numbers

INSTRUCTIONS = {1: "AVX-512", 2: "AMX"}  # by the return value of `multiplies`


class FusedProducts(Fused):
    """Weights, the residual stream and sums are in fp32; each result is rounded once."""

    ATTEND: ClassVar = "attend"
    SIGNATURES: ClassVar = Fused.SIGNATURES | {
        "linear": "axa nnn",
        "linear_add": "axxxx nnn nnn",
        "linear_add_norm": "axxxxxfn xaxx nnn nnn",
        "linear_backward": "axa nnn",
        "linear_backward_norm": "axaxxxxnx axx nnn",
        "linear_backward_slope": "axaax nnn",
        "linear_backward_slopes": "axaaaax nnn",
        "linear_bias": "axxa nnn",
        "linear_gelu": "axxaa nnn",
        "linear_relu2": "axxaa nnn",
        "linear_swiglu": "axxaaa nnn",
        "linear_weights": "aax nnn",
        "attend": "aaxt nnn nnnnn",
        "attend_backward": "aaxaxt nnn nnnnn",
    }

    def __init__(self, library: ctypes.CDLL) -> None:
        super().__init__(library, torch.bfloat16)
        self.instructions = INSTRUCTIONS[library.multiplies()]

    def rounded(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return weight

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        out = x.new_empty(len(x), len(weight))
        self._call("linear", x, weight, out, *_sizes(x, weight))
        return out

    def linear_backward(self, d: Tensor, weight: Tensor) -> Tensor:
        d_x = d.new_empty(len(d), weight.size(1))
        self._call("linear_backward", d, weight, d_x, len(d), *weight.shape)
        return d_x

    def linear_weights(self, d: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
        d_weight = d.new_empty(d.size(1), x.size(1), dtype=dtype)
        self._call("linear_weights", d, x, d_weight, *d.shape, x.size(1))
        return d_weight

    def linear_bias(self, x: Tensor, layer: Linear) -> Tensor:
        out = x.new_empty(len(x), len(layer.weight))
        self._call("linear_bias", x, *layer, out, *_sizes(x, layer.weight))
        return out

    def linear_activated(
        self, x: Tensor, layer: Linear, activation: str
    ) -> tuple[Tensor, tuple[Tensor]]:
        y, slope = x.new_empty(2, len(x), len(layer.weight))
        self._call(f"linear_{activation}", x, *layer, y, slope, *_sizes(x, layer.weight))
        return y, (slope,)

    def linear_swiglu(
        self, x: Tensor, gate: Linear, up: Linear
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        of_gate = self.linear_bias(x, gate)
        y, slope = torch.empty_like(of_gate), torch.empty_like(of_gate)
        self._call("linear_swiglu", x, *up, of_gate, y, slope, *_sizes(x, up.weight))
        return y, (of_gate, slope)

    def linear_add(
        self, x: Tensor, layer: Linear, residual: Tensor, drop: Dropout | None = None
    ) -> Tensor:
        total = torch.empty_like(residual)
        given = (x, *layer, residual, total, *numbers(drop))
        self._call("linear_add", *given, *_sizes(x, layer.weight))
        return total

    def linear_add_and_norm(
        self, x: Tensor, layer: Linear, residual: Tensor, by: Norm, drop: Dropout | None = None
    ) -> tuple[Tensor, Normed]:
        total, normed = torch.empty_like(residual), torch.empty_like(residual, dtype=x.dtype)
        mean, rstd = residual.new_empty(2, len(x), 1)
        into = (total, normed, mean, rstd)
        sizes = _sizes(x, layer.weight)
        self._call("linear_add_norm", x, *layer, residual, *by, *into, *numbers(drop), *sizes)
        return total, (normed, mean, rstd)

    def linear_backward_slopes(
        self, d: Tensor, weight: Tensor, slopes: tuple[Tensor, ...]
    ) -> list[tuple[Tensor, Tensor]]:
        results = [torch.empty_like(slope) for slope in slopes]
        sums = torch.empty(len(slopes), weight.size(1))
        name = "linear_backward_slope" if len(slopes) == 1 else "linear_backward_slopes"
        self._call(name, d, weight, *slopes, *results, sums, len(d), *weight.shape)
        return list(zip(results, sums, strict=True))

    def linear_backward_norm(
        self,
        layers: Sequence[tuple[Tensor, Tensor]],
        x: Tensor,
        by: Norm,
        stats: tuple[Tensor, Tensor],
        residual: MaybeTensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        (d, weight), *others = layers
        more = None
        for other in others:
            assert more is None, "a product adds to one other"
            more = self.linear_backward(*other)
        d_normed, d_x = torch.empty_like(x, dtype=d.dtype), torch.empty_like(x)
        sums = x.new_empty(2, x.size(1))
        given = (d, weight, more, x, *stats, by.gain, by.rms, residual)
        sizes = (len(d), *weight.shape)
        self._call("linear_backward_norm", *given, d_normed, d_x, sums, *sizes)
        return d_x, sums[0], sums[1]


def _sizes(x: Tensor, weight: Tensor) -> tuple[int, int, int]:
    """Rows, depth and columns of a linear layer."""
    return (*x.shape, len(weight))
