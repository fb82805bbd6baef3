"""Write files so that a crash leaves the old content or the new content, never a part of it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace the file's content; text is written as UTF-8.

    Raises OSError, and then the old file is unchanged.
    """
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write under; at the end of the block that file is flushed and takes `path`'s place.

    After an error the partial file is removed and the old file is unchanged. Two processes must not
    replace the same file at the same time.
    """
    partial = partial_name(path)
    try:
        yield partial
        flush(partial)
        rename_durably(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def partial_name(path: Path) -> Path:
    """The name of a file or folder while it is being written."""
    return path.with_name(path.name + ".partial")


def rename_durably(source: Path, target: Path) -> None:
    """Rename a file or folder that has been flushed, and flush the new name.

    A file takes the place of an existing one; a folder needs an unused name.
    """
    source.replace(target)
    flush(target.parent)


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed because the disk, its quota or its inodes are used up.

    Libraries in other languages raise errors of their own that hold the system's text.
    """
    return any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT))


def flush(path: Path) -> None:
    """Wait until the disk holds this file's content, or the names in this folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
