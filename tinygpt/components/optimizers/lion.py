"""Lion: every weight moves by the same amount, in the direction of a momentum."""

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
class LionConfig(OptimizerConfig):
    """Compared with AdamW the rate is 3 to 10 times smaller, and weight_decay larger."""

    state_bytes: ClassVar[int] = 4
    name: str = "lion"
    lr: float = 2e-4  # peak
    beta1: float = 0.9  # weight of the momentum against the gradient in the direction
    beta2: float = 0.99  # memory of the momentum
    weight_decay: float = 0.5  # times lr: the share of a weight lost per step

    def __post_init__(self) -> None:
        check_range("optimizer.lr", self.lr, above=0)
        check_range("optimizer.beta1", self.beta1, low=0, below=1)
        check_range("optimizer.beta2", self.beta2, low=0, below=1)
        check_range("optimizer.weight_decay", self.weight_decay, low=0)

    def build(self, model: LanguageModel) -> Optimizer:
        from tinygpt.components.optimizers.lion_torch import Lion

        return Lion(
            model.decay_groups(self.weight_decay), lr=self.lr, betas=(self.beta1, self.beta2)
        )
