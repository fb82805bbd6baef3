"""Matrix products with an epilogue, and attention, in C for bfloat16."""

from __future__ import annotations

import ctypes
from typing import ClassVar

import torch
from torch import Tensor

from tinygpt.kernels.formulas import Dropout, Normed
from tinygpt.kernels.fused import Fused, numbers

INSTRUCTIONS = {1: "AVX-512", 2: "AMX"}  # by the return value of `multiplies`


class FusedProducts(Fused):
    """Weights, the residual stream and sums are in fp32; each result is rounded once."""

    SIGNATURES: ClassVar = Fused.SIGNATURES | {
        "linear": "axa nnn",
        "linear_add": "axxxx nnn nnn",
        "linear_add_norm": "axxxxxf xaxx nnn nnn",
        "linear_backward": "axa nnn",
        "linear_backward_norm": "axxxxxx axx nnn",
        "linear_backward_slope": "axaax nnn",
        "linear_bias": "axxa nnn",
        "linear_gelu": "axxaa nnn",
        "linear_weights": "aax nnn",
        "attend": "aaxt nnn nnnn",
        "attend_backward": "aaxaxt nnn nnnn",
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

    def linear_gelu(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        y, slope = x.new_empty(2, len(x), len(weight))
        self._call("linear_gelu", x, weight, bias, y, slope, *_sizes(x, weight))
        return y, slope

    def linear_add(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor,
        drop: Dropout | None = None,
    ) -> Tensor:
        total = torch.empty_like(residual)
        given = (x, weight, bias, residual, total, *numbers(drop))
        self._call("linear_add", *given, *_sizes(x, weight))
        return total

    def linear_add_and_norm(
        self,
        x: Tensor,
        parameters: tuple[Tensor, Tensor],
        residual: Tensor,
        norm_parameters: tuple[Tensor, Tensor],
        eps: float,
        drop: Dropout | None = None,
    ) -> tuple[Tensor, Normed]:
        total, normed = torch.empty_like(residual), torch.empty_like(residual, dtype=x.dtype)
        mean, rstd = residual.new_empty(2, len(x), 1)
        given = (x, *parameters, residual, *norm_parameters, eps)
        sizes = _sizes(x, parameters[0])
        into = (total, normed, mean, rstd)
        self._call("linear_add_norm", *given, *into, *numbers(drop), *sizes)
        return total, (normed, mean, rstd)

    def linear_backward_slope(
        self, d: Tensor, weight: Tensor, slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        d_x, sums = torch.empty_like(slope), torch.empty(slope.size(1))
        self._call("linear_backward_slope", d, weight, slope, d_x, sums, len(d), *weight.shape)
        return d_x, sums

    def linear_backward_norm(
        self,
        d: Tensor,
        weight: Tensor,
        x: Tensor,
        stats: tuple[Tensor, Tensor],
        parameters: tuple[Tensor, Tensor],
        residual: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        gain, _ = parameters
        d_normed, d_x = torch.empty_like(x, dtype=d.dtype), torch.empty_like(x)
        sums = x.new_empty(2, x.size(1))
        given = (d, weight, x, *stats, gain, residual)
        sizes = (len(d), *weight.shape)
        self._call("linear_backward_norm", *given, d_normed, d_x, sums, *sizes)
        return d_x, sums[0], sums[1]

    def attend(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        n_batch: int,
        n_head: int,
        starts: Tensor | None = None,
        drop: Dropout | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        qkv = x.new_empty(len(x), len(weight))
        self._call("linear_bias", x, weight, bias, qkv, *_sizes(x, weight))
        y, logs = torch.empty_like(x), bias.new_empty(len(x) * n_head)
        given = (qkv, y, logs, starts, *numbers(drop))
        self._call("attend", *given, *_heads(x, n_batch, n_head))
        return y, (qkv, logs)

    def attend_backward(
        self,
        d_y: Tensor,
        y: Tensor,
        kept: tuple[Tensor, ...],
        n_batch: int,
        n_head: int,
        starts: Tensor | None = None,
        drop: Dropout | None = None,
    ) -> tuple[Tensor, Tensor]:
        qkv, logs = kept
        d_qkv, sums = torch.empty_like(qkv), logs.new_empty(qkv.size(1))
        sizes = _heads(y, n_batch, n_head)
        given = (qkv, d_y, logs, d_qkv, sums, starts, *numbers(drop))
        self._call("attend_backward", *given, *sizes)
        return d_qkv, sums


def _sizes(x: Tensor, weight: Tensor) -> tuple[int, int, int]:
    """Rows, depth and columns of a linear layer."""
    return (*x.shape, len(weight))


def _heads(x: Tensor, n_batch: int, n_head: int) -> tuple[int, int, int, int]:
    """B, T, H and D of tokens (B T, H D)."""
    return n_batch, len(x) // n_batch, n_head, x.size(1) // n_head
