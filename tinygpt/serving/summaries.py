"""What the list of runs shows of each run, kept up to date by reading only what is new."""

import math
import os
import re
import shlex
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinygpt.errors import UserError
from tinygpt.interfaces import StoppingConfig
from tinygpt.records.listing import UNFINISHED
from tinygpt.records.read import RunRecord, is_held
from tinygpt.records.tail import Cursor, Row, parse_row, read_lines
from tinygpt.registry import classes
from tinygpt.serving.folders import Outputs
from tinygpt.serving.rows import is_evaluation
from tinygpt.sweeps.folder import read_sweep

POINTS = 60  # of a sparkline, at most
# bytes of metrics.jsonl that are read whole, of a run with and without a summary; more are sampled
READ_WHOLE, READ_WITHOUT = 1 << 18, 1 << 24
PROBE_S = 3.0  # between two looks at whether a process still holds a run
LONGEST_TEXT = 10_000  # characters of a name, a note or an error
ENDED = ("finished", "stopped", "failed", "damaged")
_LOSS = re.compile(rb'"train/loss": ?(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)[,}]')
_KEYS = {  # short names of components in the list, then single fields
    **{kind: f"{kind}.name" for kind in ("model", "tokenizer", "dataset", "optimizer", "schedule")},
    **{
        key: key
        for key in (
            *("model.n_layer", "model.d_model", "tokenizer.vocab_size", "optimizer.lr"),
            *("trainer.seq_len", "trainer.tokens_per_step", "seed"),
        )
    },
}


class Sparkline:
    """At most POINTS values, evenly spread over all that were added."""

    def __init__(self) -> None:
        self._values: list[float] = []
        self._stride, self._n = 1, 0
        self.newest: float | None = None

    def add(self, value: float) -> None:
        """Add the next value."""
        self.newest = value
        if self._n % self._stride == 0:
            self._values.append(value)
            if len(self._values) == 2 * POINTS:
                self._values = self._values[::2]
                self._stride *= 2
        self._n += 1

    def skip(self, between: int) -> None:
        """Say that about so many values lie between two that were added."""
        self._stride *= max(1, between)

    def values(self) -> list[float]:
        """The values, oldest first, and the newest as the last."""
        step = -(-len(self._values) // POINTS) or 1
        shown = self._values[::step]
        if self.newest is not None and shown and shown[-1] != self.newest:
            shown = [*shown[: POINTS - 1], self.newest]
        return [float(f"{value:.5g}") for value in shown]


class RunView:
    """One run, as the list shows it."""

    def __init__(self, outputs: Outputs, run_id: str, path: Path) -> None:
        self.outputs, self.id, self.path = outputs, run_id, path
        self.record = RunRecord(path, {}, {}, {})
        self.summary: dict[str, Any] = {}
        self._files: tuple[Any, ...] = ()
        self._metrics: tuple[int, int, int] | None = None
        self._probed = 0.0
        self._forget_rows()

    def _forget_rows(self) -> None:
        self._cursor: Cursor | None = None
        self._losses = Sparkline()
        self._last: Row = {}
        self._evaluated: Row = {}
        self._best: float | None = None
        self._knows_best = True

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change unless the run is resumed."""
        return self.record.run.get("status") in ENDED

    @property
    def columns(self) -> set[str]:
        """The metrics of the newest row and of the newest evaluation."""
        return self._last.keys() | self._evaluated.keys()

    def refresh(self, swept: Sequence[str]) -> bool:
        """Read what has changed; returns whether the summary is another one."""
        ended = self.has_ended
        names = ("run.json",) if ended else ("run.json", "summary.json", "checkpoints")
        files = tuple(_stat(self.path / name) for name in names)
        fresh = files != self._files
        if fresh:
            self.record = self.outputs.record(self.path)
        elif self._is_to_be_probed():
            self._probed = time.monotonic()
            self.record.__dict__.pop("status", None)  # a cached property
        changed = self._read_rows() if fresh or not ended else False
        status = self.record.status
        if not (fresh or changed or status != self.summary.get("status")):
            return False
        self._files = files[:1] if self.has_ended else files
        before, self.summary = self.summary, self._summarise(swept)
        return before != self.summary

    def _is_to_be_probed(self) -> bool:
        """Whether to look for the process that is said to run; a growing file shows that it does.

        Looking takes the run's lock for a moment, so it is done seldom.
        """
        if self.record.damage or self.record.run.get("status") != "running":
            return False
        metrics = _stat(self.path / "metrics.jsonl")
        return metrics == self._metrics and time.monotonic() - self._probed > PROBE_S

    def _read_rows(self) -> bool:
        """Read new rows; whether there were any."""
        path = self.path / "metrics.jsonl"
        metrics = _stat(path)
        if metrics == self._metrics or self.record.damage or not self.outputs.holds(path):
            return False
        self._metrics = metrics
        whole = READ_WHOLE if self.record.summary else READ_WITHOUT
        if self._cursor is None and metrics and metrics[1] > whole:
            self._sample(path, metrics[1])
            return True
        found = False
        while chunk := read_lines(path, self._cursor):
            if chunk.reset:
                self._forget_rows()
            for line in chunk.lines:
                if row := parse_row(line):
                    self._take(row)
            found = found or bool(chunk.lines)
            if not chunk.more or chunk.cursor == self._cursor:
                break
            self._cursor = chunk.cursor
        if chunk:
            self._cursor = chunk.cursor
        return found

    def _take(self, row: Row) -> None:
        loss = row.get("train/loss")
        if loss is not None:
            self._losses.add(loss)
        self._last = row
        if is_evaluation(row):
            self._evaluated = row
            value = row.get("val/bpb")
            if value is not None and self._knows_best:
                self._best = value if self._best is None else min(self._best, value)

    def _sample(self, path: Path, size: int) -> None:
        """Take rows at POINTS places of a long file, and its last ones."""
        self._knows_best = False  # summary.json has it, if the run has one
        tail = 1 << 12 if self.record.summary else 1 << 16  # in which an evaluation is looked for
        with path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            for point in range(POINTS):
                file.seek(size * point // POINTS)
                if found := _LOSS.search(file.read(4096)):  # 20 times as fast as JSON
                    self._losses.add(float(found[1]))
            file.seek(max(0, size - tail))
            for row in filter(None, map(parse_row, file.read(tail).split(b"\n")[1:])):
                self._last = row
                self._evaluated = row if is_evaluation(row) else self._evaluated
                self._losses.newest = row.get("train/loss", self._losses.newest)
        self._losses.skip(size // POINTS // 200)
        self._cursor = Cursor(inode, size)

    def _summarise(self, swept: Sequence[str]) -> dict[str, Any]:
        run, status, flat = self.record, self.record.status, self.record.flat
        step = _whole(run.summary.get("step", self._last.get("step")))
        tokens = _whole(run.summary.get("tokens", self._last.get("tokens")))
        max_steps = _whole(run.derived.get("max_steps"))
        elapsed = _number(run.summary.get("elapsed_s", self._last.get("elapsed_s")))
        speed = _number(run.summary.get("tokens_per_sec", self._last.get("perf/tokens_per_sec")))
        progress = min(1.0, step / max_steps) if step is not None and max_steps else None
        if status == "finished":
            progress = 1.0
        eta = None
        if status == "running" and step and max_steps and elapsed is not None:
            eta = round(elapsed * max(0, max_steps - step) / step, 1)
        parent, _, name = self.id.rpartition("/")
        config = {short: flat[key] for short, key in _KEYS.items() if key in flat}
        config |= {
            key: flat.get(key, flat.get(f"{key}.name"))
            for key in swept
            if key in flat or f"{key}.name" in flat
        }
        can_resume = status in UNFINISHED
        return {
            "id": self.id,
            "name": short(flat.get("name") or name),
            "path": str(self.path),
            "sweep": parent or None,
            "note": short(flat.get("notes") or ""),
            "tags": [short(tag) for tag in _list(flat.get("tags"))],
            "status": status,
            "error": None if run.error is None else short(run.error),
            "can": {
                "stop": status == "running",
                "resume": can_resume,
                "generate": self._has_checkpoint(),
            },
            "step": step,
            "max_steps": max_steps,
            "tokens": tokens,
            "progress": progress,
            "eta_s": eta,
            "tokens_per_s": speed,
            "elapsed_s": elapsed,
            "sparkline": self._losses.values(),
            "loss": self._losses.newest,
            "metric": self._metric(),
            "n_params": _whole(run.derived.get("n_params")),
            "config": {key: plain(value) for key, value in config.items()},
            "created": run.run.get("created_at"),
            "started": run.run.get("started_at"),
            "ended": run.run.get("ended_at"),
            "resume_command": resume_command(self.path) if can_resume else None,
        }

    def _has_checkpoint(self) -> bool:
        try:
            with os.scandir(self.path / "checkpoints") as entries:
                return any(entry.name.startswith("step-") for entry in entries)
        except OSError:
            return False

    def _metric(self) -> dict[str, Any] | None:
        value = _number(self.record.summary.get("val/bpb", self._evaluated.get("val/bpb")))
        best = _number(self.record.summary.get("best_val_bpb", self._best))
        if value is not None:
            return {"name": "val/bpb", "value": value, "best": best}
        loss = _number(self._evaluated.get("val/loss"))
        return None if loss is None else {"name": "val/loss", "value": loss, "best": None}


def resume_command(path: Path) -> str:
    """The command that goes on with a run."""
    return f"python -m tinygpt.train {shlex.quote(f'resume={path}')}"


class SweepView:
    """One sweep, as the list shows it."""

    def __init__(self, sweep_id: str, path: Path) -> None:
        self.id, self.path = sweep_id, path
        self.content: dict[str, Any] = {}
        self.error: str | None = None
        self.summary: dict[str, Any] = {}
        self._stat: Any = None
        self._probed = -PROBE_S
        self._held = False

    @property
    def is_busy(self) -> bool:
        """Whether its runs may go on."""
        return self.summary.get("status") == "running"

    @property
    def swept(self) -> list[str]:
        """The fields that the runs differ in."""
        return [str(key) for key in _list(self.content.get("swept"))]

    def read(self) -> None:
        """Read sweep.yaml if it has changed."""
        found = _stat(self.path / "sweep.yaml")
        if found == self._stat:
            return
        self._stat, self.content, self.error = found, {}, None
        try:
            self.content = read_sweep(self.path)
        except (UserError, OSError) as error:
            self.error = str(error)

    def refresh(self, runs: Sequence[RunView]) -> bool:
        """Sum up the runs; returns whether the summary is another one."""
        counts: dict[str, int] = {}
        for run in runs:
            counts[run.summary["status"]] = counts.get(run.summary["status"], 0) + 1
        busy = any(counts.get(status) for status in ("queued", "running", "paused"))
        if busy and time.monotonic() - self._probed > PROBE_S:
            self._probed, self._held = time.monotonic(), is_held(self.path)
        unfinished = any(counts.get(status) for status in UNFINISHED)
        sweep = self.content.get("sweep") or {}
        status = "running" if busy and (self._held or counts.get("running")) else "finished"
        if status == "finished" and (unfinished or self.error):
            status = "unfinished"
        elif status == "finished" and runs and counts.get("failed") == len(runs):
            status = "failed"
        # what a command for the sweep would do: go on, or try the failed runs again
        retries = status in ("finished", "failed") and bool(counts.get("failed"))
        resumes = not self.error and (status == "unfinished" or retries)
        typed = [f"sweep={self.path}", *(["retry_failed=true"] if retries else [])]
        measured = [
            run for run in runs if run.summary["metric"] and run.summary["status"] == "finished"
        ]
        best = min(measured, key=lambda run: run.summary["metric"]["value"], default=None)
        before, self.summary = (
            self.summary,
            {
                "id": self.id,
                "name": self.id,
                "path": str(self.path),
                "status": status,
                "error": self.error,
                "swept": self.swept,
                "objective": str(sweep.get("objective", "val/bpb")),
                "search": _name(sweep.get("search")),
                "stopping": _name(sweep.get("stopping")),
                "launcher": _name(sweep.get("launcher")),
                "runs": [run.id for run in runs],
                "counts": counts,
                "failures": [
                    {"run": run.id, "reason": run.summary["error"] or run.summary["status"]}
                    for run in runs
                    if run.summary["status"] in ("failed", "damaged", "dead")
                ],
                "rungs": _rungs(sweep.get("stopping"), runs),
                "best": best.id if best else None,
                "command": self.content.get("command"),
                "can": {
                    "stop": status == "running" and self._held,
                    "resume": resumes,
                    "retry_failed": retries,
                },
                "resume_command": f"python -m tinygpt.train -m {shlex.join(typed)}"
                if resumes
                else None,
                "created": self.content.get("created_at"),
            },
        )
        return before != self.summary


def _rungs(stopping: Any, runs: Sequence[RunView]) -> list[dict[str, Any]]:
    """Steps at which the stopping rule judges runs: how many came there, and how many wait."""
    rule = classes("stopping").get(_name(stopping) or "")
    lengths = [run.summary["max_steps"] for run in runs if run.summary["max_steps"]]
    if rule is None or not lengths or not issubclass(rule, StoppingConfig):
        return []
    every = next((run.record.flat.get("trainer.eval_every") for run in runs), None)
    try:
        built = rule(**stopping).build()
        steps = built.rungs(max(lengths), every=every or 1) if built else []
    except (UserError, TypeError, ValueError):
        return []
    return [
        {
            "step": step,
            "reached": sum((run.summary["step"] or 0) >= step for run in runs),
            "paused": sum(
                run.summary["status"] == "paused" and run.summary["step"] == step for run in runs
            ),
        }
        for step in steps[:100]
    ]


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if _is_ours(found) else None


def _is_ours(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)


def short(text: object) -> str:
    """The text, cut if it is far too long for a list."""
    return str(text)[:LONGEST_TEXT]


def plain(value: Any) -> Any:
    """A value that JSON can hold: a number that is not finite becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _name(value: Any) -> str | None:
    return str(value.get("name")) if isinstance(value, Mapping) else None
