"""One text column of parquet files: what their footers tell, and the texts of some of the rows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from tinygpt.components.datasets.reading.local_files import check_column
from tinygpt.errors import UserError

_BATCH_BYTES = 1 << 20  # of text in memory at a time, about
_BUFFER_BYTES = 1 << 20  # of the file in memory at a time


class ParquetFile:
    """A file that is here; its rows are counted from 0."""

    def __init__(self, path: Path, text_column: str) -> None:
        self.path = path
        self.name = str(path)
        self.text_column = text_column

    @cached_property
    def footer(self) -> Any:
        """The `pyarrow.parquet.FileMetaData`; raises UserError, also if the column is not there."""
        footer = self._read_footer()
        types = {field.name: str(field.type) for field in footer.schema.to_arrow_schema()}
        check_column(self.text_column, types, where=self.name)
        return footer

    def text_bytes(self, start: int, stop: int) -> int:
        """About how many bytes of text these rows hold, from the footer."""
        size = 0
        for group, first, last, rows in self._groups(start, stop):
            size += int(self.chunks[group].total_uncompressed_size * (last - first) / rows)
        return size

    def columns(self, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """The texts from row `start` to before `stop`: Arrow arrays, each with its first row."""
        groups = list(self._groups(start, stop))
        if not groups:
            return
        row = start - groups[0][1]  # the first row of the first group, then of each array
        for array in self._read_groups([group for group, *_ in groups]):
            first, last = max(start, row), min(stop, row + len(array))
            if first < last:
                yield first, array.slice(first - row, last - first)
            row += len(array)

    def _groups(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """(row group, rows wanted of it from ... to ..., its rows) where any are wanted."""
        row = 0
        for group in range(self.footer.num_row_groups):
            rows = self.footer.row_group(group).num_rows
            first, last = max(start - row, 0), min(stop - row, rows)
            if first < last:
                yield group, first, last, rows
            row += rows

    @cached_property
    def chunks(self) -> list[Any]:
        """The footer's words on the column, per row group."""
        groups = [self.footer.row_group(i) for i in range(self.footer.num_row_groups)]
        columns = ((group.column(i) for i in range(group.num_columns)) for group in groups)
        return [
            next(chunk for chunk in chunks if chunk.path_in_schema == self.text_column)
            for chunks in columns
        ]

    @cached_property
    def _batch_rows(self) -> int:
        size: int = sum(chunk.total_uncompressed_size for chunk in self.chunks)
        n_rows: int = self.footer.num_rows
        return max(1, min(10_000, _BATCH_BYTES * n_rows // max(1, size)))

    def _read_footer(self) -> Any:
        from pyarrow import parquet

        with readable(self.name):
            return parquet.read_metadata(self.path)

    def _read_groups(self, groups: Sequence[int]) -> Iterator[Any]:
        """The texts of row groups that follow each other, as Arrow arrays."""
        return self._batches(str(self.path), groups)

    def _batches(self, source: Any, groups: Sequence[int]) -> Iterator[Any]:
        """The texts of row groups, from a path or an open file; a group may not fit in memory."""
        from pyarrow import parquet

        # pre_buffer, which is on by default, would read each group as a whole
        bounded: Any = {"pre_buffer": False, "buffer_size": _BUFFER_BYTES}
        with (
            readable(self.name),
            parquet.ParquetFile(source, metadata=self.footer, **bounded) as file,
        ):
            for batch in file.iter_batches(
                batch_size=self._batch_rows,
                row_groups=groups,
                columns=[self.text_column],
                use_threads=False,  # there is one column
            ):
                yield batch.column(0)


class ParquetRows:
    """The rows of several files, one after another.  Footers are read when they are needed."""

    def __init__(self, files: Sequence[ParquetFile]) -> None:
        self.files = files

    @cached_property
    def n_rows(self) -> int:
        """Reads every footer."""
        return sum(file.footer.num_rows for file in self.files)

    def columns(self, start: int, stop: int | None) -> Iterator[tuple[str, int, Any]]:
        """Arrow arrays of text, each with the name of its file and its first row there."""
        for file, first, last in self._parts(start, stop):
            for row, array in file.columns(first, last):
                yield file.name, row, array

    def text_bytes(self, start: int, stop: int | None) -> int:
        """About how many bytes of text the rows hold."""
        return sum(file.text_bytes(first, last) for file, first, last in self._parts(start, stop))

    def _parts(self, start: int, stop: int | None) -> Iterator[tuple[ParquetFile, int, int]]:
        row = 0
        for file in self.files:
            if stop is not None and row >= stop:
                return
            rows = file.footer.num_rows
            first, last = max(start - row, 0), rows if stop is None else min(stop - row, rows)
            if first < last:
                yield file, first, last
            row += rows


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Say of which file it is that pyarrow complains."""
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        raise UserError(f"{name} cannot be read as parquet: {error}") from None
