"""Low-rank adapters of linear layers.  O outputs, I inputs, R rank."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LowRank(nn.Module):
    """A linear layer whose weight is `base + scale * up @ down`; only `up` and `down` train.

    Hu et al. 2021, "LoRA" (arXiv 2106.09685), section 4.1: `down` (R, I) is random, `up` (O, R)
    zero, so that the layer begins as the one it replaces; scale is alpha / R.  The sum is made
    anew at each use of `weight`, so whatever reads it, kernels included, sees the sum.
    """

    def __init__(self, linear: nn.Linear, *, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.base = linear.weight.requires_grad_(False)
        self.bias = None if linear.bias is None else linear.bias.requires_grad_(False)
        inputs, outputs = linear.in_features, linear.out_features
        self.down = nn.Parameter(torch.empty(rank, inputs))
        nn.init.normal_(self.down, std=inputs**-0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    @property
    def in_features(self) -> int:
        """I, as in nn.Linear."""
        return self.base.size(1)

    @property
    def weight(self) -> Tensor:
        """The sum (O, I), in the type of `base` whatever autocast says."""
        with torch.autocast(self.base.device.type, enabled=False):
            return torch.addmm(self.base, self.up, self.down, alpha=self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) to (..., O)."""
        return F.linear(x, self.weight, self.bias)

    def merged(self) -> nn.Linear:
        """A plain linear layer that computes the same."""
        outputs, inputs = self.base.shape
        linear = nn.Linear(inputs, outputs, bias=self.bias is not None, device=self.base.device)
        linear.weight = nn.Parameter(self.weight.detach())
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach())
        return linear


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers of a model by name."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one with this dotted name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def merge(model: nn.Module) -> None:
    """Replace every adapted layer of the model by the plain one that computes the same."""
    adapted = [(n, m) for n, m in model.named_modules() if isinstance(m, LowRank)]
    for name, module in adapted:
        replace(model, name, module.merged())
