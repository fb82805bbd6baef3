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
from tinygpt.components.optimizers.scaling_torch import adam_groups
from tinygpt.language_model import LanguageModel, Role

if TYPE_CHECKING:
    from tinygpt.components.optimizers.muon import MuonConfig

FIRST_MOMENTUM = 0.85
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration
ITERATIONS = 5
LARGE = 256  # rows from which half of a symmetric product is computed


class Muon(AdamW):
    """Hidden matrices move by orthogonalised momentum, other parameters as in AdamW.

    Matrices that the model stacks into one, such as q, k and v, are orthogonalised one by one.
    """

    def __init__(self, model: LanguageModel, config: MuonConfig) -> None:
        roles, stacked = model.roles(), model.stacked()
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        hidden = [(n, p) for n, p in named if roles[n] is Role.HIDDEN and p.dim() == 2]
        groups: list[dict[str, Any]] = [
            {
                "name": "hidden",
                "params": [p for _, p in hidden],
                "rows": [stacked.get(name, (p.size(0),)) for name, p in hidden],
                "weight_decay": config.weight_decay,
                "lr": config.lr,  # for every width: updates have spectral norms of their own
                "momentum": config.momentum,
                "momentum_warmup": config.momentum_warmup,
            },
            *adam_groups(
                model,
                config,
                lr=config.adamw_lr,
                weight_decay=config.weight_decay,
                without={name for name, _ in hidden},
            ),
        ]
        for group in groups[1:]:
            group.setdefault("name", "adamw")
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
        batch.mul_(max(1.0, shape[0] / shape[1]) ** 0.5)
        results.update(zip(which, batch, strict=True))
    return [results[i] for i in range(len(matrices))]


def newton_schulz(matrices: Tensor) -> Tensor:
    """Near U V^T of each matrix U S V^T, (N, rows, columns): singular values of 0.7 to 1.2.

    Computes in bfloat16 on a GPU and on a CPU with AMX, else in the type of the matrices.
    """
    x = matrices.bfloat16() if _multiplies_bf16(matrices) else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    short, long = sorted(x.shape[-2:])
    # with Gram matrices small singular values need more digits than bfloat16 has
    by_gram = long >= 2 * short and x.dtype != torch.bfloat16
    return _by_gram_matrices(x) if by_gram else _by_matrices(x)


def _multiplies_bf16(matrices: Tensor) -> bool:
    if matrices.dtype != torch.float32:
        return False
    # torch before 2.11 has no get_capabilities
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return matrices.is_cuda or (matrices.device.type == "cpu" and bool(has.get("amx_bf16")))


def _by_matrices(x: Tensor) -> Tensor:
    """Each iteration is a polynomial of the whole matrix: x <- (a + b G + c G^2) x, G = x x^T."""
    a, b, c = COEFFICIENTS
    tall = x.size(-2) > x.size(-1)
    for _ in range(ITERATIONS):
        gram = _symmetric(x.mT, x) if tall else _symmetric(x, x.mT)
        polynomial = _symmetric(gram, gram, plus=gram, times=(b, c))
        left, right = (x, polynomial) if tall else (polynomial, x)
        x = torch.baddbmm(x, left, right, beta=a)
    return x


def _by_gram_matrices(x: Tensor) -> Tensor:
    """The same on G alone, at half of the cost for matrices of 1 : 4: x is multiplied at the end.

    The polynomials P of G commute, so G becomes P G P, and x becomes the product of all P, times x:
    "The Polar Express" (arXiv 2505.16932), where it speeds up rectangular matrices.
    """
    a, b, c = COEFFICIENTS
    tall = x.size(-2) > x.size(-1)
    gram = _symmetric(x.mT, x) if tall else _symmetric(x, x.mT)
    product: Tensor | None = None
    for i in range(ITERATIONS):
        polynomial = _symmetric(gram, gram, plus=gram, times=(b, c))
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        product = polynomial if product is None else _symmetric(polynomial, product)
        if i < ITERATIONS - 1:
            gram = _symmetric(_symmetric(polynomial, gram), polynomial)
    assert product is not None
    return x @ product if tall else product @ x


def _symmetric(
    left: Tensor,
    right: Tensor,
    *,
    plus: Tensor | None = None,
    times: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """times[0] plus + times[1] left @ right, which is symmetric: one of four blocks is copied."""

    def block(rows: slice, columns: slice) -> Tensor:
        factors = left[:, rows], right[..., columns]
        if plus is None:
            return torch.bmm(*factors)
        return torch.baddbmm(plus[:, rows, columns], *factors, beta=times[0], alpha=times[1])

    size, every = left.size(-2), slice(None)
    if size < LARGE:
        return block(every, every)
    upper, lower = slice(size // 2), slice(size // 2, size)
    result = left.new_empty(left.size(0), size, size)
    result[:, upper] = block(upper, every)
    result[:, lower, lower] = block(lower, lower)
    result[:, lower, upper] = result[:, upper, lower].mT
    return result


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
