"""Updates of Muon, Lion, SGD and schedule-free AdamW against their formulas and torch's own."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tinygpt.components.models.gpt import GPTConfig
from tinygpt.components.optimizers.adamw import AdamWConfig
from tinygpt.components.optimizers.lion import LionConfig
from tinygpt.components.optimizers.muon import MuonConfig
from tinygpt.components.optimizers.muon_torch import newton_schulz
from tinygpt.components.optimizers.schedule_free import ScheduleFreeConfig
from tinygpt.components.optimizers.sgd import SGDConfig
from tinygpt.errors import UserError
from tinygpt.interfaces import OptimizerConfig
from tinygpt.language_model import LanguageModel
from tinygpt.training.averaging import Averages

V, T = 11, 6


def built() -> LanguageModel:
    torch.manual_seed(0)
    config = GPTConfig(n_layer=2, n_head=2, n_kv_head=1, d_model=8, tied=False)
    return config.build(vocab_size=V, seq_len=T).double()


def trained(config: OptimizerConfig, steps: int) -> tuple[LanguageModel, list[dict[str, Tensor]]]:
    """A model after some steps, and the gradients of each."""
    model, gradients = built(), []
    optimizer = config.build(model)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        tokens = torch.randint(V, (2, T + 1), generator=generator)
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
        optimizer.step()
        optimizer.zero_grad()
    return model, gradients


@pytest.mark.parametrize("shape", [(8, 8), (4, 32), (32, 4), (64, 16)])
def test_newton_schulz_makes_singular_values_about_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(3, *shape, dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    u_t_x_v = u.mT @ newton_schulz(matrix) @ v.mT
    sizes = u_t_x_v.diagonal(dim1=-2, dim2=-1)
    assert (sizes > 0.3).all()  # the smallest ones of a square matrix are still on their way
    assert (sizes < 1.25).all()
    torch.testing.assert_close(u_t_x_v, torch.diag_embed(sizes))  # directions stay as they are


@pytest.mark.parametrize("shape", [(20, 30), (16, 64), (64, 16), (256, 256), (512, 256)])
def test_newton_schulz_computes_the_published_iteration(shape: tuple[int, int]) -> None:
    """Products of halves and of Gram matrices alone are ways to compute the same polynomial."""
    torch.manual_seed(0)
    matrices = torch.randn(2, *shape, dtype=torch.float64)
    x = matrices / matrices.norm(dim=(-2, -1), keepdim=True)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(newton_schulz(matrices), x, rtol=0, atol=1e-6)
    single = newton_schulz(matrices.float())
    torch.testing.assert_close(single, x.float(), rtol=0, atol=0.05 if amx() else 2e-5)


def amx() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def test_updates_are_those_of_the_formula_with_q_k_and_v_apart() -> None:
    config = MuonConfig(lr=0.05, momentum=0.9, momentum_warmup=2, weight_decay=0.3)
    model, gradients = trained(config, 3)
    by_hand = dict(built().named_parameters())
    name, rows = "blocks.1.attention.qkv.weight", (8, 4, 4)
    weight, buffer = by_hand[name].detach().clone(), torch.zeros(16, 8, dtype=torch.float64)
    for momentum, gradient in zip((0.85, 0.875, 0.9), gradients, strict=True):
        buffer = momentum * buffer + (1 - momentum) * gradient[name]
        direction = (1 - momentum) * gradient[name] + momentum * buffer
        update = torch.cat([newton_schulz(part[None])[0] for part in direction.split(rows)])
        weight = weight * (1 - 0.05 * 0.3) - 0.05 * update
    torch.testing.assert_close(model.get_parameter(name).detach(), weight)


def test_hidden_matrices_move_as_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    # that one orthogonalises in bfloat16, which rounds small singular values away
    monkeypatch.setattr(
        torch.optim._muon,
        "_zeropower_via_newtonschulz",
        lambda x, *settings: newton_schulz(x[None])[0],
    )
    config = MuonConfig(lr=0.05, momentum=0.9, momentum_warmup=0, weight_decay=0.3)
    model, gradients = trained(config, 3)
    name = "blocks.0.mlp.up.weight"
    weight = nn.Parameter(built().get_parameter(name).detach().clone())
    theirs = torch.optim.Muon([weight], lr=0.05, momentum=0.9, weight_decay=0.3)
    for gradient in gradients:
        weight.grad = gradient[name]
        theirs.step()
    torch.testing.assert_close(model.get_parameter(name), weight)


def test_everything_else_moves_as_in_adamw() -> None:
    muon, gradients = trained(MuonConfig(adamw_lr=0.01, weight_decay=0.2), 2)
    model = built()
    adamw = AdamWConfig(lr=0.01, weight_decay=0.2).build(model)
    for gradient in gradients:
        for name, p in model.named_parameters():
            p.grad = gradient[name]
        adamw.step()
    for name, p in model.named_parameters():
        hidden = name.startswith("blocks.") and p.dim() == 2
        assert torch.equal(p, muon.get_parameter(name)) is not hidden, name


def test_updates_of_lion_are_those_of_the_paper() -> None:
    config = LionConfig(lr=0.01, beta1=0.8, beta2=0.95, weight_decay=0.3)
    model, gradients = trained(config, 3)
    for name, p in built().named_parameters():
        weight, momentum = p.detach().clone(), torch.zeros_like(p)
        for gradient in gradients:
            direction = (0.8 * momentum + 0.2 * gradient[name]).sign()
            weight -= 0.01 * (direction + (0.3 if p.dim() == 2 else 0.0) * weight)
            momentum = 0.95 * momentum + 0.05 * gradient[name]
        torch.testing.assert_close(model.get_parameter(name).detach(), weight)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_updates_of_sgd_are_those_of_torch_and_decay_is_decoupled(
    momentum: float, nesterov: bool
) -> None:
    plain = SGDConfig(lr=0.05, momentum=momentum, nesterov=nesterov)
    model, gradients = trained(plain, 3)
    reference = built()
    theirs = torch.optim.SGD(reference.parameters(), 0.05, momentum, nesterov=nesterov)
    for gradient in gradients:
        for name, p in reference.named_parameters():
            p.grad = gradient[name]
        theirs.step()
    for ours, p in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, p)

    decaying, (gradient,) = trained(dataclasses.replace(plain, weight_decay=0.3), 1)
    for name, p in built().named_parameters():
        step = (1 + momentum * nesterov) * gradient[name]
        decay = 0.3 if p.dim() == 2 else 0.0
        expected = p - 0.05 * (step + decay * p)
        torch.testing.assert_close(decaying.get_parameter(name), expected)


def test_updates_of_schedule_free_are_those_of_the_paper() -> None:
    config = ScheduleFreeConfig(lr=0.01, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.3)
    model = built()
    optimizer = config.build(model)
    assert isinstance(optimizer, Averages)
    zs = {name: p.detach().clone() for name, p in model.named_parameters()}
    xs, seconds, total = dict(zs), {name: torch.zeros_like(p) for name, p in zs.items()}, 0.0
    generator = torch.Generator().manual_seed(1)
    for step, lr in enumerate((0.002, 0.006, 0.01, 0.01), start=1):
        ys = {name: 0.2 * zs[name] + 0.8 * xs[name] for name in zs}
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.detach(), ys[name], rtol=1e-12, atol=1e-14)
        tokens = torch.randint(V, (2, T + 1), generator=generator)
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
        total += lr**2
        for name, gradient in gradients.items():
            seconds[name] = 0.95 * seconds[name] + 0.05 * gradient**2
            scale = (seconds[name] / (1 - 0.95**step)).sqrt() + 1e-6
            decay = 0.3 if gradient.dim() == 2 else 0.0
            zs[name] = zs[name] - lr * (gradient / scale + decay * ys[name])
            xs[name] = xs[name] + lr**2 / total * (zs[name] - xs[name])
    training = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.to_evaluation()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), xs[name], rtol=1e-10, atol=1e-12)
    optimizer.to_training()
    for name, p in model.named_parameters():
        assert torch.equal(p, training[name])


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(UserError, match=r"nesterov=true has no effect with optimizer\.momentum=0"):
        SGDConfig(momentum=0.0, nesterov=True)


@pytest.mark.parametrize(
    "config",
    [MuonConfig(momentum_warmup=4), LionConfig(), SGDConfig(), ScheduleFreeConfig()],
    ids=lambda c: c.name,
)
def test_saved_memory_goes_on_to_the_bit(config: OptimizerConfig) -> None:
    def step(model: LanguageModel, optimizer: Any, number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        tokens = torch.randint(V, (2, T + 1), generator=generator)
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()

    model = built()
    optimizer = config.build(model)
    for number in range(6):
        if number == 3:
            other = copy.deepcopy(model)
            resumed = config.build(other)
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        if number >= 3:
            step(other, resumed, number)
        step(model, optimizer, number)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        *((MuonConfig, name, 0.0) for name in ("lr", "adamw_lr", "eps")),
        *((MuonConfig, name, 1.0) for name in ("momentum", "beta1", "beta2")),
        (MuonConfig, "momentum_warmup", -1),
        *((LionConfig, name, value) for name, value in (("lr", 0.0), ("beta1", 1.0))),
        *((SGDConfig, name, value) for name, value in (("lr", 0.0), ("momentum", 1.0))),
        *((ScheduleFreeConfig, name, 0.0) for name in ("lr", "beta1", "eps")),
        (ScheduleFreeConfig, "beta2", 1.0),
        *(
            (c, "weight_decay", -0.1)
            for c in (MuonConfig, LionConfig, SGDConfig, ScheduleFreeConfig)
        ),
    ],
)
def test_values_out_of_range_are_refused_by_name(config: Any, field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"optimizer.{field}={value} must be"):
        config(**{field: value})
