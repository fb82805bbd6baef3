"""Encode documents on every core: worker processes take batches and return them in order.

Workers are plain child processes that talk over pipes. They import the tokenizer and what it needs,
but not torch, and not the main module, which may be a script without an `if __name__` guard. They
end when their parent ends, for whatever reason, because their pipe then closes.
"""

import json
import os
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.machinery import PathFinder
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tinygpt.corpus.overlap import digests
from tinygpt.errors import UserError
from tinygpt.interfaces import Tokenizer, TokenizerConfig, utf8_length

BATCH_BYTES = 1 << 20  # about how much text is encoded at a time: bounds memory
_ALONE_S = 2.0  # of work before workers start; starting them takes over a second
_PER_WORKER = 2  # batches sent ahead to each worker: bounds memory
_COUNT = struct.Struct("<Q")


@dataclass(frozen=True)
class Texts:
    """Documents that are encoded together."""

    shard: int  # the shard they belong to
    read: int  # documents read from the source, including empty ones
    texts: list[str]
    utf8: bytes  # of all texts


@dataclass(frozen=True)
class Batch:
    """The tokens of some texts."""

    tokens: npt.NDArray[np.unsignedinteger]  # (tokens,): each text followed by end of text
    lengths: npt.NDArray[np.int64]  # (texts,): tokens of each, including end of text
    utf8_bytes: npt.NDArray[np.int64]  # (texts,)
    digests: npt.NDArray[np.uint64]  # (texts,)


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Encoder:
    """Encodes in this process; after two seconds of work it starts `workers` more."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        cfg: TokenizerConfig,
        folder: Path,
        dtype: np.dtype[Any],
        workers: int,
    ) -> None:
        self._tokenizer, self._dtype = tokenizer, dtype
        cls = type(cfg)
        self._introduction = {
            "module": cls.__module__,
            "class": cls.__qualname__,
            "fields": asdict(cfg),
            "folder": str(folder),  # where `tokenizer` was saved
            "dtype": dtype.str,
        }
        importable = PathFinder.find_spec(cls.__module__.partition(".")[0]) is not None
        self._workers = workers if importable else 1
        self._spent_s = 0.0
        self._children: list[_Child] = []
        self._idle: SimpleQueue[_Child] = SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> "Encoder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for child in self._children:
            child.kill()
        if self._threads:
            self._threads.shutdown(cancel_futures=True)

    def encoded(self, batches: Iterable[Texts]) -> Iterator[tuple[Texts, Batch]]:
        """Each batch with its tokens, in order; reads a few batches ahead."""
        ahead: deque[tuple[Texts, Future[Batch]]] = deque()
        for texts in batches:
            if self._threads is None:
                began = time.perf_counter()
                batch = encode(self._tokenizer, texts.texts, self._dtype)
                self._spent_s += time.perf_counter() - began
                if self._spent_s >= _ALONE_S and self._workers > 1:
                    self._start()
                yield texts, batch
                continue
            ahead.append((texts, self._threads.submit(self._encode, texts)))
            while len(ahead) > _PER_WORKER * self._workers or (ahead and ahead[0][1].done()):
                first, future = ahead.popleft()
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()

    def _start(self) -> None:
        for _ in range(self._workers):
            self._children.append(_Child(self._introduction))
            self._idle.put(self._children[-1])
        self._threads = ThreadPoolExecutor(self._workers)

    def _encode(self, texts: Texts) -> Batch:
        child = self._idle.get()
        try:
            return child.encode(texts)
        finally:
            self._idle.put(child)


def encode(tokenizer: Tokenizer, texts: list[str], dtype: np.dtype[Any]) -> Batch:
    """Encode texts, with end of text after each."""
    encoded = tokenizer.encode_batch(texts)
    ends = np.cumsum(encoded.lengths)
    tokens = np.insert(encoded.ids.astype(dtype), ends, tokenizer.eot_id)
    utf8_bytes = np.fromiter(map(utf8_length, texts), np.int64, len(texts))
    return Batch(tokens, encoded.lengths + 1, utf8_bytes, digests(texts))


class _Child:
    """The parent's handle of a worker process."""

    def __init__(self, introduction: Mapping[str, Any]) -> None:
        paths = [path or str(Path.cwd()) for path in sys.path]
        self._dtype = introduction["dtype"]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tinygpt.corpus.encoding"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            pipesize=BATCH_BYTES,
            process_group=0,  # Ctrl-C reaches the parent only, which then ends the worker
        )
        assert self._process.stdin
        assert self._process.stdout
        self._requests, self._replies = self._process.stdin, self._process.stdout
        with suppress(BrokenPipeError):  # the missing first reply reports it
            self._requests.write(json.dumps(introduction).encode() + b"\n")

    def encode(self, texts: Texts) -> Batch:
        """Raises UserError for texts that the tokenizer refuses, and if the worker has died."""
        characters = np.fromiter(map(len, texts.texts), np.int64, len(texts.texts))
        try:
            _write(self._requests, characters, texts.utf8)
            complaint = _read(self._replies)
            if complaint:
                raise UserError(complaint.decode())
            tokens, lengths, utf8_bytes, hashes = (_read(self._replies) for _ in range(4))
        except (BrokenPipeError, EOFError):
            code = self._process.wait()
            reason = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise UserError(
                f"a process that encodes {reason}; if memory was short, type workers=1, "
                "and the work goes on where it was"
            ) from None
        return Batch(
            np.frombuffer(tokens, self._dtype),
            np.frombuffer(lengths, np.int64),
            np.frombuffer(utf8_bytes, np.int64),
            np.frombuffer(hashes, "<u8"),
        )

    def kill(self) -> None:
        """Kill the worker; no data is lost."""
        self._process.kill()
        self._process.wait()


def _serve() -> None:
    """The worker's loop: read batches and reply until the pipe closes."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a tokenizer prints goes to stderr, because stdout carries replies
    requests = sys.stdin.buffer
    introduction = requests.readline()
    if not introduction:  # the parent has already ended
        return
    about = json.loads(introduction)
    config_class = getattr(import_module(about["module"]), about["class"])
    tokenizer = config_class(**about["fields"]).load(Path(about["folder"]))
    dtype = np.dtype(about["dtype"])
    with suppress(EOFError, BrokenPipeError):
        while True:
            ends = np.cumsum(np.frombuffer(_read(requests), np.int64)).tolist()
            text = str(_read(requests), "utf-8", "surrogatepass")
            texts = [text[start:end] for start, end in pairwise([0, *ends])]
            try:
                batch = encode(tokenizer, texts, dtype)
            except UserError as error:
                _write(replies, str(error).encode())
                return
            _write(replies, b"", batch.tokens, batch.lengths, batch.utf8_bytes, batch.digests)


def _write(pipe: IO[bytes], *parts: bytes | npt.NDArray[Any]) -> None:
    for part in parts:
        data = part if isinstance(part, bytes) else part.data.cast("B")
        pipe.write(_COUNT.pack(len(data)))
        pipe.write(data)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes:
    """Read one message; raises EOFError if the other process has ended."""
    header = pipe.read(_COUNT.size)
    n = _COUNT.unpack(header)[0] if len(header) == _COUNT.size else 1
    data = pipe.read(n)
    if len(data) < n:
        raise EOFError
    return data


if __name__ == "__main__":
    _serve()
