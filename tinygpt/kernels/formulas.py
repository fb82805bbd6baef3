"""The operations of a transformer block and of its loss in PyTorch, for any type of tensor.

N rows, C columns; B batch, T time, H heads, G heads of keys and values, D width of a head.
Activations have the type of the matrix products; the residual stream and parameters keep their own
type, which is as exact or more.
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
MaybeTensor = Tensor | None


class Norm(NamedTuple):
    """LayerNorm, or RMSNorm: without a mean.  A gain or shift of None is 1 or 0."""

    gain: MaybeTensor  # (C,)
    shift: MaybeTensor  # (C,)
    eps: float
    rms: bool = False

    def to(self, dtype: torch.dtype) -> Norm:
        """The same in another type."""
        return self._replace(
            gain=None if self.gain is None else self.gain.to(dtype),
            shift=None if self.shift is None else self.shift.to(dtype),
        )


class Linear(NamedTuple):
    """A linear layer's weight, (outputs, inputs), and its bias."""

    weight: Tensor
    bias: MaybeTensor


class Heads(NamedTuple):
    """How a layer's outputs (B T, (H + 2 G) D) are queries, keys and values.

    H / G heads of queries share a head of keys and values, "GQA" (arXiv 2305.13245).  Queries and
    keys are turned: normalised over D by `norms`, then rotated by `rotation`, the cosines and sines
    (T, D) of RoPE by halves (components/models/parts/positions.py).
    """

    n_batch: int
    n_head: int
    n_kv_head: int
    norms: tuple[Norm, Norm] | None = None  # of queries and of keys
    rotation: tuple[Tensor, Tensor] | None = None

    @property
    def turns(self) -> bool:
        """Whether something happens to queries and keys before attention."""
        return self.norms is not None or self.rotation is not None

    @property
    def rows(self) -> list[int]:
        """How many heads are queries, keys and values."""
        return [self.n_head, self.n_kv_head, self.n_kv_head]

    def shape(self, qkv: Tensor) -> tuple[int, int, int, int, int]:
        """B, T, H, G and D of qkv (B T, (H + 2 G) D)."""
        rows, width = qkv.shape
        d_head = width // (self.n_head + 2 * self.n_kv_head)
        return self.n_batch, rows // self.n_batch, self.n_head, self.n_kv_head, d_head


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

    def linear_bias(self, x: Tensor, layer: Linear) -> Tensor:
        """`linear`, plus the bias if there is one."""
        if layer.bias is None:
            return self.linear(x, layer.weight)
        return torch.addmm(layer.bias.to(x.dtype), x, layer.weight.to(x.dtype).t())

    def linear_activated(
        self, x: Tensor, layer: Linear, activation: str
    ) -> tuple[Tensor, tuple[Tensor]]:
        """A linear layer's result after `activation`, gelu or relu2, and the slope of that."""
        y, slope = self.activate_(self.linear(x, layer.weight), layer.bias, activation)
        return y, (slope,)

    def linear_swiglu(
        self, x: Tensor, gate: Linear, up: Linear
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """SiLU of one linear layer's result times that of another; see `swiglu_`."""
        products = self.linear(x, gate.weight), self.linear(x, up.weight)
        y, *slopes = self.swiglu_(products[0], gate.bias, products[1], up.bias)
        return y, (slopes[0], slopes[1])

    def linear_add(
        self, x: Tensor, layer: Linear, residual: Tensor, drop: Dropout | None = None
    ) -> Tensor:
        """`residual` plus a linear layer's result, in the shape of `residual`."""
        # reshaped before the addition: FSDP warns if the result is a view
        return self.add(self.linear(x, layer.weight).view_as(residual), layer.bias, residual, drop)

    def linear_add_and_norm(
        self, x: Tensor, layer: Linear, residual: Tensor, by: Norm, drop: Dropout | None = None
    ) -> tuple[Tensor, Normed]:
        """`add_and_norm` of a linear layer's result and `residual`."""
        return self.add_and_norm(self.linear(x, layer.weight), layer.bias, residual, by, drop)

    def linear_backward_slopes(
        self, d: Tensor, weight: Tensor, slopes: tuple[Tensor, ...]
    ) -> list[tuple[Tensor, Tensor]]:
        """The result of `linear_backward` times each slope, and the sum of that over rows."""
        d_x = self.linear_backward(d, weight)
        if len(slopes) == 1:
            return [self.slope_backward_(d_x, slopes[0])]
        return self.slopes_backward_(d_x, slopes[0], slopes[1])

    def linear_backward_norm(
        self,
        layers: Sequence[tuple[Tensor, Tensor]],
        x: Tensor,
        by: Norm,
        stats: tuple[Tensor, Tensor],
        residual: MaybeTensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`norm_backward` of the sum of `linear_backward` of all layers, as (d, weight) each."""
        d_normed = self.linear_backward(*layers[0])
        for d, weight in layers[1:]:
            d_normed.addmm_(d, weight.to(d.dtype))
        return self.norm_backward(d_normed, x, by, stats, residual)

    def attend(
        self,
        x: Tensor,
        layer: Linear,
        heads: Heads,
        starts: Tensor | None = None,
        drop: Dropout | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Causal self-attention of x (B T, C), whose layer has outputs (H + 2 G, D).

        With `starts` (B, T), int64, token t sees no token before starts[t]; with `drop`,
        probabilities are dropped. Returns y (B T, H D) and the tensors for `attend_backward`.
        """
        bias, unturned = layer.bias, []
        if heads.turns:
            qkv, bias = self.linear_bias(x, layer), None
            unturned = [self.turn_heads_(qkv, heads)]
        else:
            qkv = self.linear(x, layer.weight)
        n_batch, n_time, n_head, _, d_head = heads.shape(qkv)
        q, k, v = self.split_heads(qkv, bias, heads)
        y = q.new_empty(n_batch, n_time, n_head, d_head)
        probabilities = []
        for start, end in _spans(n_time):
            of_span = _by_group(q[:, start:end], heads)
            scores = torch.bmm(of_span, k[:, :end].transpose(1, 2)).view(len(q), -1, end)
            p, dropped = self.causal_softmax_(scores, n_time, starts, drop)
            probabilities.append(p)
            y_of_span = torch.bmm(_by_group(dropped, heads), v[:, :end])
            self.merge_heads(y_of_span.view(len(q), -1, d_head), y[:, start:end])
        kept = [part for part in unturned if part is not None]
        return y.view(len(x), -1), (q, k, v, *probabilities, *kept)

    def attend_backward(
        self,
        d_y: Tensor,
        y: Tensor,
        kept: tuple[Tensor, ...],
        heads: Heads,
        starts: Tensor | None = None,
        drop: Dropout | None = None,
        *,
        sums: bool = True,
    ) -> tuple[Tensor, MaybeTensor, list[Tensor]]:
        """The gradient of the layer's outputs, (B T, (H + 2 G) D), and its sum over rows or None.

        Then gradients of gain and shift of the norm of queries, and of keys: four, or none.
        """
        q, k, v, *rest = kept
        _, n_time, d_head = q.shape
        probabilities = rest[: len(_spans(n_time))]
        d_y = d_y.view(heads.n_batch, n_time, heads.n_head, d_head).transpose(1, 2).reshape(q.shape)
        n_rows = heads.n_head + 2 * heads.n_kv_head
        gradients = q.new_empty(heads.n_batch, n_time, n_rows, d_head)
        d_q, d_k, d_v = torch.split(gradients, heads.rows, 2)
        spans = zip(_spans(n_time), probabilities, strict=True)
        for (start, end), p in reversed(list(spans)):  # the last one reaches every key
            adds = end < n_time
            d_y_of_span = _by_group(d_y[:, start:end], heads)
            d_p = torch.bmm(d_y_of_span, v[:, :end].transpose(1, 2)).view(p.shape)
            d_scores, dropped = self.causal_softmax_backward_(d_p, p, n_time, drop)
            d_scores, dropped = _by_group(d_scores, heads), _by_group(dropped, heads)
            d_scaled = torch.bmm(d_scores, k[:, :end]).view(len(q), -1, d_head)
            self.merge_heads(d_scaled, d_q[:, start:end], scale=d_head**-0.5)
            of_keys = torch.bmm(d_scores.transpose(1, 2), _by_group(q[:, start:end], heads))
            self.merge_heads(of_keys, d_k[:, :end], adds=adds)
            of_values = torch.bmm(dropped.transpose(1, 2), d_y_of_span)
            self.merge_heads(of_values, d_v[:, :end], adds=adds)
        d_qkv = gradients.view(heads.n_batch * n_time, -1)
        d_norms = (
            self.turn_heads_backward_(d_qkv, rest[-1] if heads.norms else None, heads)
            if heads.turns
            else []
        )
        return d_qkv, d_qkv.sum(0) if sums else None, d_norms

    def turn_heads_(self, qkv: Tensor, heads: Heads) -> MaybeTensor:
        """Turn queries and keys of qkv in place; returns what they were if `norms` need that."""
        n_batch, n_time, n_head, n_kv_head, d_head = heads.shape(qkv)
        turned = qkv.view(n_batch, n_time, -1, d_head)[:, :, : n_head + n_kv_head]
        kept = None
        if heads.norms is not None:
            kept = turned.clone()
            parts = zip(torch.split(turned, [n_head, n_kv_head], 2), heads.norms, strict=True)
            for part, by in parts:
                normed, _, _ = self.norm(part.reshape(-1, d_head), by, qkv.dtype)
                part.copy_(normed.view(part.shape))
        if heads.rotation is not None:
            turned.copy_(_rotated(turned, *heads.rotation))
        return kept

    def turn_heads_backward_(self, d: Tensor, kept: MaybeTensor, heads: Heads) -> list[Tensor]:
        """Make d, the gradient of turned outputs, that of the outputs; returns those of `norms`."""
        n_batch, n_time, n_head, n_kv_head, d_head = heads.shape(d)
        turned = d.view(n_batch, n_time, -1, d_head)[:, :, : n_head + n_kv_head]
        if heads.rotation is not None:
            cos, sin = heads.rotation
            turned.copy_(_rotated(turned, cos, -sin))
        if heads.norms is None:
            return []
        assert kept is not None
        found: list[Tensor] = []
        parts = zip(
            *(torch.split(part, [n_head, n_kv_head], 2) for part in (turned, kept)),
            heads.norms,
            strict=True,
        )
        for part, was, by in parts:
            x = was.reshape(-1, d_head)
            _, *stats = self.norm(x, by, d.dtype)
            d_part, *of_norm = self.norm_backward(
                part.reshape(-1, d_head), x, by, (stats[0], stats[1]), None
            )
            part.copy_(d_part.view(part.shape))
            found += of_norm
        return found

    def norm(self, x: Tensor, by: Norm, dtype: torch.dtype) -> Normed:
        """The norm of x (N, C), the result in `dtype`."""
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        by = by.to(exact.dtype)
        if not by.rms:
            normed, mean, rstd = torch.native_layer_norm(
                exact, (x.size(-1),), by.gain, by.shift, by.eps
            )
            return normed.to(dtype), mean, rstd
        rstd = (exact.square().mean(-1, keepdim=True) + by.eps).rsqrt_()
        normed = exact * rstd
        if by.gain is not None:
            normed.mul_(by.gain)
        if by.shift is not None:
            normed.add_(by.shift)
        return normed.to(dtype), torch.zeros_like(rstd), rstd

    def add(
        self, update: Tensor, bias: MaybeTensor, x: Tensor, drop: Dropout | None = None
    ) -> Tensor:
        """x + update + bias: the residual stream x (..., C) plus a layer's result.

        With dropout it is x + drop(update + bias).
        """
        if drop is None:
            return update + x if bias is None else (update + x).add_(bias)
        return x + self._dropped(update if bias is None else update + bias, drop)

    @staticmethod
    def _dropped(x: Tensor, drop: Dropout) -> Tensor:
        """x (..., C) times the factors of dropout, whose rows are those of x (N, C)."""
        rows = torch.arange(x.numel() // x.size(-1), device=x.device)
        return x * drop.factors(rows, x.size(-1)).view_as(x).to(x.dtype)

    def add_and_norm(
        self,
        update: Tensor,
        bias: MaybeTensor,
        x: Tensor,
        by: Norm,
        drop: Dropout | None = None,
    ) -> tuple[Tensor, Normed]:
        """The sum of `add`, and its `norm`."""
        total = self.add(update, bias, x, drop)
        return total, self.norm(total, by, update.dtype)

    def round_and_sum(
        self, x: Tensor, dtype: torch.dtype, drop: Dropout | None = None, *, sums: bool = True
    ) -> tuple[Tensor, MaybeTensor]:
        """x (N, C), after dropout if there is one, in `dtype`; and its sum over rows or None."""
        if drop is not None:
            x = self._dropped(x, drop)
        return x.to(dtype), x.sum(0) if sums else None

    def norm_backward(
        self,
        d_normed: Tensor,
        x: Tensor,
        by: Norm,
        stats: tuple[Tensor, Tensor],
        residual: MaybeTensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, gain and shift in `norm`; `residual` is added to that of x."""
        exact = stats[1].dtype
        d, x, by = d_normed.to(exact), x.to(exact), by.to(exact)
        gain = by.gain
        if by.rms:
            unit = x * stats[1]
            d_unit = d if gain is None else d * gain
            centred = d_unit - unit * (d_unit * unit).mean(-1, keepdim=True)
            d_x, d_gain, d_shift = centred * stats[1], (d * unit).sum(0), d.sum(0)
        else:
            ones, zeros = x.new_ones(x.size(-1)), x.new_zeros(x.size(-1))
            d_x, d_gain, d_shift = torch.ops.aten.native_layer_norm_backward(
                *(d, x, (x.size(-1),), *stats),
                *(ones if gain is None else gain, zeros if by.shift is None else by.shift),
                [True] * 3,
            )
        return d_x if residual is None else d_x.add_(residual), d_gain, d_shift

    def activate_(self, x: Tensor, bias: MaybeTensor, activation: str) -> tuple[Tensor, Tensor]:
        """An activation, gelu or relu2, of x (N, C) + bias, and its derivative, the slope."""
        return (self.gelu_ if activation == "gelu" else self.relu2_)(x, bias)

    def gelu_(self, x: Tensor, bias: MaybeTensor) -> tuple[Tensor, Tensor]:
        """The tanh form of GELU of x (N, C) + bias, and its derivative, the slope.

        Uses 1 + tanh(z / 2) = 2 sigmoid(z), because sigmoid is several times faster than tanh.
        """
        y, slope = torch.empty_like(x), x
        for x_part, y_part, slope_part in _parts(x, y, slope):
            x32 = _exact_sum(x_part, bias)
            scale = x32.new_tensor(GELU_SCALE)
            gate = torch.addcmul(scale, x32, x32, value=GELU_CUBIC).mul_(x32).sigmoid_()
            dz = torch.addcmul(scale, x32, x32, value=3 * GELU_CUBIC)
            y32 = x32.mul_(gate)
            y_part.copy_(y32)
            y32.addcmul_(y32, gate, value=-1)  # y (1 - gate)
            slope_part.copy_(gate.addcmul_(y32, dz))
        return y, slope

    def relu2_(self, x: Tensor, bias: MaybeTensor) -> tuple[Tensor, Tensor]:
        """ReLU squared of x (N, C) + bias, and its derivative."""
        positive = _exact_sum(x, bias).relu_()
        return positive.square().to(x.dtype), x.copy_(positive.mul_(2))

    def swiglu_(
        self, gate: Tensor, gate_bias: MaybeTensor, up: Tensor, up_bias: MaybeTensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """SiLU(gate + gate_bias) (up + up_bias), all (N, C), and its derivatives by both sums."""
        exact, factor = _exact_sum(gate, gate_bias), _exact_sum(up, up_bias)
        sigmoid = exact.sigmoid()
        gated = exact.mul_(sigmoid)
        y = (gated * factor).to(gate.dtype)
        slope = torch.addcmul(sigmoid + gated, gated, sigmoid, value=-1)
        return y, gate.copy_(slope.mul_(factor)), up.copy_(gated)

    def slope_backward_(self, d: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """d (N, C) times the slope, and its sum over rows, the gradient of the bias."""
        d_x = d.mul_(slope)
        return d_x, d_x.sum(0)

    def slopes_backward_(
        self, d: Tensor, slope: Tensor, other: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """`slope_backward_` by each of two slopes."""
        second = d * other
        return [self.slope_backward_(d, slope), (second, second.sum(0))]

    def split_heads(self, qkv: Tensor, bias: MaybeTensor, heads: Heads) -> list[Tensor]:
        """qkv (B T, (H + 2 G) D) + bias as q (B H, T, D) / sqrt(D), and k and v (B G, T, D)."""
        n_batch, n_time, *_, d_head = heads.shape(qkv)
        sizes = heads.rows
        by_kind = [
            part.transpose(1, 2).clone(memory_format=torch.contiguous_format)
            for part in torch.split(qkv.view(n_batch, n_time, -1, d_head), sizes, 2)
        ]
        if bias is not None:
            biases = torch.split(bias.to(qkv.dtype).view(-1, 1, d_head), sizes)
            for part, of_part in zip(by_kind, biases, strict=True):
                part.add_(of_part)
        by_kind[0].mul_(d_head**-0.5)
        return [part.flatten(0, 1) for part in by_kind]

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

    def mix(self, x: Tensor, x0: Tensor, weights: Tensor) -> Tensor:
        """weights[0] x + weights[1] x0, of x and x0 (N, C)."""
        return weights[0] * x + weights[1] * x0

    def mix_backward(
        self, d: Tensor, x: Tensor, x0: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, x0 and the weights in `mix`."""
        d_weights = torch.stack(((d * x).sum(), (d * x0).sum()))
        return weights[0] * d, weights[1] * d, d_weights

    def recur(self, rows: Tensor, begins: Tensor | None = None) -> Tensor:
        """States h (B, T, S) of a gated linear recurrence, in fp32 or what is more exact.

        rows (B, T, 2 S) are gates g and candidates c: h_t = (1 - z_t) h_(t-1) + z_t value(c_t),
        with z = sigmoid(g), and value(c) = c + 0.5 where c >= 0 and sigmoid(c) elsewhere.  The
        state is forgotten where `begins` (B, T), int64, is not 0.
        """
        kept, z, value, _ = _recurrence(rows, begins)
        return scan(kept, z * value)

    def recur_backward(self, d: Tensor, rows: Tensor, begins: Tensor | None, h: Tensor) -> Tensor:
        """The gradient of rows in `recur`, from d (B, T, S), that of h."""
        kept, z, value, slope = _recurrence(rows, begins)
        # what a state passes back to the one before it: the same recurrence from the end
        passed = torch.cat((torch.zeros_like(kept[:, :1]), kept[:, 1:].flip(1)), 1)
        d_h = scan(passed, d.flip(1)).flip(1)
        before = torch.cat((torch.zeros_like(h[:, :1]), h[:, :-1]), 1)
        if begins is not None:
            before = before.masked_fill(begins[..., None] != 0, 0.0)
        of_gate = d_h * (value - before) * z * (1 - z)
        return torch.cat((of_gate, d_h * z * slope), -1).to(rows.dtype)

    def softcap_(self, logits: Tensor, cap: float) -> Tensor:
        """Replace logits l (N, V) by cap tanh(l / cap); returns the derivative."""
        slope = torch.empty_like(logits)
        exact = torch.promote_types(logits.dtype, torch.float32)
        rows = max(1, LOSS_ELEMENTS // logits.size(-1))  # so that copies stay in the caches
        parts = zip(torch.split(logits, rows), torch.split(slope, rows), strict=True)
        for part, part_slope in parts:
            bent = (part.to(exact) / cap).tanh_()
            part.copy_(bent * cap)
            part_slope.copy_(bent.square_().neg_().add_(1))
        return slope

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


def scan(kept: Tensor, added: Tensor, state: Tensor | None = None) -> Tensor:
    """h_t = kept_t h_(t-1) + added_t for all t at once, (B, T, S); h_(-1) is `state`, or zero.

    In log2(T) rounds that combine neighbours: Hillis and Steele 1986, "Data Parallel Algorithms".
    """
    if state is not None:
        first = added[:, :1] + kept[:, :1] * state[:, None]
        added = torch.cat((first, added[:, 1:]), 1)
    distance = 1
    while distance < added.size(1):
        earlier, factor = added[:, :-distance], kept[:, distance:]
        added = torch.cat((added[:, :distance], added[:, distance:] + factor * earlier), 1)
        kept = torch.cat((kept[:, :distance], factor * kept[:, :-distance]), 1)
        distance *= 2
    return added


def _recurrence(rows: Tensor, begins: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `recur` keeps of a state, z, the value and its derivative: (B, T, S) each."""
    # a product of many factors needs more digits than bfloat16 has
    gate, candidate = rows.to(torch.promote_types(rows.dtype, torch.float32)).chunk(2, -1)
    kept, sigmoid = (-gate).sigmoid(), candidate.sigmoid()
    if begins is not None:
        kept = kept.masked_fill(begins[..., None] != 0, 0.0)
    value = torch.where(candidate >= 0, candidate + 0.5, sigmoid)
    slope = torch.where(candidate >= 0, torch.ones_like(sigmoid), sigmoid * (1 - sigmoid))
    return kept, gate.sigmoid(), value, slope


def _spans(n_time: int) -> list[tuple[int, int]]:
    """(start, end) of the queries that are attended together."""
    return list(pairwise([*range(0, n_time, QUERIES), n_time]))


def _by_group(heads: Tensor, by: Heads) -> Tensor:
    """Heads (B H, T, ...) as (B G, H / G T, ...): what shares keys follows each other."""
    n_shared = by.n_head // by.n_kv_head
    if n_shared == 1:
        return heads
    return heads.reshape(-1, n_shared * heads.size(1), heads.size(2))


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, T, H, D) rotated by halves, by angles (T, D); with -sin, back."""
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat((-second, first), -1) * sin[:, None]


def _exact_sum(x: Tensor, bias: MaybeTensor) -> Tensor:
    """x (N, C) + bias in float32 or what is more exact; a new tensor."""
    if bias is not None:
        return x + bias  # in the type of the bias, which is exact
    return x.to(torch.promote_types(x.dtype, torch.float32), copy=True)


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Corresponding rows of all tensors, a few at a time."""
    width = tensors[0].size(-1)
    rows = len(tensors[0]) if torch.compiler.is_compiling() else max(1, GELU_ELEMENTS // width)
    return zip(*(torch.split(t, rows) for t in tensors), strict=True)
