"""Operations on the residual stream between blocks, as autograd functions.

B batch, T time, N = B T, C d_model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tinygpt.kernels import compute_dtype, kernels_for
from tinygpt.kernels.formulas import MaybeTensor, Norm


def norm(x: Tensor, by: Norm) -> Tensor:
    """The norm of the stream x (B, T, C), rounded to the type of the matrix products."""
    return _Norm.apply(x, by.gain, by.shift, by.eps, by.rms)  # type: ignore[no-untyped-call, no-any-return]  # torch's own


def mix(x: Tensor, x0: Tensor, weights: Tensor) -> Tensor:
    """weights[0] x + weights[1] x0, of streams (B, T, C)."""
    return _Mix.apply(x, x0, weights)  # type: ignore[no-untyped-call, no-any-return]  # torch's own


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: MaybeTensor, shift: MaybeTensor, eps: float, rms: bool
    ) -> Tensor:
        rows, dtype = x.reshape(-1, x.size(-1)), compute_dtype(x)
        normed, mean, rstd = kernels_for(x, dtype).norm(rows, Norm(gain, shift, eps, rms), dtype)
        ctx.kind, ctx.dtype = (eps, rms), dtype
        ctx.save_for_backward(rows, gain, shift, mean, rstd)
        return normed.view(x.shape).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[MaybeTensor, ...]:
        rows, gain, shift, mean, rstd = ctx.saved_tensors
        by, kernels = Norm(gain, shift, *ctx.kind), kernels_for(rows, ctx.dtype)
        d = grads[0].reshape(rows.shape).to(ctx.dtype).contiguous()
        d_x, d_gain, d_shift = kernels.norm_backward(d, rows, by, (mean, rstd), None)
        of_gain = None if gain is None else d_gain
        return d_x.view(grads[0].shape), of_gain, None if shift is None else d_shift, None, None


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, x0: Tensor, weights: Tensor) -> Tensor:
        rows, rows0 = (part.reshape(-1, x.size(-1)).contiguous() for part in (x, x0))
        ctx.dtype = compute_dtype(x)
        ctx.save_for_backward(rows, rows0, weights)
        return kernels_for(x, ctx.dtype).mix(rows, rows0, weights).view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        rows, rows0, weights = ctx.saved_tensors
        d = grads[0].reshape(rows.shape).contiguous()
        d_x, d_x0, d_weights = kernels_for(rows, ctx.dtype).mix_backward(d, rows, rows0, weights)
        return d_x.view(grads[0].shape), d_x0.view(grads[0].shape), d_weights
