"""Read one text column of parquet files, in batches of bounded size."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from tinygpt.components.datasets.reading.compressed import unreadable
from tinygpt.components.datasets.reading.local_files import check_column
from tinygpt.errors import UserError

_BATCH_BYTES = 1 << 20  # of text in memory at a time, about
_DICTIONARY_BATCH_BYTES = 32 << 20  # the same where rows share long values
# pre_buffer, which is on by default, would read each row group as a whole
_BOUNDED: dict[str, Any] = {"pre_buffer": False, "buffer_size": 1 << 20}


class ParquetFile:
    """A file that is here; its rows are counted from 0."""

    def __init__(self, path: Path, text_column: str) -> None:
        self.path = path
        self.name = str(path)
        self.text_column = text_column

    @cached_property
    def footer(self) -> Any:
        """The `pyarrow.parquet.FileMetaData`; raises UserError, also for a missing column."""
        with readable(self.name):
            footer = self._read_footer()
            schema = footer.schema.to_arrow_schema()
            types = {field.name: str(field.type) for field in schema}
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
        """The footer's metadata of the column, per row group."""
        with readable(self.name):
            self._check_groups()
            schema = self.footer.schema
            column = [schema.column(i).path for i in range(len(schema))].index(self.text_column)
            groups = range(self.footer.num_row_groups)
            return [self.footer.row_group(i).column(column) for i in groups]

    def _check_groups(self) -> None:
        """Read a row of each group: of damaged metadata that raises an error.

        Asked for directly, pyarrow 26 ends the process with an uncaught C++ exception.
        """
        from pyarrow import parquet

        with parquet.ParquetFile(self.path, metadata=self.footer, **_BOUNDED) as file:
            for i in range(self.footer.num_row_groups):
                next(file.iter_batches(1, [i], [self.text_column], use_threads=False), None)

    def _read_footer(self) -> Any:
        from pyarrow import parquet

        return parquet.read_metadata(self.path)

    def _read_groups(self, groups: Sequence[int]) -> Iterator[Any]:
        """The texts of row groups that follow each other, as Arrow arrays."""
        return self._batches(str(self.path), groups)

    def _batches(self, source: Any, groups: Sequence[int]) -> Iterator[Any]:
        """The texts of row groups, from a path or an open file; a group may not fit in memory."""
        import pyarrow as pa
        from pyarrow import parquet

        with readable(self.name):
            for group in groups:
                rows = self._batch_rows(source, group)
                with parquet.ParquetFile(source, metadata=self.footer, **_BOUNDED) as file:
                    for batch in file.iter_batches(
                        batch_size=rows,
                        row_groups=[group],
                        columns=[self.text_column],
                        use_threads=False,  # there is one column
                    ):
                        array = batch.column(0)
                        is_dictionary = pa.types.is_dictionary(array.type)
                        yield array.dictionary_decode() if is_dictionary else array

    def _batch_rows(self, source: Any, group: int) -> int:
        """Rows of a batch, so that the text of a batch is about _BATCH_BYTES.

        The size in the footer counts a value once that the rows of a dictionary or a common prefix
        refer to many times: a file of 600 bytes can hold gigabytes of text.
        """
        import pyarrow.compute as pc
        from pyarrow import parquet

        chunk = self.chunks[group]
        if "DELTA_BYTE_ARRAY" in chunk.encodings:
            return 1
        size = max(1, chunk.total_uncompressed_size)
        rows: int = min(10_000, _BATCH_BYTES * chunk.num_values // size)
        if not chunk.has_dictionary_page or chunk.physical_type != "BYTE_ARRAY":
            return max(1, rows)
        options = {"read_dictionary": [self.text_column], **_BOUNDED}
        with parquet.ParquetFile(source, metadata=self.footer, **options) as file:
            batch = next(file.iter_batches(1, [group], [self.text_column], use_threads=False))
        longest: int = pc.max(pc.binary_length(batch.column(0).dictionary)).as_py() or 1
        return max(1, min(rows, _DICTIONARY_BATCH_BYTES // longest))


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
    """Raise UserError with the file's name for what pyarrow raises about a damaged file."""
    import pyarrow as pa

    try:
        yield
    except UserError:
        raise
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        OverflowError,
        MemoryError,
        RuntimeError,
    ) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(name, error) from None
        reason = str(error).strip() or type(error).__name__
        raise UserError(f"{name} cannot be read as parquet: {reason}; get it again") from None
