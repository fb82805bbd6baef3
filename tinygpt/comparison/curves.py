"""Curves of runs for a plot: read from metrics.jsonl, and thinned to what a screen can show."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygpt.records.tail import Chunk, Cursor, parse_row, read_on

POINTS = 200  # of a curve, at most
CURVES = (
    *("val/bpb", "val/bpb_ema", "val/loss", "train/loss"),
    *("optim/lr", "optim/grad_norm", "perf/tokens_per_sec"),
)
THINNING = (
    f"Curves of more than {POINTS} points are drawn by the least and the largest value of each "
    "part; the numbers themselves are in metrics.jsonl of each run."
)
_COLUMNS = ("number", "value", "step", "elapsed_s")  # number: of the value, from 0


class Curve:
    """One metric of a run, thinned: `read` takes what was added to the file since the last time.

    Only the lines of the kept points are parsed; of the others just the metric's number is read,
    which is some ten times as fast.  At most 2 * POINTS points are in memory.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric
        # a number in a row as the jsonl logger writes it
        name = re.escape(metric.encode())
        self._number = re.compile(rb'"%b": ?(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)[,}]' % name)
        self._cursor: Cursor | None = None
        self._forget()

    def _forget(self) -> None:
        self._n = 0  # values that were read
        self._kept = np.empty((len(_COLUMNS), 0))

    def read(self, path: Path) -> bool:
        """Read what was added since the last call, all if the file is another one.

        Returns whether there was anything.
        """
        has_changed = False
        for chunk in read_on(path, self._cursor):
            if chunk.reset:
                self._forget()
            self._cursor = chunk.cursor
            self._add(chunk)
            has_changed = has_changed or chunk.reset or bool(chunk.lines)
        return has_changed

    def _add(self, chunk: Chunk) -> None:
        lines, values = [], []
        for line in chunk.lines:
            if found := self._number.search(line):
                lines.append(line)
                values.append(float(found[1]))
        if not values:
            return
        fresh = np.full((len(_COLUMNS), len(values)), np.nan)
        fresh[0] = np.arange(self._n, self._n + len(values))
        fresh[1] = values
        together = np.concatenate([self._kept, fresh], axis=1)
        n_kept, n = self._kept.shape[1], self._n + len(values)
        chosen = np.arange(together.shape[1])
        if len(chosen) > 2 * POINTS:
            chosen = thinned(together[0], together[1], POINTS)
        good = []
        for place in chosen:
            row = parse_row(lines[place - n_kept]) if place >= n_kept else None
            if row is not None:
                value = row.get(self.metric)
                together[1:, place] = [
                    math.nan if number is None else number
                    for number in (value, row["step"], row.get("elapsed_s", 0.0))
                ]
            if np.isfinite(together[1:3, place]).all():
                good.append(place)
        self._n, self._kept = n, together[:, good]

    def points(self) -> dict[str, Any] | None:
        """`step`, `elapsed_s` and `value` of at most POINTS points; None without any."""
        kept = self._kept
        if not kept.shape[1]:
            return None
        _, values, steps, elapsed = kept[:, thinned(kept[0], kept[1], POINTS)]
        return {
            "step": [int(step) for step in steps],
            "elapsed_s": [round(float(s), 2) for s in np.nan_to_num(elapsed)],
            "value": [float(f"{value:.6g}") for value in values],
        }


def thinned(
    numbers: npt.NDArray[np.float64], values: npt.NDArray[np.float64], points: int
) -> npt.NDArray[np.intp]:
    """Indices of at most `points` values: the least and the largest of each part, and both ends.

    `numbers` are the rising numbers of the values, from 0.  The parts are of equal length, a power
    of two, so that thinning what was thinned before gives what thinning all values gives.
    """
    if not len(values) or numbers[-1] < points:
        return np.arange(len(values))
    length = 1
    while (int(numbers[-1]) // length + 1) * 2 + 2 > points:
        length *= 2
    part = numbers // length
    order = np.lexsort((values, part))
    borders = np.flatnonzero(np.diff(part[order]))
    least, largest = order[[0, *(borders + 1)]], order[[*borders, -1]]
    return np.unique([0, len(values) - 1, *least, *largest])
