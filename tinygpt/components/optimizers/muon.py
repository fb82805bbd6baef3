"""Muon for hidden matrices, AdamW for everything else."""

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
class MuonConfig(ScaledOptimizerConfig):
    """Rates of the two rules, which do not compare: Muon's steps all have the same size."""

    name: str = "muon"
    lr: float = 0.02  # peak for hidden matrices; 0.01 to 0.05 is usual
    adamw_lr: float = 1.6e-2  # peak for embeddings, head, norms, biases and scalars
    momentum: float = 0.95  # of hidden matrices: nearer 1 is smoother and slower to turn
    momentum_warmup: int = 300  # steps over which momentum grows from 0.85
    beta1: float = 0.9  # of AdamW
    beta2: float = 0.95  # of AdamW
    eps: float = 1e-8  # of AdamW
    weight_decay: float = 0.1  # times the rate: the share of a weight lost per step

    def __post_init__(self) -> None:
        check_range("optimizer.lr", self.lr, above=0)
        check_range("optimizer.adamw_lr", self.adamw_lr, above=0)
        check_range("optimizer.momentum", self.momentum, low=0, below=1)
        check_range("optimizer.momentum_warmup", self.momentum_warmup, low=0)
        check_range("optimizer.beta1", self.beta1, low=0, below=1)
        check_range("optimizer.beta2", self.beta2, low=0, below=1)
        check_range("optimizer.eps", self.eps, above=0)
        check_range("optimizer.weight_decay", self.weight_decay, low=0)
        self.check_scaling()

    def build(self, model: LanguageModel) -> Optimizer:
        from tinygpt.components.optimizers.muon_torch import Muon

        return Muon(model, self)
