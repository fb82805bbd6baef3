"""What evaluations found, in files: one JSON for each suite, in the folder `evaluation` of a run.

Numbers of two runs are comparable if their protocols are equal.
"""

from __future__ import annotations

import hashlib
import json
import shlex
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
    def step(self) -> int:
        """The step of the checkpoint."""
        return _step(self.checkpoint)

    @property
    def protocol_id(self) -> str:
        """A short hash of the protocol."""
        return protocol_id(self.protocol)


def protocol_of(config: EvaluationConfig, texts: Mapping[str, str]) -> dict[str, Any]:
    """All that must be equal for two numbers to be compared; `texts` are hashes by name."""
    settings = {key: value for key, value in asdict(config).items() if key != "name"}
    protocol = {
        "suite": config.name,
        "version": config.version,
        "settings": settings,
        **texts,
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


def _step(checkpoint: str) -> int:
    return int(checkpoint.rpartition("-")[2])


def _is_complete(result: Result) -> bool:
    """Whether the parts that commands read are of their types."""
    ends = [(number.value, number.low, number.high) for number in result.numbers.values()]
    return (
        _step(result.checkpoint) >= 0
        and all(isinstance(value, float | int) for value, _, _ in ends)
        and all(isinstance(end, float | int | None) for _, *both in ends for end in both)
        and isinstance(result.protocol.get("settings"), dict)
        and all(isinstance(note, str) for note in result.notes)
    )


def as_metrics(result: Result) -> dict[str, float]:
    """The numbers and the ends of their intervals, as evaluation/SUITE/NUMBER."""
    found: dict[str, float] = {}
    for name, number in result.numbers.items():
        key = f"evaluation/{result.suite}/{name}"
        ends = {key: number.value, f"{key}/low": number.low, f"{key}/high": number.high}
        found |= {end: value for end, value in ends.items() if value is not None}
    return found


def outdated(run: Path, result: Result) -> str | None:
    """The reason why a result is outdated: the run has other weights now.

    None if it is up to date, or if that cannot be determined.

    The model is the run's best checkpoint, or its newest one.
    """
    folders = sorted((run / "checkpoints").glob("step-*"))
    try:
        newest = folders[-1]
        best = json.loads((newest / "state.json").read_bytes()).get("best_step")
        present = {newest, *(folder for folder in folders if _step(folder.name) == best)}
        weights = {
            json.loads((folder / "checksums.json").read_bytes())["model.safetensors"]
            for folder in present
        }
    except (OSError, ValueError, IndexError, KeyError, AttributeError, TypeError):
        return None
    if result.weights_sha256 in weights:
        return None
    return (
        f"{result.suite} was measured at {result.checkpoint}, and the run is now at "
        f"{newest.name}; measure it again with\n"
        f"  python -m tinygpt.evaluate {shlex.quote(f'run={run}')} suite={result.suite}"
    )


def read_all(run: Path) -> dict[str, Result]:
    """The results in a run folder, by suite."""
    found = {path.stem: read(path) for path in sorted((run / FOLDER).glob("*.json"))}
    return {suite: result for suite, result in found.items() if result is not None}
