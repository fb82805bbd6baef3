"""A sweep on disk: the settings that were typed, and a folder for each run, made before it starts.

The folder holds everything about a sweep, so a killed sweep can go on from its folder alone.
"""

import hashlib
import json
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from tinygpt import config, console
from tinygpt.components.loggers.jsonl import Row, read_rows
from tinygpt.config import NOT_IDENTITY, RunConfig, SweepConfig
from tinygpt.errors import UserError, nearest
from tinygpt.files import rename_durably, write_atomically
from tinygpt.interfaces import Trial
from tinygpt.records.find import latest
from tinygpt.records.folder import freeze, source_state, write_json
from tinygpt.records.processes import send_sigterm, this_process
from tinygpt.records.read import RunRecord, is_held, read_run

ENDED = ("finished", "stopped", "failed", "damaged")
_DAMAGE = (OSError, ValueError, TypeError, KeyError, yaml.YAMLError)  # reading a damaged folder
ABANDONED_S = 3600  # making a sweep's folder takes seconds


@dataclass(frozen=True)
class PlannedRun:
    """A run before it has a folder."""

    overrides: list[str]
    cfg: RunConfig
    threads_by_launcher: bool = False  # device.threads is not typed but the launcher's share

    @property
    def identity(self) -> str:
        """The config as a hash, without threads that the launcher chose."""
        return config_hash(self.cfg, with_threads=not self.threads_by_launcher)


class SweepRun:
    """One run of a sweep, read from its folder; `refresh` reads it again.

    Raises an error of `_DAMAGE` if a file is missing or cannot be read.
    """

    def __init__(self, path: Path, *, objective: str) -> None:
        if damage := read_run(path).damage:
            raise UserError(damage)
        self.path = path
        self.number = int(path.name)
        self.overrides: list[str] = list(
            yaml.safe_load((path / "overrides.yaml").read_text("utf-8"))
        )
        self.cfg = config.load(path / "config.yaml")
        self.rows: list[Row] = []
        self.values: dict[int, float] = {}  # step -> objective
        self._objective = objective
        self._stat: tuple[int, int] | None = None
        self.record: dict[str, Any] = {}
        self._read()

    @property
    def status(self) -> str:
        """The status in run.json, which stays "running" if its process was killed."""
        return str(self.record["status"])

    @property
    def max_steps(self) -> int | None:
        """The length of the run in steps, if it is known."""
        known: int | None = self.record.get("derived", {}).get("max_steps")
        return known or self.cfg.trainer.planned_steps

    @property
    def trial(self) -> Trial:
        """The run as a search and a stopping rule see it."""
        status = "failed" if self.status == "damaged" else self.status
        return Trial(self.number, tuple(self.overrides), status, self.max_steps, dict(self.values))

    @property
    def typed(self) -> list[str]:
        """The overrides without the number of threads that the launcher added."""
        return self.overrides[:-1] if self.record.get("threads_by_launcher") else self.overrides

    def refresh(self) -> None:
        """Read what changed; a folder that cannot be read any more is named and left out."""
        try:
            self._read()
        except _DAMAGE as error:
            self.damaged(error)

    def damaged(self, error: Exception) -> None:
        """Leave the run out of the sweep from now on, with a warning."""
        if self.record.get("status") != "damaged":
            self.record = {**self.record, "status": "damaged", "error": _reason(error)}
            console.warn(f"{self.path} is left out: {_reason(error)}")

    def _read(self) -> None:
        record = json.loads((self.path / "run.json").read_bytes())
        if not isinstance(record, dict) or not isinstance(record.get("status"), str):
            raise UserError("run.json holds no record of a run")
        metrics = self.path / "metrics.jsonl"
        try:
            found = metrics.stat()
        except FileNotFoundError:
            self.record = record
            return
        stat = (found.st_mtime_ns, found.st_size)
        if stat != self._stat:
            self.rows = read_rows(metrics)
            name = self._objective
            self.values = {int(row["step"]): row[name] for row in self.rows if name in row}
            self._stat = stat
        self.record = record

    def write(self, **changes: Any) -> None:
        """Change run.json of a run that no process holds."""
        try:
            write_json(self.path / "run.json", self.record | changes)
        except OSError as error:
            self.damaged(error)
        else:
            self.record |= changes

    def is_incomplete(self) -> bool:
        """Whether the run's last step is done and its result is missing; `resume=` completes it."""
        return self.status == "finished" and not (self.path / "summary.json").exists()

    def is_held(self) -> bool:
        """Whether a process works on the run."""
        return is_held(self.path)


class SweepFolder:
    """A sweep's folder, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Raises UserError if sweep.yaml is damaged or another process holds the sweep.

        Run folders that are damaged are named in a warning and left out.
        """
        self.path = path
        self.content = read_sweep(path)
        self._lock = FileLock(path / ".lock")
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise UserError(f"{path} is in use by another process; wait or stop it") from None
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None
        self._write(process=this_process())
        for partial in path.glob(".*.partial"):  # left by a process that was killed
            if partial.is_dir():
                shutil.rmtree(partial)
        self.runs: list[SweepRun] = []
        self.lost = 0  # damaged folders that had files of a run
        for number in self._numbers():
            folder = path / str(number)
            try:
                self.runs.append(SweepRun(folder, objective=self.content["sweep"]["objective"]))
            except _DAMAGE as error:
                self.lost += any(folder.iterdir())
                console.warn(f"{folder} is left out: {_reason(error)}")

    def _numbers(self) -> list[int]:
        names = (path.name for path in self.path.iterdir() if path.is_dir())
        return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]{0,8}", name))

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        command: Sequence[str],
        settings: Sequence[str],
        swept: Sequence[str],
        cfg: SweepConfig,
        runs: Sequence[PlannedRun],
    ) -> "SweepFolder":
        """A new folder with the runs that are known so far; it appears whole or not at all."""
        partial = path.with_name(f".{path.name}.partial")
        partial.mkdir(parents=True)
        for left in path.parent.glob(".*_sweep.partial"):  # left by a process that was killed
            if time.time() - left.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(left)
        for number, run in enumerate(runs):
            _freeze(partial / str(number), path, number, run)
        content = {
            "command": shlex.join(command),
            "settings": list(settings),
            "swept": list(swept),
            "sweep": _of_every_call(cfg),
            "next": len(runs),  # number of the next run; no number is used twice
            "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
            "git": source_state(partial),
        }
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        write_atomically(partial / "sweep.yaml", text)
        rename_durably(partial, path)
        return cls(path)

    def add(self, run: PlannedRun) -> SweepRun:
        """One more run, with the next number; its folder appears whole or not at all."""
        after = max(self._numbers(), default=-1) + 1
        number = max(after, self.content.get("next", 0))  # nor that of a run that was deleted
        self._write(next=number + 1)
        partial = self.path / f".{number}.partial"
        _freeze(partial, self.path, number, run)
        final = self.path / str(number)
        rename_durably(partial, final)
        self.runs.append(SweepRun(final, objective=self.content["sweep"]["objective"]))
        return self.runs[-1]

    def remember(self, cfg: SweepConfig, *, settings: list[str], swept: list[str]) -> None:
        """Keep the settings of this call for the next one."""
        self._write(settings=settings, swept=swept, sweep=_of_every_call(cfg))

    def _write(self, **changes: Any) -> None:
        if changes.items() <= self.content.items():
            return
        self.content |= changes
        text = yaml.safe_dump(self.content, sort_keys=False, allow_unicode=True)
        write_atomically(self.path / "sweep.yaml", text)

    def close(self) -> None:
        """Release the folder."""
        self._lock.release()


def interrupt_sweep(path: Path) -> int:
    """Ask the process of a sweep to end, as Ctrl-C does: its runs save first.  Returns its pid.

    Raises UserError if no process works on the sweep, or another machine's does.
    """
    content = read_sweep(path)
    if not is_held(path):
        raise UserError(f"{path} is not running, so there is nothing to stop")
    process = content.get("process")
    return send_sigterm(path, process if isinstance(process, dict) else {})


def _of_every_call(cfg: SweepConfig) -> dict[str, Any]:
    """The config that the next call begins with; failed runs are retried only when asked."""
    return config.to_dict(replace(cfg, retry_failed=False))


def _freeze(folder: Path, sweep: Path, number: int, run: PlannedRun) -> None:
    folder.mkdir()
    freeze(
        folder,
        cfg=run.cfg,
        overrides=run.overrides,
        run_id=f"{sweep.name}-{number}",
        group=sweep.name,
        threads_by_launcher=run.threads_by_launcher,
    )


def _reason(error: Exception) -> str:
    """Why a folder cannot be read, in a line."""
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{Path(error.filename).name} is missing"
    if isinstance(error, OSError) and error.filename:
        return f"{Path(error.filename).name}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


class _EarlierVersion(UserError):
    """A sweep that an earlier version made."""


def read_sweep(path: Path) -> dict[str, Any]:
    """The content of a sweep's sweep.yaml; raises UserError if it is damaged."""
    content = config.read(path / "sweep.yaml")
    if not {"settings", "sweep"} <= content.keys():
        raise _EarlierVersion(f"{path} is a sweep of an earlier version, which cannot go on")
    sweep = content["sweep"]
    if not isinstance(content["settings"], list) or not isinstance(sweep, dict):
        raise UserError(f"{path / 'sweep.yaml'} is damaged: settings or sweep is of the wrong type")
    if missing := {"search", "stopping", "launcher", "objective"} - sweep.keys():
        raise UserError(f"{path / 'sweep.yaml'} is damaged: it has no {', '.join(sorted(missing))}")
    return content


def config_hash(cfg: RunConfig, *, with_threads: bool = True) -> str:
    """The identity of a run, as sha256 hex; equal for runs that give the same numbers.

    The number of CPU threads changes the last bits. Without threads, runs are equal that differ
    only in them.
    """
    content = {k: v for k, v in config.to_dict(cfg).items() if k not in NOT_IDENTITY}
    if not with_threads:
        content["device"] = {**content["device"], "threads": None}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def same_command(
    output_dir: Path, settings: Sequence[str], sweep: Mapping[str, Any]
) -> Path | None:
    """The newest sweep in output_dir that began with these settings, if there is one.

    Sweeps that cannot be read are named in a warning and skipped.
    """
    for path, content in _readable(output_dir):
        if content["settings"] == list(settings) and _question(content["sweep"]) == _question(
            sweep
        ):
            return path
    return None


def _readable(output_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The sweeps in output_dir, the newest first, without those that cannot be read."""
    for path in sorted(output_dir.glob("*_sweep/sweep.yaml"), reverse=True):
        try:
            yield path.parent, read_sweep(path.parent)
        except _EarlierVersion:
            continue
        except UserError as error:
            console.warn(f"{path.parent} is left out: {error}")


def _question(sweep: Mapping[str, Any]) -> list[Any]:
    """What a sweep looks for, wherever its runs run."""
    return [sweep[key] for key in ("search", "stopping", "objective")]


def find_sweep(text: str, *, output_dir: Path) -> Path:
    """The folder of `sweep=text`; "latest" is the sweep of the run that began last.

    Sweeps that cannot be read are named in a warning and skipped. Raises UserError, which names the
    nearest sweep, if there is none.
    """
    if text == "latest":
        readable = [path for path, _ in _readable(output_dir)]
        if not readable:
            raise UserError(f"sweep=latest: there is no sweep in {output_dir} that can go on")

        def other(run: RunRecord) -> str | None:
            return None if run.path.parent in readable else "it belongs to no sweep"

        found = latest(output_dir, obstacle=other, warn=lambda text: None)
        return found.path.parent if found else readable[0]  # a search may have no runs yet
    sweeps = sorted(output_dir.glob("*_sweep/sweep.yaml"))
    path = Path(text).expanduser()
    if not path.exists() and (output_dir / text).exists():
        path = output_dir / text
    if (path / "sweep.yaml").is_file():
        return path
    match = nearest(path.name, [sweep.parent.name for sweep in sweeps])
    hint = f"did you mean sweep={output_dir / match}?" if match else "sweep=latest is the newest"
    raise UserError(f"sweep={text} is not the folder of a sweep (it has no sweep.yaml); {hint}")
