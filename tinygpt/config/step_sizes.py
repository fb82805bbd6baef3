"""How many tokens each update of a run has: all the same, or growing up to `tokens_per_step`."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class StepSizes:
    """Stages of equal steps, each stage with twice the tokens per step of the one before.

    Larger steps pay off late in a run, when the gradient's noise matters: McCandlish et al. 2018,
    "An Empirical Model of Large-Batch Training" (arXiv 1812.06162), section 2.3.
    """

    stages: tuple[tuple[int, int], ...]  # (number of steps, tokens of each), in order

    @classmethod
    def of_run(
        cls,
        *,
        full: int,
        first: int | None = None,
        warmup_ratio: float = 0.0,
        full_steps: float | None = None,
        steps: int | None = None,
    ) -> StepSizes:
        """The steps of a run with the tokens of `full_steps` steps of `full`, or of `steps` steps.

        The first number is rounded, the second is exact; a run has at least one step.

        `first` is full / 2^k.  Steps grow in k stages, which share the first `warmup_ratio` of the
        run's tokens equally.
        """
        k = 0 if first is None else (full // first).bit_length() - 1
        if full_steps is None:
            assert steps is not None
            steps_per_full = 1 + warmup_ratio * ((2 ** (k + 1) - 2) / k - 1) if k else 1.0
            full_steps = steps / steps_per_full
        stages, done, left = [], 0, steps
        for stage in range(k):
            size = full >> (k - stage)
            n = max(
                0, math.ceil((full_steps * full * warmup_ratio * (stage + 1) / k - done) / size)
            )
            n = n if left is None else min(n, left)
            left = left if left is None else left - n
            done += n * size
            if n:
                stages.append((n, size))
        last = max(0 if stages else 1, round(full_steps - done / full)) if left is None else left
        return cls((*stages, (last, full)))

    @property
    def n_steps(self) -> int:
        """The length of the run in steps."""
        return sum(n for n, _ in self.stages)

    @property
    def n_tokens(self) -> int:
        """The length of the run in tokens."""
        return sum(n * size for n, size in self.stages)

    def size(self, step: int) -> int:
        """Tokens of the update after `step` updates; beyond the end as at the end."""
        return self._at(step)[1]

    def before(self, step: int) -> int:
        """Tokens of the first `step` updates."""
        return self._at(step)[0]

    def _at(self, step: int) -> tuple[int, int]:
        done, left = 0, step
        for n, size in self.stages[:-1]:
            if left < n:
                return done + left * size, size
            done, left = done + n * size, left - n
        return done + left * self.stages[-1][1], self.stages[-1][1]
