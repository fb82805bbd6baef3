"""Warm up, then stay at the peak."""

from dataclasses import dataclass

from tinygpt.errors import check_range
from tinygpt.interfaces import ScheduleConfig
from tinygpt.registry import register


@register("schedule")
@dataclass
class ConstantConfig(ScheduleConfig):
    """No decay: a run may be made longer later, but ends above its best loss."""

    name: str = "constant"
    warmup_ratio: float = 0.05  # share of the run; more tames a high lr, at the cost of time

    def __post_init__(self) -> None:
        check_range("schedule.warmup_ratio", self.warmup_ratio, low=0, below=1)

    def multiplier(self, progress: float) -> float:
        return progress / self.warmup_ratio if progress < self.warmup_ratio else 1.0
