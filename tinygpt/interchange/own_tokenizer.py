"""The tokenizer of tinygpt beside an export, so that `init_from=EXPORT` trains with the same one.

tokenizer.json of a Hugging Face folder has the same ids, but says nothing of our own classes, and
that of `tokenizer=char` is one that our `tokenizer=hf` does not take.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

from tinygpt import registry
from tinygpt.components.tokenizers.hf import FILE, OURS, HFConfig
from tinygpt.errors import UserError
from tinygpt.interfaces import Tokenizer, TokenizerConfig

FOLDER = "tinygpt_tokenizer"  # in the folder of an export


def keep(tokenizer: Tokenizer, export: Path) -> None:
    """Save the tokenizer in the folder of an export."""
    (export / FOLDER).mkdir()
    tokenizer.save(export / FOLDER)


def kept(export: Path) -> TokenizerConfig | None:
    """The config that loads the tokenizer of an export; None if it has none.

    Raises UserError if the tokenizer is damaged.
    """
    folder = export / FOLDER
    if not folder.is_dir():
        return None
    file = folder / (OURS if (folder / OURS).is_file() else FILE)
    try:
        content = json.loads(file.read_bytes())
        cls = registry.lookup("tokenizer", content["name"])
        of_hf = {"eot": content["eot"]} if cls is HFConfig else {}
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"{file} is damaged; export the run again, or remove {folder}") from None
    return loaded_from(folder, cls(**of_hf))


def loaded_from(folder: Path, tokenizer: TokenizerConfig) -> TokenizerConfig:
    """The config that loads a saved tokenizer from its folder, instead of learning it again."""
    if isinstance(tokenizer, HFConfig):
        return replace(tokenizer, path=str(folder / FILE))
    if any(f.name == "path" for f in fields(tokenizer)):
        return type(tokenizer)(path=str(folder))  # type: ignore[call-arg]  # just looked up
    return tokenizer  # one that learns nothing
