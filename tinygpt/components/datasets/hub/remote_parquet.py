"""Rows of parquet files on the hub: only the row groups that hold them are downloaded, and kept.

The local cache has a folder per repo. Its `refs` folder has the commit of each revision that was
read; a folder per commit has the list of files, their footers, and one file per downloaded row
group of a column.

Not read through `huggingface_hub.HfFileSystem` (tried with version 2.4): where a proxy ignores the
range of a request and sends the whole file, it returns bytes from the wrong place without an error;
it waits as long as a Retry-After header says; and its read-ahead has no limit.
"""

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from tinygpt.components.datasets.hub.client import WAITS_S, is_busy, persistently, reason, refused
from tinygpt.components.datasets.reading.parquet_files import ParquetFile, ParquetRows
from tinygpt.errors import UserError
from tinygpt.files import flush, is_disk_full, rename_durably

_PREFIX = "hf://datasets/"
_TIMEOUT_S = 30  # for each read from the network
_READ_AHEAD = 8 << 20  # bytes per request, up to the file's `limit`
T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """The parquet files of a repo's splits at a commit."""

    repo: str
    commit: str
    files: dict[str, list[str]]  # split -> paths in the repo
    rows: dict[str, int]  # split -> its number of rows, if the repo's card gives it

    def open(self, split: str, text_column: str) -> ParquetRows:
        """The rows of a split; nothing is downloaded yet."""
        files = self.files[split]
        return ParquetRows([RemoteParquetFile(self, path, text_column) for path in files])

    @property
    def folder(self) -> Path:
        return _repo_folder(self.repo) / self.commit

    def keep(self, subset: str | None, revision: str) -> None:
        """Write it to the cache, for a later run without network."""
        with _made(self.folder / f"{_slug(subset)}.json") as partial:
            partial.write_text(json.dumps(asdict(self)))
        with _made(_repo_folder(self.repo) / "refs" / _slug(revision)) as partial:
            partial.write_text(self.commit)


def listed(builder: Any, repo: str) -> Listing | None:
    """The parquet files of a `datasets.DatasetBuilder`; None if its files are not parquet."""
    commit = str(builder.hash)
    start = f"{_PREFIX}{repo}@{commit}/"
    files = {str(split): list(urls) for split, urls in (builder.config.data_files or {}).items()}
    every = [url for urls in files.values() for url in urls]
    if not every or not all(u.startswith(start) and u.endswith(".parquet") for u in every):
        return None
    infos = (builder.info.splits or {}).items()
    return Listing(
        repo,
        commit,
        {split: [url.removeprefix(start) for url in urls] for split, urls in files.items()},
        {str(split): info.num_examples for split, info in infos if info.num_examples},
    )


def kept(repo: str, subset: str | None, revision: str) -> Listing | None:
    """The listing of a branch, tag or commit in the cache; None if it has none."""
    folder = _repo_folder(repo)
    commit = revision
    with suppress(OSError):
        commit = (folder / "refs" / _slug(revision)).read_text()
    try:
        return Listing(**json.loads((folder / commit / f"{_slug(subset)}.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


class RemoteFile(io.RawIOBase):
    """A file on the hub for random access; each read that is not in the buffer is one request.

    Requests read ahead up to `limit` (0: no read-ahead). Raises UserError if the hub does not
    deliver.
    """

    def __init__(self, url: str, *, where: str) -> None:
        self.url = url
        self.where = where
        self.size = self._persistently(self._ask_size)
        self.limit = 0
        self._position = 0
        self._start, self._buffer = 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        start = self._position
        stop = min(self.size, start + len(view))
        if start >= stop:
            return 0
        if not self._start <= start <= stop <= self._start + len(self._buffer):
            ahead = max(stop, min(start + _READ_AHEAD, self.limit))
            self._buffer = self._persistently(lambda: self._ask(start, ahead))
            self._start = start
        view[: stop - start] = memoryview(self._buffer)[start - self._start : stop - self._start]
        self._position = stop
        return stop - start

    def _ask_size(self) -> int:
        from huggingface_hub import get_hf_file_metadata

        size = get_hf_file_metadata(self.url, timeout=_TIMEOUT_S).size
        if size is None:
            raise OSError("the hub does not tell the size of the file")
        return size

    def _ask(self, start: int, stop: int) -> bytes:
        from huggingface_hub import get_session
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public in its docs
            build_hf_headers,
            hf_raise_for_status,
        )

        headers = build_hf_headers() | {"Range": f"bytes={start}-{stop - 1}"}
        with get_session().stream("GET", self.url, headers=headers, timeout=_TIMEOUT_S) as response:
            hf_raise_for_status(response)
            if response.status_code != 206:  # the body, which may be large, is not read
                raise UserError(
                    f"{self.where}: the hub, or a proxy before it, sends only whole files; leave "
                    "out dataset.fraction and dataset.max_documents to download them"
                )
            data: bytes = response.read()
        if len(data) != stop - start:
            raise OSError(f"asked for {stop - start} bytes, got {len(data)}")
        return data

    def _persistently(self, ask: Callable[[], T]) -> T:
        from huggingface_hub.constants import HF_HUB_OFFLINE

        if HF_HUB_OFFLINE:
            raise UserError(f"{self.where} is not in the local cache, and HF_HUB_OFFLINE is set")
        try:
            return persistently(ask, passes=lambda error: self._final(error) is None)
        except Exception as error:  # the HTTP library's errors differ between versions
            raise self._final(error) or UserError(
                f"{self.where} cannot be had from the hub, asked {len(WAITS_S) + 1} times: "
                f"{reason(error)}\n  what came before is kept, so try again"
            ) from None

    def _final(self, error: Exception) -> UserError | None:
        """The error to raise if another attempt would fail too; None if it may succeed."""
        from huggingface_hub import errors

        if isinstance(error, UserError):
            return error
        if not isinstance(error, errors.HfHubHTTPError) or is_busy(error):
            return None
        if error.response.status_code == 404:
            return UserError(
                f"{self.where} is not on the hub (404), though the repo lists it; "
                "try again later, or type another dataset.revision=COMMIT"
            )
        return refused(error, where=self.where) or UserError(
            f"{self.where} cannot be had from the hub: {reason(error)}"
        )


class RemoteParquetFile(ParquetFile):
    """A file on the hub. Its footer and each row group are cached when they are first read."""

    def __init__(self, listing: Listing, path: str, text_column: str) -> None:
        super().__init__(listing.folder / "files" / path, text_column)
        self.listing = listing
        self.in_repo = path
        self.name = f"dataset.repo={listing.repo} {path}"

    def _read_footer(self) -> Any:
        from pyarrow import parquet

        footer = self.path / "footer"
        if not footer.is_file():
            metadata = parquet.read_metadata(self._remote)
            with _made(footer) as partial:
                metadata.write_metadata_file(partial)
        return parquet.read_metadata(footer)

    def _check_groups(self) -> None:
        """Does nothing: the check would download a part of every row group."""

    def _read_groups(self, groups: Sequence[int]) -> Iterator[Any]:
        import pyarrow as pa

        for group in groups:
            path = self.path / f"{group}.{quote(self.text_column, safe='')}.arrow"
            if not path.is_file():
                self._download(group, path, last=groups[-1])
            with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as batches:
                for i in range(batches.num_record_batches):
                    yield batches.get_batch(i).column(0)

    def _download(self, group: int, path: Path, *, last: int) -> None:
        """Write a row group's text to the cache.

        Where the text is most of the file, requests read ahead, up to the end of group `last`.
        """
        import pyarrow as pa

        start, stop = self._span(group)[0], self._span(last)[1]
        text = sum(chunk.total_compressed_size for chunk in self.chunks[group : last + 1])
        self._remote.limit = stop if 2 * text > stop - start else 0
        kind = self.footer.schema.to_arrow_schema().field(self.text_column).type
        if pa.types.is_dictionary(kind):  # the batches are decoded
            kind = kind.value_type
        schema = pa.schema([(self.text_column, kind)])
        zstd = pa.ipc.IpcWriteOptions(compression="zstd")
        with (
            _made(path) as partial,
            pa.OSFile(str(partial), "wb") as sink,
            pa.ipc.new_file(sink, schema, options=zstd) as kept,
        ):
            for array in self._batches(self._remote, [group]):
                kept.write_batch(pa.record_batch([array], schema=schema))

    def _span(self, group: int) -> tuple[int, int]:
        """The byte range of a row group's text in the file."""
        chunk = self.chunks[group]
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        return start, start + chunk.total_compressed_size

    @cached_property
    def _remote(self) -> RemoteFile:
        from huggingface_hub import hf_hub_url

        repo, commit = self.listing.repo, self.listing.commit
        url = hf_hub_url(repo, self.in_repo, repo_type="dataset", revision=commit)
        return RemoteFile(url, where=self.name)


def _repo_folder(repo: str) -> Path:
    from datasets import config

    return Path(config.HF_DATASETS_CACHE) / "tinygpt_rows" / repo.replace("/", "--")


def _slug(name: str | None) -> str:
    return quote(name, safe="") if name else "_default"


@contextmanager
def _made(path: Path) -> Iterator[Path]:
    """A temporary name to write to; a complete file is renamed to `path`.

    The name is this process's own, so that two processes may download the same file. Raises
    UserError if the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        flush(partial)
        rename_durably(partial, path)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise UserError(
            f"the disk of the cache of downloads, {path.parent}, is full; make room, "
            "or set HF_HOME=FOLDER on a larger disk; what came before is kept"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
