"""Runs as their folders tell of them, read fast: what comparing and listing stand on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tinygpt import config
from tinygpt.components.loggers.jsonl import Row, read_rows
from tinygpt.errors import UserError, nearest

READERS = 8  # threads that read folders at the same time


@dataclass(eq=False)
class RunRecord:
    """One run folder."""

    path: Path
    run: dict[str, Any]  # run.json
    config: dict[str, Any]  # nested, as config.yaml has it
    summary: dict[str, Any]  # summary.json; empty until the run has ended well
    damage: str | None = None  # what is wrong with the folder
    notes: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The run's name, unique among all runs."""
        return str(self.run.get("id", self.path.name))

    @property
    def group(self) -> str | None:
        """The sweep that the run belongs to."""
        return self.run.get("group")

    @property
    def label(self) -> str:
        """The shortest name that tells it from its neighbours: of a run in a sweep its number."""
        return self.path.name if self.group else self.id

    @cached_property
    def status(self) -> str:
        """How the run ended, or that it has not; a running one whose process is gone is dead."""
        if self.damage:
            return "damaged"
        status = str(self.run["status"])
        return "dead" if status == "running" and not is_held(self.path) else status

    @property
    def error(self) -> str | None:
        """Why it ended as it did."""
        return self.damage or self.run.get("error")

    @property
    def derived(self) -> dict[str, Any]:
        """Numbers that follow from config and data."""
        found: dict[str, Any] = self.run.get("derived") or {}
        return found

    @property
    def started_at(self) -> str:
        """ISO time at which it began; empty if it has not."""
        return self.run.get("started_at") or ""

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The config with dotted keys."""
        return flatten(self.config)

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of metrics, or none where they cannot be read."""
        try:
            return read_rows(self.path / "metrics.jsonl")
        except (OSError, UserError):
            return []

    def metric(self, name: str) -> float | None:
        """A number of the summary, or one that follows from it."""
        if name == "flops":
            tokens, each = self.summary.get("tokens"), self.derived.get("flops_per_token")
            return None if tokens is None or each is None else float(tokens * each)
        value = self.summary.get(name, self.derived.get(name))
        return float(value) if isinstance(value, (int, float)) else None

    def samples(self) -> str:
        """The last text that the run wrote while it learned."""
        found = sorted((self.path / "samples").glob("*.txt"))
        return found[-1].read_text("utf-8", errors="replace") if found else ""


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def is_held(path: Path) -> bool:
    """Whether a process has the run in hand."""
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError:  # a folder that we may only read
        return False
    lock.release()
    return False


def read_run(path: Path) -> RunRecord:
    """The record of a run folder; what cannot be read is told in `damage`, not raised."""
    try:
        run = json.loads((path / "run.json").read_bytes())
        run["status"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        words = f"run.json cannot be read: {type(error).__name__}"
        return RunRecord(path, {}, {}, {}, damage=words)
    content: dict[str, Any] | None = run.get("config")
    damage: str | None = None
    if content is None:  # a run of an earlier version
        try:
            content = config.read(path / "config.yaml")
        except UserError as error:
            content, damage = {}, str(error)
    try:
        summary = json.loads((path / "summary.json").read_bytes())
    except (OSError, ValueError):
        summary = {}
    return RunRecord(path, run, content, summary, damage=damage)


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """The records of many folders, in their order."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read_run, paths))


def find_runs(patterns: Sequence[str], *, output_dir: Path) -> list[Path]:
    """The run folders that were typed: runs, sweeps, folders of them, patterns, or `latest`.

    Raises UserError for one that means nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        matches = sorted(_matches(pattern, output_dir), key=_natural)
        if not matches:
            known = [str(run.parent) for run in output_dir.glob("**/run.json")]
            known += [str(sweep.parent) for sweep in output_dir.glob("*/sweep.yaml")]
            match = nearest(pattern, known)
            hint = f"; did you mean {match}?" if match else f"; runs are in {output_dir}/"
            raise UserError(f"{pattern} holds no run{hint}")
        found |= dict.fromkeys(matches)
    return list(found)


def _matches(pattern: str, output_dir: Path) -> Iterator[Path]:
    if pattern == "latest":
        yield from _newest(output_dir)
        return
    path = Path(pattern).expanduser()
    if not path.exists() and (output_dir / pattern).exists():
        path = output_dir / pattern
    if any(character in pattern for character in "*?["):
        anchor = Path(path.anchor) if path.is_absolute() else Path()
        places = list(anchor.glob(str(path.relative_to(path.anchor))))
    else:
        places = [path]
    for place in places:
        if (place / "run.json").exists():
            yield place
        else:
            yield from (run.parent for run in place.glob("*/run.json"))
            yield from (run.parent for run in place.glob("*/[0-9]*/run.json"))


def _newest(output_dir: Path) -> list[Path]:
    """The newest run, or all of the sweep if it is one of a sweep's."""
    names = [path.parent for path in output_dir.glob("*/run.json")]
    names += [path.parent for path in output_dir.glob("*/sweep.yaml")]
    if not names:
        return []
    newest = max(names, key=lambda path: path.name)
    inside = [run.parent for run in newest.glob("*/run.json")]
    return inside or [newest]


def _natural(path: Path) -> tuple[str, int, str]:
    """Sorts run 10 of a sweep behind run 9."""
    number = int(path.name) if path.name.isdecimal() else -1
    return (str(path.parent), number, path.name)
