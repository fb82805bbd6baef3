"""End a run that no longer improves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinygpt.errors import check_range, not_a_choice
from tinygpt.interfaces import Callback, CallbackConfig, CallbackContext, Metrics
from tinygpt.registry import register

if TYPE_CHECKING:
    from tinygpt.training.state import TrainState


@register("callback")
@dataclass
class EarlyStopConfig(CallbackConfig):
    """Patience and smallest improvement; a schedule that decays late may look stuck before."""

    name: str = "early_stop"
    metric: str = "val/bpb"  # lower is better
    patience: int = 5  # evaluations in a row without improvement; more waits longer
    min_delta: float = 0.0  # improvements of this or less do not count

    def __post_init__(self) -> None:
        check_range("callback.early_stop.patience", self.patience, low=1)
        check_range("callback.early_stop.min_delta", self.min_delta, low=0)

    def build(self, context: CallbackContext) -> EarlyStop:
        return EarlyStop(self)


class EarlyStop(Callback):
    """Remembers the best value and how many evaluations ago it was."""

    def __init__(self, config: EarlyStopConfig) -> None:
        self.config = config

    def on_eval(self, state: TrainState, metrics: Metrics) -> str | None:
        config = self.config
        if config.metric not in metrics:
            raise not_a_choice("callback.early_stop.metric", config.metric, metrics)
        value = metrics[config.metric]
        memory = state.callbacks.setdefault(config.name, {"evals_since": 0})
        if memory.setdefault("metric", config.metric) != config.metric:  # changed at a resume
            memory.clear()
            memory |= {"evals_since": 0, "metric": config.metric}
        best = memory.get("best", math.inf)
        if value < best - config.min_delta:
            memory |= {"best": value, "evals_since": 0}
            return None
        memory["evals_since"] += 1
        if memory["evals_since"] < config.patience:
            return None
        return (
            f"{config.metric}={value:.4f} has not improved on {best:.4f} by more than "
            f"{config.min_delta} in {config.patience} evaluations"
        )
