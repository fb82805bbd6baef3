"""Some rows of a repo's parquet files: only the row groups that hold them are downloaded, and kept.

The local cache has a folder per repo: in `refs` the commit of each revision that was read, and per
commit the list of files, their footers, and a file for each row group of a column.
"""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tinygpt.components.datasets.hub.http import RemoteFile
from tinygpt.components.datasets.reading.parquet_files import ParquetFile, ParquetRows
from tinygpt.errors import UserError
from tinygpt.files import flush, rename_durably

_PREFIX = "hf://datasets/"


@dataclass(frozen=True)
class Listing:
    """The parquet files of a repo's splits at a commit."""

    repo: str
    commit: str
    files: dict[str, list[str]]  # split -> paths in the repo
    rows: dict[str, int]  # split -> its rows, of those whose number the repo's card tells

    def open(self, split: str, text_column: str) -> ParquetRows:
        """The rows of a split; nothing is downloaded yet."""
        files = self.files[split]
        return ParquetRows([RemoteParquetFile(self, path, text_column) for path in files])

    @property
    def folder(self) -> Path:
        return _repo_folder(self.repo) / self.commit

    def keep(self, subset: str | None, revision: str) -> None:
        """Remember it for a time without network."""
        with _made(self.folder / f"{_slug(subset)}.json") as partial:
            partial.write_text(json.dumps(asdict(self)))
        with _made(_repo_folder(self.repo) / "refs" / _slug(revision)) as partial:
            partial.write_text(self.commit)


def listed(builder: Any, repo: str) -> Listing | None:
    """What a `datasets.DatasetBuilder` of the hub knows; None if its files are not parquet."""
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
    """The listing that the cache has of a branch, tag or commit."""
    folder = _repo_folder(repo)
    commit = revision
    with suppress(OSError):
        commit = (folder / "refs" / _slug(revision)).read_text()
    try:
        return Listing(**json.loads((folder / commit / f"{_slug(subset)}.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


class RemoteParquetFile(ParquetFile):
    """A file of the hub.  Its footer and the row groups that were read are in the cache."""

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
        """Nothing: it would download a part of every row group, and the hub's footers are whole."""

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
        """Keep a row group; up to the last one is read ahead where the text is most of the file."""
        import pyarrow as pa

        start, stop = self._span(group)[0], self._span(last)[1]
        text = sum(chunk.total_compressed_size for chunk in self.chunks[group : last + 1])
        self._remote.limit = stop if 2 * text > stop - start else 0
        kind = self.footer.schema.to_arrow_schema().field(self.text_column).type
        if pa.types.is_dictionary(kind):  # batches hold its values
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
        """Where the text of a row group is in the file."""
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
    """A name to write under; the file gets its own when it is whole.  Raises UserError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        flush(partial)
        rename_durably(partial, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the disk of the cache of downloads, {path.parent}, is full; make room, "
            "or set HF_HOME=FOLDER on a larger disk; what came before is kept"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
