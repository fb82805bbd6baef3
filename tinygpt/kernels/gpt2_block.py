"""A block of GPT-2 for CPUs, forward and backward by hand: the mathematics of `Block`, no dropout.

Autograd's own operations spend a third of a step on a CPU outside of its matrix products: in SDPA,
in the tanh of GELU and in memory that is passed over again.  Weights stay as they are and are cast
to the autocast type here, so gradients, optimizers and checkpoints see nothing of it.

B batch, T time, N = B T, C d_model, H heads, D = C / H, F = 4 C.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinygpt.kernels import kernels_for

if TYPE_CHECKING:
    from tinygpt.components.models.gpt_torch import Block


def block_forward(block: Block, x: Tensor) -> Tensor:
    """What `block(x)` is for x (B, T, C) on a CPU, without dropout."""
    attention, mlp = block.attention, block.mlp
    return _BlockFunction.apply(  # type: ignore[no-untyped-call, no-any-return]  # torch's own
        x,
        attention.n_head,
        block.attention_norm.eps,
        *(block.attention_norm.weight, block.attention_norm.bias),
        *(attention.qkv.weight, attention.qkv.bias, attention.out.weight, attention.out.bias),
        *(block.mlp_norm.weight, block.mlp_norm.bias),
        *(mlp.up.weight, mlp.up.bias, mlp.down.weight, mlp.down.bias),
    )


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type in which matrices are multiplied: autocast's, or that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _BlockFunction(torch.autograd.Function):
    """The residual stream x and the norms stay in their type; matrices are in `compute_dtype`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        n_head: int,
        eps: float,
        *parameters: Tensor,
    ) -> Tensor:
        n_batch, _, width = x.shape
        dtype = compute_dtype(x)
        kernels = kernels_for(x, dtype)
        gain1, shift1, w_qkv, b_qkv, w_out, b_out, gain2, shift2, w_up, b_up, w_down, b_down = (
            parameters
        )
        x1 = x.reshape(-1, width)  # (N, C)
        normed1, mean1, rstd1 = kernels.norm(x1, gain1, shift1, eps, dtype)
        y, kept = kernels.attend(normed1, w_qkv, b_qkv, n_batch, n_head)
        x2, (normed2, mean2, rstd2) = kernels.linear_add_and_norm(
            y, (w_out, b_out), x1, (gain2, shift2), eps
        )
        hidden, slope = kernels.linear_gelu(normed2, w_up, b_up)  # (N, F)
        out = kernels.linear_add(hidden, w_down, b_down, x2.view_as(x))
        ctx.n_batch, ctx.n_head = n_batch, n_head
        ctx.save_for_backward(
            *(x1, mean1, rstd1, gain1, shift1, normed1, w_qkv, y, w_out),
            *(x2, mean2, rstd2, gain2, shift2, normed2, w_up, hidden, slope, w_down),
            *kept,
        )
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x1, mean1, rstd1, gain1, shift1, normed1, w_qkv, y, w_out = ctx.saved_tensors[:9]
        x2, mean2, rstd2, gain2, shift2, normed2, w_up, hidden, slope, w_down = ctx.saved_tensors[
            9:19
        ]
        dtype, exact = normed1.dtype, x1.dtype
        kernels = kernels_for(x1, dtype)
        d_out = grads[0].reshape(x1.shape).contiguous()
        d_branch, d_b_down = kernels.round_and_sum(d_out, dtype)
        d_w_down = kernels.linear_weights(d_branch, hidden, exact)
        d_hidden, d_b_up = kernels.linear_backward_slope(d_branch, w_down, slope)
        d_w_up = kernels.linear_weights(d_hidden, normed2, exact)
        d_x2, *d_norm2 = kernels.linear_backward_norm(
            d_hidden, w_up, x2, (mean2, rstd2), (gain2, shift2), d_out
        )
        del d_hidden  # the largest of all that is alive in here: attention needs room
        d_branch, d_b_out = kernels.round_and_sum(d_x2, dtype)
        d_w_out = kernels.linear_weights(d_branch, y, exact)
        d_y = kernels.linear_backward(d_branch, w_out)
        d_qkv, d_b_qkv = kernels.attend_backward(
            d_y, y, ctx.saved_tensors[19:], ctx.n_batch, ctx.n_head
        )
        d_w_qkv = kernels.linear_weights(d_qkv, normed1, exact)
        d_x1, *d_norm1 = kernels.linear_backward_norm(
            d_qkv, w_qkv, x1, (mean1, rstd1), (gain1, shift1), d_x2
        )
        return (
            *(d_x1.view_as(grads[0]), None, None, *d_norm1),
            *(d_w_qkv, d_b_qkv.to(exact), d_w_out, d_b_out),
            *(*d_norm2, d_w_up, d_b_up.to(exact), d_w_down, d_b_down),
        )
