"""A block of GPT-2 for CPUs, forward and backward by hand: the mathematics of `Block`, no dropout.

Autograd's own operations spend a third of a step on a CPU outside of its matrix products: in SDPA,
in the tanh of GELU and in memory that is passed over again.  Weights stay as they are and are cast
to the autocast type here, so gradients, optimizers and checkpoints see nothing of it.

B batch, T time, N = B T, C d_model, H heads, D = C / H, F = 4 C.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tinygpt.models.gpt_torch import Block

QUERIES = 128  # attended together; keys after the last of them are never multiplied
GELU_ELEMENTS = 1 << 17  # in fp32 at a time: what fits into the caches
GELU_SCALE = 2 * math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715 * GELU_SCALE


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
        n_batch, n_time, width = x.shape
        dtype = compute_dtype(x)
        gain1, shift1, w_qkv, b_qkv, w_out, b_out, gain2, shift2, w_up, b_up, w_down, b_down = (
            parameters
        )
        w_qkv, w_out, w_up, w_down = (t.to(dtype) for t in (w_qkv, w_out, w_up, w_down))
        x1 = x.reshape(-1, width)  # (N, C)
        normed1, mean1, rstd1 = torch.native_layer_norm(x1, (width,), gain1, shift1, eps)
        normed1 = normed1.to(dtype)
        # biases are added where the result is read next: addmm would write it once more
        qkv = (normed1 @ w_qkv.t()).view(n_batch, n_time, 3, n_head, -1).permute(2, 0, 3, 1, 4)
        heads = qkv.contiguous().add_(b_qkv.to(dtype).view(3, 1, n_head, 1, -1))
        q, k, v = heads.view(3, n_batch * n_head, n_time, -1).unbind()
        q.mul_(q.size(-1) ** -0.5)
        y, probabilities = _attend(q, k, v, n_batch)
        x2 = (y @ w_out.t() + x1).add_(b_out)
        normed2, mean2, rstd2 = torch.native_layer_norm(x2, (width,), gain2, shift2, eps)
        normed2 = normed2.to(dtype)
        hidden, slope = _gelu(normed2 @ w_up.t(), b_up)  # (N, F)
        # in the shape of x before it is added: FSDP warns of an output that is a view
        out = ((hidden @ w_down.t()).view_as(x) + x2.view_as(x)).add_(b_down)
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
        dtype, width = normed1.dtype, x1.size(-1)
        d_out = grads[0].reshape(-1, width)
        d_branch = d_out.to(dtype)
        d_down = _linear_gradients(d_branch, hidden, x1.dtype)
        d_hidden = (d_branch @ w_down).mul_(slope)
        d_up = _linear_gradients(d_hidden, normed2, x1.dtype)
        d_x2, *d_norm2 = torch.ops.aten.native_layer_norm_backward(
            (d_hidden @ w_up).to(x1.dtype), x2, (width,), mean2, rstd2, gain2, shift2, [True] * 3
        )
        d_x2 += d_out
        d_branch = d_x2.to(dtype)
        d_proj = _linear_gradients(d_branch, y, x1.dtype)
        d_y = (d_branch @ w_out).view(ctx.n_batch, q.size(1), -1, q.size(2))
        d_y = d_y.transpose(1, 2).reshape(q.shape)
        d_qkv = _attend_backward(d_y, q, k, v, ctx.saved_tensors[22:], ctx.n_batch)
        d_in = _linear_gradients(d_qkv, normed1, x1.dtype)
        d_x1, *d_norm1 = torch.ops.aten.native_layer_norm_backward(
            (d_qkv @ w_qkv).to(x1.dtype), x1, (width,), mean1, rstd1, gain1, shift1, [True] * 3
        )
        d_x1 += d_x2
        d_x = d_x1.view_as(grads[0])
        return (d_x, None, None, *d_norm1, *d_in, *d_proj, *d_norm2, *d_up, *d_down)


def _linear_gradients(d_out: Tensor, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of weight (out, in) and bias (out,) from d_out (N, out) and x (N, in)."""
    return (d_out.t() @ x).to(dtype), d_out.sum(0).to(dtype)


def _spans(n_time: int) -> list[tuple[int, int]]:
    """Queries start to end that are attended together."""
    return list(pairwise([*range(0, n_time, QUERIES), n_time]))


def _attend(q: Tensor, k: Tensor, v: Tensor, n_batch: int) -> tuple[Tensor, list[Tensor]]:
    """Causal attention of scaled q, k, v (B H, T, D): y (N, C), and per span its probabilities."""
    _, n_time, d_head = q.shape
    side = min(n_time, QUERIES)
    mask = torch.full((side, side), -math.inf, dtype=q.dtype).triu_(1)
    y = q.new_empty(n_batch, n_time, q.size(0) // n_batch, d_head)
    probabilities = []
    for start, end in _spans(n_time):
        scores = torch.bmm(q[:, start:end], k[:, :end].transpose(1, 2))
        scores[:, :, start:] += mask[: end - start, : end - start]
        probabilities.append(torch.softmax(scores, -1))
        y[:, start:end] = _by_token(torch.bmm(probabilities[-1], v[:, :end]), n_batch)
    return y.view(n_batch * n_time, -1), probabilities


def _attend_backward(
    d_y: Tensor, q: Tensor, k: Tensor, v: Tensor, probabilities: Sequence[Tensor], n_batch: int
) -> Tensor:
    """Gradients of q before its scaling, of k and of v, side by side: (N, 3 C)."""
    _, n_time, d_head = q.shape
    gradients = q.new_empty(n_batch, n_time, 3, q.size(0) // n_batch, d_head)
    d_q, d_k, d_v = gradients.unbind(2)
    spans = zip(_spans(n_time), probabilities, strict=True)
    for (start, end), p in reversed(list(spans)):  # the last one reaches every key
        d_p = torch.bmm(d_y[:, start:end], v[:, :end].transpose(1, 2))
        d_scores = torch._softmax_backward_data(d_p, p, -1, p.dtype)
        d_scaled = torch.bmm(d_scores, k[:, :end])
        d_q[:, start:end] = _by_token(d_scaled.mul_(d_head**-0.5), n_batch)
        of_keys = _by_token(torch.bmm(d_scores.transpose(1, 2), q[:, start:end]), n_batch)
        of_values = _by_token(torch.bmm(p.transpose(1, 2), d_y[:, start:end]), n_batch)
        if end == n_time:
            d_k.copy_(of_keys)
            d_v.copy_(of_values)
        else:
            d_k[:, :end] += of_keys
            d_v[:, :end] += of_values
    return gradients.view(n_batch * n_time, -1)


def _by_token(heads: Tensor, n_batch: int) -> Tensor:
    """(B H, T, D) seen as (B, T, H, D)."""
    return heads.view(n_batch, -1, *heads.shape[1:]).transpose(1, 2)


def _gelu(x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """GELU of x (N, F) + bias in its tanh form, and its slope; x is used up.

    1 + tanh(z / 2) = 2 sigmoid(z), and the sigmoid is several times quicker.
    """
    y, slope = torch.empty_like(x), x
    for x_part, y_part, slope_part in _parts(x, y, slope):
        x32 = x_part + bias  # in the type of the bias, which is exact
        scale = x32.new_tensor(GELU_SCALE)
        gate = torch.addcmul(scale, x32, x32, value=GELU_CUBIC).mul_(x32).sigmoid_()
        dz = torch.addcmul(scale, x32, x32, value=3 * GELU_CUBIC)
        y32 = x32.mul_(gate)
        y_part.copy_(y32)
        y32.addcmul_(y32, gate, value=-1)  # y (1 - gate)
        slope_part.copy_(gate.addcmul_(y32, dz))
    return y, slope


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of each, a few at a time."""
    width = tensors[0].size(-1)
    rows = len(tensors[0]) if torch.compiler.is_compiling() else max(1, GELU_ELEMENTS // width)
    return zip(*(torch.split(t, rows) for t in tensors), strict=True)
