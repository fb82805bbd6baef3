"""A sweep on disk: what was typed, and a folder for each run, complete before it starts.

All that a sweep knows is in here, so that one that was killed goes on from its folder alone.
"""

import hashlib
import json
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from tinygpt import config
from tinygpt.components.loggers.jsonl import Row, read_rows
from tinygpt.config import NOT_IDENTITY, RunConfig, SweepConfig
from tinygpt.errors import UserError, nearest
from tinygpt.files import rename_durably, write_atomically
from tinygpt.interfaces import Trial
from tinygpt.records.folder import freeze, source_state, write_json
from tinygpt.records.read import is_held

ENDED = ("finished", "stopped", "failed")
ABANDONED_S = 3600  # making a sweep's folder takes seconds


class SweepRun:
    """One run of a sweep, as its folder tells; `refresh` reads it again."""

    def __init__(self, path: Path, *, objective: str) -> None:
        self.path = path
        self.number = int(path.name)
        self.overrides: list[str] = yaml.safe_load((path / "overrides.yaml").read_text("utf-8"))
        self.cfg = config.load(path / "config.yaml")
        self.hash = config_hash(self.cfg)
        self.rows: list[Row] = []
        self.values: dict[int, float] = {}  # step -> objective
        self._objective = objective
        self._stat: tuple[int, int] | None = None
        self.record: dict[str, Any] = {}
        self.refresh()

    @property
    def status(self) -> str:
        """What run.json says; "running" also if its process is gone."""
        return str(self.record["status"])

    @property
    def max_steps(self) -> int | None:
        """The length of the run, as far as it is known before or since it began."""
        known: int | None = self.record.get("derived", {}).get("max_steps")
        return known or self.cfg.trainer.planned_steps

    @property
    def trial(self) -> Trial:
        """What a search and a stopping rule see."""
        return Trial(
            self.number, tuple(self.overrides), self.status, self.max_steps, dict(self.values)
        )

    def refresh(self) -> None:
        """Read what changed."""
        self.record = json.loads((self.path / "run.json").read_bytes())
        metrics = self.path / "metrics.jsonl"
        try:
            found = metrics.stat()
        except FileNotFoundError:
            return
        stat = (found.st_mtime_ns, found.st_size)
        if stat != self._stat:
            self._stat = stat
            self.rows = read_rows(metrics)
            name = self._objective
            self.values = {int(row["step"]): row[name] for row in self.rows if name in row}

    def write(self, **changes: Any) -> None:
        """Change run.json, of a run that no process holds."""
        self.record |= changes
        write_json(self.path / "run.json", self.record)

    def is_held(self) -> bool:
        """Whether a process has the run in hand."""
        return is_held(self.path)


class SweepFolder:
    """A sweep's folder, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = config.read(path / "sweep.yaml")
        if not {"settings", "sweep"} <= self.content.keys():
            raise UserError(f"{path} is a sweep of an earlier version, which cannot go on")
        self._lock = FileLock(path / ".lock")
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise UserError(f"{path} is in use by another process; wait or stop it") from None
        for partial in path.glob(".*.partial"):  # somebody was killed while making it
            shutil.rmtree(partial)
        objective = self.content["sweep"]["objective"]
        numbers = sorted(int(p.name) for p in path.iterdir() if p.name.isdecimal())
        self.runs = [SweepRun(path / str(number), objective=objective) for number in numbers]

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        command: Sequence[str],
        settings: Sequence[str],
        swept: Sequence[str],
        cfg: SweepConfig,
        jobs: Sequence[tuple[Sequence[str], RunConfig]],
    ) -> "SweepFolder":
        """A new folder with every run that is known by now; it appears whole or not at all."""
        partial = path.with_name(f".{path.name}.partial")
        partial.mkdir(parents=True)
        for left in path.parent.glob(".*_sweep.partial"):  # by somebody who was killed here
            if time.time() - left.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(left)
        for number, (overrides, run_cfg) in enumerate(jobs):
            _freeze(partial / str(number), path, number, overrides, run_cfg)
        content = {
            "command": shlex.join(command),
            "settings": list(settings),
            "swept": list(swept),
            "sweep": config.to_dict(cfg),
            "next": len(jobs),  # number of the next run; none is given twice
            "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
            "git": source_state(partial),
        }
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        write_atomically(partial / "sweep.yaml", text)
        rename_durably(partial, path)
        return cls(path)

    def add(self, overrides: Sequence[str], cfg: RunConfig) -> SweepRun:
        """One more run, with the next number; its folder appears whole or not at all."""
        after = self.runs[-1].number + 1 if self.runs else 0
        number = max(after, self.content.get("next", 0))  # nor that of a run that was deleted
        self.remember(next=number + 1)
        partial = self.path / f".{number}.partial"
        _freeze(partial, self.path, number, overrides, cfg)
        final = self.path / str(number)
        rename_durably(partial, final)
        self.runs.append(SweepRun(final, objective=self.content["sweep"]["objective"]))
        return self.runs[-1]

    def remember(self, **changes: Any) -> None:
        """Change sweep.yaml."""
        self.content |= changes
        text = yaml.safe_dump(self.content, sort_keys=False, allow_unicode=True)
        write_atomically(self.path / "sweep.yaml", text)

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.release()


def _freeze(
    folder: Path, sweep: Path, number: int, overrides: Sequence[str], cfg: RunConfig
) -> None:
    folder.mkdir()
    name = sweep.name
    freeze(folder, cfg=cfg, overrides=overrides, run_id=f"{name}-{number}", group=name)


def config_hash(cfg: RunConfig) -> str:
    """What a run is, as sha256 hex: equal for runs that give the same numbers."""
    content = {k: v for k, v in config.to_dict(cfg).items() if k not in NOT_IDENTITY}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def same_command(
    output_dir: Path, settings: Sequence[str], sweep: Mapping[str, Any]
) -> Path | None:
    """The newest sweep in output_dir that these settings began, if there is one."""
    for path in sorted(output_dir.glob("*_sweep/sweep.yaml"), reverse=True):
        content = config.read(path)
        if content.get("settings") == list(settings) and _question(content) == _question(sweep):
            return path.parent
    return None


def _question(content: Mapping[str, Any]) -> list[Any]:
    """What a sweep looks for, wherever its runs run."""
    return [content["sweep"][key] for key in ("search", "stopping", "objective")]


def find_sweep(text: str, *, output_dir: Path) -> Path:
    """The folder that `sweep=text` means; "latest" is the newest in output_dir.

    Raises UserError with the nearest sweep there is.
    """
    sweeps = sorted(output_dir.glob("*_sweep/sweep.yaml"))
    if text == "latest":
        if not sweeps:
            raise UserError(f"sweep=latest: there is no sweep in {output_dir}")
        return sweeps[-1].parent
    path = Path(text).expanduser()
    if not path.exists() and (output_dir / text).exists():
        path = output_dir / text
    if (path / "sweep.yaml").is_file():
        return path
    match = nearest(path.name, [sweep.parent.name for sweep in sweeps])
    hint = f"did you mean sweep={output_dir / match}?" if match else "sweep=latest is the newest"
    raise UserError(f"sweep={text} is not the folder of a sweep (it has no sweep.yaml); {hint}")
