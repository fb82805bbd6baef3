"""Checkpoints of nanoGPT (karpathy/nanoGPT, train.py): ckpt.pt."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinygpt.components.models.gpt import GPTConfig
from tinygpt.errors import UserError
from tinygpt.interchange.reading.source import Source, Weights, check_complete, shapes_of

KIND = "nanoGPT"
_COMPILED = "_orig_mod."  # torch.compile puts it before each name
_GPT2_ROWS = (50_257, 50_304)  # GPT-2's vocabulary, as it is and padded
_NAMES = {
    "token_embedding": "transformer.wte",
    "position_embedding": "transformer.wpe",
    "norm": "transformer.ln_f",
}
_IN_BLOCKS = {
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}


def read_nanogpt(path: Path) -> Source:
    """The model in a ckpt.pt; raises UserError, also for a file that would run code."""
    content = _loaded(path)
    arguments = content.get("model_args")
    if not isinstance(arguments, Mapping) or not isinstance(content.get("model"), Mapping):
        raise UserError(
            f"init_from={path} is not a checkpoint of nanoGPT: it has no model and model_args"
        )
    if "dim" in arguments:
        raise UserError(
            f"init_from={path} is a checkpoint of llama2.c's training; write it as .bin with its "
            "export.py --version 0, and type init_from=FILE.bin"
        )
    try:
        sizes = {n: int(arguments[n]) for n in ("n_layer", "n_head", "n_embd")}
        vocab_size, seq_len = int(arguments["vocab_size"]), int(arguments["block_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"init_from={path}: model_args is not complete: {error}") from None
    model = GPTConfig(
        n_layer=sizes["n_layer"],
        n_head=sizes["n_head"],
        d_model=sizes["n_embd"],
        bias=bool(arguments.get("bias", True)),
        feedforward="gelu_erf",  # nn.GELU() in nanoGPT's model.py
    )
    if vocab_size in _GPT2_ROWS:
        tokens = "they are GPT-2's: type tokenizer=hf tokenizer.path=FILE, its tokenizer.json"
    else:
        tokens = (
            "meta.pkl may run code and is never read; for characters type tokenizer=char, which "
            f"fits a text with {vocab_size:,} different ones"
        )
    return Source(
        path=path,
        kind=KIND,
        model=model,
        vocab_size=vocab_size,
        seq_len=seq_len,
        read=partial(_weights, path, model, vocab_size, seq_len),
        no_tokenizer=tokens,
    )


def _loaded(path: Path) -> Mapping[str, Any]:
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"init_from={path} cannot be read: {error.strerror}") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and the zip reader raise many kinds
        if "Unsupported global" in str(error):  # torch's words for a name that is imported
            reason = "it holds more than tensors and plain values, which could run code"
        else:
            reason = "it is damaged, or not a file of torch.save"
        raise UserError(f"init_from={path} is not read: {reason}") from None
    return content if isinstance(content, Mapping) else {}


def _weights(path: Path, model: GPTConfig, vocab_size: int, seq_len: int) -> Weights:
    theirs: dict[str, Tensor] = {}
    for name, tensor in _loaded(path)["model"].items():
        name = str(name).removeprefix(_COMPILED)
        is_mask = name.endswith((".attn.bias", ".attn.masked_bias"))  # of older versions
        if not is_mask and name != "lm_head.weight" and isinstance(tensor, Tensor):  # tied
            theirs[name] = tensor.float()
    names = dict(_NAMES)
    for i in range(model.n_layer):
        names |= {f"blocks.{i}.{a}": f"transformer.h.{i}.{b}" for a, b in _IN_BLOCKS.items()}
    ours = {their: our for our, their in names.items()}
    state = {}
    for name, tensor in theirs.items():
        module, _, part = name.rpartition(".")
        state[f"{ours.get(module, module)}.{part}"] = tensor
    shapes = shapes_of(model, vocab_size=vocab_size, seq_len=seq_len)
    check_complete(state, shapes, where=f"init_from={path}")
    return Weights(state, [path])
