"""Prepared tokens: a cache folder per (dataset, tokenizer), built once and never half-visible.

Each split is one file of token ids: end of text, then every document followed by end of text.
A second file holds, per document, where it ends: (tokens, UTF-8 bytes) so far, as int64 pairs.
"""

import errno
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

import tinygpt
from tinygpt.config import PrepareConfig
from tinygpt.errors import UserError
from tinygpt.interfaces import SPLITS, Split, TextSource, Tokenizer, utf8_length

FORMAT = 1  # raise it when the files below change, and old caches are left alone
_BATCH_BYTES = 1 << 20  # text encoded at a time: bounds memory
_REPORT_EVERY_S = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class SplitInfo:
    """What the manifest says of one split."""

    documents: int
    tokens: int  # the leading end of text included
    utf8_bytes: int  # of the documents; end of text has none
    tokens_sha256: str
    documents_sha256: str
    entropy_bits: float | None  # the sum of -log2 P(document), where P is known

    @property
    def floor_bpb(self) -> float | None:
        """Bits per byte that no model can be expected to beat."""
        return self.entropy_bits / self.utf8_bytes if self.entropy_bits is not None else None


class Prepared:
    """An existing folder of prepared tokens; opening it verifies its checksums."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.manifest = _read_manifest(folder)
        if tokenizer.fingerprint() != self.manifest["tokenizer_fingerprint"]:
            raise _damaged(folder / "tokenizer")
        self.splits: dict[Split, SplitInfo] = {
            split: SplitInfo(**self.manifest["splits"][split]) for split in SPLITS
        }
        for split, info in self.splits.items():
            for path, expected in (
                (self._tokens_path(split), info.tokens_sha256),
                (self._documents_path(split), info.documents_sha256),
            ):
                if not path.is_file() or _sha256(path) != expected:
                    raise _damaged(path)

    def _tokens_path(self, split: Split) -> Path:
        return self.folder / f"{split}.tokens.bin"

    def _documents_path(self, split: Split) -> Path:
        return self.folder / f"{split}.documents.bin"

    def tokens(self, split: Split) -> npt.NDArray[np.unsignedinteger]:
        """All token ids of a split, memory-mapped: (tokens,)."""
        return np.memmap(self._tokens_path(split), dtype=self.manifest["dtype"], mode="r")

    def document_ends(self, split: Split) -> npt.NDArray[np.int64]:
        """Per document, tokens and UTF-8 bytes up to and with it, memory-mapped: (documents, 2)."""
        ends = np.memmap(self._documents_path(split), dtype="<i8", mode="r")
        return ends.reshape(-1, 2)


def prepare(cfg: PrepareConfig, say: Say) -> Prepared:
    """The prepared tokens of a config: opened if they exist, else made, whoever comes first.

    Raises UserError for text that cannot be had or used, and for tokens that are damaged.
    """
    source = cfg.dataset.open()
    folder = _folder(cfg, source)
    if not (folder / "manifest.json").is_file():
        lock = FileLock(folder.with_name(folder.name + ".lock"))
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            say(f"another process is preparing {folder}; waiting for it")
            lock.acquire()
        except OSError as error:
            raise UserError(
                f"cache_dir={cfg.cache_dir} cannot be written ({error.strerror}); "
                "type cache_dir=FOLDER"
            ) from None
        try:
            if not (folder / "manifest.json").is_file():
                _build(cfg, source, folder, say)
        finally:
            lock.release()
    try:
        tokenizer = cfg.tokenizer.load(folder / "tokenizer")
    except UserError:
        raise _damaged(folder / "tokenizer") from None
    return Prepared(folder, tokenizer)


def _folder(cfg: PrepareConfig, source: TextSource) -> Path:
    """Where the tokens of this config are kept: named by everything that determines them."""
    key = _json_sha256(_identity(cfg, source))
    cache = Path(cfg.cache_dir).expanduser().absolute()
    return cache / cfg.dataset.name / f"{cfg.tokenizer.name}-{key[:12]}"


def _identity(cfg: PrepareConfig, source: TextSource) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "dataset": {"name": cfg.dataset.name, **source.identity},
        "tokenizer": asdict(cfg.tokenizer),
    }


def _build(cfg: PrepareConfig, source: TextSource, folder: Path, say: Say) -> None:
    """Write everything under another name and rename it at the end; the lock is held."""
    partial = folder.with_name(folder.name + ".partial")
    for leftover in (partial, folder):  # of a process that died; a folder without its manifest
        shutil.rmtree(leftover, ignore_errors=True)
    (partial / "tokenizer").mkdir(parents=True)
    started = time.monotonic()
    try:
        say(f"preparing {cfg.dataset.name} as {cfg.tokenizer.name} tokens: learning the vocabulary")
        tokenizer = cfg.tokenizer.train(source.documents("train"))
        tokenizer.save(partial / "tokenizer")
        dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        splits = {
            split: asdict(_write_split(source, split, tokenizer, dtype, partial, say))
            for split in SPLITS
        }
        manifest = {
            **_identity(cfg, source),
            "provenance": source.provenance(),
            "tokenizer_fingerprint": tokenizer.fingerprint(),
            "vocab_size": tokenizer.vocab_size,
            "eot_id": tokenizer.eot_id,
            "dtype": dtype.str,
            "splits": splits,
            "tinygpt": tinygpt.__version__,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        sealed = manifest | {"manifest_sha256": _json_sha256(manifest)}
        (partial / "manifest.json").write_text(json.dumps(sealed, indent=2))
        partial.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(folder.parent).free / 1e9
        raise UserError(
            f"the disk of cache_dir={cfg.cache_dir} is full ({free:.1f} GB free); "
            "type cache_dir=FOLDER on a larger disk"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    say(f"prepared {folder} in {time.monotonic() - started:.1f} s")


def _write_split(
    source: TextSource,
    split: Split,
    tokenizer: Tokenizer,
    dtype: np.dtype[Any],
    folder: Path,
    say: Say,
) -> SplitInfo:
    """Encode one split into its two files."""
    n_documents = source.n_documents(split)
    token_hash, document_hash = hashlib.sha256(), hashlib.sha256()
    documents, tokens, utf8_bytes = 0, 1, 0
    eot = np.array([tokenizer.eot_id], dtype)
    next_report = time.monotonic() + _REPORT_EVERY_S
    with (
        (folder / f"{split}.tokens.bin").open("wb") as token_file,
        (folder / f"{split}.documents.bin").open("wb") as document_file,
    ):
        token_hash.update(eot.tobytes())
        token_file.write(eot.tobytes())
        for texts, sizes in _batches(source.documents(split)):
            ids = tokenizer.encode_batch(texts)
            lengths = np.array([len(document) + 1 for document in ids])
            ends = np.empty((len(texts), 2), "<i8")
            ends[:, 0] = tokens + np.cumsum(lengths)
            ends[:, 1] = utf8_bytes + np.cumsum(sizes)
            data = np.concatenate([part for document in ids for part in (document, eot)])
            for file, digest, content in (
                (token_file, token_hash, data.astype(dtype).tobytes()),
                (document_file, document_hash, ends.tobytes()),
            ):
                file.write(content)
                digest.update(content)
            documents += len(texts)
            tokens, utf8_bytes = int(ends[-1, 0]), int(ends[-1, 1])
            if time.monotonic() > next_report:
                next_report = time.monotonic() + _REPORT_EVERY_S
                of = f" of {n_documents:,}" if n_documents else ""
                say(f"  {split}: {documents:,}{of} documents, {utf8_bytes / 1e6:,.0f} MB")
    if not documents:
        raise UserError(f"the {split} split holds no text; give it some or choose another dataset")
    say(
        f"  {split}: {documents:,} documents, {tokens:,} tokens, {utf8_bytes / 1e6:,.1f} MB of text"
    )
    return SplitInfo(
        documents=documents,
        tokens=tokens,
        utf8_bytes=utf8_bytes,
        tokens_sha256=token_hash.hexdigest(),
        documents_sha256=document_hash.hexdigest(),
        entropy_bits=source.entropy_bits(split),
    )


def _batches(documents: Iterator[str]) -> Iterator[tuple[list[str], list[int]]]:
    """Documents and their UTF-8 sizes, about _BATCH_BYTES at a time; empty ones are left out."""
    texts: list[str] = []
    sizes: list[int] = []
    total = 0
    for document in documents:
        if document:
            texts.append(document)
            sizes.append(utf8_length(document))
            total += sizes[-1]
        if total >= _BATCH_BYTES:
            yield texts, sizes
            texts, sizes, total = [], [], 0
    if texts:
        yield texts, sizes


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        if manifest.pop("manifest_sha256") != _json_sha256(manifest):
            raise ValueError
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise _damaged(path) from None
    return manifest


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path} is damaged: it is not what was written; "
        f"remove the folder {path.parent} and it will be prepared again"
    )


def _json_sha256(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
