"""The files that `dataset.path` names: find them, hash them, check their columns."""

import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from tinygpt.components.datasets.reading.compressed import COMPRESSIONS, split_ending, unreadable
from tinygpt.errors import UserError, did_you_mean, nearest

_WILDCARD = re.compile(r"[*?\[]")


def existing(typed: str) -> Path:
    """The file or folder of `dataset.path`.

    Raises UserError if nothing is there, or if it is neither a regular file nor a folder that can
    be listed.
    """
    with _looked_up(typed):
        path = Path(typed).expanduser()
        if not path.exists():
            raise _missing(typed, path)
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UserError(
                f"dataset.path={typed} is a pipe, a socket or a device, and the text is read "
                "several times; save it as a file and type dataset.path=FILE"
            )
        if stat.S_ISDIR(mode):
            with os.scandir(path):  # raises PermissionError
                pass
    return path


def _missing(typed: str, path: Path) -> UserError:
    """The error for a path that is not there, with the most similar name beside it."""
    siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    match = nearest(path.name, siblings)
    hint = f"; did you mean dataset.path={path.with_name(match)}?" if match else ""
    return UserError(f"dataset.path={typed} does not exist{hint}\n  looked at {path.absolute()}")


def chosen(typed: str, kinds: Collection[str]) -> tuple[Path, list[Path]]:
    """The files that `dataset.path` names, sorted, and the folder that their names are relative to.

    It is a file, a folder, or a pattern such as data/*.jsonl.gz or data/**/*.txt.  Raises
    UserError if none of the files has one of these endings, compressed or not.
    """
    with _looked_up(typed):
        if _WILDCARD.search(typed) and not Path(typed).expanduser().exists():
            folder, files = _matching(typed)
        elif (path := existing(typed)).is_dir():
            folder, files = path, files_in(path)
        else:
            folder, files = path.parent, [path]
    files = [file for file in files if is_one_of(file, kinds)]
    if not files:
        raise UserError(
            f"dataset.path={typed} has no file that can be read; endings that are read: "
            f"{', '.join(kinds)}, and all but .parquet also with {', '.join(COMPRESSIONS)} after it"
        )
    return folder, files


def _matching(typed: str) -> tuple[Path, list[Path]]:
    """The files that match a pattern, and the folder before its first wildcard."""
    pattern = Path(typed).expanduser()
    folder = Path(*takewhile(lambda part: not _WILDCARD.search(part), pattern.parts))
    existing(str(folder))
    relative = pattern.relative_to(folder)
    if any("**" in part and part != "**" for part in relative.parts):
        raise UserError(
            f"dataset.path={typed} is not a pattern: ** must stand alone between slashes; "
            f"type dataset.path={folder / '**' / pattern.name.replace('**', '*')}"
        )
    found = (path for path in folder.glob(str(relative)) if path.is_file())
    return folder, sorted(
        path
        for path in found
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def is_one_of(path: Path, kinds: Collection[str]) -> bool:
    """Whether the ending is one of these kinds; .parquet has its own compression."""
    kind, compression = split_ending(path)
    return kind in kinds and not (kind == ".parquet" and compression)


def files_in(folder: Path) -> list[Path]:
    """The regular files below the folder, sorted, without hidden files and folders.

    Raises UserError for a folder that cannot be listed: its documents would be missing.
    """
    return sorted(_walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise unreadable(error.filename, error)

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(root, name) for name in names if not name.startswith("."))
        yield from (path for path in paths if path.is_file())


def digests(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """sha256 of each file by its name relative to the folder; raises UserError."""
    result = {}
    for path in files:
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(path, error) from None
        result[path.relative_to(folder).as_posix()] = digest
    return result


@contextmanager
def _looked_up(typed: str) -> Iterator[None]:
    """Turn what the file system says about `dataset.path` into a UserError."""
    try:
        if "\0" in typed:  # pathlib says that such a file does not exist
            raise ValueError("embedded null byte")
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~ of an unknown user
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        try:
            Path.cwd()
        except OSError:
            reason = "the current folder was removed; go to another with cd"
        shown = typed if len(typed) <= 100 else f"{typed[:100]}..."
        raise UserError(f"dataset.path={shown!r} cannot be read: {reason}") from None


def check_column(text_column: str, types: Mapping[str, str], *, where: str) -> None:
    """Raise UserError unless the column is among those of `where`, and holds text.

    A column of nulls only is accepted: it holds no text, but another file of the dataset may.
    """
    if text_column not in types:
        problem = f"is not a column{did_you_mean(text_column, types)}"
    elif not _holds_text(types[text_column]):
        problem = f"holds {types[text_column]}, not text"
    else:
        return
    columns = ", ".join(f"{name} ({kind})" for name, kind in types.items())
    raise UserError(f"dataset.text_column={text_column} {problem}\n  columns of {where}: {columns}")


_TEXT = "(large_)?(string|binary)|(string|binary)_view"


def _holds_text(kind: str) -> bool:
    """Whether an Arrow type, by its name, is text, bytes (checked to be UTF-8 later) or null."""
    return bool(re.fullmatch(rf"null|{_TEXT}|dictionary<values=({_TEXT}), .*>", kind))
