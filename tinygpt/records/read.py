"""Read run folders fast, for lists and comparisons; reports damaged folders without raising."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, TypeGuard

from filelock import FileLock, Timeout

from tinygpt import config
from tinygpt.components.loggers.jsonl import Row, read_rows
from tinygpt.config.nested import flatten
from tinygpt.errors import UserError
from tinygpt.records import evaluations
from tinygpt.records.evaluations import Result

READERS = 8  # threads that read folders in parallel
CHECKED = ("metrics.jsonl", "summary.json")  # files whose checksums run.json records
# types of the fields in run.json and summary.json; null and other fields are allowed
_RUN_TYPES: dict[str, Any] = {
    **dict.fromkeys(("id", "group", "status", "error", "lost_rows", "command"), str),
    **dict.fromkeys(("created_at", "started_at", "ended_at", "first_checkpoint_at"), str),
    **dict.fromkeys(("config", "config_before", "derived", "data", "files"), dict),
    **dict.fromkeys(("git", "versions", "init_from", "process"), dict),
    "resumed": list,
}
_DERIVED_TYPES: dict[str, Any] = {
    **dict.fromkeys(("validation", "hardware"), dict),
    **dict.fromkeys(("n_params", "flops_per_token"), float),
}
_VALIDATION_TYPES = {"documents": float, "utf8_bytes": float, "text_sha256": str}
_SUMMARY_TYPES: dict[str, Any] = {
    **dict.fromkeys(("val/loss", "val/bpb", "best_val_bpb", "floor_bpb", "best_step"), float),
    **dict.fromkeys(("val/loss_ema", "val/bpb_ema", "best_val_bpb_ema"), float),
    **dict.fromkeys(("step", "tokens", "epochs", "n_params", "elapsed_s"), float),
    **dict.fromkeys(("tokens_per_sec", "peak_mem_bytes"), float),
    **dict.fromkeys(("run", "stop_reason"), str),
}


@dataclass(eq=False)
class RunRecord:
    """The contents of one run folder."""

    path: Path
    run: dict[str, Any]  # run.json
    config: dict[str, Any]  # nested, as in config.yaml
    summary: dict[str, Any]  # summary.json; empty until the run has finished
    damage: str | None = None  # what is unreadable or was changed
    notes: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The run's name, unique among all runs."""
        return str(self.run.get("id", self.path.name))

    @property
    def group(self) -> str | None:
        """The name of the run's sweep, or None."""
        return self.run.get("group")

    @property
    def label(self) -> str:
        """A short name for tables: the run's number if it is in a sweep, else its id."""
        return self.path.name if self.group else self.id

    @cached_property
    def status(self) -> str:
        """The status in run.json, or "damaged" or "dead", which other files of the folder show.

        A run is dead if its process ended without recording it, or before it wrote the summary.
        """
        if self.damage:
            return "damaged"
        status = str(self.run["status"])
        if status == "finished" and not self.summary:
            return "dead"
        return "dead" if status == "running" and not is_held(self.path) else status

    @property
    def error(self) -> str | None:
        """Why the run ended early, or what is damaged; None for neither."""
        if self.status == "dead" and self.run["status"] == "finished":
            return f"it has no summary; complete it with resume={self.path}"
        return self.damage or self.run.get("error") or self.run.get("lost_rows")

    @property
    def derived(self) -> dict[str, Any]:
        """Numbers computed from config and data, such as n_params."""
        found: dict[str, Any] = self.run.get("derived") or {}
        return found

    @property
    def started_at(self) -> str:
        """ISO time at which the run started; empty if it has not."""
        return self.run.get("started_at") or ""

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The config with dotted keys."""
        return flatten(self.config)

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of metrics.jsonl; empty if it cannot be read."""
        try:
            return read_rows(self.path / "metrics.jsonl")
        except (OSError, UserError):
            return []

    def metric(self, name: str) -> float | None:
        """A finite number from the summary, `derived` or an evaluation ("choices/mean"), or None.

        flops is computed from the first two.
        """
        if name == "flops":
            tokens, each = self.metric("tokens"), self.metric("flops_per_token")
            return None if tokens is None or each is None else tokens * each
        value = self.summary.get(name, self.derived.get(name))
        if value is None and "/" in name:
            suite, _, number = name.partition("/")
            if result := self.evaluations.get(suite):
                value = result.numbers[number].value if number in result.numbers else None
        return float(value) if _is_number(value) else None

    @cached_property
    def evaluations(self) -> dict[str, Result]:
        """What `tinygpt.evaluate` found, by suite."""
        return evaluations.read_all(self.path)

    def samples(self) -> str:
        """The newest sample text; empty without one."""
        found = sorted((self.path / "samples").glob("*.txt"))
        return found[-1].read_text("utf-8", errors="replace") if found else ""


def is_held(path: Path) -> bool:
    """Whether a process holds the run's lock."""
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError:  # a read-only folder
        return False
    lock.release()
    return False


def read_run(path: Path) -> RunRecord:
    """Read a run folder; `damage` in the result says what is unreadable or was changed."""
    try:
        run = read_record(path)
    except (UserError, OSError) as error:
        return RunRecord(path, {}, {}, {}, damage=_words(error))
    content: dict[str, Any] | None = run.get("config")
    summary: dict[str, Any] = {}
    damage: str | None = None
    try:
        if content is None:  # a run of an earlier version
            content = config.read(path / "config.yaml")
        if (path / "summary.json").exists():
            summary = _json_object(path / "summary.json", _SUMMARY_TYPES)
        if run["status"] not in ("queued", "running"):
            check_files(path, run)
    except (UserError, OSError) as error:
        damage = _words(error)
    return RunRecord(path, run, content or {}, summary, damage=damage)


def read_record(path: Path) -> dict[str, Any]:
    """The content of run.json; raises UserError if it is damaged."""
    return _json_object(path / "run.json", _RUN_TYPES)


def file_checksums(path: Path) -> dict[str, str]:
    """sha256 of the files that hold a run's results; run.json records them when the run ends."""
    sums = {}
    for name in (name for name in CHECKED if (path / name).is_file()):
        with (path / name).open("rb") as file:
            sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def check_files(path: Path, run: Mapping[str, Any], *names: str) -> None:
    """Raise UserError if a file differs from its checksum in run.json.

    Without names, checks all files. A run.json of an earlier version has no checksums.
    """
    known = run.get("files") or {}
    found = file_checksums(path)
    for name, checksum in known.items():
        if names and name not in names:
            continue
        if name not in found:
            raise UserError(f"{name} is missing")
        if found[name] != checksum:
            size = (path / name).stat().st_size
            what = "was changed after the run ended" if size else "is empty"
            raise UserError(f"{name} {what}")


def _json_object(path: Path, types: Mapping[str, Any]) -> dict[str, Any]:
    """Read a JSON object; raises UserError unless its known fields have these types."""
    if path.is_fifo():  # opening it would wait for a writer
        raise UserError(f"{path.name} cannot be read: it is a named pipe")
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path.name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name} cannot be read: {type(error).__name__}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path.name} cannot be read: it holds {_shown(content)}, not an object")
    if "status" in types and content.get("status") is None:
        raise UserError(f"{path.name} cannot be read: it has no status")
    _check_types(path, content, types)
    if types is _RUN_TYPES and (derived := content.get("derived")):
        _check_types(path, derived, _DERIVED_TYPES, within="derived.")
        if pinned := derived.get("validation"):
            _check_types(path, pinned, _VALIDATION_TYPES, within="derived.validation.")
            if missing := _VALIDATION_TYPES.keys() - pinned.keys():
                names = ", ".join(sorted(missing))
                raise UserError(f"{path.name} is damaged: derived.validation has no {names}")
    return content


def _check_types(
    path: Path, content: Mapping[str, Any], types: Mapping[str, Any], *, within: str = ""
) -> None:
    for name, allowed in types.items():
        value = content.get(name)
        is_good = isinstance(value, allowed) if allowed is not float else _is_number(value)
        if value is not None and not is_good:
            raise UserError(f"{path.name} is damaged: {within}{name} is {_shown(value)}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 40 else f"{text[:37]}..."


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{Path(error.filename or '').name} cannot be read: {error.strerror}"
    return str(error)


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Read many run folders in parallel; returns the records in the same order."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read_run, paths))
