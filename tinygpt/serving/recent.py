"""Answers made from files that grow: kept, and brought up to date by reading what was added."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar


class Reader(Protocol):
    """Reads a file, each time what was added since the last time."""

    def read(self, path: Path) -> bool:
        """Read what was added; returns whether there was anything."""
        ...


R = TypeVar("R", bound=Reader)
A = TypeVar("A")


@dataclass
class _Kept(Generic[R, A]):
    reader: R
    answer: A
    stamp: tuple[int, int, int] = (0, 0, 0)  # of the file when it was read
    lock: threading.Lock = field(default_factory=threading.Lock)


class Recent(Generic[R, A]):
    """The `most` answers that were asked for last; from any thread.

    A file with another time and the size that it had was edited, so it is read again from its
    beginning.
    """

    def __init__(self, most: int, make: Callable[[str], R], answer: Callable[[R], A]) -> None:
        self.most, self._make, self._answer = most, make, answer
        self._lock = threading.Lock()  # of the next
        self._kept: dict[tuple[Path, str], _Kept[R, A]] = {}  # the one asked for last is the last

    def get(self, file: Path, key: str = "") -> A:
        """The answer for a file; `key` is what its reader is made with."""
        with self._lock:
            kept = self._kept.pop((file, key), None) or self._new(key)
            self._kept[file, key] = kept
            if len(self._kept) > self.most:
                del self._kept[next(iter(self._kept))]
        with kept.lock:
            stamp = _stamp(file)
            if stamp != kept.stamp:
                if stamp[1:] == kept.stamp[1:]:
                    kept.reader = self._make(key)
                kept.stamp = stamp
                if kept.reader.read(file):
                    kept.answer = self._answer(kept.reader)
            return kept.answer

    def _new(self, key: str) -> _Kept[R, A]:
        reader = self._make(key)
        return _Kept(reader, self._answer(reader))


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()
    except OSError:
        return (0, 0, 0)
    return found.st_mtime_ns, found.st_size, found.st_ino
