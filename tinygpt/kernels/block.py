"""A transformer block for CPUs, its forward and backward written by hand.

Autograd's own operations spend a third of a CPU step outside of matrix products: in SDPA, in the
tanh of GELU and in reading memory again.  Weights keep their type and are cast to the autocast type
in here, so that gradients, optimizers and checkpoints are not affected.

B batch, T time, N = B T, C d_model, H heads, G heads of keys and values, D = C / H, F d_ff.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tinygpt.kernels import compute_dtype, kernels_for
from tinygpt.kernels.formulas import Dropout, Formulas, Heads, Linear, MaybeTensor, Norm, Normed

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


class BlockKind(NamedTuple):
    """The architecture of a block, as far as its parameters do not say it."""

    n_head: int
    n_kv_head: int
    eps: float  # of all norms
    rms: bool = False  # RMSNorm, not LayerNorm
    activation: str = "gelu"  # or relu2, or swiglu
    qk_norm: bool = False  # queries and keys are normalised over D
    sandwich: bool = False  # what a layer adds is normalised, too

    def norm(self, gain: MaybeTensor, shift: MaybeTensor) -> Norm:
        """A norm of this block."""
        return Norm(gain, shift, self.eps, self.rms)


class BlockParameters(NamedTuple):
    """The weights of one block, each matrix as (outputs, inputs); None where it has none."""

    gain1: MaybeTensor  # (C,) of the norm before attention
    shift1: MaybeTensor  # (C,)
    w_qkv: Tensor  # ((H + 2 G) D, C)
    b_qkv: MaybeTensor
    w_out: Tensor  # (C, C)
    b_out: MaybeTensor  # (C,)
    gain2: MaybeTensor  # (C,) of the norm before the feed-forward layer
    shift2: MaybeTensor  # (C,)
    w_up: Tensor  # (F, C)
    b_up: MaybeTensor  # (F,)
    w_down: Tensor  # (C, F)
    b_down: MaybeTensor  # (C,)
    w_gate: MaybeTensor = None  # (F, C)
    b_gate: MaybeTensor = None  # (F,)
    q_gain: MaybeTensor = None  # (D,)
    q_shift: MaybeTensor = None
    k_gain: MaybeTensor = None
    k_shift: MaybeTensor = None
    post_gain1: MaybeTensor = None  # (C,) of the norm of what attention adds
    post_shift1: MaybeTensor = None
    post_gain2: MaybeTensor = None  # (C,) of the norm of what the feed-forward layer adds
    post_shift2: MaybeTensor = None


def block_forward(
    x: Tensor,
    parameters: BlockParameters,
    kind: BlockKind,
    *,
    rotation: tuple[Tensor, Tensor] | None = None,
    masks: Masks = _NO_MASKS,
) -> Tensor:
    """The residual stream x (B, T, C) after one block.

    With `rotation`, cosines and sines (T, D), queries and keys are rotated by halves (RoPE).
    """
    return _BlockFunction.apply(x, kind, rotation, masks, *parameters)  # type: ignore[no-untyped-call, no-any-return]  # torch's own


def _heads(
    kind: BlockKind,
    p: BlockParameters,
    n_batch: int,
    rotation: tuple[Tensor, Tensor] | None,
) -> Heads:
    norms = None
    if kind.qk_norm:
        norms = kind.norm(p.q_gain, p.q_shift), kind.norm(p.k_gain, p.k_shift)
    return Heads(n_batch, kind.n_head, kind.n_kv_head, norms, rotation)


class _BlockFunction(torch.autograd.Function):
    """The residual stream x and the norms stay in their type; matrices are in `compute_dtype`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kind: BlockKind,
        rotation: tuple[Tensor, Tensor] | None,
        masks: Masks,
        *parameters: MaybeTensor,
    ) -> Tensor:
        n_batch, _, width = x.shape
        dtype = compute_dtype(x)
        kernels = kernels_for(x, dtype)
        p = BlockParameters(*parameters)  # type: ignore[arg-type]  # the matrices are not None
        x1 = x.reshape(-1, width)  # (N, C)
        normed1, mean1, rstd1 = kernels.norm(x1, kind.norm(p.gain1, p.shift1), dtype)
        heads = _heads(kind, p, n_batch, rotation)
        starts, drops = masks.starts, masks.drops()
        of_post1: tuple[Tensor, ...] = ()
        of_post2: tuple[Tensor, ...] = ()
        qkv, out, up, down = _layers(p)
        y, of_attention = kernels.attend(normed1, qkv, heads, starts, drops[0])
        norm2 = kind.norm(p.gain2, p.shift2)
        if kind.sandwich:
            post1 = kind.norm(p.post_gain1, p.post_shift1)
            x2, of_post1 = _add_normed(kernels, y, out, x1, post1, drops[1])
            normed2, mean2, rstd2 = kernels.norm(x2, norm2, dtype)
        else:
            x2, (normed2, mean2, rstd2) = kernels.linear_add_and_norm(y, out, x1, norm2, drops[1])
        slopes: tuple[Tensor, ...]
        if p.w_gate is not None:
            gate = Linear(p.w_gate, p.b_gate)
            hidden, slopes = kernels.linear_swiglu(normed2, gate, up)
        else:
            hidden, slopes = kernels.linear_activated(normed2, up, kind.activation)  # (N, F)
        x2_in_shape = x2.view_as(x)
        if kind.sandwich:
            post2 = kind.norm(p.post_gain2, p.post_shift2)
            total, of_post2 = _add_normed(kernels, hidden, down, x2_in_shape, post2, drops[2])
        else:
            total = kernels.linear_add(hidden, down, x2_in_shape, drops[2])
        parts = (slopes, of_attention, of_post1, of_post2)
        ctx.kind, ctx.n_batch, ctx.starts, ctx.drops = kind, n_batch, starts, drops
        ctx.sizes = [len(part) for part in parts]
        ctx.save_for_backward(
            *(rotation or (None, None)),
            *parameters,
            *(x1, mean1, rstd1, normed1, y, x2, mean2, rstd2, normed2, hidden),
            *(tensor for part in parts for tensor in part),
        )
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[MaybeTensor | None, ...]:
        cos, sin, *saved = ctx.saved_tensors
        p, saved = BlockParameters(*saved[:_N_PARAMETERS]), saved[_N_PARAMETERS:]
        x1, mean1, rstd1, normed1, y, x2, mean2, rstd2, normed2, hidden = saved[:10]
        slopes, of_attention, of_post1, of_post2 = _cut(saved[10:], ctx.sizes)
        kind, drops = ctx.kind, ctx.drops
        heads = _heads(kind, p, ctx.n_batch, None if cos is None else (cos, sin))
        dtype, exact = normed1.dtype, x1.dtype
        kernels = kernels_for(x1, dtype)
        d_out = grads[0].reshape(x1.shape).contiguous()
        d_post1: Sequence[MaybeTensor] = (None, None)
        d_post2: Sequence[MaybeTensor] = (None, None)

        d_update = d_out
        if kind.sandwich:
            post2 = kind.norm(p.post_gain2, p.post_shift2)
            d_update, *d_post2 = _normed_backward(kernels, d_out, of_post2, post2, dtype)
        has_bias = p.b_down is not None
        d_branch, d_b_down = kernels.round_and_sum(d_update, dtype, drops[2], sums=has_bias)
        d_w_down = kernels.linear_weights(d_branch, hidden, exact)
        d_hidden = kernels.linear_backward_slopes(d_branch, p.w_down, slopes)
        weights = [p.w_up] if p.w_gate is None else [p.w_gate, p.w_up]
        d_weights = [kernels.linear_weights(d, normed2, exact) for d, _ in d_hidden]
        d_biases = [total.to(exact) for _, total in d_hidden]
        layers = [(d, weight) for (d, _), weight in zip(d_hidden, weights, strict=True)]
        norm2 = kind.norm(p.gain2, p.shift2)
        d_x2, *d_norm2 = kernels.linear_backward_norm(layers, x2, norm2, (mean2, rstd2), d_out)
        del d_hidden, layers  # the largest of all that is alive in here: attention needs room

        d_update = d_x2
        if kind.sandwich:
            post1 = kind.norm(p.post_gain1, p.post_shift1)
            d_update, *d_post1 = _normed_backward(kernels, d_x2, of_post1, post1, dtype)
        has_bias = p.b_out is not None
        d_branch, d_b_out = kernels.round_and_sum(d_update, dtype, drops[1], sums=has_bias)
        d_w_out = kernels.linear_weights(d_branch, y, exact)
        d_y = kernels.linear_backward(d_branch, p.w_out)
        d_qkv, d_b_qkv, d_turn = kernels.attend_backward(
            *(d_y, y, of_attention, heads, ctx.starts, drops[0]), sums=p.b_qkv is not None
        )
        d_w_qkv = kernels.linear_weights(d_qkv, normed1, exact)
        norm1 = kind.norm(p.gain1, p.shift1)
        d_x1, *d_norm1 = kernels.linear_backward_norm(
            [(d_qkv, p.w_qkv)], x1, norm1, (mean1, rstd1), d_x2
        )
        gradients = (  # in the order of BlockParameters
            *d_norm1,
            *(d_w_qkv, d_b_qkv if d_b_qkv is None else d_b_qkv.to(exact)),
            *(d_w_out, d_b_out),
            *d_norm2,
            *(d_weights[-1], d_biases[-1]),
            *(d_w_down, d_b_down),
            *(d_weights[0], d_biases[0]),
            *(d_turn or (None,) * 4),
            *d_post1,
            *d_post2,
        )
        needed = (
            None if parameter is None else gradient
            for parameter, gradient in zip(p, gradients, strict=True)
        )
        return d_x1.view_as(grads[0]), None, None, None, *needed


_N_PARAMETERS = len(BlockParameters._fields)


def _layers(p: BlockParameters) -> tuple[Linear, Linear, Linear, Linear]:
    return (
        Linear(p.w_qkv, p.b_qkv),
        Linear(p.w_out, p.b_out),
        Linear(p.w_up, p.b_up),
        Linear(p.w_down, p.b_down),
    )


def _add_normed(
    kernels: Formulas,
    x: Tensor,
    layer: Linear,
    residual: Tensor,
    by: Norm,
    drop: Dropout | None,
) -> tuple[Tensor, Normed]:
    """`residual` plus the norm of a linear layer's result; and that, with its statistics."""
    zeros = residual.new_zeros(len(x), residual.size(-1))
    update = kernels.linear_add(x, layer, zeros, drop)
    normed, mean, rstd = kernels.norm(update, by, x.dtype)
    return residual + normed.view_as(residual), (update, mean, rstd)


def _normed_backward(
    kernels: Formulas, d: Tensor, of_norm: tuple[Tensor, ...], by: Norm, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the update, and of gain and shift, in `_add_normed`."""
    update, mean, rstd = of_norm
    return kernels.norm_backward(d.to(dtype), update, by, (mean, rstd), None)


def _cut(tensors: list[Tensor], sizes: list[int]) -> list[tuple[Tensor, ...]]:
    """The tensors in groups of these sizes."""
    ends = list(accumulate(sizes))
    return [tuple(tensors[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
