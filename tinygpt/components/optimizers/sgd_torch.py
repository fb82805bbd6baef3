"""SGD as an optimizer of torch.

Momentum: Sutskever et al. 2013, "On the importance of initialization and momentum in deep
learning" (ICML), as torch.optim.SGD computes it.  Weight decay: Loshchilov and Hutter 2017,
"Decoupled Weight Decay Regularization" (arXiv 1711.05101), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from tinygpt.components.optimizers.base_torch import LightOptimizer


class SGD(LightOptimizer):
    """Without weight decay its numbers are those of torch.optim.SGD."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float, nesterov: bool
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": 0.0}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # takes no closure
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                if group["weight_decay"]:
                    p.mul_(1 - lr * group["weight_decay"])
                step = p.grad
                if momentum:
                    if not self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                    step = self.state[p]["momentum"].mul_(momentum).add_(p.grad)
                    if group["nesterov"]:
                        step = p.grad.add(step, alpha=momentum)
                p.add_(step, alpha=-lr)
