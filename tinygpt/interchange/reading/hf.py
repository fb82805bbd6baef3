"""Folders of Hugging Face's transformers: config.json beside safetensors files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tinygpt.components.tokenizers.hf import HFConfig
from tinygpt.errors import UserError
from tinygpt.interchange import own_tokenizer
from tinygpt.interchange.architectures import ReadConfig, from_hf_config, from_hf_tensors
from tinygpt.interchange.export.vocabularies import is_of_characters
from tinygpt.interchange.reading.source import Source, Weights, check_complete, shapes_of

CONFIG, ONE_FILE = "config.json", "model.safetensors"
INDEX = "model.safetensors.index.json"  # which shard holds which tensor
TOKENIZER = "tokenizer.json"


def read_hf(folder: Path) -> Source:
    """The model in a folder of transformers; raises UserError."""
    read = from_hf_config(_json_object(folder / CONFIG), where=str(folder / CONFIG))
    _files(folder)  # before anything else is done
    tokenizer, missing = (
        own_tokenizer.kept(folder),
        (f"{folder} has no {TOKENIZER}: download it too, or type tokenizer=hf tokenizer.path=FILE"),
    )
    if tokenizer is None and (folder / TOKENIZER).is_file():
        if is_of_characters(_json_object(folder / TOKENIZER)):
            missing = (
                f"its {TOKENIZER} is that of tokenizer=char: type tokenizer=char tokenizer.path="
                f"outputs/RUN/tokenizer, or put {folder / own_tokenizer.FOLDER} back, which the "
                "export had"
            )
        else:
            tokenizer = HFConfig(path=str(folder / TOKENIZER))
    return Source(
        path=folder,
        kind=read.architecture.hf_class,
        model=read.model,
        vocab_size=read.vocab_size,
        seq_len=read.seq_len,
        read=partial(_weights, folder, read),
        tokenizer=tokenizer,
        no_tokenizer=missing,
    )


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON; download it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object; download it again")
    return content


def _files(folder: Path) -> list[Path]:
    """The safetensors files; raises UserError if one is missing."""
    if (folder / ONE_FILE).is_file():
        return [folder / ONE_FILE]
    if not (folder / INDEX).is_file():
        old = next(folder.glob("*.bin"), None)
        reason = (
            f"; {old.name} may run code when it is loaded, so it is never read: convert it with "
            "transformers' save_pretrained"
            if old
            else ""
        )
        raise UserError(f"{folder} has no {ONE_FILE}{reason}")
    names = _json_object(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{folder / INDEX} is damaged: it has no weight_map; download it again")
    files = [folder / Path(name).name for name in sorted({*names.values()})]
    for path in files:
        if not path.is_file():
            raise UserError(f"{path} is missing, and {INDEX} names it; download it")
    return files


def _weights(folder: Path, read: ReadConfig) -> Weights:
    tensors: dict[str, Tensor] = {}
    files = _files(folder)
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                tensors |= {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} cannot be read: {' '.join(str(error).split())}; download it again"
            ) from None
    return Weights(_ours(tensors, read, where=str(folder)), files)


def _ours(tensors: dict[str, Tensor], read: ReadConfig, *, where: str) -> dict[str, Tensor]:
    state = from_hf_tensors(tensors, read, where=where)
    shapes = shapes_of(read.model, vocab_size=read.vocab_size, seq_len=read.seq_len)
    check_complete(state, shapes, where=where)
    return state
