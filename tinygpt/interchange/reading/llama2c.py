"""Models of llama2.c (karpathy/llama2.c, run.c): .bin files of version 0.

7 int32 (dim, hidden, layers, heads, key-value heads, vocabulary, positions), then fp32 tensors by
kind.  A negative vocabulary says that the output matrix is not the embedding.
"""

from __future__ import annotations

from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tinygpt.components.models.gpt import GPTConfig
from tinygpt.errors import UserError
from tinygpt.interchange import own_tokenizer
from tinygpt.interchange.architectures import pairs_to_halves
from tinygpt.interchange.reading.source import Source, Weights, check_complete, shapes_of

KIND = "llama2.c"
_HEADER = np.dtype("<i4"), 7
_MAGIC = 0x616B3432  # "ak42": files of version 1 and later begin with it


def read_llama2c(path: Path) -> Source:
    """The model in a .bin of version 0; raises UserError."""
    sizes = _sizes(path)
    dim, hidden, n_layer, n_head, n_kv_head, vocab, seq_len = sizes
    model = GPTConfig(
        n_layer=n_layer,
        n_head=n_head,
        n_kv_head=None if n_kv_head == n_head else n_kv_head,
        d_model=dim,
        d_ff=hidden,
        positions="rope",
        norm="rmsnorm",
        bias=False,
        feedforward="swiglu",
        tied=vocab > 0,
    )
    return Source(
        path=path,
        kind=KIND,
        model=model,
        vocab_size=abs(vocab),
        seq_len=seq_len,
        read=partial(_weights, path, model, sizes),
        tokenizer=own_tokenizer.kept(path.parent),
        no_tokenizer=(
            f"a .bin has none; one that tinygpt exported has it beside it, in the folder "
            f"{own_tokenizer.FOLDER}; for others type tokenizer=hf tokenizer.path=FILE with as "
            "many tokens"
        ),
    )


def _sizes(path: Path) -> list[int]:
    """The header; raises UserError if it is not one, or the file is not as long as it says."""
    dtype, count = _HEADER
    try:
        header = np.fromfile(path, dtype, count)
        length = path.stat().st_size
    except OSError as error:
        raise UserError(f"init_from={path} cannot be read: {error.strerror}") from None
    if len(header) == count and header[0] == _MAGIC:
        raise UserError(
            f"init_from={path} is a .bin of a later version of llama2.c's format; write it with "
            "its export.py --version 0"
        )
    sizes = [int(size) for size in header]
    fits = len(sizes) == count and all(size > 0 for size in (*sizes[:5], abs(sizes[5]), sizes[6]))
    if not fits or sizes[0] % sizes[3] or sizes[3] % sizes[4]:
        raise UserError(f"init_from={path} is not a .bin of llama2.c: its header has no sizes")
    expected = dtype.itemsize * (count + sum(prod(s) for _, s in _layout(sizes)))
    if length != expected:
        raise UserError(
            f"init_from={path} has {length:,} bytes, and its header says {expected:,}; it is cut "
            "short or not a .bin of llama2.c"
        )
    return sizes


def _layout(sizes: list[int]) -> list[tuple[str, tuple[int, ...]]]:
    """The name and shape of each tensor in the order of the file; "" is not needed."""
    dim, hidden, layers, heads, kv_heads, vocab, seq_len = sizes
    of_keys, half = dim // heads * kv_heads, dim // heads // 2
    layout: list[tuple[str, tuple[int, ...]]] = [
        ("token_embedding", (abs(vocab), dim)),
        ("attention_norm", (layers, dim)),
        ("q", (layers, dim, dim)),
        ("k", (layers, of_keys, dim)),
        ("v", (layers, of_keys, dim)),
        ("attention.out", (layers, dim, dim)),
        ("mlp_norm", (layers, dim)),
        ("mlp.gate", (layers, hidden, dim)),
        ("mlp.down", (layers, dim, hidden)),
        ("mlp.up", (layers, hidden, dim)),
        ("norm", (dim,)),
        ("", (2, seq_len, half)),  # tables of RoPE
    ]
    return [*layout, ("head", (abs(vocab), dim))] if vocab < 0 else layout


def _weights(path: Path, model: GPTConfig, sizes: list[int]) -> Weights:
    values = torch.from_numpy(np.fromfile(path, "<f4", offset=_HEADER[0].itemsize * _HEADER[1]))
    theirs: dict[str, Tensor] = {}
    at = 0
    for name, shape in _layout(sizes):
        theirs[name] = values[at : at + prod(shape)].view(shape)
        at += prod(shape)
    state = {}
    for name in ("token_embedding", "norm", "head"):
        if name in theirs:
            state[f"{name}.weight"] = theirs[name]
    for i in range(model.n_layer):
        # run.c rotates neighbouring components
        q = pairs_to_halves(theirs["q"][i], model.n_head)
        k = pairs_to_halves(theirs["k"][i], model.n_kv_head or model.n_head)
        state[f"blocks.{i}.attention.qkv.weight"] = torch.cat((q, k, theirs["v"][i]))
        for name in (
            "attention_norm",
            "attention.out",
            "mlp_norm",
            "mlp.gate",
            "mlp.up",
            "mlp.down",
        ):
            state[f"blocks.{i}.{name}.weight"] = theirs[name][i]
    shapes = shapes_of(model, vocab_size=abs(sizes[5]), seq_len=sizes[6])
    check_complete(state, shapes, where=f"init_from={path}")
    return Weights(state, [path])
