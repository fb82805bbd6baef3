"""Successive halving: a rung is judged when all runs have reached it, and the best go on.

Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization", figure 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinygpt.interfaces import Stopping, Trial
from tinygpt.registry import register
from tinygpt.sweeps.stoppings.asha import AshaConfig, paused_by_step, ranked, why_dropped


@register("stopping")
@dataclass
class HalvingConfig(AshaConfig):
    """The rungs are those of asha; no run passes a rung before all have reached it."""

    name: str = "halving"

    def build(self) -> Halving:
        return Halving(self)


class Halving(Stopping):
    """Judges a rung when every run that can reach it has done so."""

    def __init__(self, cfg: AshaConfig) -> None:
        self.cfg = cfg

    def rungs(self, max_steps: int, *, every: int) -> list[int]:
        return AshaConfig.build(self.cfg).rungs(max_steps, every=every)

    def promoted(self, trials: Sequence[Trial], *, all_known: bool) -> list[int]:
        return [number for number, _ in self._judged(trials, all_known, goes_on=True)]

    def dropped(self, trials: Sequence[Trial], *, all_known: bool) -> dict[int, str]:
        return dict(self._judged(trials, all_known, goes_on=False))

    def _judged(
        self, trials: Sequence[Trial], all_known: bool, *, goes_on: bool
    ) -> list[tuple[int, str]]:
        """The paused trials that go on (or do not), each with its rank in words."""
        judged = []
        for step, paused in paused_by_step(trials).items():
            coming = any(
                t.status in ("queued", "running", "paused") and step > max(t.values, default=0)
                for t in trials
            )
            if coming or not all_known:
                continue
            ranking = ranked(trials, step)
            best = ranking[: max(len(ranking) // self.cfg.reduction, 1)]
            judged += [
                (t.number, why_dropped(t, ranking)) for t in paused if (t in best) == goes_on
            ]
        return judged
