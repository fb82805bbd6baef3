"""A file of samples, one JSON object on each line, which an interruption cuts short but not away.

Finished samples are appended to FILE.partial.  It takes the name FILE when all are there; the same
command goes on with one that was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tinygpt.errors import UserError, as_typed, shortened
from tinygpt.files import flush, partial_name, rename_durably


@contextmanager
def appending(path: Path, expected: Iterator[Mapping[str, Any]]) -> Iterator[SampleFile]:
    """Open FILE.partial for more samples; at the end of the block it takes the name FILE.

    `expected` are fields of each sample, in order; of them as many are taken as samples are kept.
    After an error or an interruption in the block the finished samples stay in FILE.partial.
    Raises UserError if it has samples with other fields, if another command is writing it, and if
    it cannot be written.
    """
    partial = partial_name(path)
    locked = partial.with_name(partial.name + ".lock")
    lock = FileLock(locked)
    with _named_errors(path):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise UserError(
                f"out={path}: another command is writing {partial}; type another out="
            ) from None
    try:
        file = SampleFile(path, partial, expected)
        try:
            yield file
        finally:
            file.close()
        with _named_errors(path):
            flush(partial)
            rename_durably(partial, path)
    finally:
        with suppress(OSError):
            if not any(_whole_lines(partial)):
                partial.unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):
            locked.unlink()


class SampleFile:
    """The samples that are on disk already, and a place for those to come."""

    def __init__(self, path: Path, partial: Path, expected: Iterator[Mapping[str, Any]]) -> None:
        """See `appending`."""
        self.path, self.partial = path, partial
        self.n_kept = kept_bytes = 0  # of whole lines: the last one may be cut short
        with _named_errors(path):
            for line in _whole_lines(partial):
                self._check(line, next(expected, None), self.n_kept + 1)
                self.n_kept += 1
                kept_bytes += len(line)
            self._file = partial.open("ab")
            self._file.truncate(kept_bytes)

    def add(self, line: str) -> None:
        """Append a sample; another process can read it at once."""
        with _named_errors(self.path):
            self._file.write(line.encode())
            self._file.flush()

    def n_finished(self) -> int:
        """Samples on disk."""
        with _named_errors(self.path):
            return sum(1 for _ in _whole_lines(self.partial))

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # closing flushes again what could not be written
            self._file.close()

    def _check(self, line: bytes, expected: Mapping[str, Any] | None, number: int) -> None:
        way_out = f"remove {self.partial}, or type another out="
        try:
            found = json.loads(line)
            assert isinstance(found, dict)
        except (ValueError, AssertionError, RecursionError):
            raise UserError(f"{self.partial}: line {number} is no sample; {way_out}") from None
        if expected is None:
            raise UserError(f"{self.partial} holds more samples than this command makes; {way_out}")
        there, here = _flat(found), _flat(expected)
        for key, value in here.items():
            if there.get(key) != value:
                raise UserError(
                    f"{self.partial} holds finished samples of another command: in line {number} "
                    f"{key} is {shortened(as_typed(there.get(key)))}, and here it is "
                    f"{shortened(as_typed(value))}; repeat that command to go on with it, or "
                    f"{way_out}"
                )


def _whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, which need not exist, but for a last one that is cut short."""
    if path.exists():
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"out={path} cannot be written: {path.parent} has been removed meanwhile, and the "
            "samples with it; make the folder again and repeat the command"
        ) from None
    except OSError as error:
        raise UserError(f"out={path} cannot be written: {error.strerror}") from None


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record as JSON has them, those of its settings by their own names."""
    plain: dict[str, Any] = json.loads(json.dumps(record))
    settings = plain.pop("settings", {})
    return plain | (settings if isinstance(settings, dict) else {"settings": settings})
