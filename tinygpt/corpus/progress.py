"""Progress of long work on text: a bar on a terminal, elsewhere a line every few seconds."""

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.progress

REPORT_EVERY_S = 5.0
_DRAW_EVERY_S = 0.2


class Progress:
    """Counts the documents and UTF-8 bytes that are done, and shows them."""

    def __init__(
        self, title: str, say: Callable[[str], None], *, n_documents: int | None = None
    ) -> None:
        self.title, self._say = title, say
        self.n_documents = n_documents  # the total, if it is known
        self.documents = self.bytes = 0
        self._began = time.monotonic()
        self._skipped_bytes = 0
        self._on_terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._next = self._began + (_DRAW_EVERY_S if self._on_terminal else REPORT_EVERY_S)
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def share(self) -> float | None:
        """The part that is done, from 0 to 1; None if the total is unknown."""
        return min(1.0, self.documents / self.n_documents) if self.n_documents else None

    def skip(self, documents: int, utf8_bytes: int) -> None:
        """Count what an earlier process has done."""
        self.documents += documents
        self.bytes += utf8_bytes
        self._skipped_bytes += utf8_bytes

    def add(self, documents: int, utf8_bytes: int) -> None:
        """Count more work, and show the progress every few seconds."""
        self.documents += documents
        self.bytes += utf8_bytes
        now = time.monotonic()
        if now < self._next:
            return
        rate = (self.bytes - self._skipped_bytes) / 1e6 / (now - self._began)
        of = f" of {self.n_documents:,}" if self.n_documents else ""
        line = f"{self.documents:,}{of} documents, {self.bytes / 1e6:,.0f} MB, {rate:,.1f} MB/s"
        if self._on_terminal:
            self._next = now + _DRAW_EVERY_S
            self._draw(line)
        else:
            self._next = now + REPORT_EVERY_S
            self._say(f"  {self.title}: {line}")

    def _draw(self, line: str) -> None:
        if self._bar is None:
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("  {task.description}", markup=False),
                BarColumn(),
                auto_refresh=False,
                transient=True,  # the last line reports the total
            )
            self._bar.add_task("")
            self._bar.start()
        share = self.share
        total = None if share is None else 1.0
        text = f"{self.title}: {line}"
        self._bar.update(self._bar.task_ids[0], description=text, total=total, completed=share or 0)
        self._bar.refresh()
