"""AdamW as an optimizer of torch, one pass over memory where there is a kernel for it.

Loshchilov and Hutter 2017, "Decoupled Weight Decay Regularization" (arXiv 1711.05101), algorithm 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tinygpt.components.optimizers.base_torch import LightOptimizer

FUSED = ("cpu", "cuda")  # device types with a kernel that is known to work


class AdamW(LightOptimizer):
    """Its numbers and its state are those of torch.optim.AdamW, which would load torch.compile."""

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
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [self._state_of(p) for p in parameters]
        steps, first, second = (
            [state[key] for state in states] for key in ("step", "exp_avg", "exp_avg_sq")
        )
        torch._foreach_add_(steps, 1)
        grads = [p.grad for p in parameters if p.grad is not None]
        update = _fused if parameters[0].device.type in FUSED else _plain
        update(parameters, grads, first, second, steps, group)

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """A parameter's moments, zeros at first; a kernel needs the step count on its device."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            device = parameter.device if parameter.device.type in FUSED else "cpu"
            state["step"] = torch.zeros((), device=device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def _fused(
    parameters: list[Tensor],
    grads: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    steps: list[Tensor],
    group: dict[str, Any],
) -> None:
    beta1, beta2 = group["betas"]
    torch._fused_adamw_(
        *(parameters, grads, first, second, [], steps),
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )


def _plain(
    parameters: list[Tensor],
    grads: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    steps: list[Tensor],
    group: dict[str, Any],
) -> None:
    beta1, beta2 = group["betas"]
    for p, grad, m, v, count in zip(parameters, grads, first, second, steps, strict=True):
        step = count.item()
        m.lerp_(grad, 1 - beta1)
        v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        scale = (v / (1 - beta2**step)).sqrt_().add_(group["eps"]).mul_(1 - beta1**step)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.addcdiv_(m, scale, value=-group["lr"])
