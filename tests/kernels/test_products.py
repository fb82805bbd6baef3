"""Products and attention in C against the formulas in float64, by each kind of instructions."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.kernels.compiled import EMULATED_AMX, EMULATED_AVX512
from tests.kernels.near import assert_near, random
from tinygpt import kernels
from tinygpt.kernels import Dropout, Formulas, build
from tinygpt.kernels.build import Build
from tinygpt.kernels.products import FusedProducts

pytestmark = pytest.mark.gcc

EXACT = Formulas()
HALF = torch.bfloat16
DROP = Dropout(key=-987654321987654321, stream=5, threshold=13107)
# flags for each kind of instructions, the real ones first: without them they are emulated
FLAGS = {
    "AMX": ([], EMULATED_AMX, (*EMULATED_AVX512, *EMULATED_AMX)),
    "AVX-512": (["-U__AMX_BF16__"], EMULATED_AVX512),
}
seeds = st.integers(0, 1000)
sizes = st.integers(1, 70)


# AMX that is emulated in emulated AVX-512 takes half a minute
HAS_AVX512 = "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
AMX = "AMX" if HAS_AVX512 else pytest.param("AMX", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[AMX, "AVX-512"])
def ours(request: pytest.FixtureRequest) -> Iterator[FusedProducts]:
    """The kernels that multiply by these instructions; skipped if the CPU is not x86-64."""
    for flags in FLAGS[request.param]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build, "FLAGS", [*build.FLAGS, *flags])
            patch.setattr(kernels, "_builds", {})
            built = Build(HALF).finish()
            if isinstance(built, FusedProducts) and built.instructions == request.param:
                yield built
                return
    pytest.skip("needs an x86-64 CPU")


@pytest.fixture(autouse=True)
def repeatable() -> None:
    torch.manual_seed(0)


def rounded(weight: Tensor) -> Tensor:
    """As the kernels multiply by it, in float64."""
    return weight.to(HALF).double()


def check_layer(ours: FusedProducts, rows: int, depth: int, columns: int) -> None:
    """Everything that a linear layer (columns, depth) and its gradients are part of."""
    x, weight, bias = random(rows, depth, dtype=HALF), random(columns, depth), random(columns)
    residual, (gain, shift) = random(rows, columns), random(2, columns).unbind()
    exact_weight, exact = rounded(weight), (x.double(), bias.double(), residual.double())
    product = exact[0] @ exact_weight.t()
    assert_near(ours.linear(x, weight), product, sums=depth)
    total = product + exact[1] + exact[2]
    assert_near(ours.linear_add(x, weight, bias, residual), total, sums=depth)
    found, (normed, mean, rstd) = ours.linear_add_and_norm(
        x, (weight, bias), residual, (gain, shift), 1e-5
    )
    assert torch.equal(found, ours.linear_add(x, weight, bias, residual))
    for part, expected in zip(
        (normed, mean, rstd), ours.norm(found, gain, shift, 1e-5, HALF), strict=True
    ):
        torch.testing.assert_close(part, expected, rtol=2**-7, atol=1e-4)
    for part, expected in zip(
        ours.linear_gelu(x, weight, bias), EXACT.gelu_(product.clone(), exact[1]), strict=True
    ):
        # where GELU bends, an error of the sum is one of the result, a little larger
        assert_near(part, expected, sums=2 * depth)

    d, slope = random(rows, columns, dtype=HALF), random(rows, depth, dtype=HALF)
    back = d.double() @ exact_weight
    assert_near(ours.linear_backward(d, weight), back, sums=columns)
    d_x, sums = ours.linear_backward_slope(d, weight, slope)
    assert_near(d_x, back * slope.double(), sums=4 * columns)
    assert_near(sums, (back * slope.double()).sum(0), sums=10 * columns * rows)
    d_weight = ours.linear_weights(d, x, torch.float32)
    assert_near(d_weight, d.double().t() @ exact[0], sums=10 * rows)

    stream, more, (gain, shift) = *random(2, rows, depth), random(2, depth).unbind()
    _, *stats = ours.norm(stream, gain, shift, 1e-5, HALF)
    given = (stream, tuple(stats), (gain, shift), more)
    through = ours.linear_backward_norm(d, weight, *given)
    apart = ours.norm_backward(ours.linear_backward(d, weight), *given)
    for part, expected in zip(through, apart, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-4 * rows)


@given(seed=seeds, rows=sizes, depth=sizes, columns=sizes)
def test_a_layer_and_its_gradients_are_those_of_the_formulas(
    ours: FusedProducts, seed: int, rows: int, depth: int, columns: int
) -> None:
    torch.manual_seed(seed)
    check_layer(ours, rows, depth, columns)


@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [
        (2100, 40, 300),  # more rows and columns than a gradient takes at a time
        (40, 600, 1200),  # weights that do not stay in the cache, by columns
        (40, 2100, 700),  # and by depth, summed in parts
        (70, 1500, 1300),
        # and more rows than a task has; slow where the instructions are emulated
        pytest.param(4100, 600, 1150, marks=pytest.mark.slow),
    ],
)
def test_what_is_too_large_for_the_caches_is_cut_and_put_together(
    ours: FusedProducts, rows: int, depth: int, columns: int
) -> None:
    check_layer(ours, rows, depth, columns)


def qkv_of(
    ours: FusedProducts, batch: int, time: int, n_head: int, d_head: int
) -> tuple[Tensor, ...]:
    """Input, weight and bias of attention, and y with what is kept."""
    width = n_head * d_head
    x, bias = random(batch * time, width, dtype=HALF), random(3 * width)
    weight = random(3 * width, width, scale=width**-0.5)
    return x, weight, bias, *ours.attend(x, weight, bias, batch, n_head)


def attention(qkv: Tensor, d_y: Tensor, *shape: int) -> tuple[Tensor, Tensor]:
    """What torch makes of q, k and v: y, and their gradients."""
    heads = qkv.view(*shape[:2], 3, *shape[2:]).requires_grad_()
    q, k, v = heads.permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(d_y.shape)
    y.backward(d_y)
    assert heads.grad is not None
    return y.detach(), heads.grad.reshape(qkv.shape).double()


def check_attention(ours: FusedProducts, *shape: int) -> None:
    """B, T, H, D: as near to float64 as torch comes in bfloat16."""
    batch, _, n_head, _ = shape
    *_, y, (qkv, logs) = qkv_of(ours, *shape)
    d_y = random(*y.shape, dtype=HALF)
    expected, gradient = attention(qkv.double(), d_y.double(), *shape)
    assert_near(y, expected)
    found, sums = ours.attend_backward(d_y, y, (qkv, logs), batch, n_head)
    _, usual = attention(qkv.clone(), d_y, *shape)
    error, usual_error = ((part.double() - gradient).norm() for part in (found, usual))
    assert error <= 1.2 * usual_error + 1e-3 * gradient.norm()
    torch.testing.assert_close(
        sums.double(), found.double().sum(0), rtol=0, atol=2**-8 * gradient.norm().item() + 1e-6
    )


@given(seed=seeds, batch=st.integers(1, 3), time=sizes, n_head=st.integers(1, 4), d_head=sizes)
def test_attention_and_its_gradients_are_those_of_torch(
    ours: FusedProducts, seed: int, batch: int, time: int, n_head: int, d_head: int
) -> None:
    torch.manual_seed(seed)
    check_attention(ours, batch, time, n_head, d_head)


@pytest.mark.parametrize("time", [256, 257, 600])
def test_queries_of_a_long_text_are_taken_in_spans(ours: FusedProducts, time: int) -> None:
    check_attention(ours, 1, time, 2, 32)


@pytest.mark.parametrize("drop", [None, DROP], ids=["", "dropout"])
@pytest.mark.parametrize("apart", [False, True], ids=["", "documents"])
@pytest.mark.parametrize(("time", "d_head"), [(7, 5), (150, 16), (300, 8)])
def test_attention_drops_and_keeps_documents_apart_as_the_formula_does(
    ours: FusedProducts, time: int, d_head: int, apart: bool, drop: Dropout | None
) -> None:
    batch, n_head = 2, 3
    x, weight, bias, *_ = qkv_of(ours, batch, time, n_head, d_head)
    starts = torch.arange(time).div(11, rounding_mode="floor").mul(11).repeat(batch, 1)
    given = (batch, n_head, starts if apart else None, drop)
    y, (qkv, logs) = ours.attend(x, weight, bias, *given)
    d_y = random(*y.shape, dtype=HALF)
    found, _ = ours.attend_backward(d_y, y, (qkv, logs), *given)

    heads = qkv.double().view(batch, time, 3, n_head, d_head).requires_grad_()
    q, k, v = heads.permute(2, 0, 3, 1, 4)
    tokens = torch.arange(time)
    hidden = tokens > tokens[:, None]
    if apart:
        hidden = hidden | (tokens < starts[0][:, None])
    p = (q @ k.transpose(2, 3) / d_head**0.5).masked_fill(hidden, -torch.inf).softmax(-1)
    if drop is not None:
        p = p * drop.factors(torch.arange(batch * n_head * time), time).view_as(p)
    expected = (p @ v).transpose(1, 2).reshape(y.shape)
    expected.backward(d_y.double())
    assert_near(y, expected.detach(), sums=4)
    gradient = heads.grad.reshape(qkv.shape)
    assert (found.double() - gradient).norm() < 0.01 * gradient.norm()


@pytest.mark.parametrize(("rows", "width"), [(3, 5), (140, 70), (5, 200)])
def test_a_layer_drops_what_the_formula_drops(ours: FusedProducts, rows: int, width: int) -> None:
    x, weight, bias = random(rows, width, dtype=HALF), random(width, width), random(width)
    stream, gain = random(rows, width), random(width)
    exact = (x.double() @ rounded(weight).t(), bias.double(), stream.double())
    total = ours.linear_add(x, weight, bias, stream, DROP)
    assert_near(total, EXACT.add(*exact, DROP), sums=width)
    again, (normed, *_) = ours.linear_add_and_norm(
        x, (weight, bias), stream, (gain, bias), 1e-5, DROP
    )
    assert torch.equal(again, total)
    assert torch.equal(normed, ours.norm(total, gain, bias, 1e-5, HALF)[0])


def test_attention_sees_no_later_token(ours: FusedProducts) -> None:
    x, weight, bias, y, _ = qkv_of(ours, 1, 70, 2, 16)
    for token in (1, 31, 32, 50):
        other = x.clone()
        other[token:] += 1
        seen, _ = ours.attend(other, weight, bias, 1, 2)
        assert torch.equal(seen[:token], y[:token])
        assert not torch.equal(seen[token], y[token])


def test_any_number_of_threads_gives_the_same_bits(ours: FusedProducts) -> None:
    x, weight, bias = random(140, 65, dtype=HALF), random(3 * 65, 65), random(3 * 65)
    d, slope = random(140, 3 * 65, dtype=HALF), random(140, 65, dtype=HALF)
    stream, gain = random(140, 65), torch.ones(65)
    stats = tuple(random(2, 140, 1).unbind())
    large, more = random(700, 1000), random(140, 1000, dtype=HALF)
    back = random(140, 700, dtype=HALF)

    def everything() -> list[Tensor]:
        y, kept = ours.attend(x, weight, bias, 7, 5)
        results = [*ours.attend_backward(y, y, kept, 7, 5), *ours.linear_gelu(x, weight, bias)]
        results += ours.linear_backward_slope(d, weight, slope)
        results += ours.linear_backward_norm(d, weight, stream, stats, (gain, gain), stream)
        results += [ours.linear(more, large), ours.linear_backward(back, large)]
        return [*results, ours.linear_weights(d, x, torch.float32)]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = everything()
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, everything(), alone))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(ours: FusedProducts, bad: float) -> None:
    x, weight, bias = random(40, 40, dtype=HALF), random(40, 40), random(40)
    x[1, 0] = bad
    by_row = (
        ours.linear(x, weight),
        ours.linear_add(x, weight, bias, random(40, 40)),
        ours.linear_gelu(x, weight, bias)[1],
        ours.linear_backward(x, weight),
    )
    for result in by_row:
        assert not result[1].isfinite().any()
        assert result[0].isfinite().all()  # what follows a row in memory is not of it
    assert not ours.linear_weights(x, x.clone(), torch.float32)[0].isfinite().any()
    _, sums = ours.linear_backward_slope(x, weight, x.new_ones(40, 40))
    assert not sums.isfinite().any()
    y, _ = ours.attend(x, random(120, 40), random(120), 1, 2)
    assert not y[1].isfinite().any()


def test_weights_of_another_type_are_refused(ours: FusedProducts) -> None:
    with pytest.raises(AssertionError):
        ours.linear(random(4, 4, dtype=HALF), random(4, 4, dtype=torch.float64))


@pytest.fixture
def chosen(ours: FusedProducts) -> Iterator[None]:
    kernels.choose(HALF)
    yield
    kernels.choose(None)


def test_the_instructions_are_named(chosen: None, ours: FusedProducts) -> None:
    used = kernels.kernels_for(torch.ones(1), HALF)
    assert isinstance(used, FusedProducts)
    assert kernels.describe() == f"fused, products by {used.instructions}"
    assert kernels.multiply() == used.instructions
