"""The display of a sweep: a live table on a terminal, else a line for each event."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygpt import console
from tinygpt.errors import visible
from tinygpt.interfaces import Launcher
from tinygpt.sweeps.folder import ENDED, SweepRun

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

REFRESH_S = 0.5
_COLOURS = {"running": "cyan", "finished": "green", "failed": "red", "stopped": "yellow"}


class SweepView:
    """Shows the runs of a sweep; the live table is shown inside its `with` block."""

    def __init__(self, folder: Path, swept: Sequence[str], launcher: Launcher) -> None:
        self.folder = folder
        self.swept = list(swept)
        self.launcher = launcher
        self._live: Live | None = None
        self._drawn_at = 0.0
        self._is_terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    def __enter__(self) -> "SweepView":
        if self._is_terminal:
            from rich.live import Live

            self._live = Live(auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def started(self, run: SweepRun) -> None:
        """Say that a run begins or goes on."""
        if self._live is None:
            again = "goes on" if run.rows else "begins"
            console.say(f"run {run.number} {again}: {self.label(run)}")

    def ended(self, run: SweepRun) -> None:
        """Say how a run has ended, or that it is paused."""
        if self._live is None:
            result = _bpb(run.rows)
            reason = f": {run.record['error']}" if run.record.get("error") else ""
            parts = [run.status + reason, f"val/bpb {result}" if result else "", self.label(run)]
            console.say(f"run {run.number} " + "; ".join(filter(None, parts)))

    def show(self, runs: Sequence[SweepRun]) -> None:
        """Redraw the live table, at most once every REFRESH_S."""
        if self._live is not None and time.monotonic() - self._drawn_at > REFRESH_S:
            self._drawn_at = time.monotonic()
            self._live.update(self._table(runs, height=self._live.console.height - 6), refresh=True)

    def conclude(self, runs: Sequence[SweepRun]) -> None:
        """Print the final table, the best run first."""
        from rich.console import Console

        ended = sorted(runs, key=lambda run: (run.status != "finished", _value(run), run.number))
        width = None if self._is_terminal else 160
        Console(file=sys.stdout, width=width, highlight=False).print(self._table(ended))

    def label(self, run: SweepRun) -> str:
        """The run's values of the fields that are swept."""
        last = {_key(text): text for text in run.overrides if _key(text) in self.swept}
        return " ".join(last.values()) or "defaults"

    def _table(self, runs: Sequence[SweepRun], *, height: int | None = None) -> "Table":
        from rich.markup import escape
        from rich.table import Table

        counts = {s: sum(r.status == s for r in runs) for s in sorted({r.status for r in runs})}
        words = ", ".join(f"{count} {status}" for status, count in counts.items())
        table = Table(title=f"{self.folder}: {words}", title_justify="left", box=None)
        table.add_column("run", justify="right")
        for key in self.swept:
            table.add_column(escape(key))
        for name in ("status", "step", "tok/s", "train/loss", "val/bpb", "time"):
            table.add_column(name, justify="left" if name == "status" else "right")
        table.add_column("why")
        for run in self._shown(runs, height):
            values = {_key(text): text.partition("=")[2] for text in run.overrides}
            colour = _COLOURS.get(run.status, "dim")
            table.add_row(
                str(run.number),
                *(escape(visible(values.get(key, ""))) for key in self.swept),
                f"[{colour}]{run.status}[/]",
                *_progress(run),
                escape(visible(str(run.record.get("error") or "")).partition("\n")[0]),
            )
        return table

    def _shown(self, runs: Sequence[SweepRun], height: int | None) -> Sequence[SweepRun]:
        """As many runs as fit the screen; running ones are chosen first."""
        if height is None or len(runs) <= height:
            return runs
        order = {"running": 0, "failed": 1, "queued": 2}
        chosen = sorted(runs, key=lambda run: (order.get(run.status, 3), run.number))
        return sorted(chosen[: max(height, 1)], key=lambda run: run.number)


def _key(override: str) -> str:
    return override.lstrip("+").partition("=")[0]


def _value(run: SweepRun) -> float:
    return run.values[max(run.values)] if run.values else float("inf")


def _bpb(rows: Sequence[dict[str, float]]) -> str:
    return next((f"{row['val/bpb']:.4f}" for row in reversed(rows) if "val/bpb" in row), "")


def _progress(run: SweepRun) -> list[str]:
    """The cells of a run's step, speed, losses and time."""
    if not run.rows:
        return [""] * 5
    row: dict[str, Any] = dict(run.rows[-1])
    step, total = int(row["step"]), run.max_steps
    elapsed = row.get("elapsed_s", 0.0)
    clock = f"{elapsed:.0f} s"
    if total and run.status not in ENDED and step:
        clock += f" + {elapsed * (total - step) / step:.0f} s"
    return [
        f"{step}/{total}" if total else str(step),
        f"{row['perf/tokens_per_sec']:,.0f}" if "perf/tokens_per_sec" in row else "",
        f"{row['train/loss']:.4f}" if "train/loss" in row else "",
        _bpb(run.rows),
        clock,
    ]
