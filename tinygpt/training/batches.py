"""The tokens of a step: a pure function of (seed, step), so no position needs saving.

B sequences, T tokens per sequence.  A window is T + 1 tokens, of which all but the first are
predicted.  Packed windows overlap by one, so that every token but the first is predicted once, and
each epoch cuts the text at other places; document windows begin with a document.  Each epoch visits
every window once, in its own order.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tinygpt.errors import UserError
from tinygpt.interfaces import Split

_ROUNDS = 12  # of the Feistel network; with 4, permutations of ten windows are not uniform
_U64 = np.uint64
_BLOCK = 64  # documents that are cut into windows together; each block takes 8 bytes
_BLOCKS_AT_ONCE = 1024
_STEPS_AT_ONCE = 64

T = TypeVar("T")
Ids = npt.NDArray[np.int64]


class Numbers(Protocol):
    """An array of numbers, in memory or on disk."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: Any) -> npt.NDArray[Any]: ...


class _Vocabulary(Protocol):
    @property
    def vocab_size(self) -> int: ...
    @property
    def eot_id(self) -> int: ...


class _Split(Protocol):
    @property
    def floor_bpb(self) -> float | None: ...


class TokenData(Protocol):
    """What a trainer reads of prepared tokens, which `corpus.prepared.Prepared` describes."""

    @property
    def tokenizer(self) -> _Vocabulary: ...
    @property
    def splits(self) -> Mapping[Split, _Split]: ...
    def tokens(self, split: Split) -> Numbers: ...
    def document_ends(self, split: Split) -> Numbers: ...
    def text_checksum(self, split: Split, documents: int) -> str: ...


class TrainBatches:
    """The training windows of a token stream, shuffled anew each epoch without replacement.

    With `document_ends`, as in prepared tokens, windows begin at documents. Without, those of each
    epoch but the first are moved by a random part of a window, so that a token that repeats is
    predicted from other tokens before it.
    """

    def __init__(
        self,
        tokens: Numbers,
        *,
        seq_len: int,
        sequences_per_step: int,
        seed: int,
        document_ends: Numbers | None = None,
    ) -> None:
        self.tokens = tokens
        self.seq_len = seq_len
        self.sequences_per_step = sequences_per_step
        self.seed = seed
        if len(tokens) - 1 < seq_len:
            raise UserError(
                f"trainer.seq_len={seq_len} is longer than the training text of {len(tokens) - 1} "
                f"tokens; type trainer.seq_len={max(1, len(tokens) - 2)} or use more text"
            )
        self.windows: PackedWindows | DocumentWindows
        if document_ends is None:
            self.windows = PackedWindows(len(tokens), seq_len=seq_len)
        else:
            self.windows = DocumentWindows(document_ends, seq_len=seq_len)
        self.n_windows = len(self.windows)
        self._group: tuple[int, Ids] | None = None  # window ids of the steps around the last one

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer updates in which every window is trained on once."""
        return self.n_windows / self.sequences_per_step

    @property
    def visits(self) -> float:
        """How often a token is predicted in an epoch, on average."""
        return self.n_windows * self.seq_len / (len(self.tokens) - 1)

    def window_ids(self, step: int) -> Ids:
        """The window of each of the step's sequences: (B,), if all steps have as many."""
        return self._window_ids(
            step * self.sequences_per_step, (step + 1) * self.sequences_per_step
        )

    def _window_ids(self, first: int, end: int) -> Ids:
        """The windows of sequences `first` to `end` - 1 of the run."""
        size = _STEPS_AT_ONCE * self.sequences_per_step
        number, begins = divmod(first, size)
        group = self._group  # a copy: another thread may replace it
        if group is None or group[0] != number:
            group = self._group = number, self._ids_of(number * size, (number + 1) * size)
        ids: Ids = group[1][begins : begins + end - first]
        if begins + end - first > size:
            ids = np.concatenate((ids, self._ids_of((number + 1) * size, end)))
        return ids

    def _ids_of(self, first: int, end: int) -> Ids:
        """The windows of many sequences, computed together because that is as fast as a few."""
        positions = np.arange(first, end)
        epochs, places = np.divmod(positions, self.n_windows)
        ids = np.empty_like(places)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            ids[now] = permuted(places[now], n=self.n_windows, key=(self.seed, int(epoch)))
        return ids

    def step(self, step: int) -> Ids:
        """Tokens of the step: (B, T + 1), inputs and, shifted by one, targets."""
        return self.rows(step * self.sequences_per_step, (step + 1) * self.sequences_per_step)

    def rows(self, first: int, end: int) -> Ids:
        """Tokens of sequences `first` to `end` - 1 of the run: (B, T + 1)."""
        epochs = np.arange(first, end) // self.n_windows
        starts = self.windows.starts(self._window_ids(first, end)) + self._shifts(epochs)
        places = starts[:, None] + np.arange(self.seq_len + 1)
        # past the end, continue at the beginning: the last end of text is also the first
        rows = self.tokens[
            np.where(places < len(self.tokens), places, places - len(self.tokens) + 1)
        ]
        return np.asarray(rows, dtype=np.int64)

    def _shifts(self, epochs: Ids) -> Ids:
        """By how many tokens the windows of each epoch are moved."""
        shifts = np.zeros_like(epochs)
        if isinstance(self.windows, PackedWindows):
            for epoch in set(epochs.tolist()) - {0}:
                shift = np.random.SeedSequence((self.seed, epoch, 1)).generate_state(1)[0]
                shifts[epochs == epoch] = int(shift) % self.seq_len
        return shifts


class PackedWindows:
    """Windows that follow each other and ignore documents; the incomplete last one is left out."""

    def __init__(self, n_tokens: int, *, seq_len: int) -> None:
        self.n_tokens, self.seq_len = n_tokens, seq_len

    def __len__(self) -> int:
        return (self.n_tokens - 1) // self.seq_len

    def starts(self, ids: Ids) -> Ids:
        """Where windows begin in the stream."""
        return ids * self.seq_len


class DocumentWindows:
    """Windows that begin with the end of text before a document and continue into the next ones.

    The next window begins with the document that a window cuts, whose beginning is seen twice. So
    every document of at most T tokens is whole in some window. A longer document is covered by
    windows that follow each other, and the last one continues into the next document. At the end
    of a block of _BLOCK documents the last window continues, and the next one begins with the
    first document of the next block.
    """

    def __init__(self, document_ends: Numbers, *, seq_len: int) -> None:
        self.ends, self.seq_len = document_ends, seq_len
        blocks = np.arange(-(-len(document_ends) // _BLOCK))
        counts = [
            self._count(blocks[first : first + _BLOCKS_AT_ONCE])
            for first in range(0, len(blocks), _BLOCKS_AT_ONCE)
        ]
        self._firsts = np.cumsum(np.concatenate([[0], *counts]))  # window of each block, and len

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def starts(self, ids: Ids) -> Ids:
        """Where windows begin in the stream."""
        blocks = np.searchsorted(self._firsts, ids, side="right") - 1
        begins = self._begins(blocks)
        starts = np.empty_like(ids)
        # lists, because loops over arrays are slow
        runs = (array.tolist() for array in self._runs(begins))
        each = zip((ids - self._firsts[blocks]).tolist(), *runs, strict=True)
        for row, (left, windows, following) in enumerate(each):
            document = 0
            while left >= windows[document]:
                left -= windows[document]
                document = following[document]
            starts[row] = begins[row, document] + left * self.seq_len
        return starts

    def _count(self, blocks: Ids) -> Ids:
        """How many windows each block has."""
        windows, following = self._runs(self._begins(blocks))
        rows = np.arange(len(blocks))
        counts = np.zeros((len(blocks), _BLOCK + 1), np.int64)  # from each document to the end
        for document in reversed(range(_BLOCK)):
            rest = counts[rows, following[:, document]]
            counts[:, document] = windows[:, document] + rest
        return counts[:, 0]

    def _begins(self, blocks: Ids) -> Ids:
        """Where the documents of blocks begin, and the one after them: (blocks, _BLOCK + 1)."""
        documents = blocks[:, None] * _BLOCK + np.arange(_BLOCK + 1)
        before = np.clip(documents, 1, len(self.ends)) - 1
        begins: Ids = np.where(documents > 0, self.ends[before, 0] - 1, 0)
        return begins

    def _runs(self, begins: Ids) -> tuple[Ids, Ids]:
        """For a window at each document: the windows until one begins a document, and that one."""
        lengths = np.diff(begins)
        windows = -(-lengths // self.seq_len)  # 0 for what is beyond the last document
        reach = begins[:, :-1] + windows * self.seq_len
        # search all rows at once: shift each row behind the row before
        origin = begins[:, :1] - np.arange(len(begins))[:, None] * (reach - begins[:, :1]).max()
        origin -= np.arange(len(begins))[:, None]
        found = np.searchsorted((begins - origin).ravel(), (reach - origin).ravel(), side="right")
        following = found.reshape(reach.shape) - 1 - np.arange(len(begins))[:, None] * (_BLOCK + 1)
        return windows, following


class Ahead(Generic[T]):
    """Prefetches what the next step needs, in a thread."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(1, "batches")
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        """The result of `make(step)`; raises what it raises."""
        ready = self._next and self._next[0] == step
        made = self._next[1].result() if self._next and ready else self._make(step)
        self._next = step + 1, self._thread.submit(self._make, step + 1)
        return made


def eval_batches(
    tokens: Numbers, *, seq_len: int, batch_size: int, document_ends: Numbers | None = None
) -> Iterator[Ids]:
    """One complete pass in order: every token but the first is a target exactly once.

    Yields (B, T + 1) arrays; the tokens of the incomplete last window come as (1, rest + 1).
    With `document_ends` each window has a batch of its own, (1, n + 1) with n <= T: it begins with
    the end of text before a document and holds as many whole documents as fit, or what is left
    of a document that is longer than T.
    """
    if document_ends is not None:
        yield from _whole_documents(tokens, document_ends, seq_len)
        return
    n_windows = (len(tokens) - 1) // seq_len
    for first in range(0, n_windows, batch_size):
        starts = np.arange(first, min(first + batch_size, n_windows))[:, None] * seq_len
        yield tokens[starts + np.arange(seq_len + 1)].astype(np.int64)
    rest = tokens[n_windows * seq_len :]
    if len(rest) > 1:
        yield rest[None].astype(np.int64)


def _whole_documents(tokens: Numbers, document_ends: Numbers, seq_len: int) -> Iterator[Ids]:
    ends = np.asarray(document_ends[:, 0]) - 1  # where each document's end of text stands
    first = 0
    while first < len(tokens) - 1:
        fitting = int(np.searchsorted(ends, first + seq_len, side="right"))
        last = int(ends[fitting - 1]) if fitting else 0
        if last <= first:  # the document is longer than a window
            last = first + seq_len
        yield tokens[first : last + 1][None].astype(np.int64)
        first = last


def permuted(places: Ids, *, n: int, key: tuple[int, int]) -> Ids:
    """Apply a pseudo-random permutation of range(n) to places, in memory independent of n.

    A Feistel network on the next power of four, repeated until the result is below n: cycle-walking
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002, section 3).
    """
    half_bits = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    mask = _U64((1 << half_bits) - 1)
    round_keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)
    values = places.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        left, right = values[outside] >> _U64(half_bits), values[outside] & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mixed(right ^ round_key) & mask)
        values[outside] = (left << _U64(half_bits)) | right
        outside = values >= n
    return values.astype(np.int64)


def _mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, figure 16)."""
    x = (x ^ (x >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _U64(27))) * _U64(0x94D049BB133111EB)
    return x ^ (x >> _U64(31))
