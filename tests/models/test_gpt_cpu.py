"""The block that is written by hand against autograd's, in float64 and in bfloat16."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tinygpt.models import gpt_cpu_torch
from tinygpt.models.gpt import GPTConfig
from tinygpt.models.gpt_cpu_torch import block_forward
from tinygpt.models.gpt_torch import GPT, Block


def block(*, width: int = 24, heads: int = 3) -> Block:
    torch.manual_seed(0)
    made = Block(GPTConfig(n_layer=1, n_head=heads, d_model=width))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def plain(made: Block, x: Tensor) -> Tensor:
    """The formula of a block, differentiated by autograd."""
    x = x + made.attention(made.attention_norm(x), None, None)
    update: Tensor = made.mlp(made.mlp_norm(x))
    return x + update


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


def test_in_bfloat16_it_is_as_near_to_full_precision_as_autocast_is() -> None:
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


def test_the_slope_of_gelu_is_its_derivative() -> None:
    bias = torch.linspace(-1, 1, 8, dtype=torch.float64)
    x = torch.linspace(-9, 9, 400, dtype=torch.float64).view(50, 8)
    shifted = (x + bias).requires_grad_()
    expected = F.gelu(shifted, approximate="tanh")
    expected.sum().backward()
    y, slope = gpt_cpu_torch._gelu(x.clone(), bias)
    torch.testing.assert_close(y, expected.detach())
    torch.testing.assert_close(slope, shifted.grad)


def test_rows_of_gelu_are_cut_where_the_cache_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    x, bias = torch.randn(7, 8), torch.randn(8)
    whole = gpt_cpu_torch._gelu(x.clone(), bias)
    monkeypatch.setattr(gpt_cpu_torch, "GELU_ELEMENTS", 16)
    for part, expected in zip(gpt_cpu_torch._gelu(x.clone(), bias), whole, strict=True):
        torch.testing.assert_close(part, expected)


def test_a_model_learns_the_same_by_hand_and_by_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    def losses() -> list[float]:
        torch.manual_seed(1)
        model: GPT = GPTConfig(n_layer=2, n_head=2, d_model=16).build(vocab_size=11, seq_len=20)
        model.double()
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

    by_hand = losses()
    monkeypatch.setattr("tinygpt.models.gpt_torch.block_forward", plain)
    assert by_hand == pytest.approx(losses(), rel=1e-9)
    assert by_hand[-1] < by_hand[0] - 0.04
