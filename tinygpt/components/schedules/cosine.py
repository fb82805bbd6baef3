"""Warm up, then fall along half a cosine (arXiv 1608.03983, equation 5, without restarts)."""

import math
from dataclasses import dataclass

from tinygpt.errors import check_range
from tinygpt.interfaces import ScheduleConfig
from tinygpt.registry import register


@register("schedule")
@dataclass
class CosineConfig(ScheduleConfig):
    """Slow, fast, slow again, down to a fraction of the peak."""

    name: str = "cosine"
    warmup_ratio: float = 0.05  # share of the run; more tames a high lr, at the cost of time
    min_lr_ratio: float = 0.1  # end, as a fraction of the peak; 0 settles the most

    def __post_init__(self) -> None:
        check_range("schedule.warmup_ratio", self.warmup_ratio, low=0, below=1)
        check_range("schedule.min_lr_ratio", self.min_lr_ratio, low=0, high=1)

    def multiplier(self, progress: float) -> float:
        if progress < self.warmup_ratio:
            return progress / self.warmup_ratio
        done = (progress - self.warmup_ratio) / (1 - self.warmup_ratio)  # of the decay
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * (1 + math.cos(math.pi * done)) / 2
