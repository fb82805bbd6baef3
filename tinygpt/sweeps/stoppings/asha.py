"""Asynchronous successive halving: of the runs that reached a rung, the best go on.

Li et al. 2018, "A System for Massively Parallel Hyperparameter Tuning" (arXiv 1810.05934),
algorithm 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinygpt.errors import check_range
from tinygpt.interfaces import Stopping, StoppingConfig, Trial, rungs_at
from tinygpt.registry import register


@register("stopping")
@dataclass
class AshaConfig(StoppingConfig):
    """When runs are judged, and how many of them go on.

    A rung compares runs in the middle of their learning-rate schedules. The run that would win at
    the end may not lead early, so a later first_rung is safer and costs more.
    """

    name: str = "asha"
    reduction: int = 3  # one run of this many goes on from a rung to the next
    first_rung: float = 1 / 9  # fraction of the run; each rung is `reduction` times further

    def __post_init__(self) -> None:
        check_range("stopping.reduction", self.reduction, low=2)
        check_range("stopping.first_rung", self.first_rung, above=0, below=1)

    def build(self) -> Stopping:
        return Asha(self)


class Asha(Stopping):
    """Promotes a run as soon as it is among the best so far, without waiting for others."""

    def __init__(self, cfg: AshaConfig) -> None:
        self.cfg = cfg

    def rungs(self, max_steps: int, *, every: int) -> list[int]:
        fractions = []
        fraction = self.cfg.first_rung
        while fraction < 1 - 1e-9:
            fractions.append(fraction)
            fraction *= self.cfg.reduction
        return rungs_at(fractions, max_steps, every=every)

    def promoted(self, trials: Sequence[Trial], *, all_known: bool) -> list[int]:
        numbers = []
        at = paused_by_step(trials)
        for step in sorted(at, reverse=True):
            ranking = ranked(trials, step)
            quota = self._quota(trials, step, len(ranking), all_known=all_known)
            best = [trial.number for trial in ranking[:quota]]
            numbers += [trial.number for trial in at[step] if trial.number in best]
        return numbers

    def dropped(self, trials: Sequence[Trial], *, all_known: bool) -> dict[int, str]:
        if not all_known or is_busy(trials) or self.promoted(trials, all_known=True):
            return {}
        return {
            trial.number: why_dropped(trial, ranked(trials, step))
            for step, paused in paused_by_step(trials).items()
            for trial in paused
        }

    def _quota(self, trials: Sequence[Trial], step: int, reached: int, *, all_known: bool) -> int:
        """How many of the runs that reached a rung go on; at least one when all have ended."""
        share = reached // self.cfg.reduction
        return max(share, 1) if all_known and not is_busy(trials) else share


def is_busy(trials: Sequence[Trial]) -> bool:
    """Whether any trial is queued or running, and so will be judged later."""
    return any(trial.status in ("queued", "running") for trial in trials)


def ranked(trials: Sequence[Trial], step: int) -> list[Trial]:
    """The trials that were evaluated at a step, the best first; ties by number."""
    reached = [trial for trial in trials if step in trial.values]
    return sorted(reached, key=lambda trial: (trial.values[step], trial.number))


def why_dropped(trial: Trial, ranking: Sequence[Trial]) -> str:
    """The rank of a paused trial among the trials that reached its step, in words."""
    step = max(trial.values)
    place = [other.number for other in ranking].index(trial.number) + 1
    return f"place {place} of {len(ranking)} at step {step}, with {trial.values[step]:.4f}"


def paused_by_step(trials: Sequence[Trial]) -> dict[int, list[Trial]]:
    """The paused trials of each step, the best first."""
    at: dict[int, list[Trial]] = {}
    for trial in trials:
        if trial.status == "paused":
            at.setdefault(max(trial.values), []).append(trial)
    return {s: sorted(ts, key=lambda t: (t.values[s], t.number)) for s, ts in at.items()}
