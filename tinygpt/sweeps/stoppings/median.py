"""The median rule: a run ends if it is worse than the median of the others at its step.

Golovin et al. 2017, "Google Vizier: A Service for Black-Box Optimization", section 3.2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

from tinygpt.errors import check_range
from tinygpt.interfaces import Stopping, StoppingConfig, Trial, rungs_at
from tinygpt.registry import register
from tinygpt.sweeps.stoppings.asha import paused_by_step


@register("stopping")
@dataclass
class MedianConfig(StoppingConfig):
    """When runs are judged, and by how many others."""

    name: str = "median"
    looks: int = 4  # pauses of a run, evenly spaced; each costs a restart of its process
    least: int = 4  # a run is judged when this many others have reached its step

    def __post_init__(self) -> None:
        check_range("stopping.looks", self.looks, low=1)
        check_range("stopping.least", self.least, low=1)

    def build(self) -> Median:
        return Median(self)


class Median(Stopping):
    """Compares a run's best value so far with the others' means up to that step."""

    def __init__(self, cfg: MedianConfig) -> None:
        self.cfg = cfg

    def rungs(self, max_steps: int, *, every: int) -> list[int]:
        looks = self.cfg.looks
        return rungs_at((n / (looks + 1) for n in range(1, looks + 1)), max_steps, every=every)

    def promoted(self, trials: Sequence[Trial], *, all_known: bool) -> list[int]:
        lost = self.dropped(trials, all_known=all_known)
        at = paused_by_step(trials)
        return [
            t.number for step in sorted(at, reverse=True) for t in at[step] if t.number not in lost
        ]

    def dropped(self, trials: Sequence[Trial], *, all_known: bool) -> dict[int, str]:
        lost = {}
        for step, paused in paused_by_step(trials).items():
            for trial in paused:
                others = [
                    mean(value for s, value in other.values.items() if s <= step)
                    for other in trials
                    if other is not trial and max(other.values, default=0) >= step
                ]
                best = min(trial.values.values())
                if len(others) >= self.cfg.least and best > median(others):
                    lost[trial.number] = (
                        f"its best by step {step}, {best:.4f}, is worse than {median(others):.4f}, "
                        f"the median of {len(others)} others"
                    )
        return lost
