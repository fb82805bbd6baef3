"""Which tokens a step sees: a pure function of (seed, step), so there is no position to save.

B sequences, T tokens per sequence.  Windows of T + 1 tokens overlap by one, so that every token
but the first is predicted once; each epoch visits every window once, in an order of its own.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tinygpt.errors import UserError

_ROUNDS = 12  # of the Feistel network; with 4, orders of ten windows are visibly not uniform
_U64 = np.uint64


class TrainBatches:
    """The training windows of a token stream, shuffled anew each epoch without replacement."""

    def __init__(
        self,
        tokens: npt.NDArray[np.unsignedinteger],
        *,
        seq_len: int,
        sequences_per_step: int,
        seed: int,
    ) -> None:
        self.tokens = tokens
        self.seq_len = seq_len
        self.sequences_per_step = sequences_per_step
        self.seed = seed
        self.n_windows = (len(tokens) - 1) // seq_len
        if self.n_windows < 1:
            raise UserError(
                f"trainer.seq_len={seq_len} is longer than the training text of {len(tokens) - 1} "
                f"tokens; type trainer.seq_len={max(1, len(tokens) - 2)} or use more text"
            )

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer updates in which every window is seen once."""
        return self.n_windows / self.sequences_per_step

    def window_ids(self, step: int) -> npt.NDArray[np.int64]:
        """Which window each of the step's sequences is: (B,)."""
        first = step * self.sequences_per_step
        positions = np.arange(first, first + self.sequences_per_step)
        epochs, places = np.divmod(positions, self.n_windows)
        ids = np.empty_like(places)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            ids[now] = permuted(places[now], n=self.n_windows, key=(self.seed, int(epoch)))
        return ids

    def step(self, step: int) -> npt.NDArray[np.int64]:
        """Tokens of the step: (B, T + 1), inputs and, shifted by one, targets."""
        starts = self.window_ids(step)[:, None] * self.seq_len
        rows = self.tokens[starts + np.arange(self.seq_len + 1)]
        return np.asarray(rows, dtype=np.int64)


def eval_batches(
    tokens: npt.NDArray[np.unsignedinteger], *, seq_len: int, batch_size: int
) -> Iterator[npt.NDArray[np.int64]]:
    """One complete pass in order: every token but the first is a target exactly once.

    Yields (B, T + 1) arrays; the rest that fills no window comes last, as (1, rest + 1).
    """
    n_windows = (len(tokens) - 1) // seq_len
    for first in range(0, n_windows, batch_size):
        starts = np.arange(first, min(first + batch_size, n_windows))[:, None] * seq_len
        yield tokens[starts + np.arange(seq_len + 1)].astype(np.int64)
    rest = tokens[n_windows * seq_len :]
    if len(rest) > 1:
        yield rest[None].astype(np.int64)


def permuted(
    places: npt.NDArray[np.int64], *, n: int, key: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """Where a pseudo-random permutation of range(n) sends each place; memory does not grow with n.

    A Feistel network on the next power of four, walked until it lands below n: cycle-walking
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
