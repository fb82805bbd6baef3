"""Prepare tokens shard by shard: finished shards are kept if the work is interrupted.

The work happens in a folder with a temporary name, which is renamed when it is complete.
"""

import errno
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import tinygpt
from tinygpt import config
from tinygpt.config import PrepareConfig
from tinygpt.corpus import overlap
from tinygpt.corpus.disk import Disk
from tinygpt.corpus.encoding import Encoder, cores
from tinygpt.corpus.overlap import Overlap
from tinygpt.corpus.progress import Progress
from tinygpt.corpus.sharding import NoText, Sharding
from tinygpt.corpus.shards import (
    SplitInfo,
    documents_at,
    json_sha256,
    path_of,
    read_sealed,
    write_sealed,
)
from tinygpt.errors import UserError
from tinygpt.files import flush, partial_name, rename_durably
from tinygpt.interfaces import SPLITS, Split, TextSource, Tokenizer

CONFIG = "config.yaml"

Say = Callable[[str], None]


class Preparation:
    """Prepares one folder of tokens; needs the folder's lock."""

    def __init__(
        self,
        cfg: PrepareConfig,
        source: TextSource,
        *,
        folder: Path,
        identity: Mapping[str, Any],  # everything that determines the tokens
        say: Say,
    ) -> None:
        self.cfg, self.source, self.identity, self.say = cfg, source, identity, say
        self.folder = folder
        self.partial = partial_name(folder)
        self._state = self.partial / "state.json"

    def run(self) -> None:
        """Do the remaining work, then rename the folder to its final name.

        Raises UserError for text that cannot be used and for a disk that is too small.
        """
        began = time.monotonic()
        self.say(f"preparing {self.cfg.dataset.name} as {self.cfg.tokenizer.name} tokens")
        if amount := self.cfg.dataset.amount():
            self.say(f"  {amount}")
        if self.folder.exists():  # a file in it is damaged, or its manifest is missing
            shutil.rmtree(self.partial, ignore_errors=True)
            self.folder.rename(self.partial)
        self.partial.mkdir(exist_ok=True)
        try:
            self.disk = Disk(self.cfg.cache_dir, self.partial, self.source)
            with self._full_disk_explained():
                manifest = self._manifest()
                keep_config(self.cfg, self.partial)
                write_sealed(self.partial / "manifest.json", manifest)
                rename_durably(self.partial, self.folder)
        except NoText:
            shutil.rmtree(self.partial)
            raise
        finally:
            if self.partial.exists() and not self._state.exists():  # nothing to continue from
                shutil.rmtree(self.partial)
        self.say(f"prepared {self.folder} in {time.monotonic() - began:.1f} s")

    def _manifest(self) -> dict[str, Any]:
        self.say(f"  {self.disk.estimate()}")
        self._check_splits()
        provenance = self.source.provenance()
        tokenizer = self._tokenizer(key=json_sha256({**self.identity, "provenance": provenance}))
        dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        with Encoder(
            tokenizer,
            cfg=self.cfg.tokenizer,
            folder=self.partial / "tokenizer",
            dtype=dtype,
            workers=self.cfg.workers or cores(),
        ) as encoder:
            splits = {
                split: Sharding(
                    split, self.source, folder=self.partial, disk=self.disk, say=self.say
                ).run(encoder)
                for split in SPLITS
            }
        return {
            **self.identity,
            "provenance": provenance,
            "tokenizer_fingerprint": tokenizer.fingerprint(),
            "vocab_size": tokenizer.vocab_size,
            "eot_id": tokenizer.eot_id,
            "dtype": dtype.str,
            "splits": {split: asdict(info) for split, info in splits.items()},
            "overlap": self._overlap(splits, tokenizer, dtype).to_dict(),
            "tinygpt": tinygpt.__version__,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _check_splits(self) -> None:
        """Raise UserError for a split without documents before any text is encoded."""
        for split in ("validation", "train"):
            if next(self.source.documents(split), None) is None:
                raise NoText(split)

    def _tokenizer(self, *, key: str) -> Tokenizer:
        """The tokenizer of the finished shards; if there is none, a new one and no shards."""
        folder = self.partial / "tokenizer"
        state = read_sealed(self._state)
        if state and state["key"] == key:
            try:
                tokenizer = self.cfg.tokenizer.load(folder)
                if tokenizer.fingerprint() == state["tokenizer_fingerprint"]:
                    self.say("  going on from what is finished")
                    return tokenizer
            except UserError:
                pass  # damaged; the same text makes the same tokenizer
        elif state:
            self.say("  the text has changed since this was begun: starting over")
        n_documents = self.source.n_documents("train")
        with Progress("vocabulary", self.say, n_documents=n_documents) as progress:
            tokenizer = self.cfg.tokenizer.train(self._train_documents(progress))
        is_learned = getattr(self.cfg.tokenizer, "path", None) is None
        asked = getattr(self.cfg.tokenizer, "vocab_size", None) if is_learned else None
        if isinstance(asked, int) and tokenizer.vocab_size < asked:
            self.say(
                f"  the text supports a vocabulary of {tokenizer.vocab_size:,}, not of {asked:,}"
            )
        elif asked == "auto":
            self.say(f"  tokenizer.vocab_size=auto: {tokenizer.vocab_size:,}")
        new_state = {"key": key, "tokenizer_fingerprint": tokenizer.fingerprint()}
        if state != new_state:
            shutil.rmtree(self.partial)
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder)
        for path in folder.iterdir():
            flush(path)
        write_sealed(self._state, new_state)
        return tokenizer

    def _train_documents(self, progress: Progress) -> Iterator[str]:
        """The documents that a vocabulary is learned from; some tokenizers read none."""
        self.say("  reading the text for the vocabulary; then it is read again to encode it")
        for document in self.source.documents("train"):
            progress.add(1, len(document))  # bytes, where text is mostly ASCII
            yield document

    def _overlap(
        self, splits: Mapping[Split, SplitInfo], tokenizer: Tokenizer, dtype: np.dtype[Any]
    ) -> Overlap:
        """Counts of documents repeated in train, and of validation documents that are in train."""

        def digests(split: Split) -> list[Path]:
            shards = splits[split].shards
            return [path_of(self.partial, split, shard.index, "digests") for shard in shards]

        def sampled(split: Split, limit: int) -> Iterator[str]:
            shards, drawn = splits[split].shards, overlap.sample(splits[split].documents, limit)
            for ids in documents_at(drawn, self.partial, split, shards, dtype.str):
                # in a rare spelling a character has a few tokens
                yield tokenizer.decode(ids[: 4 * overlap.LONGEST].tolist())

        copies, in_train = overlap.count_copies(digests("train"), digests("validation"))
        sampled_train, sampled_validation, sharing = overlap.count_sharing(
            sampled("train", overlap.TRAIN_SAMPLE),
            sampled("validation", overlap.VALIDATION_SAMPLE),
        )
        return Overlap(
            train_documents=splits["train"].documents,
            train_copies=copies,
            validation_documents=splits["validation"].documents,
            validation_in_train=in_train,
            sampled_train=sampled_train,
            sampled_validation=sampled_validation,
            sampled_sharing=sharing,
        )

    @contextmanager
    def _full_disk_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise self.disk.full() from None


def keep_config(cfg: PrepareConfig, folder: Path) -> None:
    """Write the config of the tokens; `config_file=` with it prepares them again."""
    values = {f.name: getattr(cfg, f.name) for f in fields(PrepareConfig)}
    values["cache_dir"] = str(Path(cfg.cache_dir).expanduser().absolute())
    (folder / CONFIG).write_text(config.to_yaml(PrepareConfig(**values)), encoding="ascii")
