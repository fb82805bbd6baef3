"""A GPT-2 block for CPUs, its forward and backward written by hand.

Autograd's own operations spend a third of a CPU step outside of matrix products: in SDPA, in the
tanh of GELU and in reading memory again.  Weights keep their type and are cast to the autocast type
in here, so that gradients, optimizers and checkpoints are not affected.

B batch, T time, N = B T, C d_model, H heads, D = C / H, F d_ff.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tinygpt.kernels import compute_dtype, kernels_for
from tinygpt.kernels.formulas import Dropout

_PLACES = 3  # in a block that drop: attention's probabilities, and what both layers add


class Masks(NamedTuple):
    """What a block hides: keys before `starts` (B, T), int64, from each token; dropped elements."""

    starts: Tensor | None = None
    drop: Dropout | None = None

    @classmethod
    def draw(cls, starts: Tensor | None, p: float) -> Masks:
        """With dropout of probability `p`, whose key comes from PyTorch's generator."""
        return cls(starts, Dropout.draw(p))

    def of_block(self, number: int) -> Masks:
        """The same, with the block's own places for dropout."""
        return self._replace(drop=self.drop and self.drop.at(_PLACES * number))

    def drops(self) -> list[Dropout | None]:
        """Dropout at each place."""
        at = [self.drop and self.drop.at(self.drop.stream + place) for place in range(_PLACES)]
        return list(at)


_NO_MASKS = Masks()


class BlockParameters(NamedTuple):
    """The weights of one block, each matrix as (outputs, inputs)."""

    gain1: Tensor  # (C,) of the norm before attention
    shift1: Tensor  # (C,)
    w_qkv: Tensor  # (3 C, C), rows as (3, H, D)
    b_qkv: Tensor  # (3 C,)
    w_out: Tensor  # (C, C)
    b_out: Tensor  # (C,)
    gain2: Tensor  # (C,) of the norm before the feed-forward layer
    shift2: Tensor  # (C,)
    w_up: Tensor  # (F, C)
    b_up: Tensor  # (F,)
    w_down: Tensor  # (C, F)
    b_down: Tensor  # (C,)


def block_forward(
    x: Tensor,
    parameters: BlockParameters,
    *,
    n_head: int,
    eps: float,
    masks: Masks = _NO_MASKS,
) -> Tensor:
    """The residual stream x (B, T, C) after one block; `eps` is that of both norms."""
    return _BlockFunction.apply(x, n_head, eps, masks, *parameters)  # type: ignore[no-untyped-call, no-any-return]  # torch's own


class _BlockFunction(torch.autograd.Function):
    """The residual stream x and the norms stay in their type; matrices are in `compute_dtype`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        n_head: int,
        eps: float,
        masks: Masks,
        *parameters: Tensor,
    ) -> Tensor:
        n_batch, _, width = x.shape
        dtype = compute_dtype(x)
        kernels = kernels_for(x, dtype)
        gain1, shift1, w_qkv, b_qkv, w_out, b_out, *second = parameters
        gain2, shift2, w_up, b_up, w_down, b_down = second
        x1 = x.reshape(-1, width)  # (N, C)
        normed1, mean1, rstd1 = kernels.norm(x1, gain1, shift1, eps, dtype)
        starts, drops = masks.starts, masks.drops()
        y, kept = kernels.attend(normed1, w_qkv, b_qkv, n_batch, n_head, starts, drops[0])
        x2, (normed2, mean2, rstd2) = kernels.linear_add_and_norm(
            y, (w_out, b_out), x1, (gain2, shift2), eps, drops[1]
        )
        hidden, slope = kernels.linear_gelu(normed2, w_up, b_up)  # (N, F)
        out = kernels.linear_add(hidden, w_down, b_down, x2.view_as(x), drops[2])
        ctx.n_batch, ctx.n_head, ctx.starts, ctx.drops = n_batch, n_head, starts, drops
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
        d_branch, d_b_down = kernels.round_and_sum(d_out, dtype, ctx.drops[2])
        d_w_down = kernels.linear_weights(d_branch, hidden, exact)
        d_hidden, d_b_up = kernels.linear_backward_slope(d_branch, w_down, slope)
        d_w_up = kernels.linear_weights(d_hidden, normed2, exact)
        d_x2, *d_norm2 = kernels.linear_backward_norm(
            d_hidden, w_up, x2, (mean2, rstd2), (gain2, shift2), d_out
        )
        del d_hidden  # the largest of all that is alive in here: attention needs room
        d_branch, d_b_out = kernels.round_and_sum(d_x2, dtype, ctx.drops[1])
        d_w_out = kernels.linear_weights(d_branch, y, exact)
        d_y = kernels.linear_backward(d_branch, w_out)
        d_qkv, d_b_qkv = kernels.attend_backward(
            *(d_y, y, ctx.saved_tensors[19:], ctx.n_batch, ctx.n_head, ctx.starts, ctx.drops[0])
        )
        d_w_qkv = kernels.linear_weights(d_qkv, normed1, exact)
        d_x1, *d_norm1 = kernels.linear_backward_norm(
            d_qkv, w_qkv, x1, (mean1, rstd1), (gain1, shift1), d_x2
        )
        return (
            *(d_x1.view_as(grads[0]), None, None, None, *d_norm1),
            *(d_w_qkv, d_b_qkv.to(exact), d_w_out, d_b_out),
            *(*d_norm2, d_w_up, d_b_up.to(exact), d_w_down, d_b_down),
        )
