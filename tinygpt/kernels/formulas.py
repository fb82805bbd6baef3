"""What is computed between the matrix products of GPT-2, in PyTorch, for any type of tensor.

N rows, C columns; B batch, T time, H heads, D width of a head.  Activations are in the type of the
matrix products, the residual stream and parameters in their own, which is no shorter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

GELU_ELEMENTS = 1 << 17  # in fp32 at a time: what fits into the caches
GELU_SCALE = 2 * math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715 * GELU_SCALE
LOSS_ELEMENTS = 1 << 20  # logits in fp32 at a time

Normed = tuple[Tensor, Tensor, Tensor]  # (N, C), and mean and 1 / standard deviation of each row


class Formulas:
    """The mathematics, step by step. What ends with _ uses its first argument up."""

    def norm(
        self, x: Tensor, gain: Tensor, shift: Tensor, eps: float, dtype: torch.dtype
    ) -> Normed:
        """LayerNorm of x (N, C), the result in `dtype`."""
        normed, mean, rstd = torch.native_layer_norm(x, (x.size(-1),), gain, shift, eps)
        return normed.to(dtype), mean, rstd

    def add(self, update: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        """The residual stream x (..., C) plus what a layer adds, whose bias is still missing."""
        return (update + x).add_(bias)

    def add_and_norm(
        self, update: Tensor, bias: Tensor, x: Tensor, gain: Tensor, shift: Tensor, eps: float
    ) -> tuple[Tensor, Normed]:
        """`add`, and `norm` of the sum."""
        total = self.add(update, bias, x)
        return total, self.norm(total, gain, shift, eps, update.dtype)

    def round_and_sum(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """x (N, C) in `dtype`, and its sum over rows."""
        return x.to(dtype), x.sum(0)

    def norm_backward(
        self,
        d_normed: Tensor,
        x: Tensor,
        stats: tuple[Tensor, Tensor],
        parameters: tuple[Tensor, Tensor],
        residual: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x through `norm`, `residual` added to it, of gain and of shift."""
        d_x, d_gain, d_shift = torch.ops.aten.native_layer_norm_backward(
            d_normed.to(x.dtype), x, (x.size(-1),), *stats, *parameters, [True] * 3
        )
        return d_x.add_(residual), d_gain, d_shift

    def gelu_(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """GELU of x (N, C) + bias in its tanh form, and its slope.

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

    def gelu_backward_(self, d: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """d (N, C) times the slope, and the sum of that over rows: the gradient of the bias."""
        d_x = d.mul_(slope)
        return d_x, d_x.sum(0)

    def split_heads(self, qkv: Tensor, bias: Tensor, n_batch: int, n_head: int) -> Tensor:
        """qkv (B T, 3 H D) plus bias as heads (3, B H, T, D), queries scaled by 1 / sqrt(D)."""
        by_kind = qkv.view(n_batch, -1, 3, n_head, qkv.size(1) // (3 * n_head))
        heads = by_kind.permute(2, 0, 3, 1, 4).contiguous()
        heads.add_(bias.to(qkv.dtype).view(3, 1, n_head, 1, -1))
        heads[0].mul_(heads.size(-1) ** -0.5)
        return heads.flatten(1, 2)

    def merge_heads(
        self, heads: Tensor, tokens: Tensor, *, scale: float = 1.0, adds: bool = False
    ) -> None:
        """Write heads (B H, T, D) times `scale` to tokens (B, T, H, D), or add them there."""
        by_token = heads.view(tokens.size(0), -1, *heads.shape[1:]).transpose(1, 2)
        if adds:
            tokens.add_(by_token, alpha=scale)
        else:
            tokens.copy_(by_token if scale == 1 else by_token * scale)

    def causal_softmax_(self, scores: Tensor) -> Tensor:
        """Probabilities of scores (M, queries, keys).

        The last query sees all keys, the one before it all but the last, and so on.
        """
        queries, keys = scores.shape[1:]
        later = scores.new_ones(queries, keys, dtype=torch.bool).triu_(keys - queries + 1)
        return torch.softmax(scores.masked_fill_(later, -math.inf), -1)

    def causal_softmax_backward_(self, d: Tensor, probabilities: Tensor) -> Tensor:
        """The gradient of scores, from that of their probabilities."""
        return torch._softmax_backward_data(d, probabilities, -1, d.dtype)

    def cross_entropy_(self, logits: Tensor, targets: Tensor, scale: float | None) -> Tensor:
        """The sum of -log softmax at targets (N,) of logits (N, V), in their type or fp32.

        With a scale the logits become the gradient of scale times that sum.
        """
        exact = torch.promote_types(logits.dtype, torch.float32)
        nats = torch.zeros((), dtype=exact, device=logits.device)
        rows = max(1, LOSS_ELEMENTS // logits.size(-1))
        for part, wanted in zip(torch.split(logits, rows), torch.split(targets, rows), strict=True):
            log_p = torch.log_softmax(part, -1, dtype=exact)
            at_target = wanted[:, None]
            nats -= log_p.gather(1, at_target).sum()
            if scale is not None:
                p = log_p.exp_()
                p.scatter_add_(1, at_target, p.new_full((1, 1), -1.0).expand_as(at_target))
                part.copy_(p.mul_(scale))
        return nats


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of each, a few at a time."""
    width = tensors[0].size(-1)
    rows = len(tensors[0]) if torch.compiler.is_compiling() else max(1, GELU_ELEMENTS // width)
    return zip(*(torch.split(t, rows) for t in tensors), strict=True)
