"""Schedule-free AdamW: it averages the weights instead of decaying the learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tinygpt.errors import check_range
from tinygpt.interfaces import OptimizerConfig
from tinygpt.registry import register

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from tinygpt.language_model import LanguageModel


@register("optimizer")
@dataclass
class ScheduleFreeConfig(OptimizerConfig):
    """Evaluates and saves averaged weights, so a run may end at any step; for schedule=constant."""

    averages: ClassVar[bool] = True
    state_bytes: ClassVar[int] = 12
    name: str = "schedule_free"
    lr: float = 3e-3  # peak; 1 to 10 times that of AdamW
    beta1: float = 0.9  # share of the average in the weights to train on: nearer 1 is smoother
    beta2: float = 0.95  # memory of the scale: nearer 1 is steadier, but slow to see a jump
    eps: float = 1e-8  # larger damps the steps of parameters with tiny gradients
    weight_decay: float = 0.1  # times lr: the share of a weight lost per step

    def __post_init__(self) -> None:
        check_range("optimizer.lr", self.lr, above=0)
        check_range("optimizer.beta1", self.beta1, above=0, below=1)
        check_range("optimizer.beta2", self.beta2, low=0, below=1)
        check_range("optimizer.eps", self.eps, above=0)
        check_range("optimizer.weight_decay", self.weight_decay, low=0)

    def build(self, model: LanguageModel) -> Optimizer:
        from tinygpt.components.optimizers.schedule_free_torch import ScheduleFreeAdamW

        groups = model.decay_groups(self.weight_decay)
        betas = (self.beta1, self.beta2)
        return ScheduleFreeAdamW(groups, lr=self.lr, betas=betas, eps=self.eps)
