"""The user's own files: that they are there, which ones count, and what they hold."""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from itertools import takewhile
from pathlib import Path

from tinygpt.components.datasets.reading.compressed import COMPRESSIONS, split_ending
from tinygpt.errors import UserError, nearest

_WILDCARD = re.compile(r"[*?\[]")


def existing(typed: str) -> Path:
    """The file or folder of `dataset.path`; raises UserError if there is none."""
    path = Path(typed).expanduser()
    if path.exists():
        return path
    siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    match = nearest(path.name, siblings)
    hint = f"; did you mean dataset.path={path.with_name(match)}?" if match else ""
    raise UserError(f"dataset.path={typed} does not exist{hint}\n  looked at {path.absolute()}")


def chosen(typed: str, kinds: Collection[str]) -> tuple[Path, list[Path]]:
    """The files that `dataset.path` means, sorted, and the folder that their names begin in.

    It is a file, a folder, or a pattern such as data/*.jsonl.gz or data/**/*.txt.  Raises
    UserError where it holds no file of these kinds, compressed or not.
    """
    if _WILDCARD.search(typed) and not Path(typed).expanduser().exists():
        pattern = Path(typed).expanduser()
        folder = Path(*takewhile(lambda part: not _WILDCARD.search(part), pattern.parts))
        found = folder.glob(str(pattern.relative_to(folder)))
        files = [file for file in _visible_files(folder, found) if is_one_of(file, kinds)]
    elif (path := existing(typed)).is_dir():
        folder, files = path, [file for file in files_in(path) if is_one_of(file, kinds)]
    else:
        folder, files = path.parent, [path] if is_one_of(path, kinds) else []
    if not files:
        raise UserError(
            f"dataset.path={typed} has no file that can be read; endings that are read: "
            f"{', '.join(kinds)}, and all but .parquet also with {', '.join(COMPRESSIONS)} after it"
        )
    return folder, files


def is_one_of(path: Path, kinds: Collection[str]) -> bool:
    """Whether the ending is of these kinds; parquet compresses itself and stands alone."""
    kind, compression = split_ending(path)
    return kind in kinds and not (kind == ".parquet" and compression)


def files_in(folder: Path) -> list[Path]:
    """The files below the folder, sorted; hidden files and folders do not count."""
    return _visible_files(folder, folder.rglob("*"))


def _visible_files(folder: Path, paths: Iterable[Path]) -> list[Path]:
    return sorted(
        path
        for path in paths
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
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
