"""Warm up, then fall in a straight line."""

from dataclasses import dataclass

from tinygpt.errors import check_range
from tinygpt.interfaces import ScheduleConfig
from tinygpt.registry import register


@register("schedule")
@dataclass
class LinearConfig(ScheduleConfig):
    """Straight down to a fraction of the peak: to zero by default (arXiv 2502.15938)."""

    name: str = "linear"
    warmup_ratio: float = 0.05  # share of the run; more tames a high lr, at the cost of time
    min_lr_ratio: float = 0.0  # end, as a fraction of the peak; >0 if training is to go on

    def __post_init__(self) -> None:
        check_range("schedule.warmup_ratio", self.warmup_ratio, low=0, below=1)
        check_range("schedule.min_lr_ratio", self.min_lr_ratio, low=0, high=1)

    def multiplier(self, progress: float) -> float:
        if progress < self.warmup_ratio:
            return progress / self.warmup_ratio
        left = (1 - progress) / (1 - self.warmup_ratio)  # 1 at the peak, 0 at the end
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * left
