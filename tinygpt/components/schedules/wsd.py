"""Warm up, stay, decay: the end may be moved without starting again.

Named in arXiv 2404.06395; the shape of the decay, 1 - sqrt, is from arXiv 2405.18392.
"""

import math
from dataclasses import dataclass

from tinygpt.errors import UserError, check_range
from tinygpt.interfaces import ScheduleConfig
from tinygpt.registry import register


@register("schedule")
@dataclass
class WSDConfig(ScheduleConfig):
    """The peak until late, then quickly down."""

    name: str = "wsd"
    warmup_ratio: float = 0.05  # share of the run; more tames a high lr, at the cost of time
    decay_ratio: float = 0.2  # share of the run; more settles better, at the cost of exploring
    min_lr_ratio: float = 0.0  # end, as a fraction of the peak

    def __post_init__(self) -> None:
        check_range("schedule.warmup_ratio", self.warmup_ratio, low=0, below=1)
        check_range("schedule.decay_ratio", self.decay_ratio, low=0, high=1)
        check_range("schedule.min_lr_ratio", self.min_lr_ratio, low=0, high=1)
        if self.warmup_ratio + self.decay_ratio > 1:
            raise UserError(
                f"schedule.warmup_ratio={self.warmup_ratio} and schedule.decay_ratio="
                f"{self.decay_ratio} must sum to at most 1; with that warm-up the largest is "
                f"schedule.decay_ratio={1 - self.warmup_ratio:g}"
            )

    def multiplier(self, progress: float) -> float:
        if progress < self.warmup_ratio:
            return progress / self.warmup_ratio
        decay_start = 1 - self.decay_ratio
        if progress <= decay_start:
            return 1.0
        done = (progress - decay_start) / self.decay_ratio  # of the decay
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * (1 - math.sqrt(done))
