"""Rows of metrics.jsonl for the page: read incrementally, and thinned to what a screen can show."""

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, float | None]  # as in the file: null is a number that is not finite

MOST_ROWS = 2000  # that are sent at a time
READ_AT_ONCE = 1 << 20  # bytes
LONGEST_LINE = 1 << 18  # bytes; a longer line is no row
MOST_KEYS = 200  # of a row
THINNING = (
    f"At most {MOST_ROWS:,} rows are sent: the first, the last, those with an evaluation, and of "
    "the others the least and the largest train/loss of equal parts."
)


@dataclass(frozen=True)
class Cursor:
    """A place in a file: everything before it has been sent."""

    inode: int
    offset: int

    def __str__(self) -> str:
        return f"{self.inode:x}-{self.offset:x}"

    @classmethod
    def parse(cls, text: str) -> "Cursor | None":
        """The cursor of `next`; None if the text is not one, so that all rows are read."""
        inode, _, offset = text.partition("-")
        try:
            return cls(int(inode, 16), int(offset, 16)) if len(text) < 40 else None
        except ValueError:
            return None


@dataclass
class Chunk:
    """Whole lines of a file, and the place where the next read begins."""

    lines: list[bytes]
    cursor: Cursor
    reset: bool  # the file is another one or shorter, so these lines replace all earlier ones
    more: bool  # whether the file goes on


def read_lines(path: Path, cursor: Cursor | None, *, most: int = READ_AT_ONCE) -> Chunk | None:
    """The whole lines after a place, `most` bytes of them; None if there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            return None
        start = cursor.offset if cursor else 0
        reset = cursor is not None and (
            cursor.inode != found.st_ino or cursor.offset > found.st_size
        )
        if reset:
            start = 0
        file.seek(start)
        data = file.read(most) or b""
    end = data.rfind(b"\n") + 1
    if not end and len(data) >= min(most, LONGEST_LINE):
        end = len(data)  # no line of ours: skip it in pieces
    lines = data[:end].split(b"\n") if end else []
    place = Cursor(found.st_ino, start + end)
    return Chunk([line for line in lines if line], place, reset, place.offset < found.st_size)


def parse_row(line: bytes) -> Row | None:
    """The numbers of a line; None if it is not a row."""
    if len(line) > LONGEST_LINE:
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not _is_number(row.get("step")) or len(row) > MOST_KEYS:
        return None
    return {key: value for key, value in row.items() if value is None or _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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


def read_rows(path: Path, cursor: Cursor | None, *, most: int = MOST_ROWS) -> Rows | None:
    """The rows after a place, thinned as THINNING says; None if there is no file."""
    reset, columns = False, dict[str, None]()
    evaluations, others = Thinner((most - 2) // 2, "val/bpb"), Thinner(most - 2, "train/loss")
    n_rows, first, last = 0, None, None
    for chunk in _chunks(path, cursor):
        if chunk.reset:
            reset, n_rows, first = True, 0, None
            evaluations = Thinner((most - 2) // 2, "val/bpb")
            others = Thinner(most - 2, "train/loss")
        cursor = chunk.cursor
        for row in filter(None, map(parse_row, chunk.lines)):
            first, last = first or row, row
            (evaluations if is_evaluation(row) else others).add(row)
            columns |= dict.fromkeys(row)
            n_rows += 1
    if cursor is None:
        return None
    kept = evaluations.rows()
    room = most - 2 - len(kept)
    rest = others.rows()
    while len(rest) > room:  # evaluations have taken their places
        smaller = Thinner(room, "train/loss")
        for row in sorted(rest, key=_step):
            smaller.add(row)
        rest = smaller.rows()
    ends = [row for row in (first, last) if row is not None]
    chosen = {id(row): row for row in (*kept, *rest, *ends)}
    return Rows(sorted(chosen.values(), key=_step), cursor, reset, n_rows, list(columns))


def _step(row: Row) -> float:
    return row["step"] or 0


def _chunks(path: Path, cursor: Cursor | None) -> Iterator[Chunk]:
    while chunk := read_lines(path, cursor):
        yield chunk
        if not chunk.more or chunk.cursor == cursor:
            return
        cursor = chunk.cursor
