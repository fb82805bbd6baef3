"""The base class of our optimizers."""

from __future__ import annotations

import inspect

from torch.optim import Optimizer


class LightOptimizer(Optimizer):
    """torch's Optimizer without its wrappers, which would load torch.compile (a second)."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)
