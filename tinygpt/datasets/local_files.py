"""The user's own files: that they are there, which ones count, what they hold, how each is read."""

import csv
import hashlib
import json
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from tinygpt.errors import UserError, nearest

_CHARACTERS = 1 << 20  # read at a time


def existing(typed: str) -> Path:
    """The file or folder of `dataset.path`; raises UserError if there is none."""
    path = Path(typed).expanduser()
    if path.exists():
        return path
    siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    match = nearest(path.name, siblings)
    hint = f"; did you mean dataset.path={path.with_name(match)}?" if match else ""
    raise UserError(f"dataset.path={typed} does not exist{hint}\n  looked at {path.absolute()}")


def files_in(folder: Path, endings: Collection[str] | None = None) -> list[Path]:
    """The files below the folder that end so, sorted; hidden files and folders do not count."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and (endings is None or path.suffix.lower() in endings)
    )


def digests(folder: Path, files: list[Path]) -> dict[str, str]:
    """sha256 of each file by its name in the folder: the same wherever the folder stands."""
    result = {}
    for path in files:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        result[path.relative_to(folder).as_posix()] = digest
    return result


def check_column(text_column: str, types: Mapping[str, str], *, where: str) -> None:
    """Raise UserError unless the column is among those of `where`, and holds text."""
    if text_column not in types:
        match = nearest(text_column, types)
        problem = "is not a column" + (f"; did you mean {match}?" if match else "")
    elif types[text_column] not in ("string", "large_string", "string_view"):
        problem = f"holds {types[text_column]}, not text"
    else:
        return
    columns = ", ".join(f"{name} ({kind})" for name, kind in types.items())
    raise UserError(f"dataset.text_column={text_column} {problem}\n  columns of {where}: {columns}")


def read(path: Path, *, text_column: str, separator: str | None) -> Iterator[str | None]:
    """The documents of one file, lazily; raises UserError with the place of what is wrong."""
    try:
        match path.suffix.lower():
            case ".txt":
                yield from _txt(path, separator)
            case ".jsonl":
                yield from _jsonl(path, text_column)
            case ".csv":
                yield from _csv(path, text_column)
            case ".parquet":
                yield from _parquet(path, text_column)
    except UnicodeDecodeError:
        raise UserError(
            f"{path} is not UTF-8: byte {_first_bad_byte(path)} begins no character; "
            f"convert it, for example with: iconv -f LATIN1 -t UTF-8 {path.name}"
        ) from None


def _txt(path: Path, separator: str | None) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:  # newline="" keeps \r\n as it is
        if separator is None:
            yield file.read()
            return
        pending = ""
        while chunk := file.read(_CHARACTERS):
            searched = max(0, len(pending) - len(separator) + 1)
            pending += chunk
            if pending.find(separator, searched) >= 0:
                *whole, pending = pending.split(separator)
                yield from whole
        yield pending


def _jsonl(path: Path, text_column: str) -> Iterator[str | None]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
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
            yield row[text_column]


def _csv(path: Path, text_column: str) -> Iterator[str]:
    csv.field_size_limit(sys.maxsize)  # a story may be longer than 128 KB
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            header = next(rows, [])
            check_column(text_column, dict.fromkeys(header, "string"), where=str(path))
            column = header.index(text_column)
            for row in rows:
                if row and len(row) != len(header):
                    raise csv.Error(f"{len(row)} fields where the first line has {len(header)}")
                if row:
                    yield row[column]
        except csv.Error as error:
            raise UserError(f"{path}:{rows.line_num} is not CSV: {error}") from None


def _parquet(path: Path, text_column: str) -> Iterator[str | None]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            types = {field.name: str(field.type) for field in file.schema_arrow}
            check_column(text_column, types, where=str(path))
            for batch in file.iter_batches(batch_size=1000, columns=[text_column]):
                yield from batch.column(0).to_pylist()
    except pa.ArrowException as error:
        raise UserError(f"{path} cannot be read as parquet: {error}") from None


def _first_bad_byte(path: Path) -> int:
    """Where the file stops being UTF-8; a line end is never part of another character."""
    offset = 0
    with path.open("rb") as file:
        for line in file:
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return offset + error.start
            offset += len(line)
    return offset
