"""The loss without logits: equal to the plain formula, in less memory."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tinygpt import kernels
from tinygpt.kernels import formulas
from tinygpt.kernels import loss as losses
from tinygpt.kernels.loss import linear_cross_entropy

N_TOKENS, N_VOCAB, WIDTH = 30, 17, 6


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(N_TOKENS, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(N_VOCAB, WIDTH, dtype=dtype, requires_grad=True)
    return x, weight, torch.randint(0, N_VOCAB, (N_TOKENS,))


def plain(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight), targets)


@pytest.mark.parametrize("block", [1, 4 * N_VOCAB, 1 << 20])
@pytest.mark.parametrize("multiple", [1, N_VOCAB, 8])
@pytest.mark.parametrize("chunk", [1, 3 * N_VOCAB, 1 << 20])
def test_loss_and_gradients_are_those_of_the_formula(
    block: int, multiple: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CPU_BLOCKS", losses.Blocks(block, multiple))
    monkeypatch.setattr(formulas, "LOSS_ELEMENTS", chunk)
    expected, found = inputs(), inputs()
    (plain(*expected) / 3).backward()
    loss = linear_cross_entropy(*found)
    (loss / 3).backward()
    torch.testing.assert_close(loss, plain(*expected))
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("fused", [None, pytest.param(torch.bfloat16, marks=pytest.mark.gcc)])
def test_in_bfloat16_the_loss_is_summed_in_full_precision(
    fused: torch.dtype | None, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: kernels.choose(None))
    kernels.choose(fused)
    x, weight, targets = inputs(torch.float32)
    exact = plain(x, weight, targets).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(x, weight, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=0.01)
    loss.backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_half_precision_keeps_the_gradients_for_the_scaled_loss() -> None:
    x, weight, targets = inputs(torch.float32)
    scale = 2.0**16
    with torch.autocast("cpu", dtype=torch.float16):
        loss = linear_cross_entropy(x, weight, targets)
    (scale * loss).backward()
    exact = inputs(torch.float32)
    plain(*exact).backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad / scale, exact[0].grad, rtol=0.05, atol=1e-3)


class Largest(TorchDispatchMode):
    """Remembers the most elements that any result has had."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_no_more_logits_exist_than_a_block_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CPU_BLOCKS", losses.Blocks(8 * N_VOCAB, 1))
    x, weight, targets = inputs()
    with Largest() as largest:
        linear_cross_entropy(x, weight, targets).backward()
    assert largest.elements == max(8 * N_VOCAB, N_TOKENS * WIDTH)
    with Largest() as largest:
        plain(x, weight, targets)
    assert largest.elements == N_TOKENS * N_VOCAB


class Products(TorchDispatchMode):
    """Counts operations, and remembers the shapes of the matrices that are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        if func is torch.ops.aten.mm.default:
            self.shapes |= {tuple(matrix.shape) for matrix in args}
        return func(*args, **(kwargs or {}))


def test_on_a_gpu_the_loss_of_gpt2_is_a_few_large_products() -> None:
    n_tokens, n_vocab, width = 32 * 1024, 50_257, 768
    with torch.device("meta"):  # for the loss any device but a CPU
        x, weight = torch.empty(n_tokens, width), torch.empty(n_vocab, width)
        targets = torch.empty(n_tokens, dtype=torch.int64)
        with Products() as products:
            losses._LinearCrossEntropy.apply(x, weight, targets, torch.bfloat16, True, None)
    assert products.operations < 500
    assert {shape[1] for shape in products.shapes if n_vocab <= shape[1]} == {50_304}
