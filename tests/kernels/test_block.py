"""The block that is written by hand against autograd's, in float64, fp32 and bfloat16."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tinygpt import kernels
from tinygpt.components.models.gpt import GPTConfig
from tinygpt.components.models.gpt_torch import GPT, Block
from tinygpt.components.models.parts.positions import Rotation, rotation
from tinygpt.config import compose
from tinygpt.kernels.block import Masks

KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "rope": {"positions": "rope", "rope_base": 100.0},
    "rmsnorm": {"norm": "rmsnorm"},
    "no gain": {"norm_gain": False},
    "no bias": {"bias": False},
    "qk norm": {"qk_norm": True},
    "grouped queries": {"n_kv_head": 1},
    "relu2": {"feedforward": "relu2"},
    "swiglu": {"feedforward": "swiglu", "d_ff": 40},
    "sandwich": {"sandwich_norm": True},
    "llama": {"positions": "rope", "norm": "rmsnorm", "bias": False, "feedforward": "swiglu"},
}
KINDS["qwen3"] = KINDS["llama"] | {"qk_norm": True, "n_kv_head": 1, "norm_eps": 1e-6}
KINDS["modern"] = KINDS["llama"] | {"feedforward": "relu2", "qk_norm": True, "norm_gain": False}
KINDS["all"] = {name: value for fields in KINDS.values() for name, value in fields.items()}
every_kind = pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)


def block(*, width: int = 24, heads: int = 3, **fields: Any) -> Block:
    torch.manual_seed(0)
    config = GPTConfig(n_layer=1, n_head=heads, d_model=width, **fields)
    made = Block(config, layer=0, vocab_size=1)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    made.angles = None  # for the functions below
    if config.positions == "rope":
        d_head = width // heads
        made.angles = rotation(torch.arange(400), d_head=d_head, base=config.rope_base)
    return made


def angles(made: Block, x: Tensor) -> Rotation | None:
    return made.angles and Rotation(*(part[: x.size(1)] for part in made.angles))


def plain(made: Block, x: Tensor) -> Tensor:
    """A block, differentiated by autograd."""
    out: Tensor = made(x, x0=x, by=angles(made, x))[0]
    return out


def block_forward(made: Block, x: Tensor) -> Tensor:
    """A block, by the kernels."""
    out: Tensor = made(x, x0=x, by=angles(made, x), masks=Masks())[0]
    return out


def gradients(made: Block, forward, x: Tensor, d_out: Tensor) -> dict[str, Tensor]:
    made.zero_grad()
    x = x.clone().requires_grad_()
    out = forward(made, x)
    out.backward(d_out)
    named = {name: p.grad.clone() for name, p in made.named_parameters()}
    return named | {"out": out.detach(), "x": x.grad}


@every_kind
@pytest.mark.parametrize("n_time", [1, 200])
def test_a_block_of_any_kind_and_its_gradients_are_those_of_autograd(fields, n_time: int) -> None:
    made = block(heads=2, **fields).double()
    x, d_out = torch.randn(2, 2, n_time, 24, dtype=torch.float64)
    by_hand = gradients(made, block_forward, x, d_out)
    for name, expected in gradients(made, plain, x, d_out).items():
        torch.testing.assert_close(by_hand[name], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n_time", [1, 5, 128, 200, 300])
def test_a_block_and_its_gradients_are_those_of_autograd(n_time: int) -> None:
    made = block().double()
    x, d_out = torch.randn(2, 2, n_time, 24, dtype=torch.float64)
    by_hand = gradients(made, block_forward, x, d_out)
    for name, expected in gradients(made, plain, x, d_out).items():
        torch.testing.assert_close(by_hand[name], expected, rtol=1e-10, atol=1e-10)


@pytest.fixture
def fused(request: pytest.FixtureRequest) -> Iterator[None]:
    """Kernels in C for one type of activations."""
    kernels.choose(request.param)
    assert kernels.describe().startswith("torch" if request.param is None else "fused")
    yield
    kernels.choose(None)


def assert_fused_is_near(made: Block, x: Tensor, d_out: Tensor) -> None:
    by_hand = gradients(made, block_forward, x, d_out)
    exact = gradients(made.double(), plain, x.double(), d_out.double())
    for name, expected in exact.items():
        error = (by_hand[name] - expected).norm()
        # the bias of keys adds the same to all scores of a query, so its gradient is zero
        assert error < 1e-5 * (expected.norm() + exact["attention.qkv.weight"].norm()), name


@pytest.mark.gcc
@pytest.mark.parametrize("fused", [torch.float32], indirect=True)
@pytest.mark.parametrize("n_time", [1, 5, 128, 200, 300])
def test_fused_a_block_and_its_gradients_are_those_of_autograd(n_time: int, fused: None) -> None:
    assert_fused_is_near(block(), *torch.randn(2, 2, n_time, 24))


@pytest.mark.gcc
@every_kind
@pytest.mark.parametrize("fused", [torch.float32], indirect=True)
def test_fused_a_block_of_any_kind_is_that_of_autograd(fields, fused: None) -> None:
    for n_time in (5, 150):
        assert_fused_is_near(block(heads=2, **fields), *torch.randn(2, 2, n_time, 24))


@pytest.mark.gcc
@pytest.mark.parametrize("fused", [torch.float32], indirect=True)
def test_a_gradient_that_is_not_contiguous_is_read_as_it_is(fused: None) -> None:
    made, x = block(), torch.randn(2, 5, 24)
    expected = gradients(made, block_forward, x, torch.ones(2, 5, 24))
    found = gradients(made, block_forward, x, torch.ones(()).expand(2, 5, 24))
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient)


def assert_as_near_as_autocast(made: Block, x: Tensor, d_out: Tensor) -> None:
    exact = gradients(made, plain, x, d_out)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        by_hand = gradients(made, block_forward, x, d_out)
        autocast = gradients(made, plain, x, d_out)
    for name, expected in exact.items():
        error, usual = ((found[name] - expected).norm() for found in (by_hand, autocast))
        assert by_hand[name].dtype == torch.float32
        assert error <= 1.5 * usual + 1e-6 * expected.norm(), name
        assert error < 0.02 * expected.norm(), name


@pytest.mark.parametrize(
    "fused", [None, pytest.param(torch.bfloat16, marks=pytest.mark.gcc)], indirect=True
)
def test_in_bfloat16_it_is_as_near_to_full_precision_as_autocast_is(fused: None) -> None:
    assert_as_near_as_autocast(block(width=64, heads=4), *torch.randn(2, 4, 160, 64))


@pytest.mark.gcc
@pytest.mark.parametrize("fused", [torch.bfloat16], indirect=True)
@pytest.mark.parametrize("kind", ["llama", "qwen3", "modern"])
def test_in_bfloat16_blocks_of_presets_are_as_near_as_autocast_is(kind: str, fused: None) -> None:
    assert_as_near_as_autocast(block(width=64, heads=4, **KINDS[kind]), *torch.randn(2, 4, 160, 64))


@pytest.mark.gcc
@pytest.mark.parametrize(
    "around",
    [
        {"x0_shortcut": True},
        {"logit_softcap": 5.0},
        {"embedding_norm": True},
        {"embedding_norm": True, "norm_gain": False, "x0_shortcut": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("fused", [torch.float32], indirect=True)
def test_what_surrounds_fused_blocks_is_that_of_autograd(around, fused: None) -> None:
    fields = KINDS["llama"] | around
    model: GPT = GPTConfig(n_layer=2, n_head=2, d_model=24, **fields).build(
        vocab_size=30, seq_len=40
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.randint(0, 30, (3, 41))

    def found() -> list[Tensor]:
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        return [part.detach().double() for part in (loss, *gradients)]

    assert model.use_kernels(True) == []
    ours = found()
    model.double().use_kernels(False)
    for part, exact in zip(ours, found(), strict=True):
        assert (part - exact).norm() < 2e-5 * (exact.norm() + 0.1)


@pytest.mark.gcc
@pytest.mark.parametrize("preset", ["llama", "qwen3", "arcee", "modern"])
@pytest.mark.parametrize("fused", [torch.float32], indirect=True)
def test_a_preset_learns_fused_what_it_learns_by_autograd(preset: str, fused: None) -> None:
    config = compose.compose("train", [f"model={preset}_nano", "dataset=storyworld"]).model

    def trained(*, by_kernels: bool) -> tuple[list[float], dict[str, Tensor]]:
        torch.manual_seed(1)
        model = config.build(vocab_size=40, seq_len=50)
        assert model.use_kernels(by_kernels) == []
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        tokens, found = torch.randint(0, 40, (4, 51)), []
        for _ in range(5):
            loss = model.loss(tokens[:, :-1], tokens[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found, model.state_dict()

    losses, weights = trained(by_kernels=True)
    plain_losses, plain_weights = trained(by_kernels=False)
    assert losses == pytest.approx(plain_losses, rel=1e-4)
    assert losses[-1] < losses[0] - 0.05
    assert list(weights) == list(plain_weights)
    # they differ in the last bits: they are two implementations
    assert not all(torch.equal(weights[name], plain_weights[name]) for name in weights)


def test_a_model_learns_the_same_by_hand_and_by_autograd() -> None:
    def losses(*, kernels: bool) -> list[float]:
        torch.manual_seed(1)
        model: GPT = GPTConfig(n_layer=2, n_head=2, d_model=16).build(vocab_size=11, seq_len=20)
        model.double()
        assert model.use_kernels(kernels) == []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        tokens = torch.randint(0, 11, (4, 21))
        found = []
        for _ in range(10):
            loss = model.loss(tokens[:, :-1], tokens[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    by_hand, by_autograd = losses(kernels=True), losses(kernels=False)
    assert by_hand == pytest.approx(by_autograd, rel=1e-9)
    assert by_hand != by_autograd  # in the last bits: they are two implementations
    assert by_hand[-1] < by_hand[0] - 0.04
