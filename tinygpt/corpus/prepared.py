"""Prepared tokens: a cache folder per (dataset, tokenizer), made once, checked when it is opened.

Each split is a stream of token ids: end of text, then every document followed by end of text.
"""

import hashlib
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tinygpt.config import PrepareConfig
from tinygpt.corpus.overlap import Overlap
from tinygpt.corpus.preparation import CONFIG, Preparation, keep_config
from tinygpt.corpus.shards import (
    Shard,
    ShardedArray,
    SplitInfo,
    documents_of,
    first_damage,
    json_sha256,
    path_of,
    read_sealed,
    tokens_of,
)
from tinygpt.errors import UserError
from tinygpt.interfaces import SPLITS, Split, TextSource, Tokenizer

FORMAT = 2  # increase it when the files' format changes; old caches are then not used

Say = Callable[[str], None]


class Damaged(UserError):
    """A file of prepared tokens differs from what was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"{path} is damaged: it is not what was written")


class Prepared:
    """A folder of prepared tokens; opening it reads every file once, to check it.

    Raises Damaged for the first file that differs from what was written.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        manifest = read_sealed(folder / "manifest.json")
        if manifest is None:
            raise Damaged(folder / "manifest.json")
        self.manifest: dict[str, Any] = manifest
        if tokenizer.fingerprint() != manifest["tokenizer_fingerprint"]:
            raise Damaged(folder / "tokenizer")
        self.overlap = Overlap.from_dict(manifest["overlap"])
        self.splits: dict[Split, SplitInfo] = {}
        for split in SPLITS:
            self.splits[split] = SplitInfo.from_dict(manifest["splits"][split])
            for shard in self.splits[split].shards:
                if path := first_damage(folder, split, shard):
                    raise Damaged(path)

    def tokens(self, split: Split) -> ShardedArray:
        """All token ids of a split, memory-mapped: (tokens,)."""
        return tokens_of(self.folder, split, self.splits[split].shards, self.manifest["dtype"])

    def document_ends(self, split: Split) -> ShardedArray:
        """Tokens and UTF-8 bytes up to each document's end, memory-mapped: (documents, 2)."""
        return documents_of(self.folder, split, self.splits[split].shards)

    def documents(self, split: Split, *, limit: int | None = None) -> Iterator[str]:
        """The texts of a split from its beginning, up to `limit` documents, read lazily."""
        tokens, ends = self.tokens(split), self.document_ends(split)
        start = 1  # a split begins with end of text
        for number in range(min(len(ends), len(ends) if limit is None else limit)):
            end = int(ends[number, 0])
            yield self.tokenizer.decode(tokens[start : end - 1].tolist())
            start = end

    def text_checksum(self, split: Split, documents: int) -> str:
        """sha256 hex of the texts of a split's first documents, for any tokenizer."""
        digest, left = hashlib.sha256(), 8 * documents
        for shard in self.splits[split].shards:
            with path_of(self.folder, split, shard.index, "digests").open("rb") as file:
                data = file.read(left)
            digest.update(data)
            left -= len(data)
        return digest.hexdigest()


def prepare(cfg: PrepareConfig, say: Say, *, repair: bool = False) -> Prepared:
    """Open the prepared tokens of a config, or make them under a lock.

    Raises UserError for text that cannot be read or used, for a disk that is too small, and for
    damaged tokens; with `repair`, damaged files are made again instead.
    """
    source = cfg.dataset.open()
    identity = _identity(cfg, source)
    folder = _folder(cfg, identity)
    try:
        if prepared := _opened(cfg, folder):
            return prepared
    except Damaged as damaged:
        if not repair:
            command = _command(cfg, folder)
            raise UserError(f"{damaged}; to make it again type\n  {command}") from None
        say(f"{damaged.path} is damaged")
    with _locked(cfg, folder, say):
        with suppress(Damaged):
            if prepared := _opened(cfg, folder):  # made by the process that held the lock before
                return prepared
        Preparation(cfg, source, folder=folder, identity=identity, say=say).run()
    prepared = _opened(cfg, folder)
    assert prepared
    return prepared


def beginning(folder: Path, split: Split, n: int, *, checksum: str) -> list[int] | None:
    """The first n tokens of a split, fewer if it is shorter; reads no more files than they need.

    None if the folder is not there, is damaged, or has a split with another checksum.
    """
    manifest = read_sealed(folder / "manifest.json")
    if manifest is None:
        return None
    info = SplitInfo.from_dict(manifest["splits"][split])
    if info.checksum != checksum:
        return None
    shards: list[Shard] = []
    for shard in info.shards:
        if sum(s.tokens for s in shards) >= n:
            break
        shards.append(shard)
    if any(first_damage(folder, split, shard) for shard in shards):
        return None
    tokens: list[int] = tokens_of(folder, split, shards, manifest["dtype"])[:n].tolist()
    return tokens


def folder_of(cfg: PrepareConfig, source: TextSource) -> Path:
    """The cache folder of these tokens; its name is a hash of everything that determines them."""
    return _folder(cfg, _identity(cfg, source))


def _identity(cfg: PrepareConfig, source: TextSource) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "dataset": {"name": cfg.dataset.name, **source.identity},
        "tokenizer": cfg.tokenizer.identity,
    }


def _folder(cfg: PrepareConfig, identity: Mapping[str, Any]) -> Path:
    cache = Path(cfg.cache_dir).expanduser().absolute()
    return cache / cfg.dataset.name / f"{cfg.tokenizer.name}-{json_sha256(identity)[:12]}"


def _opened(cfg: PrepareConfig, folder: Path) -> Prepared | None:
    """The tokens, or None if they were never finished; raises Damaged."""
    if not (folder / "manifest.json").is_file():
        return None
    try:
        tokenizer = cfg.tokenizer.load(folder / "tokenizer")
    except UserError:
        raise Damaged(folder / "tokenizer") from None
    return Prepared(folder, tokenizer)


@contextmanager
def _locked(cfg: PrepareConfig, folder: Path, say: Say) -> Iterator[None]:
    """A lock on the folder: one process works on it, and the others wait."""
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        say(f"another process is preparing {folder}; waiting for it")
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"cache_dir={cfg.cache_dir} cannot be written ({error.strerror}); type cache_dir=FOLDER"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _command(cfg: PrepareConfig, folder: Path) -> str:
    """The command that repairs a damaged folder."""
    with suppress(OSError):  # then the config from when it was made remains
        keep_config(cfg, folder)
    setting = shlex.quote(f"config_file={folder / CONFIG}")
    return f"python -m tinygpt.prepare {setting}"
