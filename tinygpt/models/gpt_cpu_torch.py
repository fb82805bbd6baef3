"""A block of GPT-2 for CPUs, forward and backward by hand: the mathematics of `Block`, no dropout.

Autograd's own operations spend a third of a step on a CPU outside of its matrix products: in SDPA,
in the tanh of GELU and in memory that is passed over again.  Weights stay as they are and are cast
to the autocast type here, so gradients, optimizers and checkpoints see nothing of it.

B batch, T time, N = B T, C d_model, H heads, D = C / H, F = 4 C.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinygpt.kernels import Formulas, kernels_for

if TYPE_CHECKING:
    from tinygpt.models.gpt_torch import Block

QUERIES = 128  # attended together; keys after the last of them are never multiplied


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
        w_qkv, w_out, w_up, w_down = (t.to(dtype) for t in (w_qkv, w_out, w_up, w_down))
        x1 = x.reshape(-1, width)  # (N, C)
        normed1, mean1, rstd1 = kernels.norm(x1, gain1, shift1, eps, dtype)
        # biases are added where the result is read next: addmm would write it once more
        q, k, v = kernels.split_heads(normed1 @ w_qkv.t(), b_qkv, n_batch, n_head)
        y, probabilities = _attend(kernels, q, k, v, n_batch)
        x2, (normed2, mean2, rstd2) = kernels.add_and_norm(
            y @ w_out.t(), b_out, x1, gain2, shift2, eps
        )
        hidden, slope = kernels.gelu_(normed2 @ w_up.t(), b_up)  # (N, F)
        # in the shape of x before it is added: FSDP warns of an output that is a view
        out = kernels.add((hidden @ w_down.t()).view_as(x), b_down, x2.view_as(x))
        ctx.n_batch = n_batch
        ctx.save_for_backward(
            *(x1, mean1, rstd1, gain1, shift1, normed1, w_qkv, q, k, v, y, w_out),
            *(x2, mean2, rstd2, gain2, shift2, normed2, w_up, hidden, slope, w_down),
            *probabilities,
        )
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x1, mean1, rstd1, gain1, shift1, normed1, w_qkv, q, k, v, y, w_out = ctx.saved_tensors[:12]
        x2, mean2, rstd2, gain2, shift2, normed2, w_up, hidden, slope, w_down = ctx.saved_tensors[
            12:22
        ]
        dtype, exact = normed1.dtype, x1.dtype
        kernels = kernels_for(x1, dtype)
        d_out = grads[0].reshape(x1.shape).contiguous()
        d_branch, d_b_down = kernels.round_and_sum(d_out, dtype)
        d_w_down = (d_branch.t() @ hidden).to(exact)
        d_hidden, d_b_up = kernels.gelu_backward_(d_branch @ w_down, slope)
        d_w_up = (d_hidden.t() @ normed2).to(exact)
        d_x2, *d_norm2 = kernels.norm_backward(
            d_hidden @ w_up, x2, (mean2, rstd2), (gain2, shift2), d_out
        )
        del d_hidden  # the largest of all that is alive in here: attention needs room
        d_branch, d_b_out = kernels.round_and_sum(d_x2, dtype)
        d_w_out = (d_branch.t() @ y).to(exact)
        d_y = (d_branch @ w_out).view(ctx.n_batch, q.size(1), -1, q.size(2))
        d_y = d_y.transpose(1, 2).reshape(q.shape)
        d_qkv = _attend_backward(kernels, d_y, q, k, v, ctx.saved_tensors[22:], ctx.n_batch)
        d_w_qkv, d_b_qkv = (d_qkv.t() @ normed1).to(exact), d_qkv.sum(0).to(exact)
        d_x1, *d_norm1 = kernels.norm_backward(
            d_qkv @ w_qkv, x1, (mean1, rstd1), (gain1, shift1), d_x2
        )
        return (
            *(d_x1.view_as(grads[0]), None, None, *d_norm1, d_w_qkv, d_b_qkv, d_w_out, d_b_out),
            *(*d_norm2, d_w_up, d_b_up.to(exact), d_w_down, d_b_down),
        )


def _spans(n_time: int) -> list[tuple[int, int]]:
    """Queries start to end that are attended together."""
    return list(pairwise([*range(0, n_time, QUERIES), n_time]))


def _attend(
    kernels: Formulas, q: Tensor, k: Tensor, v: Tensor, n_batch: int
) -> tuple[Tensor, list[Tensor]]:
    """Causal attention of scaled q, k, v (B H, T, D): y (N, C), and per span its probabilities."""
    _, n_time, d_head = q.shape
    y = q.new_empty(n_batch, n_time, q.size(0) // n_batch, d_head)
    probabilities = []
    for start, end in _spans(n_time):
        scores = torch.bmm(q[:, start:end], k[:, :end].transpose(1, 2))
        probabilities.append(kernels.causal_softmax_(scores))
        kernels.merge_heads(torch.bmm(probabilities[-1], v[:, :end]), y[:, start:end])
    return y.view(n_batch * n_time, -1), probabilities


def _attend_backward(
    kernels: Formulas,
    d_y: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    probabilities: Sequence[Tensor],
    n_batch: int,
) -> Tensor:
    """Gradients of q before its scaling, of k and of v, side by side: (N, 3 C)."""
    _, n_time, d_head = q.shape
    gradients = q.new_empty(n_batch, n_time, 3, q.size(0) // n_batch, d_head)
    d_q, d_k, d_v = gradients.unbind(2)
    spans = zip(_spans(n_time), probabilities, strict=True)
    for (start, end), p in reversed(list(spans)):  # the last one reaches every key
        adds = end < n_time
        d_p = torch.bmm(d_y[:, start:end], v[:, :end].transpose(1, 2))
        d_scores = kernels.causal_softmax_backward_(d_p, p)
        d_scaled = torch.bmm(d_scores, k[:, :end])
        kernels.merge_heads(d_scaled, d_q[:, start:end], scale=d_head**-0.5)
        of_keys = torch.bmm(d_scores.transpose(1, 2), q[:, start:end])
        kernels.merge_heads(of_keys, d_k[:, :end], adds=adds)
        of_values = torch.bmm(p.transpose(1, 2), d_y[:, start:end])
        kernels.merge_heads(of_values, d_v[:, :end], adds=adds)
    return gradients.view(n_batch * n_time, -1)
