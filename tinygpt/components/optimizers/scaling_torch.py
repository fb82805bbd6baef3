"""muP: initial weights and Adam's learning rates by role and width.

Yang et al. 2022, "Tensor Programs V" (arXiv 2203.03466), table 3 for an output matrix of its own,
table 8 for a tied one, whose multiplier 1 / m the gain of the last norm takes.  m is the width
over the base width.  Attention keeps 1 / sqrt(d_head): with the same d_head at every width that
is the paper's 1 / d_head but for a constant.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from tinygpt.components.optimizers.scaling import BASE_WIDTH, ScaledOptimizerConfig
from tinygpt.errors import UserError
from tinygpt.language_model import LanguageModel, Role


def adam_groups(
    model: LanguageModel,
    config: ScaledOptimizerConfig,
    *,
    lr: float,
    weight_decay: float,
    without: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Groups of trainable parameters but for those named in `without`; scales initial weights.

    The product of rate and decay is the same at every width.
    """
    if config.scaling == "none":
        kept = {id(p) for name, p in model.named_parameters() if name not in without}
        groups = model.decay_groups(weight_decay)
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) in kept]
            group["lr"] = lr
        return groups
    roles, kinds = model.roles(), _kinds(model)
    ratio = model.width / (config.base_width or BASE_WIDTH)
    initial = {"hidden": ratio**-0.5, "output": 1 / ratio}
    found: dict[tuple[str, bool], list[Tensor]] = {
        (kind, decays): [] for kind in ("input", "hidden", "output") for decays in (True, False)
    }
    for name, p in model.named_parameters():
        kind = kinds[name]
        if kind in initial and ratio != 1:
            with torch.no_grad():
                p.mul_(initial[kind])
        if p.requires_grad and name not in without:
            found[kind, roles[name].decays].append(p)
    rates = {"input": 1.0, "hidden": 1 / ratio, "output": 1 / ratio}
    return [
        {
            "name": kind,
            "params": parameters,
            "lr": lr * rates[kind],
            "weight_decay": weight_decay / rates[kind] if decays else 0.0,
        }
        for (kind, decays), parameters in found.items()
        if parameters
    ]


def _kinds(model: LanguageModel) -> dict[str, str]:
    """The kind of each parameter: input (of constant size), hidden, or output.

    A hidden matrix whose input does not grow with the width, such as a gate of some channels, is
    an input matrix.  Raises UserError if nothing can scale the logits.
    """
    roles = model.roles()
    last = set() if Role.HEAD in roles.values() else set(model.output_norm())
    if Role.HEAD not in roles.values() and not last:
        raise UserError(
            "optimizer.scaling=mup scales the logits of a tied output matrix by the gain of the "
            "last norm, which this model lacks; type model.tied=false, or model.norm_gain=true"
        )
    kinds = {}
    for name, p in model.named_parameters():
        is_hidden = roles[name] is Role.HIDDEN and p.size(-1) >= model.width
        is_output = roles[name] is Role.HEAD or name in last
        kinds[name] = "output" if is_output else "hidden" if is_hidden else "input"
    return kinds
