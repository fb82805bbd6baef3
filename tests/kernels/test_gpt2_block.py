"""The block that is written by hand against autograd's, in float64 and in bfloat16."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tinygpt import kernels
from tinygpt.components.models.gpt import GPTConfig
from tinygpt.components.models.gpt_torch import GPT, Block
from tinygpt.kernels.gpt2_block import Masks


def block(*, width: int = 24, heads: int = 3) -> Block:
    torch.manual_seed(0)
    made = Block(GPTConfig(n_layer=1, n_head=heads, d_model=width), layer=0, vocab_size=1)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def plain(made: Block, x: Tensor) -> Tensor:
    """A block, differentiated by autograd."""
    out: Tensor = made(x, x0=x)[0]
    return out


def block_forward(made: Block, x: Tensor) -> Tensor:
    """A block, by the kernels."""
    out: Tensor = made(x, x0=x, masks=Masks())[0]
    return out


def gradients(made: Block, forward, x: Tensor, d_out: Tensor) -> dict[str, Tensor]:
    made.zero_grad()
    x = x.clone().requires_grad_()
    out = forward(made, x)
    out.backward(d_out)
    named = {name: p.grad.clone() for name, p in made.named_parameters()}
    return named | {"out": out.detach(), "x": x.grad}


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


@pytest.mark.gcc
@pytest.mark.parametrize("fused", [torch.float32], indirect=True)
@pytest.mark.parametrize("n_time", [1, 5, 128, 200, 300])
def test_fused_a_block_and_its_gradients_are_those_of_autograd(n_time: int, fused: None) -> None:
    made = block()
    x, d_out = torch.randn(2, 2, n_time, 24)
    by_hand = gradients(made, block_forward, x, d_out)
    exact = gradients(made.double(), plain, x.double(), d_out.double())
    for name, expected in exact.items():
        error = (by_hand[name] - expected).norm()
        # the bias of keys adds the same to all scores of a query, so its gradient is zero
        assert error < 1e-5 * (expected.norm() + exact["attention.qkv.weight"].norm()), name


@pytest.mark.gcc
@pytest.mark.parametrize("fused", [torch.float32], indirect=True)
def test_a_gradient_that_is_not_contiguous_is_read_as_it_is(fused: None) -> None:
    made, x = block(), torch.randn(2, 5, 24)
    expected = gradients(made, block_forward, x, torch.ones(2, 5, 24))
    found = gradients(made, block_forward, x, torch.ones(()).expand(2, 5, 24))
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient)


@pytest.mark.parametrize(
    "fused", [None, pytest.param(torch.bfloat16, marks=pytest.mark.gcc)], indirect=True
)
def test_in_bfloat16_it_is_as_near_to_full_precision_as_autocast_is(fused: None) -> None:
    made = block(width=64, heads=4)
    x, d_out = torch.randn(2, 4, 160, 64)
    exact = gradients(made, plain, x, d_out)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        by_hand = gradients(made, block_forward, x, d_out)
        autocast = gradients(made, plain, x, d_out)
    for name, expected in exact.items():
        error, usual = ((found[name] - expected).norm() for found in (by_hand, autocast))
        assert by_hand[name].dtype == torch.float32
        assert error <= 1.5 * usual + 1e-6 * expected.norm(), name
        assert error < 0.02 * expected.norm(), name


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
