"""The console logger: a progress bar on a terminal, one aligned line per row elsewhere."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from textwrap import wrap
from typing import TYPE_CHECKING, Any, TextIO

from tinygpt.errors import visible
from tinygpt.interfaces import Logger, Metrics, RunInfo

if TYPE_CHECKING:
    from rich.progress import Progress

RATE_ROWS = 30  # the remaining time is estimated from the speed of so many rows
SAMPLE_CHARACTERS = 400


class ConsoleLogger(Logger):
    """Prints rows and samples for people.

    On a terminal a bar follows the run and only evaluations and samples stay; what others print
    goes above it.  It is drawn from the first row on, so that no prompt before that meets it.
    """

    def __init__(
        self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stdout
        self._clock = clock
        self._bar: Progress | None = None
        self._latest: Metrics = {}
        self._marks: deque[tuple[int, float]] = deque(maxlen=RATE_ROWS)  # (step, clock)
        self._max_steps: int | None = None
        self._max_tokens: int | None = None  # if steps differ in size, so that tokens tell more
        self._max_time_s: float | None = None
        # a dumb terminal, such as an editor's shell, cannot move its cursor back
        self._is_terminal = self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    def start(self, run: RunInfo) -> None:
        self._max_steps = run.derived.get("max_steps")
        self._max_time_s = run.derived.get("max_time_s")
        if run.config.get("trainer", {}).get("first_tokens_per_step") is not None:
            self._max_tokens = run.derived.get("max_tokens")
        self._marks.append((run.resumed_at or 0, self._clock()))

    def log(self, step: int, metrics: Metrics) -> None:
        self._marks.append((step, self._clock()))
        self._latest |= metrics
        eta = self._eta(step)
        count = self._count(step)
        if not self._is_terminal:
            parts = (_loss(metrics), _speed(metrics), _lr(metrics), eta, _val(metrics))
            self._print(_join(count, *parts))
            return
        now = self._latest
        self._draw(step, _join(count, _loss(now), _val(now, short=True), eta, _speed(now)))
        if "val/loss" in metrics:
            self._print(_join(count, _loss(metrics), _val(metrics)))

    def samples(self, step: int, texts: Sequence[str]) -> None:
        if not texts:
            return
        text = texts[0]
        short = text if len(text) <= SAMPLE_CHARACTERS else text[:SAMPLE_CHARACTERS] + " ..."
        safe = visible(" ".join(short.split()))
        lines = ["", f"  sample at step {step}", *(f"    {part}" for part in wrap(safe, 76)), ""]
        for line in lines:
            self._print(line)

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        if self._bar is not None:
            self._bar.stop()  # shows the cursor again
            self._bar = None

    def _eta(self, step: int) -> str:
        if self._max_time_s is not None:
            elapsed = self._latest.get("elapsed_s")
            return "" if elapsed is None else _eta(self._max_time_s - elapsed)
        if self._max_tokens is not None and "perf/tokens_per_sec" in self._latest:
            left = self._max_tokens - self._latest["tokens"]
            return _eta(left / self._latest["perf/tokens_per_sec"])
        first_step, began_at = self._marks[0]
        if self._max_steps is None or step <= first_step:
            return ""
        seconds_per_step = (self._marks[-1][1] - began_at) / (step - first_step)
        return _eta(seconds_per_step * (self._max_steps - step))

    def _count(self, step: int) -> str:
        if self._max_steps is None:
            return f"step {step:>6}"
        return f"step {step:>{len(str(self._max_steps))}}/{self._max_steps}"

    def _draw(self, step: int, line: str) -> None:
        if self._bar is None:
            self._bar = _new_bar(self._stream)
        done = step if self._max_time_s is None else self._latest.get("elapsed_s", 0.0)
        total = self._max_steps if self._max_time_s is None else self._max_time_s
        self._bar.update(self._bar.task_ids[0], description=line, total=total, completed=done)
        self._bar.refresh()

    def _print(self, line: str) -> None:
        encoding = self._stream.encoding or "utf-8"
        line = line.encode(encoding, "replace").decode(encoding)
        if self._bar is not None:
            self._bar.console.print(line, markup=False, soft_wrap=True)
        else:
            print(line, file=self._stream, flush=True)


def _new_bar(stream: TextIO) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    bar = Progress(
        BarColumn(bar_width=None),
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="crop"),  # an ellipsis is not ASCII
        ),
        console=Console(file=stream, force_terminal=True, highlight=False),
        auto_refresh=False,  # each row draws; a crash leaves no thread behind that goes on drawing
        redirect_stdout=sys.stdout.isatty(),  # what is printed meanwhile goes above the bar
        redirect_stderr=sys.stderr.isatty(),
        expand=True,
    )
    bar.add_task("")
    bar.start()
    return bar


def _join(*parts: str) -> str:
    return "  ".join(filter(None, parts))


def _loss(metrics: Metrics) -> str:
    return f"loss {metrics['train/loss']:.4f}" if "train/loss" in metrics else ""


def _lr(metrics: Metrics) -> str:
    return f"lr {metrics['optim/lr']:.1e}" if "optim/lr" in metrics else ""


def _speed(metrics: Metrics) -> str:
    if "perf/tokens_per_sec" not in metrics:
        return ""
    rate = metrics["perf/tokens_per_sec"]
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if rate >= size:
            return f"{rate / size:>5.1f}{unit} tok/s"
    return f"{rate:>6.0f} tok/s"


def _val(metrics: Metrics, *, short: bool = False) -> str:
    """val 2.3012 (1.613 bpb, 0.204 above floor)"""
    if "val/loss" not in metrics:
        return ""
    bpb, above = metrics.get("val/bpb"), metrics.get("val/bpb_above_floor")
    notes = [f"{bpb:.3f} bpb"] if bpb is not None else []
    if "val/bpb_ema" in metrics:
        notes.append(f"averaged {metrics['val/bpb_ema']:.3f}")
    if above is not None and not short:
        notes.append(f"{above:.3f} above floor")
    return f"val {metrics['val/loss']:.4f}" + (f" ({', '.join(notes)})" if notes else "")


def _eta(seconds: float) -> str:
    return f"eta {_duration(seconds):>6}"


def _duration(seconds: float) -> str:
    """5s, 1m05s, 2h07m or 3d04h; below zero is 0s."""
    whole = max(0, round(seconds))
    units = [("d", 86400), ("h", 3600), ("m", 60), ("s", 1)]
    for (unit, size), (part, part_size) in pairwise(units):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part_size:02}{part}"
    return f"{whole}s"
