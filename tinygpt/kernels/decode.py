"""A transformer in C that reads tokens one after another, with a cache: decode.c by ctypes.

V vocabulary, C d_model, D = C / n_head, G heads of keys and values, F d_ff.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinygpt.kernels import library as compiled

FORMATS = ("fp32", "bf16", "int8")  # of the weights in matrices, in the order of decode.h
FEEDFORWARDS = ("gelu", "gelu_erf", "relu2", "swiglu")  # the same
MAX_ROWS = 256  # tokens of one call, which bounds its scratch memory
ALIGNMENT = 64
# multiplications of a call below which a second thread takes longer to begin than it saves
ONE_THREAD = 300_000
FloatArray = npt.NDArray[np.float32]


@dataclass
class Norm:
    """Gain and shift (width,) of a norm; None where it has none."""

    gain: Tensor | None = None
    shift: Tensor | None = None


@dataclass
class Linear:
    """A matrix (outputs, inputs) and its bias."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass
class Layer:
    """One block: `GPTConfig` describes its parts; None is a part that it lacks."""

    attention_norm: Norm
    qkv: Linear
    out: Linear
    mlp_norm: Norm
    up: Linear
    down: Linear
    gate: Linear | None = None  # of SwiGLU
    attention_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    shortcut: Tensor | None = None  # (2,)
    value_mix: Tensor | None = None  # (2,)
    value_embedding: Tensor | None = None  # (V, G D)
    value_gate: Tensor | None = None  # (G, channels of x)


@dataclass
class Network:
    """A transformer: sizes, switches and weights."""

    n_head: int
    n_kv_head: int
    capacity: int  # most tokens of a sequence
    feedforward: str
    rms_norm: bool
    eps: float
    token_embedding: Tensor  # (V, C)
    layers: Sequence[Layer]
    norm: Norm
    head: Tensor  # (V, C)
    window: int | None = None
    softcap: float | None = None
    position_embedding: Tensor | None = None  # (capacity, C)
    rotation: tuple[Tensor, Tensor] | None = None  # cosines and sines (capacity, D / 2)
    ngram_tables: Sequence[Tensor] = ()  # (rows, C) each
    embedding_norm: Norm | None = None


_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class _Matrix(ctypes.Structure):
    _fields_ = [*_fields(_POINTER, "weights scales bias"), *_fields(_NUMBER, "outs depth")]


class _Norm(ctypes.Structure):
    _fields_ = _fields(_POINTER, "gain shift")


class _Layer(ctypes.Structure):
    _fields_ = [
        *_fields(_Norm, "attention_norm attention_post_norm q_norm k_norm mlp_norm mlp_post_norm"),
        *_fields(_Matrix, "qkv out up down"),
        *_fields(_POINTER, "shortcut value_mix value_embedding value_gate"),
    ]


class _Decoder(ctypes.Structure):
    _fields_ = [
        *_fields(_NUMBER, "n_layer n_head n_kv_head d_model d_head d_ff vocab_size"),
        *_fields(_NUMBER, "n_slots capacity window n_tables table_rows gate_width"),
        *_fields(_NUMBER, "format feedforward rms embedding_normed qk_normed post_normed"),
        *_fields(ctypes.c_float, "eps softcap"),
        *_fields(_POINTER, "token_embedding position_embedding cosines sines"),
        ("tables", _POINTER * 7),
        *_fields(_Norm, "embedding_norm norm"),
        ("head", _Matrix),
        *_fields(_POINTER, "layers keys values history"),
    ]


class TransformerDecoder:
    """See `tinygpt.language_model.Decoder`: logits of a slot are the same bits in any company.

    Raises NotBuiltError where the kernels cannot be compiled.
    """

    def __init__(
        self,
        network: Network,
        *,
        n_slots: int,
        weights: str,
        library: ctypes.CDLL | None = None,
    ) -> None:
        self.n_slots, self.capacity = n_slots, network.capacity
        self.weights = weights
        self.weight_bytes = 0  # of the matrices, all of which a step reads
        self._format = FORMATS.index(weights)
        self._library = library or compiled()
        self._functions()
        self._kept: list[npt.NDArray[Any]] = []  # what the pointers point to
        self._one_thread = ONE_THREAD
        self._lengths = [0] * n_slots
        self._vocab_size = len(network.token_embedding)
        self._room = self._zeros(self._most_bytes(network))  # for the packed matrices
        layers = [self._layer(layer, network) for layer in network.layers]
        self._layers = (_Layer * len(layers))(*layers)
        self._decoder = self._described(network)
        sizes = (_NUMBER * 2)()
        self._library.cache_sizes(ctypes.byref(self._decoder), sizes, ctypes.byref(sizes, 8))
        self._decoder.keys = self._zeros(sizes[0])
        self._decoder.values = self._zeros(sizes[1])
        self._decoder.history = self._zeros(n_slots * network.capacity * 8)

    @property
    def nbytes(self) -> int:
        """Bytes of main memory that weights and caches take."""
        return sum(array.nbytes for array in self._kept)

    def prefill(
        self, slot: int, tokens: Sequence[int], *, every: bool = False
    ) -> npt.NDArray[np.float32]:
        """See Decoder; raises ValueError for more tokens than the slot holds, or none."""
        if not 1 <= len(tokens) <= self.capacity:
            raise ValueError(f"{len(tokens)} tokens do not fit into seq_len={self.capacity}")
        self._lengths[slot] = 0
        logits = []
        n_calls = -(-len(tokens) // MAX_ROWS)
        at_once = -(-len(tokens) // n_calls)  # each call reads all weights
        for first in range(0, len(tokens), at_once):
            part = tokens[first : first + at_once]
            positions = range(first, first + len(part))
            is_last = first + len(part) == len(tokens)
            wanted = range(len(part)) if every else range(len(part) - 1, len(part))[:is_last]
            logits.append(self._read([slot] * len(part), part, positions, wanted))
        self._lengths[slot] = len(tokens)
        return np.concatenate(logits) if every else logits[-1][0]

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """See Decoder; raises ValueError for a slot that is full."""
        if len(set(slots)) < len(slots) or len(tokens) != len(slots):
            raise ValueError("a step reads one token for each of some distinct slots")
        if any(self._lengths[slot] >= self.capacity for slot in slots):
            raise ValueError(f"{self.capacity + 1} tokens do not fit into seq_len={self.capacity}")
        logits = [np.empty((0, self._vocab_size), np.float32)]
        for first in range(0, len(slots), MAX_ROWS):
            part = slots[first : first + MAX_ROWS]
            positions = [self._lengths[slot] for slot in part]
            read = tokens[first : first + MAX_ROWS]
            logits.append(self._read(part, read, positions, range(len(part))))
        for slot in slots:
            self._lengths[slot] += 1
        return np.concatenate(logits) if len(logits) > 2 else logits[-1]

    def copy(self, source: int, target: int) -> None:
        """See Decoder."""
        if source != target:
            self._library.copy_slot(
                ctypes.byref(self._decoder), source, target, self._lengths[source]
            )
            self._lengths[target] = self._lengths[source]

    def _read(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
    ) -> FloatArray:
        """Logits (len(wanted), V) of those rows, of which each is a token of a slot."""
        arrays = [np.array(numbers, np.int64) for numbers in (tokens, slots, positions, wanted)]
        logits = np.empty((len(wanted), self._vocab_size), np.float32)
        is_small = len(tokens) * self._n_weights < self._one_thread
        failure = self._library.decode(
            ctypes.byref(self._decoder),
            *(array.ctypes.data for array in arrays[:3]),
            len(tokens),
            arrays[3].ctypes.data,
            len(wanted),
            logits.ctypes.data,
            1 if is_small else torch.get_num_threads(),
        )
        if failure == 1:
            raise MemoryError("kernel decode: not enough memory for its scratch space")
        if failure:
            raise IndexError("kernel decode: a token or a slot is out of range")
        return logits

    @property
    def _n_weights(self) -> int:
        return self.weight_bytes // (4, 2, 1)[self._format]

    def _functions(self) -> None:
        """Declare the types of arguments and results."""
        library = self._library
        library.decoder_bytes.restype = library.packed_bytes.restype = ctypes.c_int64
        library.outs_per_block.restype = ctypes.c_int64
        library.packed_bytes.argtypes = [_NUMBER] * 3
        library.pack_matrix.argtypes = [_POINTER, *[_NUMBER] * 3, *[_POINTER] * 2, ctypes.c_int]
        library.cache_sizes.argtypes = [_POINTER] * 3
        library.pack_matrix.restype = library.cache_sizes.restype = None
        sizes_and_arrays = (_NUMBER, _POINTER, _NUMBER, _POINTER)
        library.decode.argtypes = [*[_POINTER] * 4, *sizes_and_arrays, ctypes.c_int]
        library.copy_slot.argtypes = [_POINTER, *[_NUMBER] * 3]
        library.copy_slot.restype = None
        assert library.decoder_bytes() == ctypes.sizeof(_Decoder)

    def _described(self, network: Network) -> _Decoder:
        first = network.layers[0]
        gates = [layer.value_gate for layer in network.layers if layer.value_gate is not None]
        cosines, sines = network.rotation or (None, None)
        vocab_size, width = network.token_embedding.shape
        tables = [self._copied(table) for table in network.ngram_tables]
        return _Decoder(
            n_layer=len(network.layers),
            n_head=network.n_head,
            n_kv_head=network.n_kv_head,
            d_model=width,
            d_head=width // network.n_head,
            d_ff=first.up.weight.size(0),
            vocab_size=vocab_size,
            n_slots=self.n_slots,
            capacity=network.capacity,
            window=network.window or 0,
            n_tables=len(tables),
            table_rows=len(network.ngram_tables[0]) if tables else 0,
            gate_width=gates[0].size(1) if gates else 0,
            format=self._format,
            feedforward=FEEDFORWARDS.index(network.feedforward),
            rms=network.rms_norm,
            embedding_normed=network.embedding_norm is not None,
            qk_normed=first.q_norm is not None,
            post_normed=first.attention_post_norm is not None,
            eps=network.eps,
            softcap=network.softcap or 0.0,
            token_embedding=self._copied(network.token_embedding),
            position_embedding=self._copied(network.position_embedding),
            cosines=self._copied(cosines),
            sines=self._copied(sines),
            tables=(_POINTER * 7)(*tables),
            embedding_norm=self._norm(network.embedding_norm),
            norm=self._norm(network.norm),
            head=self._packed(Linear(network.head)),
            layers=ctypes.addressof(self._layers),
        )

    def _layer(self, layer: Layer, network: Network) -> _Layer:
        up = layer.up if layer.gate is None else self._interleaved(layer.gate, layer.up)
        return _Layer(
            attention_norm=self._norm(layer.attention_norm),
            attention_post_norm=self._norm(layer.attention_post_norm),
            q_norm=self._norm(layer.q_norm),
            k_norm=self._norm(layer.k_norm),
            mlp_norm=self._norm(layer.mlp_norm),
            mlp_post_norm=self._norm(layer.mlp_post_norm),
            qkv=self._packed(layer.qkv),
            out=self._packed(layer.out),
            up=self._packed(up),
            down=self._packed(layer.down),
            shortcut=self._copied(layer.shortcut),
            value_mix=self._copied(layer.value_mix),
            value_embedding=self._copied(layer.value_embedding),
            value_gate=self._copied(layer.value_gate),
        )

    def _most_bytes(self, network: Network) -> int:
        """Bytes that hold all packed matrices: one array, so that it has huge pages."""
        of_layers = [
            (layer.qkv, layer.out, layer.up, layer.down, layer.gate) for layer in network.layers
        ]
        matrices = [linear.weight for layer in of_layers for linear in layer if linear]
        sizes = (
            self._library.packed_bytes(*matrix.shape, self._format) + ALIGNMENT
            for matrix in (*matrices, network.head)
        )
        return sum(sizes)

    def _interleaved(self, gate: Linear, up: Linear) -> Linear:
        """Rows of both (F, C) in turns, half a block of each, as `activate` in decode.c reads."""
        half = self._library.outs_per_block() // 2

        def mixed(first: Tensor, second: Tensor) -> Tensor:
            padding = -len(first) % half
            parts = [
                torch.cat((rows, rows.new_zeros(padding, *rows.shape[1:]))).view(
                    -1, half, *rows.shape[1:]
                )
                for rows in (first.detach(), second.detach())
            ]
            return torch.stack(parts, 1).flatten(0, 2)

        both = gate.bias is not None and up.bias is not None
        bias = mixed(gate.bias, up.bias) if both else None  # type: ignore[arg-type]  # both are
        return Linear(mixed(gate.weight, up.weight), bias)

    def _packed(self, linear: Linear) -> _Matrix:
        weight = _fp32(linear.weight)
        outs, depth = weight.shape
        size = self._library.packed_bytes(outs, depth, self._format)
        block = self._library.outs_per_block()
        padded = -(-outs // block) * block
        weights, self._room = self._room, self._room + -(-size // ALIGNMENT) * ALIGNMENT
        scales = self._zeros(padded * 4) if self.weights == "int8" else None
        self._library.pack_matrix(
            weight.ctypes.data, outs, depth, self._format, weights, scales, torch.get_num_threads()
        )
        bias = None
        if linear.bias is not None:
            bias = self._copied(torch.from_numpy(np.pad(_fp32(linear.bias), (0, padded - outs))))
        self.weight_bytes += size
        return _Matrix(weights=weights, scales=scales, bias=bias, outs=outs, depth=depth)

    def _norm(self, norm: Norm | None) -> _Norm:
        norm = norm or Norm()
        return _Norm(gain=self._copied(norm.gain), shift=self._copied(norm.shift))

    def _copied(self, tensor: Tensor | None) -> int | None:
        """The address of a copy in fp32."""
        if tensor is None:
            return None
        self._kept.append(_fp32(tensor).copy())
        return self._kept[-1].ctypes.data

    def _zeros(self, n_bytes: int) -> int:
        """The aligned address of new memory."""
        memory = np.zeros(n_bytes + ALIGNMENT, np.uint8)
        self._kept.append(memory)
        return -(-memory.ctypes.data // ALIGNMENT) * ALIGNMENT


def _fp32(tensor: Tensor) -> FloatArray:
    """A copy of its own: memory that NumPy has seen cannot be freed by FSDP, which shards it."""
    own = tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
    array: FloatArray = own.numpy()
    return array
