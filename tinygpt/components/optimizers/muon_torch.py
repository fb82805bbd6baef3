"""Muon as an optimizer of torch.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"
(kellerjordan.github.io/posts/muon; KellerJordan/Muon, muon.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinygpt.components.optimizers.adamw_torch import AdamW
from tinygpt.language_model import LanguageModel, Role

if TYPE_CHECKING:
    from tinygpt.components.optimizers.muon import MuonConfig

FIRST_MOMENTUM = 0.85
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration
ITERATIONS = 5


class Muon(AdamW):
    """Hidden matrices move by orthogonalised momentum, other parameters as in AdamW.

    Matrices that the model stacks into one, such as q, k and v, are orthogonalised one by one.
    """

    def __init__(self, model: LanguageModel, config: MuonConfig) -> None:
        roles, stacked = model.roles(), model.stacked()
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        hidden = [(n, p) for n, p in named if roles[n] is Role.HIDDEN and p.dim() == 2]
        own = {name for name, _ in hidden}
        groups: list[dict[str, Any]] = [
            {
                "params": [p for _, p in hidden],
                "rows": [stacked.get(name, (p.size(0),)) for name, p in hidden],
                "weight_decay": config.weight_decay,
                "lr": config.lr,
                "momentum": config.momentum,
                "momentum_warmup": config.momentum_warmup,
            }
        ]
        for decays in (True, False):
            others = [p for n, p in named if n not in own and roles[n].decays is decays]
            groups.append(
                {"params": others, "weight_decay": config.weight_decay if decays else 0.0}
            )
        groups = [group for group in groups if group["params"]]
        betas = (config.beta1, config.beta2)
        super().__init__(groups, lr=config.adamw_lr, betas=betas, eps=config.eps)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if "rows" not in group:
            super()._update(parameters, group)
            return
        rows_of = dict(zip(map(id, group["params"]), group["rows"], strict=True))
        directions = {id(p): _whole(self._direction(p, group)) for p in parameters}
        parts = [
            part for p in parameters for part in torch.split(directions[id(p)], rows_of[id(p)])
        ]
        orthogonal = iter(_orthogonalised(parts))
        for p in parameters:
            update = torch.cat([next(orthogonal).to(p.dtype) for _ in rows_of[id(p)]])
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(_shared(update, like=p), alpha=-group["lr"])

    def _direction(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        """Nesterov's momentum, which is counted from the first step of the parameter."""
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state["momentum"] = torch.zeros_like(p)
        warmup, final = group["momentum_warmup"], group["momentum"]
        share = min(float(state["step"]) / warmup, 1.0) if warmup else 1.0
        momentum = min(FIRST_MOMENTUM, final) * (1 - share) + final * share
        state["step"] += 1
        assert p.grad is not None
        state["momentum"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(state["momentum"], momentum)


def _orthogonalised(matrices: list[Tensor]) -> list[Tensor]:
    """`newton_schulz` of each, equal shapes in one batch, times max(1, rows / columns)^0.5."""
    results: dict[int, Tensor] = {}
    for shape in dict.fromkeys(matrix.shape for matrix in matrices):
        which = [i for i, matrix in enumerate(matrices) if matrix.shape == shape]
        batch = newton_schulz(torch.stack([matrices[i] for i in which]))
        batch = batch * max(1.0, shape[0] / shape[1]) ** 0.5
        results.update(zip(which, batch, strict=True))
    return [results[i] for i in range(len(matrices))]


def newton_schulz(matrices: Tensor) -> Tensor:
    """Near U V^T of each matrix U S V^T, (N, rows, columns): singular values of 0.7 to 1.2.

    In bfloat16 on a GPU; on a CPU in float32, or float64 for what is in float64.
    """
    x: Tensor = matrices.bfloat16() if matrices.is_cuda else matrices
    a, b, c = COEFFICIENTS
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def _whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which FSDP leaves each rank a share; every rank must call this."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return gather() if gather else tensor


def _shared(value: Tensor, *, like: Tensor) -> Tensor:
    """This rank's share of a value that all ranks have, if `like` is shared."""
    if not hasattr(like, "full_tensor"):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
