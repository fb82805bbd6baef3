"""Read the documents of one file lazily: .txt, .jsonl, .csv, .tsv or .parquet."""

import csv
import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from tinygpt.components.datasets.reading.compressed import opened, split_ending
from tinygpt.components.datasets.reading.local_files import check_column
from tinygpt.components.datasets.reading.parquet_files import ParquetFile, ParquetRows
from tinygpt.components.datasets.reading.sieve import Sieve
from tinygpt.components.datasets.reading.signatures import check_is_text
from tinygpt.errors import UserError

KINDS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
PIECE = 4 << 20  # bytes; a longer document of a .txt is cut into several, at ends of lines
_CHUNK = 1 << 20  # bytes read at a time
_DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|"}  # in the order in which they are tried
_BOM = b"\xef\xbb\xbf"


def read(path: Path, *, text_column: str, separator: str | None, sieve: Sieve) -> Iterator[str]:
    """The documents of one file, empty ones included; errors name the file and the line or byte.

    Memory holds a piece of a .txt, one row of a .jsonl, .csv or .tsv, a few rows of a .parquet.
    Raises UserError.
    """
    kind = split_ending(path)[0]
    if kind == ".parquet":
        yield from _parquet(path, text_column, sieve)
        return
    check_is_text(path)
    with opened(path) as file:
        match kind:
            case ".txt":
                yield from _txt(path, file, separator or "", sieve)
            case ".jsonl":
                yield from _jsonl(path, file, text_column, sieve)
            case ".csv" | ".tsv":
                yield from _csv(path, file, text_column, sieve, delimiters=_DELIMITERS[kind])


def contains(path: Path, separator: str) -> bool:
    """Whether the separator is in the file; reads up to its first occurrence."""
    wanted = separator.encode()
    end = b""
    with opened(path) as file:
        while chunk := file.read(_CHUNK):
            if wanted in end + chunk:
                return True
            end = (end + chunk)[-len(wanted) :]
    return False


def _txt(path: Path, file: BinaryIO, separator: str, sieve: Sieve) -> Iterator[str]:
    for offset, data in _separated(file, separator.encode()):
        bom = len(_BOM) if not offset and data.startswith(_BOM) else 0
        text = sieve.decode(data[bom:], path=path, offset=offset + bom)
        if text is not None:
            yield text


def _separated(file: BinaryIO, separator: bytes) -> Iterator[tuple[int, bytes]]:
    """The documents between separators (b"": no separator), in pieces, each with its offset."""
    pending, offset = b"", 0
    while chunk := file.read(_CHUNK):
        searched = max(0, len(pending) - len(separator) + 1)
        pending += chunk
        if separator and pending.find(separator, searched) >= 0:
            *whole, pending = pending.split(separator)
            for document in whole:
                yield from _pieces(offset, document)
                offset += len(document) + len(separator)
        # so long that a separator which has only begun cannot end the document before the cut
        while len(pending) > PIECE + len(separator):
            cut = _cut(pending)
            yield offset, pending[:cut]
            pending, offset = pending[cut:], offset + cut
    yield from _pieces(offset, pending)


def _pieces(offset: int, document: bytes) -> Iterator[tuple[int, bytes]]:
    while len(document) > PIECE:
        cut = _cut(document)
        yield offset, document[:cut]
        document, offset = document[cut:], offset + cut
    yield offset, document


def _cut(document: bytes) -> int:
    """The end of the first piece: its last end of a line, else between two characters."""
    cut = document.rfind(b"\n", 0, PIECE) + 1
    if not cut:
        cut = PIECE
        while cut > PIECE - 3 and document[cut] & 0xC0 == 0x80:  # inside a character
            cut -= 1
    return cut


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines without a byte order mark, each with its offset."""
    offset = 0
    for line in file:
        bom = len(_BOM) if not offset and line.startswith(_BOM) else 0
        yield offset + bom, line[bom:]
        offset += len(line)


def _jsonl(path: Path, file: BinaryIO, text_column: str, sieve: Sieve) -> Iterator[str]:
    for number, (offset, data) in enumerate(_lines(file), start=1):
        line = sieve.decode(data, path=path, offset=offset)
        if line is None or not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f'{path}:{number} must be an object, such as {{"text": "..."}}')
        if not isinstance(row.get(text_column, 0), str | None):
            types = {
                name: "string" if isinstance(value, str | None) else type(value).__name__
                for name, value in row.items()
            }
            check_column(text_column, types, where=f"{path}:{number}")
        text = sieve.mended(row[text_column] or "", where=f"{path}:{number}")
        if text is not None:
            yield text


def _csv(
    path: Path, file: BinaryIO, text_column: str, sieve: Sieve, *, delimiters: str
) -> Iterator[str]:
    """Rows as documents; the delimiter is the first one that makes `text_column` a column.

    A file without a first line has no documents.
    """
    csv.field_size_limit(sys.maxsize)  # a story may be longer than 128 KB
    lines = (sieve.decode_part(data, path=path, offset=offset) for offset, data in _lines(file))
    head: list[str] = []
    for line in lines:  # up to the second line that is not blank
        head.append(line)
        if sum(not line.isspace() for line in head) == 2:
            break
    filled = [line for line in head if line and not line.isspace()]
    if not filled:
        return
    delimiter = _delimiter(filled, text_column, delimiters, path=path)
    rows = csv.reader(chain(head, lines), strict=True, delimiter=delimiter)
    try:
        header = next(row for row in rows if row)
        check_column(text_column, dict.fromkeys(header, "string"), where=str(path))
        column = header.index(text_column)
        for row in rows:
            if row and len(row) != len(header):
                raise csv.Error(f"{len(row)} fields where the first line has {len(header)}")
            if row:
                text = sieve.mended(row[column], where=f"{path}:{rows.line_num}")
                if text is not None:
                    yield text
    except csv.Error as error:
        raise UserError(f"{path}:{rows.line_num} is not CSV: {error}") from None


def _delimiter(lines: list[str], text_column: str, delimiters: str, *, path: Path) -> str:
    """The first delimiter that makes the column one of the header's, else the most frequent one.

    Raises UserError for a column that is a whole header of several columns: training would read
    raw rows.
    """
    fields = {
        delimiter: [next(csv.reader([line], delimiter=delimiter), []) for line in lines]
        for delimiter in delimiters
    }
    for delimiter, (header, *_) in fields.items():
        if text_column not in header:
            continue
        for other, split in fields.items():
            widths = {len(row) for row in split}
            if len(header) == 1 and len(widths) == 1 and max(widths) > 1:
                raise UserError(
                    f"dataset.text_column={text_column} is the whole first line of {path}, whose "
                    f"columns are separated by {other!r}; type dataset.text_column=NAME\n"
                    f"  columns: {', '.join(split[0])}"
                )
        return delimiter
    return max(fields, key=lambda delimiter: len(fields[delimiter][0]))


def _parquet(path: Path, text_column: str, sieve: Sieve) -> Iterator[str]:
    for name, row, column in ParquetRows([ParquetFile(path, text_column)]).columns(0, None):
        yield from sieve.texts(column, where=name, first_row=row)
