"""Weights other than those that train: their moving average, or what an optimizer averages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@runtime_checkable
class Averages(Protocol):
    """An optimizer that trains at other weights than those that are evaluated and saved."""

    def to_evaluation(self) -> None:
        """Replace the model's weights by those to evaluate."""

    def to_training(self) -> None:
        """Replace them by those to train on, to the bit."""


@contextmanager
def evaluation_weights(optimizer: Optimizer) -> Iterator[None]:
    """Context in which the model has the weights that the optimizer says to evaluate and save."""
    if not isinstance(optimizer, Averages):
        yield
        return
    optimizer.to_evaluation()
    try:
        yield
    finally:
        optimizer.to_training()


def average_of(model: nn.Module) -> dict[str, Tensor]:
    """A place for the average of each trainable parameter; sharded as the parameter is."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def update(average: Mapping[str, Tensor], model: nn.Module, *, decay: float, updates: int) -> None:
    """Take the weights after an update into the average of the `updates` ones before.

    The average is a mean of the weights after each update, each `decay` times as heavy as the one
    after it, so the initial weights do not count: the bias correction of Adam (arXiv 1412.6980,
    section 3).
    """
    share = (1 - decay) / (1 - decay ** (updates + 1))  # 1 at first, 1 - decay in the long run
    parameters = dict(model.named_parameters())
    weights = [_own(parameters[name]) for name in average]
    torch._foreach_lerp_([_own(tensor) for tensor in average.values()], weights, share)


@contextmanager
def swapped(average: Mapping[str, Tensor], model: nn.Module) -> Iterator[None]:
    """Context in which the model has the averaged weights, and `average` the model's own."""
    _swap(average, model)
    try:
        yield
    finally:
        _swap(average, model)


@torch.no_grad()
def _swap(average: Mapping[str, Tensor], model: nn.Module) -> None:
    parameters = dict(model.named_parameters())
    for name, averaged in average.items():
        own, other = _own(parameters[name]), _own(averaged)
        kept = own.clone()
        own.copy_(other)
        other.copy_(kept)


def _own(tensor: Tensor) -> Tensor:
    """The memory of this rank's share of a tensor that may be sharded."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.detach()
