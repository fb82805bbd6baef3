"""What evaluations found, in files: one JSON for each suite, in the folder `evaluation` of a run.

Numbers of two runs are comparable if their protocols are equal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinygpt.errors import UserError
from tinygpt.files import write_atomically
from tinygpt.interfaces import EvaluationConfig, Finding

FOLDER = "evaluation"  # in a run folder


@dataclass(frozen=True)
class Result:
    """The numbers of one suite for one checkpoint."""

    suite: str
    protocol: dict[str, Any]  # suite, its version and settings, and the text
    checkpoint: str
    numbers: dict[str, Finding]
    examples: dict[str, Any]
    notes: list[str]
    seconds: float
    made_by: dict[str, Any]  # versions and hardware
    weights_sha256: str = ""  # of the checkpoint's model.safetensors

    @property
    def protocol_id(self) -> str:
        """A short hash of the protocol."""
        return protocol_id(self.protocol)


def protocol_of(config: EvaluationConfig, text_sha256: str) -> dict[str, Any]:
    """All that must be equal for two numbers to be compared."""
    settings = {key: value for key, value in asdict(config).items() if key != "name"}
    protocol = {
        "suite": config.name,
        "version": config.version,
        "settings": settings,
        "text_sha256": text_sha256,
    }
    if files := config.files():
        protocol["files_sha256"] = _sha256(files)
    return protocol


def _sha256(files: Sequence[Path]) -> str:
    """The sha256 of the list of the files' sha256; raises UserError if one cannot be read."""
    sums = []
    for path in files:
        try:
            with path.open("rb") as file:
                sums.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()


def protocol_id(protocol: Mapping[str, Any]) -> str:
    """A short hash of a protocol."""
    data = json.dumps(protocol, sort_keys=True, default=str).encode()
    return hashlib.sha256(data).hexdigest()[:12]


def write(folder: Path, result: Result) -> Path:
    """Write a result; raises UserError if the disk does not take it."""
    path = folder / f"{result.suite}.json"
    content = {**asdict(result), "protocol_id": result.protocol_id}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    return path


def read(path: Path) -> Result | None:
    """A result; None if the file is not there or is not one."""
    try:
        content = json.loads(path.read_bytes())
        numbers = {name: Finding(**of) for name, of in content.pop("numbers").items()}
        content.pop("protocol_id")
        result = Result(numbers=numbers, **content)
        return result if _is_complete(result) else None
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None


def _is_complete(result: Result) -> bool:
    """Whether the parts that commands read are of their types."""
    ends = [(number.value, number.low, number.high) for number in result.numbers.values()]
    return (
        all(isinstance(value, float | int) for value, _, _ in ends)
        and all(isinstance(end, float | int | None) for _, *both in ends for end in both)
        and isinstance(result.protocol.get("settings"), dict)
        and "text_sha256" in result.protocol
        and all(isinstance(note, str) for note in result.notes)
    )


def read_all(run: Path) -> dict[str, Result]:
    """The results in a run folder, by suite."""
    found = {path.stem: read(path) for path in sorted((run / FOLDER).glob("*.json"))}
    return {suite: result for suite, result in found.items() if result is not None}
