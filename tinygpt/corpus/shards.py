"""The files of prepared tokens: shards of whole documents, each with checksums, read as one array.

A shard is three files of little endian numbers and a record:
  SPLIT-00000.tokens.bin     ids, end of text after each document; the first shard begins with one
  SPLIT-00000.documents.bin  per document, tokens and UTF-8 bytes of the split up to its end: int64
  SPLIT-00000.digests.bin    per document, a 64-bit hash of its text
  SPLIT-00000.json           the shard's numbers and checksums; there only when the shard is whole
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from tinygpt.files import partial_name, rename_durably, write_atomically
from tinygpt.interfaces import Split

FILES = ("tokens", "documents", "digests")
_CHUNK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class Shard:
    """The content of a shard's record."""

    index: int
    read: int  # documents read from the source, including empty ones
    documents: int
    tokens: int  # the first shard's count includes the leading end of text
    utf8_bytes: int
    checksums: Mapping[str, str]  # xxh3_128 of each of FILES


@dataclass(frozen=True)
class SplitInfo:
    """The numbers of one split in the manifest."""

    documents: int
    tokens: int  # including the leading end of text
    utf8_bytes: int  # of the documents; end of text counts as none
    entropy_bits: float | None  # the sum of -log2 P(document), where P is known
    dropped: Mapping[str, int]  # documents that the source left out, by reason
    shards: Sequence[Shard]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "SplitInfo":
        """The Shard whose `asdict` was saved as JSON."""
        return cls(**{**content, "shards": [Shard(**shard) for shard in content["shards"]]})

    @property
    def floor_bpb(self) -> float | None:
        """Bits per byte of the true distribution: no model's expected loss is lower."""
        return self.entropy_bits / self.utf8_bytes if self.entropy_bits is not None else None

    @property
    def checksum(self) -> str:
        """sha256 hex of the tokens and of the ends of documents."""
        return json_sha256({"shards": [dict(shard.checksums) for shard in self.shards]})


def path_of(folder: Path, split: Split, index: int, file: str) -> Path:
    """Path of one of a shard's FILES."""
    return folder / f"{split}-{index:05}.{file}.bin"


def record_path(folder: Path, split: Split, index: int) -> Path:
    """Path of a shard's record."""
    return folder / f"{split}-{index:05}.json"


def first_damage(folder: Path, split: Split, shard: Shard) -> Path | None:
    """The first file of the shard that differs from what was written; None if all are intact."""
    paths = ((path_of(folder, split, shard.index, file), shard.checksums[file]) for file in FILES)
    return next((path for path, expected in paths if checksum(path) != expected), None)


def checksum(path: Path) -> str | None:
    """xxh3_128 of a file, in hex; None if it cannot be read.

    It detects accidental damage, at the speed of the disk; it does not protect against an attacker.
    """
    digest, chunk = xxhash.xxh3_128(), memoryview(bytearray(_CHUNK))
    try:
        with path.open("rb", buffering=0) as file:
            while n := file.readinto(chunk):
                digest.update(chunk[:n])
    except OSError:
        return None
    return digest.hexdigest()


class ShardWriter:
    """Writes a shard under temporary names; `finish` renames its files, its record last."""

    def __init__(self, folder: Path, split: Split, index: int, *, before: Sequence[Shard]) -> None:
        self.folder, self.split, self.index = folder, split, index
        self._paths = {file: path_of(folder, split, index, file) for file in FILES}
        self._files = {file: partial_name(path).open("wb") for file, path in self._paths.items()}
        self._digests = {file: xxhash.xxh3_128() for file in FILES}
        self._before = np.array(
            [sum(s.tokens for s in before), sum(s.utf8_bytes for s in before)], np.int64
        )
        self._sizes = np.zeros(2, np.int64)  # tokens and UTF-8 bytes so far
        self.read = self.documents = 0

    def add(
        self,
        tokens: npt.NDArray[np.unsignedinteger],
        *,
        read: int,
        lengths: npt.NDArray[np.int64],
        utf8_bytes: npt.NDArray[np.int64],
        digests: npt.NDArray[np.uint64],
    ) -> int:
        """Append documents; `lengths` and `utf8_bytes` are of each. Returns the bytes written."""
        if not self._before[0] and not self.documents:
            # the stream begins with end of text, and a document ends with one
            tokens = np.concatenate([tokens[-1:], tokens])
            self._sizes[0] = 1
        sizes = np.stack([lengths, utf8_bytes], axis=1)
        ends = self._before + self._sizes + np.cumsum(sizes, axis=0)
        self._sizes += sizes.sum(axis=0)
        self.read += read
        self.documents += len(lengths)
        written = 0
        for file, content in zip(FILES, (tokens, ends.astype("<i8"), digests), strict=True):
            data = np.ascontiguousarray(content).data.cast("B")
            self._files[file].write(data)
            self._digests[file].update(data)
            written += data.nbytes
        return written

    def finish(self) -> Shard:
        """Make the shard visible after it is flushed to the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        for path in self._paths.values():
            rename_durably(partial_name(path), path)
        shard = Shard(
            index=self.index,
            read=self.read,
            documents=self.documents,
            tokens=int(self._sizes[0]),
            utf8_bytes=int(self._sizes[1]),
            checksums={file: digest.hexdigest() for file, digest in self._digests.items()},
        )
        write_sealed(record_path(self.folder, self.split, self.index), asdict(shard))
        return shard

    def abandon(self) -> None:
        """Remove what was written."""
        for file, path in self._paths.items():
            with suppress(OSError):  # closing flushes, which fails on a full disk
                self._files[file].close()
            partial_name(path).unlink(missing_ok=True)


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with its checksum; after a crash the file is the old or the new one."""
    text = json.dumps({**content, "sha256": json_sha256(content)}, indent=2) + "\n"
    write_atomically(path, text)


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Reads a file of `write_sealed`; None if it is missing or damaged."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        return content if content.pop("sha256") == json_sha256(content) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def json_sha256(content: Mapping[str, Any]) -> str:
    """sha256 hex of the content as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class ShardedArray:
    """Several arrays seen as one; indexed by a slice, integers of any shape, or (rows, column).

    Memory-mapped: only the requested part is read. A slice within one shard is not copied.
    """

    def __init__(self, parts: Sequence[npt.NDArray[Any]]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=bool(copy))

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        """Indexes as numpy does, with indices of any shape; raises IndexError outside the array."""
        if len(self._parts) == 1:
            return np.asarray(self._parts[0][key])
        if isinstance(key, tuple):
            rows, column = key
            return np.asarray(self[rows][..., column])
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step)]
            first = max(0, int(np.searchsorted(self._starts, start, side="right")) - 1)
            last = int(np.searchsorted(self._starts, stop))
            pieces = []
            for part, offset in zip(self._parts[first:last], self._starts[first:last], strict=True):
                pieces.append(part[max(0, start - offset) : max(0, stop - offset)])
            return np.concatenate(pieces or [self._parts[0][:0]]) if len(pieces) != 1 else pieces[0]
        return self._take(np.asarray(key))

    def _take(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        flat = indices.ravel()
        flat = np.where(flat < 0, flat + len(self), flat)
        shards = np.searchsorted(self._starts, flat, side="right") - 1
        out = np.empty((len(flat), *self._parts[0].shape[1:]), self.dtype)
        for shard in np.unique(shards).tolist():
            if not 0 <= shard < len(self._parts):
                raise IndexError(f"an index is outside of the {len(self):,} there are")
            here = shards == shard
            out[here] = self._parts[shard][flat[here] - self._starts[shard]]
        return out.reshape(indices.shape + out.shape[1:])


def tokens_of(folder: Path, split: Split, shards: Sequence[Shard], dtype: str) -> ShardedArray:
    """All token ids of a split, memory-mapped: (tokens,)."""
    paths = (path_of(folder, split, shard.index, "tokens") for shard in shards)
    # a memmap is slow to index; a plain array of it keeps it alive
    return ShardedArray([np.asarray(np.memmap(path, dtype, "r")) for path in paths])


def documents_at(
    indices: Sequence[int], folder: Path, split: Split, shards: Sequence[Shard], dtype: str
) -> Iterator[npt.NDArray[np.unsignedinteger]]:
    """The ids of some documents in ascending order, without end of text.

    One shard is open at a time, because mapped pages count as used memory.
    """
    waiting = deque(indices)
    first_document = first_token = 0
    for shard in shards:
        tokens = tokens_of(folder, split, [shard], dtype)
        ends = documents_of(folder, split, [shard])
        while waiting and waiting[0] < first_document + shard.documents:
            index = waiting.popleft() - first_document
            # a split begins with end of text
            start = int(ends[index - 1, 0]) - first_token if index else int(not first_token)
            yield tokens[start : int(ends[index, 0]) - first_token - 1]
        first_document += shard.documents
        first_token += shard.tokens


def documents_of(folder: Path, split: Split, shards: Sequence[Shard]) -> ShardedArray:
    """Tokens and UTF-8 bytes up to each document's end, memory-mapped: (documents, 2)."""
    paths = (path_of(folder, split, shard.index, "documents") for shard in shards)
    return ShardedArray([np.asarray(np.memmap(p, "<i8", "r")).reshape(-1, 2) for p in paths])
