"""Schedule-free AdamW as an optimizer of torch.

Defazio et al. 2024, "The Road Less Scheduled" (arXiv 2405.15682), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tinygpt.components.optimizers.base_torch import LightOptimizer


class ScheduleFreeAdamW(LightOptimizer):
    """Steps are made at z, their average is x, and gradients are taken at y between them.

    The model has y while it trains.  x is kept rather than computed from y and z, because rounding
    would make a run depend on how often it is evaluated.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # takes no closure
        """Update every parameter that has a gradient; the model then has the next y."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)

    def _update(self, y: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state: dict[str, Any] = self.state[y]
        if not state:
            state["step"], state["weight_sum"] = 0, 0.0
            state["z"], state["x"] = y.clone(), y.clone()
            state["exp_avg_sq"] = torch.zeros_like(y)
        (beta1, beta2), lr = group["betas"], group["lr"]
        z, x, second = state["z"], state["x"], state["exp_avg_sq"]
        state["step"] += 1
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (second / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        z.addcdiv_(gradient, scale, value=-lr)
        if group["weight_decay"]:
            z.add_(y, alpha=-lr * group["weight_decay"])
        # each z counts by its squared learning rate, so those of the warm-up count less
        state["weight_sum"] += lr**2
        x.lerp_(z, lr**2 / state["weight_sum"] if state["weight_sum"] else 1.0)
        torch.lerp(z, x, beta1, out=y)

    @torch.no_grad()
    def to_evaluation(self) -> None:
        """Give the model x, the weights to evaluate and save."""
        for group in self.param_groups:
            for p in group["params"]:
                if self.state[p]:
                    p.copy_(self.state[p]["x"])

    @torch.no_grad()
    def to_training(self) -> None:
        """Give the model y again, to the bit."""
        for group in self.param_groups:
            for p in group["params"]:
                if state := self.state[p]:
                    torch.lerp(state["z"], state["x"], group["betas"][0], out=p)
