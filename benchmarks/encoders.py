"""Ours and those of others, each from a parquet file of texts to a finished file of token ids.

All of it runs in a process of its own (processes.py), so libraries are imported late.  In every
file an end of text follows each document, ids are 16 bits wide, and the file is on the disk.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.processes import Work
from tinygpt.components.tokenizers.bpe import BPEConfig, BPETokenizer
from tinygpt.interfaces import SPLITS

OURS = "tinygpt"
ROWS = 2000  # of texts that the others read and encode at a time: more is no faster
NANOGPT_WRITES = 1024  # parts in which it writes, as its prepare.py does
EOT = "<|endoftext|>"
HF_FILE, RANKS_FILE = "hf.json", "ranks.json"


@dataclass(frozen=True)
class Job:
    """What everybody is given."""

    name: str
    parquet: Path  # with a column `text`
    trained: Path  # the folder of what was learned from it: our tokenizer, HF_FILE, RANKS_FILE
    vocab_size: int  # end of text included, which is the last id of the others
    cores: int

    def texts(self) -> Iterator[list[str]]:
        """The documents, ROWS at a time."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.parquet) as file:
            for batch in file.iter_batches(ROWS, columns=["text"]):
                yield batch.column(0).to_pylist()


@dataclass
class Trained(BPEConfig):
    """Our BPE, learned before: what is timed is encoding alone."""

    folder: str = ""

    def train(self, documents: Iterator[str]) -> BPETokenizer:
        return self.load(Path(self.folder))


class Encoding(ABC):
    """One of those that encode: a step is a whole file."""

    packages: Sequence[str] = ()

    def __init__(self, job: Job) -> None:
        self.job = job
        self.eot_id = job.vocab_size - 1

    def describe(self) -> dict[str, Any]:
        """Nothing that the parent does not know."""
        return {}

    def device_peak_mem_bytes(self) -> int | None:
        """The memory is that of the process."""
        return None

    def run(self, steps: int) -> dict[str, float]:
        """The last one's figures, `seconds` and `tokens` among them."""
        for _ in range(steps):
            with TemporaryDirectory(prefix="tinygpt-benchmark-") as folder:
                figures = self.timed(Path(folder))
        return figures

    def timed(self, folder: Path) -> dict[str, float]:
        """Figures of one file, made in an empty folder."""
        path = folder / "tokens.bin"
        began = time.perf_counter()
        self.write(path)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "tokens": path.stat().st_size // 2}

    def write(self, path: Path) -> None:
        """Make the file."""
        with path.open("wb") as file:
            for texts in self.job.texts():
                file.write(np.fromiter(chain.from_iterable(self.encoded(texts)), np.uint16).data)
            os.fsync(file.fileno())

    @abstractmethod
    def encoded(self, texts: list[str]) -> Iterator[Sequence[int]]:
        """The ids of each text, end of text after them."""


class TinyGPT(Encoding):
    """`tinygpt.corpus.prepared.prepare` with an empty cache, and all that it does besides."""

    def __init__(self, job: Job) -> None:
        from tinygpt.config.compose import compose

        super().__init__(job)
        typed = ["dataset=text", f"dataset.path={job.parquet}", f"workers={job.cores}"]
        tokenizer = Trained(vocab_size=job.vocab_size, folder=str(job.trained))
        self.cfg = replace(compose("prepare", typed), tokenizer=tokenizer)

    def timed(self, folder: Path) -> dict[str, float]:
        from tinygpt.corpus.prepared import prepare
        from tinygpt.corpus.shards import record_path

        began, began_at = time.perf_counter(), time.time()
        prepared = prepare(replace(self.cfg, cache_dir=str(folder)), print)
        seconds = time.perf_counter() - began
        finished_at = max(  # a record is written when its shard is on the disk
            record_path(prepared.folder, split, shard.index).stat().st_mtime
            for split in SPLITS
            for shard in prepared.splits[split].shards
        )
        return {
            "seconds": finished_at - began_at,
            "tokens": sum(len(prepared.tokens(split)) - 1 for split in SPLITS),
            "whole_s": seconds,
            **self._parts(folder),
        }

    def _parts(self, folder: Path) -> dict[str, float]:
        """Seconds of each part of the work, done alone and by this process only."""
        moments = [time.perf_counter()]
        source = self.cfg.dataset.open()
        texts = [text for split in SPLITS for text in source.documents(split)]
        moments.append(time.perf_counter())
        tokenizer = self.cfg.tokenizer.load(self.job.trained)
        ids = [
            tokenizer.encode_batch(texts[at : at + ROWS]).ids.astype(np.uint16)
            for at in range(0, len(texts), ROWS)
        ]
        moments.append(time.perf_counter())
        with (folder / "tokens.bin").open("wb") as file:
            for part in ids:
                file.write(part.data)
            os.fsync(file.fileno())
        moments.append(time.perf_counter())
        names = ("reading_s", "encoding_s", "writing_s")
        return dict(zip(names, np.diff(moments).tolist(), strict=True))

    def encoded(self, texts: list[str]) -> Iterator[Sequence[int]]:
        raise AssertionError("prepare does it")


class SentencePiece(Encoding):
    """Its own batches and threads, with our model: the same ids."""

    def __init__(self, job: Job) -> None:
        from sentencepiece import SentencePieceProcessor

        super().__init__(job)
        self.processor = SentencePieceProcessor(model_file=str(job.trained / "tokenizer.model"))
        self.eot_id = BPETokenizer.eot_id

    def encoded(self, texts: list[str]) -> Iterator[Sequence[int]]:
        for ids in self.processor.encode(texts, num_threads=self.job.cores):
            yield [*ids, self.eot_id]


class TikToken(Encoding):
    """Its batches on a thread per core, with the merges that `tokenizers` learned."""

    packages = ("tiktoken", "tokenizers")

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.encoding = tiktoken_encoding(job)

    def encoded(self, texts: list[str]) -> Iterator[Sequence[int]]:
        for ids in self.encoding.encode_ordinary_batch(texts, num_threads=self.job.cores):
            ids.append(self.eot_id)
            yield ids


class TikTokenJoined(Encoding):
    """The fastest way of tiktoken that we found: texts joined by an end of text that it may see."""

    packages = TikToken.packages

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.encoding = tiktoken_encoding(job)

    def encoded(self, texts: list[str]) -> Iterator[Sequence[int]]:
        size = len(texts) // (2 * self.job.cores) + 1
        joined = [EOT.join([*texts[at : at + size], ""]) for at in range(0, len(texts), size)]
        yield from self.encoding.encode_batch(
            joined, num_threads=self.job.cores, allowed_special="all"
        )


class RustBPE(Encoding):
    """Its batches on all cores; it loads nothing, so it learns its merges first, untimed."""

    packages = ("rustbpe",)

    def __init__(self, job: Job) -> None:
        import rustbpe

        super().__init__(job)
        self.tokenizer = rustbpe.Tokenizer()
        texts = chain.from_iterable(job.texts())
        self.tokenizer.train_from_iterator(texts, vocab_size=job.vocab_size - 1)

    def encoded(self, texts: list[str]) -> Iterator[Sequence[int]]:
        for ids in self.tokenizer.batch_encode(texts):
            ids.append(self.eot_id)
            yield ids


class HuggingFace(Encoding):
    """`tokenizers`: its batches on all cores, without offsets."""

    packages = ("tokenizers",)

    def __init__(self, job: Job) -> None:
        from tokenizers import Tokenizer

        super().__init__(job)
        self.tokenizer = Tokenizer.from_file(str(job.trained / HF_FILE))

    def encoded(self, texts: list[str]) -> Iterator[Sequence[int]]:
        for encoding in self.tokenizer.encode_batch_fast(texts):
            yield [*encoding.ids, self.eot_id]


class NanoGPT(Encoding):
    """As nanoGPT prepares OpenWebText: `datasets` maps tiktoken over processes, then a memmap."""

    packages = ("datasets", "tiktoken", "tokenizers")

    def write(self, path: Path) -> None:
        from datasets import load_dataset

        encoding, eot_id = tiktoken_encoding(self.job), self.eot_id

        def process(example: dict[str, str]) -> dict[str, Any]:
            ids = [*encoding.encode_ordinary(example["text"]), eot_id]
            return {"ids": ids, "len": len(ids)}

        files, cache = str(self.job.parquet), str(path.parent / "cache")
        dataset = load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
        done = dataset.map(process, remove_columns=["text"], num_proc=self.job.cores)
        length = int(np.sum(done["len"], dtype=np.uint64))
        tokens = np.memmap(path, np.uint16, "w+", shape=(length,))
        writes = min(NANOGPT_WRITES, len(done))
        at = 0
        for index in range(writes):
            shard = done.shard(writes, index, contiguous=True).with_format("numpy")
            part = np.concatenate(shard["ids"])
            tokens[at : at + len(part)] = part
            at += len(part)
        tokens.flush()

    def encoded(self, texts: list[str]) -> Iterator[Sequence[int]]:
        raise AssertionError("datasets does it")


ENCODINGS: dict[str, type[Encoding]] = {
    OURS: TinyGPT,
    "tiktoken": TikToken,
    "tiktoken-joined": TikTokenJoined,
    "rustbpe": RustBPE,
    "sentencepiece": SentencePiece,
    "tokenizers": HuggingFace,
    "nanogpt": NanoGPT,
}


def missing(name: str) -> list[str]:
    """The packages that it needs and that are not installed."""
    return [package for package in ENCODINGS[name].packages if find_spec(package) is None]


def make(job: Job, imported: Callable[[], None]) -> Work:
    """The one of the job's name."""
    imported()
    return ENCODINGS[job.name](job)


def train_peers(texts: list[str], job: Job) -> None:
    """Byte-level BPE as GPT-2's, by `tokenizers`: HF_FILE for itself, RANKS_FILE for tiktoken."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=job.vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(job.trained / HF_FILE))
    byte_of = _byte_of_character()
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda piece: piece[1])
    ranks = [[byte_of[character] for character in piece] for piece, _ in pieces]
    (job.trained / RANKS_FILE).write_text(json.dumps(ranks))


def tiktoken_encoding(job: Job) -> Any:
    """tiktoken with the merges of RANKS_FILE and the words of GPT-2."""
    import json

    from tiktoken import Encoding as TikTokenEncoding
    from tiktoken_ext.openai_public import r50k_pat_str

    pieces = json.loads((job.trained / RANKS_FILE).read_text())
    return TikTokenEncoding(
        "benchmark",
        pat_str=r50k_pat_str,
        mergeable_ranks={bytes(piece): rank for rank, piece in enumerate(pieces)},
        special_tokens={EOT: job.vocab_size - 1},
    )


def _byte_of_character() -> dict[str, int]:
    """GPT-2's way to write bytes: those that can be seen as themselves, others from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + i): b for i, b in enumerate(unseen)}
