"""Read plain and compressed files as uncompressed bytes."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import BinaryIO, cast

from tinygpt.errors import UserError

# ending -> typical ratio of text size to file size, for estimates
COMPRESSIONS = {".gz": 2.8, ".zst": 3.0, ".bz2": 3.7, ".xz": 3.6}


def split_ending(path: Path) -> tuple[str, str]:
    """The kind of a file and its compression: stories.JSONL.gz gives (".jsonl", ".gz")."""
    ending = path.suffix.lower()
    if ending in COMPRESSIONS:
        return path.with_suffix("").suffix.lower(), ending
    return ending, ""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The uncompressed bytes of a file.

    Raises UserError if the compressed data is damaged or the system cannot read the file.
    """
    compression = split_ending(path)[1]
    damage = (EOFError, zlib.error, lzma.LZMAError, ValueError) if compression else ()
    try:
        with _open(path, compression) as file:
            yield file
    except (OSError, *damage) as error:
        if isinstance(error, UserError):
            raise
        if isinstance(error, OSError) and (error.errno is not None or not compression):
            raise unreadable(path, error) from None
        raise UserError(
            f"{path} cannot be decompressed: {error}; it was cut off or damaged, get it again"
        ) from None


def unreadable(path: object, error: OSError) -> UserError:
    """The error for a file or folder that the system refuses to read."""
    return UserError(f"{path} cannot be read: {error.strerror or error}")


def _open(path: Path, compression: str) -> BinaryIO:
    match compression:
        case ".gz":
            return cast(BinaryIO, gzip.open(path))
        case ".bz2":
            return cast(BinaryIO, bz2.open(path))
        case ".xz":
            return cast(BinaryIO, lzma.open(path))
        case ".zst":
            import pyarrow as pa

            stream = pa.input_stream(str(path), compression="zstd")
            return cast(BinaryIO, BufferedReader(cast(RawIOBase, stream), 1 << 20))
    return path.open("rb")
