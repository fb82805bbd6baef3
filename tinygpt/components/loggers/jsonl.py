"""metrics.jsonl: the record of a run, one JSON object a line; every other logger is a mirror of it.

A row is `{"step": 10, "train/loss": 2.5, ...}`.  JSON has no word for a number that is not finite:
it is written as null, which pandas, jq and browsers all read, and `read_rows` gives it back as nan.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from tinygpt.errors import UserError
from tinygpt.files import write_atomically
from tinygpt.interfaces import Logger, Metrics, RunInfo

Row = dict[str, float]  # `step` among them


def read_rows(path: Path) -> list[Row]:
    """All rows; a last line that a kill cut short is left out.  Raises UserError if not JSON."""
    return [
        {key: math.nan if value is None else value for key, value in row.items()}
        for _, row in _lines(path)
    ]


class JsonlLogger(Logger):
    """Appends rows to a file; each is in the file when `log` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def start(self, run: RunInfo) -> None:
        if run.resumed_at is not None and self.path.exists():
            self._drop_after(run.resumed_at)
        self._file = self.path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Metrics) -> None:
        assert self._file is not None, "log before start"
        row = {"step": step} | {key: _plain(value) for key, value in metrics.items()}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.close()

    def _drop_after(self, step: int) -> None:
        """Remove the rows that the resumed run will write again."""
        kept = (line + "\n" for line, row in _lines(self.path) if row["step"] <= step)
        write_atomically(self.path, "".join(kept))


def _plain(value: float) -> float | None:
    """The number as JSON can hold it; also takes NumPy's and torch's scalars."""
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line without its end, and the row it holds."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                row["step"]
            except (ValueError, TypeError, KeyError):
                if not line.endswith(b"\n"):  # killed while writing it
                    return
                raise UserError(
                    f"{path} line {number} is not a row of metrics; delete that line"
                ) from None
            yield line.decode().rstrip("\r\n"), row
