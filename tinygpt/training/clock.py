"""The time that training takes, without evaluations and checkpoints."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tinygpt.interfaces import Metrics


class Clock:
    """Time spent training, without evaluations and checkpoints; read when the device is done."""

    def __init__(self, steps: int, training_s: float) -> None:
        """The arguments are of the rows that were logged before."""
        self.row_began = time.perf_counter()
        self.row_steps, self.paused_s, self.data_wait_s = 0, 0.0, 0.0
        self.steps, self.training_s = steps, training_s

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time in this context; the caller has waited for the device."""
        began = time.perf_counter()
        yield
        self.paused_s += time.perf_counter() - began

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the time in this context as training that waits for data."""
        began = time.perf_counter()
        yield
        self.data_wait_s += time.perf_counter() - began

    def row(self, tokens: int) -> Metrics:
        """The speed of the steps since the row before, which had `tokens` tokens."""
        now = time.perf_counter()
        steps, seconds = self.row_steps, now - self.row_began - self.paused_s
        data_wait_ratio = self.data_wait_s / seconds
        self.row_began, self.row_steps, self.paused_s, self.data_wait_s = now, 0, 0.0, 0.0
        self.steps += steps
        self.training_s += seconds
        return {
            "perf/data_wait_ratio": data_wait_ratio,
            "perf/step_ms": 1000 * seconds / steps,
            "perf/tokens_per_sec": tokens / seconds,
        }

    def overall(self, tokens: int) -> float | None:
        """Tokens per second of all steps that were logged, which had `tokens` tokens."""
        return tokens / self.training_s if self.steps else None
