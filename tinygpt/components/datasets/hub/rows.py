"""Rows of a repo's splits: of parquet files here or on the hub, or of the library's Arrow files."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tinygpt.components.datasets.hub.remote_parquet import Listing
from tinygpt.components.datasets.reading.parquet_files import ParquetFile, ParquetRows

_BATCH_ROWS = 1000


class Rows(ABC):
    """One text column; `splits` are the split names of the source."""

    splits: tuple[str, ...]
    provenance: Mapping[str, Any]

    @abstractmethod
    def n_rows(self, split: str) -> int:
        """Number of rows in the split."""

    @abstractmethod
    def read(self, split: str, start: int, stop: int) -> Iterator[tuple[str, int, Any]]:
        """Arrow arrays of text, each with the name of its file and its first row there."""

    @abstractmethod
    def text_bytes(self, split: str, start: int, stop: int) -> int | None:
        """About how many bytes of text the rows hold."""


class FileRows(Rows):
    """Parquet files; opening reads the footer of one file and checks the column."""

    def __init__(
        self,
        files: Mapping[str, ParquetRows],
        *,
        known: Mapping[str, int],
        provenance: Mapping[str, Any],
    ) -> None:
        self.splits = tuple(files)
        self.provenance = provenance
        self._files = files
        self._known = known

    def n_rows(self, split: str) -> int:
        return self._known.get(split) or self._files[split].n_rows

    def read(self, split: str, start: int, stop: int) -> Iterator[tuple[str, int, Any]]:
        return self._files[split].columns(start, stop)

    def text_bytes(self, split: str, start: int, stop: int) -> int:
        return self._files[split].text_bytes(start, stop)


class ArrowRows(Rows):
    """The Arrow files that a `datasets.DatasetBuilder` made from files of any format."""

    def __init__(self, builder: Any, text_column: str, *, commit: str | None) -> None:
        self.splits = tuple(builder.info.splits)
        self.provenance = {"commit": commit}
        self._builder = builder
        self._column = text_column

    def n_rows(self, split: str) -> int:
        return int(self._builder.info.splits[split].num_examples)

    def read(self, split: str, start: int, stop: int) -> Iterator[tuple[str, int, Any]]:
        data = self._builder.as_dataset(split).select_columns([self._column])
        rows = data.select(range(start, min(stop, len(data)))).with_format("arrow")
        for table in rows.iter(batch_size=_BATCH_ROWS):
            yield f"the split {split}", start, table.column(0)
            start += len(table)

    def text_bytes(self, split: str, start: int, stop: int) -> int | None:
        info = self._builder.info.splits[split]
        return int(info.num_bytes * (stop - start) / info.num_examples) if info.num_bytes else None


def of_listing(listing: Listing, text_column: str) -> FileRows:
    """The rows of parquet files on the hub, which are downloaded when they are read."""
    return FileRows(
        {split: listing.open(split, text_column) for split in listing.files},
        known=listing.rows,
        provenance={"commit": listing.commit, "files": listing.files},
    )


def of_folder(builder: Any, text_column: str) -> FileRows | None:
    """The rows of a local copy in the hub's layout; None if its files are not parquet."""
    data_files = builder.config.data_files or {}
    paths = {str(split): [Path(path) for path in files] for split, files in data_files.items()}
    every = [path for files in paths.values() for path in files]
    if not every or not all(path.suffix == ".parquet" and path.is_file() for path in every):
        return None
    files = {
        split: ParquetRows([ParquetFile(path, text_column) for path in paths])
        for split, paths in paths.items()
    }
    return FileRows(files, known={}, provenance={"commit": None})
