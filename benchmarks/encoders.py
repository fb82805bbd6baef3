"""Encoders of tinygpt and other projects, from a parquet file of texts to a file of token ids.

Each runs in its own process (processes.py), so libraries are imported inside functions. In every
output file an end of text follows each document, ids have 16 bits, and the file is flushed to disk.
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
ROWS = 2000  # texts that other projects read and encode at a time; more is not faster
NANOGPT_WRITES = 1024  # parts that nanoGPT's prepare.py writes
EOT = "<|endoftext|>"
HF_FILE, RANKS_FILE = "hf.json", "ranks.json"


@dataclass(frozen=True)
class Job:
    """The input of every encoder."""

    name: str
    parquet: Path  # with a column `text`
    trained: Path  # folder with trained tokenizers: ours, HF_FILE, RANKS_FILE
    vocab_size: int  # including end of text, which is the last id in other projects
    cores: int

    def texts(self) -> Iterator[list[str]]:
        """The documents, ROWS at a time."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.parquet) as file:
            for batch in file.iter_batches(ROWS, columns=["text"]):
                yield batch.column(0).to_pylist()


@dataclass
class Trained(BPEConfig):
    """Our BPE, trained in advance, so that only encoding is timed."""

    folder: str = ""

    def train(self, documents: Iterator[str]) -> BPETokenizer:
        return self.load(Path(self.folder))


class Encoding(ABC):
    """Base class of the encoders; one step encodes the whole file."""

    packages: Sequence[str] = ()

    def __init__(self, job: Job) -> None:
        self.job = job
        self.eot_id = job.vocab_size - 1

    def describe(self) -> dict[str, Any]:
        """Empty: the parent knows everything already."""
        return {}

    def device_peak_mem_bytes(self) -> int | None:
        """None: encoding uses no device memory."""
        return None

    def run(self, steps: int) -> dict[str, float]:
        """Encode the file `steps` times; returns the last figures, with `seconds` and `tokens`."""
        for _ in range(steps):
            with TemporaryDirectory(prefix="tinygpt-benchmark-") as folder:
                figures = self.timed(Path(folder))
        return figures

    def timed(self, folder: Path) -> dict[str, float]:
        """Encode one file in an empty folder and return its figures."""
        path = folder / "tokens.bin"
        began = time.perf_counter()
        self.write(path)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "tokens": path.stat().st_size // 2}

    def write(self, path: Path) -> None:
        """Write the file of token ids."""
        with path.open("wb") as file:
            for texts in self.job.texts():
                file.write(np.fromiter(chain.from_iterable(self.encoded(texts)), np.uint16).data)
            os.fsync(file.fileno())

    @abstractmethod
    def encoded(self, texts: list[str]) -> Iterator[Sequence[int]]:
        """Yield the ids of each text, followed by end of text."""


class TinyGPT(Encoding):
    """All of `tinygpt.corpus.prepared.prepare` with an empty cache, timed until its last shard."""

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
        finished_at = max(  # a shard's record is written once the shard is on disk
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
        """Seconds for each part of the work, run separately in this process alone."""
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
    """sentencepiece with its own batches and threads and our model, so it gives the same ids."""

    def __init__(self, job: Job) -> None:
        from sentencepiece import SentencePieceProcessor

        super().__init__(job)
        self.processor = SentencePieceProcessor(model_file=str(job.trained / "tokenizer.model"))
        self.eot_id = BPETokenizer.eot_id

    def encoded(self, texts: list[str]) -> Iterator[Sequence[int]]:
        for ids in self.processor.encode(texts, num_threads=self.job.cores):
            yield [*ids, self.eot_id]


class TikToken(Encoding):
    """tiktoken's batches on one thread per core, with the merges that `tokenizers` learned."""

    packages = ("tiktoken", "tokenizers")

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.encoding = tiktoken_encoding(job)

    def encoded(self, texts: list[str]) -> Iterator[Sequence[int]]:
        for ids in self.encoding.encode_ordinary_batch(texts, num_threads=self.job.cores):
            ids.append(self.eot_id)
            yield ids


class TikTokenJoined(Encoding):
    """The fastest use of tiktoken that we found: encodes texts joined by an end-of-text token."""

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
    """rustbpe's batches on all cores; it cannot load merges, so it learns them first, untimed."""

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
    """`tokenizers` with its batches on all cores, without offsets."""

    packages = ("tokenizers",)

    def __init__(self, job: Job) -> None:
        from tokenizers import Tokenizer

        super().__init__(job)
        self.tokenizer = Tokenizer.from_file(str(job.trained / HF_FILE))

    def encoded(self, texts: list[str]) -> Iterator[Sequence[int]]:
        for encoding in self.tokenizer.encode_batch_fast(texts):
            yield [*encoding.ids, self.eot_id]


class NanoGPT(Encoding):
    """nanoGPT's way for OpenWebText: `datasets` maps tiktoken over processes, then a memmap."""

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
    """The packages that an encoder needs and that are not installed."""
    return [package for package in ENCODINGS[name].packages if find_spec(package) is None]


def make(job: Job, imported: Callable[[], None]) -> Work:
    """Build the encoder that the job names."""
    imported()
    return ENCODINGS[job.name](job)


def train_peers(texts: list[str], job: Job) -> None:
    """Train GPT-2's byte-level BPE with `tokenizers`; writes HF_FILE and tiktoken's RANKS_FILE."""
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
    """tiktoken with the merges in RANKS_FILE and GPT-2's pattern for splitting words."""
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
    """GPT-2's byte alphabet: printable bytes map to themselves, other bytes to U+0100 and up."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + i): b for i, b in enumerate(unseen)}
