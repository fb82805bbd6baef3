"""The operations of a GPT-2 block and of its loss in PyTorch, for any type of tensor.

N rows, C columns; B batch, T time, H heads, D width of a head.  Activations have the type of the
matrix products; the residual stream and parameters keep their own type, which is as exact or more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

GELU_ELEMENTS = 1 << 17  # processed in fp32 at a time; they fit into the caches
GELU_SCALE = 2 * math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715 * GELU_SCALE
LOSS_ELEMENTS = 1 << 20  # logits processed in fp32 at a time on a CPU
QUERIES = 128  # attended together; later keys are not multiplied

Normed = tuple[Tensor, Tensor, Tensor]  # (N, C), and mean and 1 / standard deviation of each row


class Dropout(NamedTuple):
    """Where a model drops elements: the mask is a function of `key`, `stream`, row and column.

    An operation computes the same mask whenever it is called with equal values, so the backward
    finds that of the forward.  `key` is drawn for each forward, `stream` numbers the places of a
    model that drop.
    """

    key: int  # 64 bits
    stream: int
    threshold: int  # of 65,536: how many of so many elements are dropped

    @classmethod
    def draw(cls, p: float) -> Dropout | None:
        """Dropout with probability `p` and a key from PyTorch's generator; None if p is 0.

        The trainer seeds that generator from (seed, step, rank), so a resumed run draws it again.
        """
        threshold = min(round(p * _DROPOUT_STEPS), _DROPOUT_STEPS - 1)
        if threshold == 0:
            return None
        key = int(torch.randint(-(1 << 63), (1 << 63) - 1, (), device="cpu"))
        return cls(key, 0, threshold)

    def at(self, place: int) -> Dropout:
        """The same for another place, a number that no other place of the model has."""
        return self._replace(stream=place)

    def factors(self, rows: Tensor, columns: int) -> Tensor:
        """Factors (rows, columns) in float64: 0, or 1 / (1 - p).  `rows` holds int64 numbers.

        Philox4x32-7 (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3") with the
        counters that common.h describes.
        """
        column = torch.arange(columns, device=rows.device)
        group, word, half, lane = column // 128, column // 32 % 4, column // 16 % 2, column % 16
        counter = (16 * group + lane, rows[:, None] & _U32, rows[:, None] >> 32 & _U32, self.stream)
        words = torch.stack(philox(counter, self.key))  # (4, rows, columns)
        chosen = words.gather(0, word.expand(1, len(rows), columns))[0] >> 16 * half & 0xFFFF
        kept = chosen >= self.threshold
        return kept.double() * (_DROPOUT_STEPS / (_DROPOUT_STEPS - self.threshold))


_DROPOUT_STEPS = 1 << 16
_U32 = (1 << 32) - 1


def philox(counter: Sequence[Tensor | int], key: int, *, rounds: int = 7) -> list[Tensor]:
    """Philox4x32 of four counters, which broadcast, and a key of 64 bits: four words as int64."""
    x = [torch.as_tensor(word) for word in counter]
    keys = [key & _U32, key >> 32 & _U32]
    for _ in range(rounds):
        # products of 64 bits wrap around in int64; the mask undoes the sign of the shift
        a, b = x[0] * 0xD2511F53, x[2] * 0xCD9E8D57
        high_a, high_b = a >> 32 & _U32, b >> 32 & _U32
        x = [high_b ^ x[1] ^ keys[0], b & _U32, high_a ^ x[3] ^ keys[1], a & _U32]
        keys = [(keys[0] + 0x9E3779B9) & _U32, (keys[1] + 0xBB67AE85) & _U32]
    return x


class Formulas:
    """The operations, one method each. A name that ends with _ overwrites its first argument."""

    def rounded(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """`weight` in the form that repeated calls of `linear` with activations in `dtype` need."""
        return weight.to(dtype)

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        """x (N, C) times transposed weight (C', C); the weight is rounded to the type of x."""
        return x @ weight.to(x.dtype).t()

    def linear_backward(self, d: Tensor, weight: Tensor) -> Tensor:
        """The gradient of x in `linear`, from d (N, C'), that of its result."""
        return d @ weight.to(d.dtype)

    def linear_weights(self, d: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The gradient of weight in `linear`, in `dtype`."""
        return (d.t() @ x).to(dtype)

    def linear_gelu(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """`gelu_` of the result of `linear`."""
        return self.gelu_(self.linear(x, weight), bias)

    def linear_add(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor,
        drop: Dropout | None = None,
    ) -> Tensor:
        """`residual` plus a linear layer's result, in the shape of `residual`."""
        # reshaped before the addition: FSDP warns if the result is a view
        return self.add(self.linear(x, weight).view_as(residual), bias, residual, drop)

    def linear_add_and_norm(
        self,
        x: Tensor,
        parameters: tuple[Tensor, Tensor],
        residual: Tensor,
        norm_parameters: tuple[Tensor, Tensor],
        eps: float,
        drop: Dropout | None = None,
    ) -> tuple[Tensor, Normed]:
        """`add_and_norm` of a linear layer's result and `residual`."""
        weight, bias = parameters
        update = self.linear(x, weight)
        return self.add_and_norm(update, bias, residual, *norm_parameters, eps, drop)

    def linear_backward_slope(
        self, d: Tensor, weight: Tensor, slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`gelu_backward_` of the result of `linear_backward`."""
        return self.gelu_backward_(self.linear_backward(d, weight), slope)

    def linear_backward_norm(
        self,
        d: Tensor,
        weight: Tensor,
        x: Tensor,
        stats: tuple[Tensor, Tensor],
        parameters: tuple[Tensor, Tensor],
        residual: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`norm_backward` of the result of `linear_backward`."""
        d_normed = self.linear_backward(d, weight)
        return self.norm_backward(d_normed, x, stats, parameters, residual)

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
        """Causal self-attention of x (B T, C), whose layer has outputs (3, H, D).

        With `starts` (B, T), int64, token t sees no token before starts[t]; with `drop`,
        probabilities are dropped. Returns y (B T, C) and the tensors for `attend_backward`.
        """
        q, k, v = self.split_heads(self.linear(x, weight), bias, n_batch, n_head)
        y = q.new_empty(n_batch, q.size(1), n_head, q.size(2))
        probabilities = []
        for start, end in _spans(q.size(1)):
            scores = torch.bmm(q[:, start:end], k[:, :end].transpose(1, 2))
            p, dropped = self.causal_softmax_(scores, q.size(1), starts, drop)
            probabilities.append(p)
            self.merge_heads(torch.bmm(dropped, v[:, :end]), y[:, start:end])
        return y.view(len(x), -1), (q, k, v, *probabilities)

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
        """The gradient of the layer's outputs, (B T, 3 C), and its sum over rows."""
        q, k, v, *probabilities = kept
        _, n_time, d_head = q.shape
        d_y = d_y.view(n_batch, n_time, n_head, d_head).transpose(1, 2).reshape(q.shape)
        gradients = q.new_empty(n_batch, n_time, 3, n_head, d_head)
        d_q, d_k, d_v = gradients.unbind(2)
        spans = zip(_spans(n_time), probabilities, strict=True)
        for (start, end), p in reversed(list(spans)):  # the last one reaches every key
            adds = end < n_time
            d_p = torch.bmm(d_y[:, start:end], v[:, :end].transpose(1, 2))
            d_scores, dropped = self.causal_softmax_backward_(d_p, p, n_time, drop)
            d_scaled = torch.bmm(d_scores, k[:, :end])
            self.merge_heads(d_scaled, d_q[:, start:end], scale=d_head**-0.5)
            of_keys = torch.bmm(d_scores.transpose(1, 2), q[:, start:end])
            self.merge_heads(of_keys, d_k[:, :end], adds=adds)
            of_values = torch.bmm(dropped.transpose(1, 2), d_y[:, start:end])
            self.merge_heads(of_values, d_v[:, :end], adds=adds)
        d_qkv = gradients.view(n_batch * n_time, -1)
        return d_qkv, d_qkv.sum(0)

    def norm(
        self, x: Tensor, gain: Tensor, shift: Tensor, eps: float, dtype: torch.dtype
    ) -> Normed:
        """LayerNorm of x (N, C), the result in `dtype`."""
        normed, mean, rstd = torch.native_layer_norm(x, (x.size(-1),), gain, shift, eps)
        return normed.to(dtype), mean, rstd

    def add(self, update: Tensor, bias: Tensor, x: Tensor, drop: Dropout | None = None) -> Tensor:
        """x + update + bias: the residual stream x (..., C) plus a layer's result.

        With dropout it is x + drop(update + bias).
        """
        if drop is None:
            return (update + x).add_(bias)
        return x + self._dropped(update + bias, drop)

    @staticmethod
    def _dropped(x: Tensor, drop: Dropout) -> Tensor:
        """x (..., C) times the factors of dropout, whose rows are those of x (N, C)."""
        rows = torch.arange(x.numel() // x.size(-1), device=x.device)
        return x * drop.factors(rows, x.size(-1)).view_as(x).to(x.dtype)

    def add_and_norm(
        self,
        update: Tensor,
        bias: Tensor,
        x: Tensor,
        gain: Tensor,
        shift: Tensor,
        eps: float,
        drop: Dropout | None = None,
    ) -> tuple[Tensor, Normed]:
        """The sum of `add`, and its `norm`."""
        total = self.add(update, bias, x, drop)
        return total, self.norm(total, gain, shift, eps, update.dtype)

    def round_and_sum(
        self, x: Tensor, dtype: torch.dtype, drop: Dropout | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (N, C), after dropout if there is one, in `dtype`; and its sum over rows."""
        if drop is not None:
            x = self._dropped(x, drop)
        return x.to(dtype), x.sum(0)

    def norm_backward(
        self,
        d_normed: Tensor,
        x: Tensor,
        stats: tuple[Tensor, Tensor],
        parameters: tuple[Tensor, Tensor],
        residual: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, gain and shift in `norm`; `residual` is added to that of x."""
        d_x, d_gain, d_shift = torch.ops.aten.native_layer_norm_backward(
            d_normed.to(x.dtype), x, (x.size(-1),), *stats, *parameters, [True] * 3
        )
        return d_x.add_(residual), d_gain, d_shift

    def gelu_(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The tanh form of GELU of x (N, C) + bias, and its derivative, the slope.

        Uses 1 + tanh(z / 2) = 2 sigmoid(z), because sigmoid is several times faster than tanh.
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
        """d (N, C) times the slope, and its sum over rows, the gradient of the bias."""
        d_x = d.mul_(slope)
        return d_x, d_x.sum(0)

    def split_heads(self, qkv: Tensor, bias: Tensor, n_batch: int, n_head: int) -> Tensor:
        """qkv (B T, 3 H D) + bias as heads (3, B H, T, D); queries are scaled by 1 / sqrt(D)."""
        by_kind = qkv.view(n_batch, -1, 3, n_head, qkv.size(1) // (3 * n_head))
        heads = by_kind.permute(2, 0, 3, 1, 4).contiguous()
        heads.add_(bias.to(qkv.dtype).view(3, 1, n_head, 1, -1))
        heads[0].mul_(heads.size(-1) ** -0.5)
        return heads.flatten(1, 2)

    def merge_heads(
        self, heads: Tensor, tokens: Tensor, *, scale: float = 1.0, adds: bool = False
    ) -> None:
        """Write heads (B H, T, D) times `scale` to tokens (B, T, H, D), or add to them."""
        by_token = heads.view(tokens.size(0), -1, *heads.shape[1:]).transpose(1, 2)
        if adds:
            tokens.add_(by_token, alpha=scale)
        else:
            tokens.copy_(by_token if scale == 1 else by_token * scale)

    def causal_softmax_(
        self,
        scores: Tensor,
        n_time: int | None = None,
        starts: Tensor | None = None,
        drop: Dropout | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The probabilities of scores (B H, queries, keys), and these after dropout.

        The queries are the last of tokens 0 to keys - 1 of a sequence of `n_time` tokens (default:
        keys). A token sees itself and earlier ones, and with `starts` (B, n_time) none before that.
        """
        queries, keys = scores.shape[1:]
        hidden = scores.new_ones(queries, keys, dtype=torch.bool).triu_(keys - queries + 1)
        if starts is not None:
            begins = starts[:, keys - queries : keys].repeat_interleave(
                len(scores) // len(starts), 0
            )
            hidden = hidden | (torch.arange(keys, device=scores.device) < begins[:, :, None])
        p = torch.softmax(scores.masked_fill_(hidden, -math.inf), -1)
        return p, p if drop is None else p * self._attention_factors(p, n_time or keys, drop)

    def causal_softmax_backward_(
        self,
        d: Tensor,
        probabilities: Tensor,
        n_time: int | None = None,
        drop: Dropout | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The gradient of the scores, and the dropped probabilities; d is the gradient of these."""
        dropped = probabilities
        if drop is not None:
            factors = self._attention_factors(d, n_time or d.size(2), drop)
            d, dropped = d * factors, probabilities * factors
        return torch._softmax_backward_data(d, probabilities, -1, d.dtype), dropped

    @staticmethod
    def _attention_factors(p: Tensor, n_time: int, drop: Dropout) -> Tensor:
        """For p (B H, queries, keys); the row of a query is its number among B H n_time."""
        queries, keys = p.shape[1:]
        tokens = torch.arange(keys - queries, keys, device=p.device)
        rows = (n_time * torch.arange(len(p), device=p.device)[:, None] + tokens).flatten()
        return drop.factors(rows, keys).view(p.shape).to(p.dtype)

    def cross_entropy_(self, logits: Tensor, targets: Tensor, scale: float | None) -> Tensor:
        """The sum of -log softmax at targets (N,) of logits (N, V), in their type or fp32.

        With a scale the logits become the gradient of scale times that sum.
        """
        exact = torch.promote_types(logits.dtype, torch.float32)
        nats = torch.zeros((), dtype=exact, device=logits.device)
        in_caches = logits.device.type == "cpu" and not torch.compiler.is_compiling()
        rows = max(1, LOSS_ELEMENTS // logits.size(-1)) if in_caches else len(logits)
        for part, wanted in zip(torch.split(logits, rows), torch.split(targets, rows), strict=True):
            log_p = torch.log_softmax(part, -1, dtype=exact)
            at_target = wanted[:, None]
            nats -= log_p.gather(1, at_target).sum()
            if scale is not None:
                p = log_p.exp_()
                p.scatter_add_(1, at_target, p.new_full((1, 1), -1.0).expand_as(at_target))
                part.copy_(p.mul_(scale))
        return nats


def _spans(n_time: int) -> list[tuple[int, int]]:
    """(start, end) of the queries that are attended together."""
    return list(pairwise([*range(0, n_time, QUERIES), n_time]))


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Corresponding rows of all tensors, a few at a time."""
    width = tensors[0].size(-1)
    rows = len(tensors[0]) if torch.compiler.is_compiling() else max(1, GELU_ELEMENTS // width)
    return zip(*(torch.split(t, rows) for t in tensors), strict=True)
