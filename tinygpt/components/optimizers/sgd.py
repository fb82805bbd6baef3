"""Stochastic gradient descent with momentum and decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tinygpt.errors import UserError, check_range
from tinygpt.interfaces import OptimizerConfig
from tinygpt.registry import register

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from tinygpt.language_model import LanguageModel


@register("optimizer")
@dataclass
class SGDConfig(OptimizerConfig):
    """Steps are proportional to gradients, so rates are far larger than AdamW's."""

    state_bytes: ClassVar[int] = 4
    name: str = "sgd"
    lr: float = 0.1  # peak
    momentum: float = 0.9  # nearer 1 is smoother and slower to turn; 0 turns it off
    nesterov: bool = False  # step along the momentum of the next step
    weight_decay: float = 0.0  # times lr: the share of a weight lost per step

    def __post_init__(self) -> None:
        check_range("optimizer.lr", self.lr, above=0)
        check_range("optimizer.momentum", self.momentum, low=0, below=1)
        check_range("optimizer.weight_decay", self.weight_decay, low=0)
        if self.nesterov and not self.momentum:
            raise UserError(
                "optimizer.nesterov=true has no effect with optimizer.momentum=0; type "
                "optimizer.momentum=0.9"
            )

    def build(self, model: LanguageModel) -> Optimizer:
        from tinygpt.components.optimizers.sgd_torch import SGD

        groups = model.decay_groups(self.weight_decay)
        return SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)
