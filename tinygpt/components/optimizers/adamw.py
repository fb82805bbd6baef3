"""AdamW (arXiv 1711.05101): weights of two or more dimensions decay; biases and norms do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinygpt.components.optimizers.scaling import ScaledOptimizerConfig
from tinygpt.errors import check_range
from tinygpt.registry import register

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from tinygpt.language_model import LanguageModel


@register("optimizer")
@dataclass
class AdamWConfig(ScaledOptimizerConfig):
    """Learning rate, moment decay and weight decay."""

    name: str = "adamw"
    lr: float = 1e-3  # peak; larger models want less
    beta1: float = 0.9  # memory of the direction: nearer 1 is smoother and slower to turn
    beta2: float = 0.95  # memory of the scale: nearer 1 is steadier, but slow to see a jump
    eps: float = 1e-8  # larger damps the steps of parameters with tiny gradients
    weight_decay: float = 0.1  # times lr: the share of a weight lost per step

    def __post_init__(self) -> None:
        check_range("optimizer.lr", self.lr, above=0)
        check_range("optimizer.beta1", self.beta1, low=0, below=1)
        check_range("optimizer.beta2", self.beta2, low=0, below=1)
        check_range("optimizer.eps", self.eps, above=0)
        check_range("optimizer.weight_decay", self.weight_decay, low=0)
        self.check_scaling()

    def build(self, model: LanguageModel) -> Optimizer:
        from tinygpt.components.optimizers.adamw_torch import AdamW
        from tinygpt.components.optimizers.scaling_torch import adam_groups

        groups = adam_groups(model, self, lr=self.lr, weight_decay=self.weight_decay)
        return AdamW(groups, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps)
