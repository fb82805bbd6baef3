"""Disk space for prepared tokens: what is free, and an estimate of what they need."""

import shutil
from pathlib import Path

from tinygpt.errors import UserError
from tinygpt.interfaces import SPLITS, TextSource

# bytes on disk for each byte of text: a token of two bytes for each character, or for eight bytes;
# replaced by the first measured share
_LOW, _HIGH = 0.25, 2.0


class Disk:
    """The disk that holds `folder`; errors call it `cache_dir`, as the user types it."""

    def __init__(self, cache_dir: str, folder: Path, source: TextSource) -> None:
        self._cache_dir, self._folder = cache_dir, folder
        self._text_bytes = source.utf8_bytes_estimate()
        documents = [source.n_documents(split) for split in SPLITS]
        known = [n for n in documents if n is not None]
        self._documents = sum(known) if len(known) == len(documents) else None
        self._measured = False
        self._needed: float | None = None  # bytes of the finished folder

    @property
    def free(self) -> int:
        """Free bytes that this user may write."""
        return shutil.disk_usage(self._folder).free

    def estimate(self) -> str:
        """Estimate from the size of the source alone; raises UserError if it cannot fit."""
        free = _gb(self.free)
        if self._text_bytes is None:
            return f"how much text there is shows when it is read; {free} of disk are free"
        low, high = _LOW * self._text_bytes, _HIGH * self._text_bytes
        self._needed = low
        self._refuse()
        return (
            f"about {_gb(self._text_bytes)} of text, whose tokens take {_gb(low)} to {_gb(high)} "
            f"of disk; {free} are free"
        )

    def measure(self, *, documents: int, utf8_bytes: int, disk_bytes: int) -> None:
        """Estimate from the first encoded part; raises UserError if the whole cannot fit."""
        if self._measured:
            return
        self._measured = True
        if self._documents:
            self._needed = disk_bytes / documents * self._documents
        elif self._text_bytes:
            self._needed = disk_bytes / utf8_bytes * self._text_bytes
        self._refuse()

    def full(self) -> UserError:
        """The error for a disk that became full during the work."""
        missing = self._missing()
        needed = f"about {_gb(missing)} more are needed" if missing else "more is needed"
        return UserError(
            f"the disk of cache_dir={self._cache_dir} is full: {needed}, {_gb(self.free)} are "
            "free; make room and type the same again, which goes on from what is finished, or type "
            "cache_dir=FOLDER on a larger disk"
        )

    def _missing(self) -> float | None:
        """Bytes still to be written: the estimate without what the folder already holds."""
        if self._needed is None:
            return None
        there = sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())
        return max(0.0, self._needed - there)

    def _refuse(self) -> None:
        missing, free = self._missing(), self.free
        if missing and missing / 2 > free:  # the size of the text may be wrong by a factor of two
            raise UserError(
                f"cache_dir={self._cache_dir} has {_gb(free)} of disk free, and the tokens need "
                f"about {_gb(missing)}; make room, or type cache_dir=FOLDER on a larger disk"
            )


def _gb(n: float) -> str:
    """The number of bytes as a text, such as 1.2 GB, 3.4 MB or 0.1 MB."""
    return f"{n / 1e9:,.1f} GB" if n >= 1e9 else f"{n / 1e6:,.1f} MB"
