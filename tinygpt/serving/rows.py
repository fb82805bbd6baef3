"""Rows of metrics.jsonl for the page: read incrementally, and thinned to what a screen can show."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinygpt.records.tail import Cursor, Row, parse_row, read_on
from tinygpt.serving.recent import Recent

MOST_ROWS = 2000  # that are sent at a time
READ_RUNS = 8  # whose rows are kept in memory, some 2 MB each
THINNING = (
    f"At most {MOST_ROWS:,} rows are sent: the first, the last, those with an evaluation, and of "
    "the others the least and the largest train/loss of equal parts."
)


def is_evaluation(row: Mapping[str, Any]) -> bool:
    """Whether the row holds numbers of an evaluation."""
    return any(key.startswith("val/") for key in row)


@dataclass
class _Part:
    low: Row
    high: Row
    n_rows: int = 1


class Thinner:
    """Keeps at most `most` of any number of rows, in bounded memory.

    Equal parts of the rows keep the row with the least and the one with the largest value of `key`.
    When there are too many parts, neighbours are joined, so parts stay of equal length.
    """

    def __init__(self, most: int, key: str) -> None:
        self.most_parts, self.key = max(1, most // 2), key
        self.parts: list[_Part] = []
        self.length = 1  # rows of a part

    def add(self, row: Row) -> None:
        """Take the next row."""
        if self.parts and self.parts[-1].n_rows < self.length:
            self._join(self.parts[-1], _Part(row, row))
            return
        if len(self.parts) == self.most_parts:
            pairs = zip(self.parts[::2], [*self.parts[1::2], None], strict=False)
            self.parts = [self._join(first, second) for first, second in pairs]
            self.length *= 2
            self.add(row)
            return
        self.parts.append(_Part(row, row))

    def _join(self, first: _Part, second: _Part | None) -> _Part:
        if second is not None:
            if self._value(second.low) < self._value(first.low):
                first.low = second.low
            if self._value(second.high) >= self._value(first.high):
                first.high = second.high
            first.n_rows += second.n_rows
        return first

    def _value(self, row: Row) -> float:
        value = row.get(self.key)
        return math.inf if value is None else value

    def rows(self) -> list[Row]:
        """The kept rows, each once, in no particular order."""
        kept = [row for part in self.parts for row in (part.low, part.high)]
        return list({id(row): row for row in kept}.values())


@dataclass
class Rows:
    """Rows to send."""

    rows: list[Row]
    cursor: Cursor
    reset: bool
    n_rows: int  # that were read
    columns: list[str] = field(default_factory=list)

    @property
    def thinned(self) -> bool:
        """Whether some rows were left out."""
        return len(self.rows) < self.n_rows


class Reader:
    """Reads a file of rows, and keeps some of them as THINNING says."""

    def __init__(self, cursor: Cursor | None = None) -> None:
        self.cursor = cursor
        self.reset = False
        self._forget()

    def _forget(self) -> None:
        self._evaluations = Thinner((MOST_ROWS - 2) // 2, "val/bpb")
        self._others = Thinner(MOST_ROWS - 2, "train/loss")
        self._first: Row | None = None
        self._last: Row | None = None
        self._n_rows = 0
        self._columns: dict[str, None] = {}

    def read(self, path: Path) -> bool:
        """Read what was added since the last call, all if the file is another one.

        Returns whether there is a file.
        """
        for chunk in read_on(path, self.cursor):
            if chunk.reset:
                self.reset = True
                self._forget()
            self.cursor = chunk.cursor
            for row in filter(None, map(parse_row, chunk.lines)):
                self._first, self._last = self._first or row, row
                (self._evaluations if is_evaluation(row) else self._others).add(row)
                self._columns |= dict.fromkeys(row)
                self._n_rows += 1
        return self.cursor is not None

    def rows(self) -> Rows | None:
        """The rows that were read so far, thinned; None if there is no file."""
        if self.cursor is None:
            return None
        kept = self._evaluations.rows()
        room = MOST_ROWS - 2 - len(kept)
        rest = self._others.rows()
        while len(rest) > room:  # evaluations have taken their places
            smaller = Thinner(room, "train/loss")
            for row in sorted(rest, key=_step):
                smaller.add(row)
            rest = smaller.rows()
        ends = [row for row in (self._first, self._last) if row is not None]
        chosen = {id(row): row for row in (*kept, *rest, *ends)}
        rows = sorted(chosen.values(), key=_step)
        return Rows(rows, self.cursor, self.reset, self._n_rows, list(self._columns))


def _step(row: Row) -> float:
    return row["step"] or 0


def read_rows(path: Path, cursor: Cursor | None) -> Rows | None:
    """The rows after a place, thinned as THINNING says; None if there is no file."""
    reader = Reader(cursor)
    reader.read(path)
    return reader.rows()


def recent_rows() -> Recent[Reader, Rows | None]:
    """The rows of the READ_RUNS files that were asked for last."""
    return Recent(READ_RUNS, lambda key: Reader(), Reader.rows)
