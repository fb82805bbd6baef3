"""Read a growing file of rows line by line: each read takes what was added since the last one."""

import json
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, float | None]  # as in the file: null is a number that is not finite

READ_AT_ONCE = 1 << 20  # bytes
LONGEST_LINE = 1 << 18  # bytes; a longer line is no row
MOST_KEYS = 200  # of a row


@dataclass(frozen=True)
class Cursor:
    """A place in a file: everything before it has been read."""

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


def read_on(path: Path, cursor: Cursor | None) -> Iterator[Chunk]:
    """All whole lines after a place, READ_AT_ONCE bytes at a time; nothing if there is no file."""
    while chunk := read_lines(path, cursor):
        yield chunk
        if not chunk.more or chunk.cursor == cursor:
            return
        cursor = chunk.cursor


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
