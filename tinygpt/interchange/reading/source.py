"""What `init_from=` names: the architecture of trained weights, and how to read them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tinygpt.errors import UserError
from tinygpt.interfaces import ModelConfig, TokenizerConfig

RUN = "run"
_CHUNK = 1 << 24  # bytes of a file that are read at once


@dataclass(frozen=True)
class Weights:
    """Trained weights under our names."""

    tensors: dict[str, Tensor]
    files: Sequence[Path]  # that they were read from

    def sha256(self) -> str:
        """The sha256 of the file; of several files, that of the list of their sha256 by name."""
        sums = [_sha256(path) for path in sorted(self.files)]
        return sums[0] if len(sums) == 1 else hashlib.sha256("\n".join(sums).encode()).hexdigest()


@dataclass(frozen=True)
class Source:
    """Trained weights that a run can begin with; `read` loads them, and raises UserError."""

    path: Path  # absolute
    kind: str  # such as run, GPT2LMHeadModel or nanoGPT
    model: ModelConfig
    vocab_size: int  # rows of the embedding
    seq_len: int
    read: Callable[[], Weights] | None  # None for a run, whose checkpoints training reads
    tokenizer: TokenizerConfig | None = None  # the one that comes with the weights
    no_tokenizer: str = ""  # why there is none, and what to type

    @property
    def is_run(self) -> bool:
        """Whether the weights are those of a run folder of tinygpt."""
        return self.kind == RUN


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def shapes_of(model: ModelConfig, *, vocab_size: int, seq_len: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's parameters by name, without their memory."""
    with torch.device("meta"):
        built = model.build(vocab_size=vocab_size, seq_len=seq_len)
    return {name: tuple(p.shape) for name, p in built.named_parameters()}


def check_complete(
    tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], *, where: str
) -> None:
    """Raise UserError unless the tensors have exactly these names and shapes."""
    if missing := shapes.keys() - tensors.keys():
        raise UserError(f"{where} lacks {_listed(missing)}")
    if left := tensors.keys() - shapes.keys():
        raise UserError(f"{where} has {_listed(left)}, which the model has no place for")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise UserError(
                f"{where}: {name} is {tuple(tensors[name].shape)} there, and its sizes say {shape}"
            )


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 1} more" if len(ordered) > 1 else ""
    return f"{ordered[0]}{more}"
