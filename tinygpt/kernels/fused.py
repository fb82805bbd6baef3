"""The operations of formulas.py in C, one pass over memory each, called by ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from tinygpt.kernels.formulas import Dropout, Formulas, Heads, Linear, MaybeTensor, Norm, Normed

# the error codes of common.h
_FAILURES = {
    1: (MemoryError, "not enough memory for its scratch space"),
    2: (IndexError, "a target is not in the vocabulary"),
}
_NO_NORM = Norm(None, None, 0.0)
_NUMBERS = {"f": ctypes.c_float, "n": ctypes.c_int64, "i": ctypes.c_int}


class Fused(Formulas):
    """For contiguous CPU tensors: activations in `dtype`, all others in fp32."""

    ATTEND: ClassVar = "attend_float"  # the C function
    # one letter for each argument. Pointers: a activations, s activations whose strides are passed,
    # x fp32, t int64. Numbers: f float, n int64, i int. The number of threads follows as the last
    SIGNATURES: ClassVar = {
        "add": "axxx nnn nn",
        "norm": "xxxfn axx nn",
        "add_and_norm": "axxxxfn xaxx nnn nn",
        "round_and_sum": "xax nnn nn",
        "norm_backward": "axxxxnx xx nn",
        "gelu": "axa nn",
        "relu2": "axa nn",
        "swiglu": "axaxa nn",
        "slope_backward": "aax nn",
        "slopes_backward": "aaaax nn",
        "turn_heads": "aaxxxxxxfnn nnnnn",
        "turn_heads_backward": "aaxxxxxfnn nnnnn",
        "attend_float": "aaxt nnn nnnnn",
        "attend_float_backward": "aaxaxt nnn nnnnn",
        "mix": "xxxx nn",
        "mix_backward": "xxxx xxx nn",
        "recur": "atx nnn",
        "recur_backward": "xatxa nnn",
        "softcap": "aaf nn",
        "cross_entropy": "atxf nn",
    }

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self._dtypes = {"a": dtype, "s": dtype, "x": torch.float32, "t": torch.int64}
        self._functions: dict[str, tuple[Callable[..., int], str]] = {}
        for name, signature in self.SIGNATURES.items():
            letters = signature.replace(" ", "")
            function = getattr(library, name)
            function.argtypes = [_NUMBERS.get(letter, ctypes.c_void_p) for letter in letters]
            function.argtypes += [ctypes.c_int]
            function.restype = ctypes.c_int
            self._functions[name] = (function, letters)

    def _call(self, name: str, *arguments: Tensor | float | None) -> None:
        function, letters = self._functions[name]
        plain = list(arguments)
        for i, (letter, argument) in enumerate(zip(letters, arguments, strict=True)):
            if isinstance(argument, Tensor):
                assert argument.dtype == self._dtypes[letter]
                assert letter == "s" or argument.is_contiguous()
                plain[i] = argument.data_ptr()
        failure = function(*plain, torch.get_num_threads())
        if failure:
            error, reason = _FAILURES[failure]
            raise error(f"kernel {name}: {reason}")

    def norm(self, x: Tensor, by: Norm, dtype: torch.dtype) -> Normed:
        normed = torch.empty_like(x, dtype=dtype)
        mean, rstd = x.new_empty(2, len(x), 1)
        self._call("norm", x, *by, normed, mean, rstd, *x.shape)
        return normed, mean, rstd

    def add(
        self, update: Tensor, bias: MaybeTensor, x: Tensor, drop: Dropout | None = None
    ) -> Tensor:
        total = torch.empty_like(x)
        sizes = (x.numel() // x.size(-1), x.size(-1))
        self._call("add", update, bias, x, total, *numbers(drop), *sizes)
        return total

    def add_and_norm(
        self,
        update: Tensor,
        bias: MaybeTensor,
        x: Tensor,
        by: Norm,
        drop: Dropout | None = None,
    ) -> tuple[Tensor, Normed]:
        total, normed = torch.empty_like(x), torch.empty_like(update)
        mean, rstd = x.new_empty(2, len(x), 1)
        into = (total, normed, mean, rstd, *numbers(drop))
        self._call("add_and_norm", update, bias, x, *by, *into, *x.shape)
        return total, (normed, mean, rstd)

    def round_and_sum(
        self, x: Tensor, dtype: torch.dtype, drop: Dropout | None = None, *, sums: bool = True
    ) -> tuple[Tensor, MaybeTensor]:
        keeps = dtype == x.dtype and drop is None
        if keeps and not sums:
            return x, None
        rounded = x if keeps else torch.empty_like(x, dtype=dtype)
        total = x.new_empty(x.size(1))
        into = (None if keeps else rounded, total, *numbers(drop))
        self._call("round_and_sum", x, *into, *x.shape)
        return rounded, total if sums else None

    def norm_backward(
        self,
        d_normed: Tensor,
        x: Tensor,
        by: Norm,
        stats: tuple[Tensor, Tensor],
        residual: MaybeTensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        d_x, sums = torch.empty_like(x), x.new_empty(2, x.size(1))
        given = (d_normed, x, *stats, by.gain, by.rms, residual)
        self._call("norm_backward", *given, d_x, sums, *x.shape)
        return d_x, sums[0], sums[1]

    def gelu_(self, x: Tensor, bias: MaybeTensor) -> tuple[Tensor, Tensor]:
        return self._activated("gelu", x, bias)

    def relu2_(self, x: Tensor, bias: MaybeTensor) -> tuple[Tensor, Tensor]:
        return self._activated("relu2", x, bias)

    def _activated(self, name: str, x: Tensor, bias: MaybeTensor) -> tuple[Tensor, Tensor]:
        y = torch.empty_like(x)
        self._call(name, x, bias, y, *x.shape)
        return y, x

    def swiglu_(
        self, gate: Tensor, gate_bias: MaybeTensor, up: Tensor, up_bias: MaybeTensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.empty_like(gate)
        self._call("swiglu", gate, gate_bias, up, up_bias, y, *gate.shape)
        return y, gate, up

    def slope_backward_(self, d: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.empty(d.size(1))
        self._call("slope_backward", d, slope, total, *d.shape)
        return d, total

    def slopes_backward_(
        self, d: Tensor, slope: Tensor, other: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        second, sums = torch.empty_like(d), torch.empty(2, d.size(1))
        self._call("slopes_backward", d, slope, other, second, sums, *d.shape)
        return [(d, sums[0]), (second, sums[1])]

    def turn_heads_(self, qkv: Tensor, heads: Heads) -> MaybeTensor:
        shape = heads.shape(qkv)
        n_turned = (heads.n_head + heads.n_kv_head) * shape[-1]
        kept = None if heads.norms is None else qkv.new_empty(len(qkv), n_turned)
        of_q, of_k = heads.norms or (_NO_NORM, _NO_NORM)
        given = (*_angles(heads), of_q.gain, of_q.shift, of_k.gain, of_k.shift)
        self._call("turn_heads", qkv, kept, *given, *_norm_numbers(heads), *shape)
        return kept

    def turn_heads_backward_(self, d: Tensor, kept: MaybeTensor, heads: Heads) -> list[Tensor]:
        shape = heads.shape(d)
        sums = torch.empty(4, shape[-1])
        of_q, of_k = heads.norms or (_NO_NORM, _NO_NORM)
        given = (*_angles(heads), of_q.gain, of_k.gain, sums, *_norm_numbers(heads))
        self._call("turn_heads_backward", d, kept, *given, *shape)
        return list(sums) if heads.norms else []

    def attend(
        self,
        x: Tensor,
        layer: Linear,
        heads: Heads,
        starts: Tensor | None = None,
        drop: Dropout | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        qkv = self.linear_bias(x, layer)
        unturned = self.turn_heads_(qkv, heads) if heads.turns else None
        *_, n_head, _, d_head = shape = heads.shape(qkv)
        y = x.new_empty(len(x), n_head * d_head)
        logs = torch.empty(len(x) * n_head)
        self._call(self.ATTEND, qkv, y, logs, starts, *numbers(drop), *shape)
        return y, (qkv, logs) if unturned is None else (qkv, logs, unturned)

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
        qkv, logs, *unturned = kept
        d_qkv, total = torch.empty_like(qkv), torch.empty(qkv.size(1))
        given = (qkv, d_y, logs, d_qkv, total, starts, *numbers(drop))
        self._call(f"{self.ATTEND}_backward", *given, *heads.shape(qkv))
        if not heads.turns:
            return d_qkv, total if sums else None, []
        d_norms = self.turn_heads_backward_(d_qkv, unturned[0] if unturned else None, heads)
        return d_qkv, d_qkv.sum(0, dtype=torch.float32) if sums else None, d_norms

    def mix(self, x: Tensor, x0: Tensor, weights: Tensor) -> Tensor:
        out = torch.empty_like(x)
        self._call("mix", x, x0, weights, out, *x.shape)
        return out

    def mix_backward(
        self, d: Tensor, x: Tensor, x0: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        d_x, d_x0, d_weights = torch.empty_like(d), torch.empty_like(d), torch.empty_like(weights)
        self._call("mix_backward", d, x, x0, weights, d_x, d_x0, d_weights, *d.shape)
        return d_x, d_x0, d_weights

    def recur(self, rows: Tensor, begins: Tensor | None = None) -> Tensor:
        h = rows.new_empty(*rows.shape[:2], rows.size(2) // 2, dtype=torch.float32)
        self._call("recur", rows, begins, h, *h.shape)
        return h

    def recur_backward(self, d: Tensor, rows: Tensor, begins: Tensor | None, h: Tensor) -> Tensor:
        d_rows = torch.empty_like(rows)
        self._call("recur_backward", d, rows, begins, h, d_rows, *h.shape)
        return d_rows

    def softcap_(self, logits: Tensor, cap: float) -> Tensor:
        slope = torch.empty_like(logits)
        self._call("softcap", logits, slope, cap, *logits.shape)
        return slope

    def cross_entropy_(self, logits: Tensor, targets: Tensor, scale: float | None) -> Tensor:
        targets = targets.contiguous()
        nats = torch.empty(len(logits))
        self._call("cross_entropy", logits, targets, nats, scale or 0.0, *logits.shape)
        return nats.sum()


def _angles(heads: Heads) -> tuple[MaybeTensor, MaybeTensor]:
    """Cosines and sines, or None."""
    return heads.rotation if heads.rotation is not None else (None, None)


def _norm_numbers(heads: Heads) -> tuple[float, bool, bool]:
    """Epsilon, whether queries and keys are normalised, and whether by RMSNorm."""
    by, _ = heads.norms or (_NO_NORM, _NO_NORM)
    return by.eps, heads.norms is not None, by.rms


def numbers(drop: Dropout | None) -> tuple[int, int, int]:
    """Key, stream and threshold as the C functions take them; a threshold of 0 drops nothing."""
    return (0, 0, 0) if drop is None else drop
