"""The formulas that are not torch's own against autograd, and against themselves cut into parts."""

import pytest
import torch
from torch.nn import functional as F

from tinygpt.kernels import Formulas, formulas
from tinygpt.kernels.formulas import Heads

FORMULAS = Formulas()


def test_the_slope_of_gelu_is_its_derivative() -> None:
    bias = torch.linspace(-1, 1, 8, dtype=torch.float64)
    x = torch.linspace(-9, 9, 400, dtype=torch.float64).view(50, 8)
    shifted = (x + bias).requires_grad_()
    expected = F.gelu(shifted, approximate="tanh")
    expected.sum().backward()
    y, slope = FORMULAS.gelu_(x.clone(), bias)
    torch.testing.assert_close(y, expected.detach())
    torch.testing.assert_close(slope, shifted.grad)


def test_rows_of_gelu_are_cut_where_the_cache_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    x, bias = torch.randn(7, 8), torch.randn(8)
    whole = FORMULAS.gelu_(x.clone(), bias)
    monkeypatch.setattr(formulas, "GELU_ELEMENTS", 16)
    for part, expected in zip(FORMULAS.gelu_(x.clone(), bias), whole, strict=True):
        torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("before", [0, 3])
def test_a_query_sees_the_keys_up_to_its_own(before: int) -> None:
    scores = torch.randn(2, 4, before + 4, dtype=torch.float64)
    p, _ = FORMULAS.causal_softmax_(scores.clone())
    for query in range(4):
        seen = before + query + 1
        torch.testing.assert_close(p[:, query, :seen], scores[:, query, :seen].softmax(-1))
        assert not p[:, query, seen:].any()


def test_heads_that_are_split_are_merged_to_what_they_were() -> None:
    qkv, bias = torch.randn(2 * 5, (4 + 2 * 2) * 6), torch.randn((4 + 2 * 2) * 6)
    heads = FORMULAS.split_heads(qkv, bias, Heads(2, 4, 2))
    assert [tuple(part.shape) for part in heads] == [(8, 5, 6), (4, 5, 6), (4, 5, 6)]
    tokens = torch.empty(2, 5, 8, 6)
    kinds = zip(heads, tokens.split((4, 2, 2), 2), (6**0.5, 1.0, 1.0), strict=True)
    for part, into, scale in kinds:
        FORMULAS.merge_heads(part, into, scale=scale)
    torch.testing.assert_close(tokens.view(10, -1), qkv + bias)


def test_slopes_are_the_derivatives_of_relu2_and_swiglu() -> None:
    gate, up = torch.linspace(-9, 9, 400, dtype=torch.float64).view(2, 50, 4).unbind()
    gate, up = (part.clone().requires_grad_() for part in (gate, up))
    y, of_gate, of_up = FORMULAS.swiglu_(gate.detach().clone(), None, up.detach().clone(), None)
    expected = F.silu(gate) * up
    expected.sum().backward()
    torch.testing.assert_close([y, of_gate, of_up], [expected.detach(), gate.grad, up.grad])
    x = gate.detach().clone().requires_grad_()
    y, slope = FORMULAS.relu2_(x.detach().clone(), None)
    expected = F.relu(x).square()
    expected.sum().backward()
    torch.testing.assert_close([y, slope], [expected.detach(), x.grad])
