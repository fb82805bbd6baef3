"""Files that may be compressed, read as the bytes that were in them."""

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

# ending -> how much longer text is than its file, for estimates
COMPRESSIONS = {".gz": 2.8, ".zst": 3.0, ".bz2": 3.7, ".xz": 3.6}


def split_ending(path: Path) -> tuple[str, str]:
    """The kind of a file and its compression: stories.JSONL.gz gives (".jsonl", ".gz")."""
    ending = path.suffix.lower()
    if ending in COMPRESSIONS:
        return path.with_suffix("").suffix.lower(), ending
    return ending, ""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The uncompressed bytes of a file; raises UserError where they are damaged or cut off."""
    compression = split_ending(path)[1]
    # OSError is what some of the libraries say of damage; a plain file has nothing to damage
    damage = (EOFError, zlib.error, lzma.LZMAError, OSError) if compression else ()
    try:
        with _open(path, compression) as file:
            yield file
    except damage as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the data
            raise
        raise UserError(
            f"{path} cannot be decompressed: {error}; it was cut off or damaged, get it again"
        ) from None


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
