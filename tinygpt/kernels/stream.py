"""Operations outside of a transformer's blocks, as autograd functions.

B batch, T time, N = B T, C d_model, S numbers that a recurrence remembers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tinygpt.kernels import compute_dtype, kernels_for
from tinygpt.kernels.formulas import Formulas, Linear, MaybeTensor, Norm


def norm(x: Tensor, by: Norm) -> Tensor:
    """The norm of the stream x (B, T, C), rounded to the type of the matrix products."""
    return _Norm.apply(x, by.gain, by.shift, by.eps, by.rms)  # type: ignore[no-untyped-call, no-any-return]  # torch's own


def mix(x: Tensor, x0: Tensor, weights: Tensor) -> Tensor:
    """weights[0] x + weights[1] x0, of streams (B, T, C)."""
    return _Mix.apply(x, x0, weights)  # type: ignore[no-untyped-call, no-any-return]  # torch's own


def feed_forward(x: Tensor, by: Norm, up: Linear, down: Linear, activation: str) -> Tensor:
    """x (B, T, C) plus down(activation(up(norm(x)))), with biases; activation is gelu or relu2."""
    of_norm = (by.gain, by.shift, by.eps, by.rms)
    return _FeedForward.apply(x, *of_norm, *up, *down, activation)  # type: ignore[no-untyped-call, no-any-return]  # torch's own


def recur(rows: Tensor, begins: Tensor | None) -> Tensor:
    """States (B, T, S) in fp32 of a gated linear recurrence; arguments as for `Formulas.recur`."""
    return _Recur.apply(rows, begins)  # type: ignore[no-untyped-call, no-any-return]  # torch's own


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


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: MaybeTensor,
        shift: MaybeTensor,
        eps: float,
        rms: bool,
        w_up: Tensor,
        b_up: Tensor,
        w_down: Tensor,
        b_down: Tensor,
        activation: str,
    ) -> Tensor:
        rows, dtype = x.reshape(-1, x.size(-1)), compute_dtype(x)
        kernels = kernels_for(x, dtype)
        normed, mean, rstd = kernels.norm(rows, Norm(gain, shift, eps, rms), dtype)
        hidden, (slope,) = kernels.linear_activated(normed, Linear(w_up, b_up), activation)
        ctx.kind, ctx.dtype = (eps, rms), dtype
        ctx.save_for_backward(*(rows, gain, shift, mean, rstd, normed, w_up, w_down, hidden, slope))
        return kernels.linear_add(hidden, Linear(w_down, b_down), x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[MaybeTensor, ...]:
        rows, gain, shift, mean, rstd, normed, w_up, w_down, hidden, slope = ctx.saved_tensors
        by, exact = Norm(gain, shift, *ctx.kind), rows.dtype
        kernels = kernels_for(rows, ctx.dtype)
        d_out = grads[0].reshape(rows.shape).contiguous()
        d, d_b_down = kernels.round_and_sum(d_out, ctx.dtype)
        d_w_down = kernels.linear_weights(d, hidden, exact)
        ((d_hidden, d_b_up),) = kernels.linear_backward_slopes(d, w_down, (slope,))
        d_w_up = kernels.linear_weights(d_hidden, normed, exact)
        d_x, d_gain, d_shift = kernels.linear_backward_norm(
            [(d_hidden, w_up)], rows, by, (mean, rstd), d_out
        )
        of_norm = None if gain is None else d_gain, None if shift is None else d_shift
        of_up = d_w_up, d_b_up.to(exact)
        return (d_x.view(grads[0].shape), *of_norm, None, None, *of_up, d_w_down, d_b_down, None)


class _Recur(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, begins: Tensor | None) -> Tensor:
        rows = rows.contiguous()
        h = _of_rows(rows).recur(rows, begins)
        ctx.save_for_backward(rows, begins, h)
        return h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[MaybeTensor, ...]:
        rows, begins, h = ctx.saved_tensors
        d_rows = _of_rows(rows).recur_backward(grads[0].contiguous(), rows, begins, h)
        return d_rows, None


def _of_rows(rows: Tensor) -> Formulas:
    """The operations for rows that may be rounded already."""
    return kernels_for(rows.new_empty(0, dtype=torch.float32), rows.dtype)
