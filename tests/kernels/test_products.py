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
from tinygpt.kernels.formulas import Heads, Linear, Norm
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
    for flags in FLAGS[request.param][0 if HAS_AVX512 else -1 :]:
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


def check_layer(
    ours: FusedProducts, rows: int, depth: int, columns: int, *, plain: bool = False
) -> None:
    """Everything that a linear layer (columns, depth) and its gradients are part of.

    `plain`: without biases, and with RMSNorm without a gain.
    """
    x, weight, bias = random(rows, depth, dtype=HALF), random(columns, depth), random(columns)
    residual, (gain, shift) = random(rows, columns), random(2, columns).unbind()
    by = Norm(None, None, 1e-5, rms=True) if plain else Norm(gain, shift, 1e-5)
    layer = Linear(weight, None if plain else bias)
    exact_weight = rounded(weight)
    exact_bias = None if plain else bias.double()
    product = x.double() @ exact_weight.t()
    shifted = product if plain else product + bias.double()
    assert_near(ours.linear(x, weight), product, sums=depth)
    assert_near(ours.linear_bias(x, layer), shifted, sums=depth)
    assert_near(ours.linear_add(x, layer, residual), shifted + residual.double(), sums=depth)
    found, normed = ours.linear_add_and_norm(x, layer, residual, by)
    assert torch.equal(found, ours.linear_add(x, layer, residual))
    for part, expected in zip(normed, ours.norm(found, by, HALF), strict=True):
        torch.testing.assert_close(part, expected, rtol=2**-7, atol=1e-4)
    for activation in ("gelu", "relu2"):
        y, (slope,) = ours.linear_activated(x, layer, activation)
        # where it bends, an error of the sum is one of the result, a little larger
        exact_y, exact_slope = EXACT.activate_(product.clone(), exact_bias, activation)
        large = exact_slope.abs().max().item() if activation == "relu2" else 1
        assert_near(y, exact_y, sums=int(2 * depth * max(large, 1) ** 2))
        assert_near(slope, exact_slope, sums=4 * depth)

    gate = Linear(random(columns, depth, scale=depth**-0.5), layer.bias)
    y, slopes = ours.linear_swiglu(x, gate, layer)
    exact_gate = ours.linear_bias(x, gate).double()  # which is rounded before SiLU
    exact = EXACT.swiglu_(exact_gate, None, product.clone(), exact_bias)
    large = exact_gate.abs().max().item() + shifted.abs().max().item() / depth**0.5
    for part, expected in zip((y, *slopes), exact, strict=True):
        assert_near(part, expected, sums=int(2 * depth * large**2))

    d, slope, other = random(rows, columns, dtype=HALF), *random(2, rows, depth, dtype=HALF)
    back = d.double() @ exact_weight
    assert_near(ours.linear_backward(d, weight), back, sums=columns)
    for slopes in ((slope,), (slope, other)):
        found = ours.linear_backward_slopes(d, weight, slopes)
        for by_slope, (d_x, sums) in zip(slopes, found, strict=True):
            assert_near(d_x, back * by_slope.double(), sums=4 * columns)
            assert_near(sums, (back * by_slope.double()).sum(0), sums=10 * columns * rows)
    d_weight = ours.linear_weights(d, x, torch.float32)
    assert_near(d_weight, d.double().t() @ x.double(), sums=10 * rows)

    stream, more, (gain, shift) = *random(2, rows, depth), random(2, depth).unbind()
    by = Norm(None, None, 1e-5, rms=True) if plain else Norm(gain, shift, 1e-5)
    _, *stats = ours.norm(stream, by, HALF)
    given = (stream, by, tuple(stats), more)
    through = ours.linear_backward_norm([(d, weight)], *given)
    apart = ours.norm_backward(ours.linear_backward(d, weight), *given)
    for part, expected in zip(through, apart, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-4 * rows)
    through = ours.linear_backward_norm([(d, weight), (d, gate.weight)], *given)
    both = back + ours.linear_backward(d, gate.weight).double()
    apart = ours.norm_backward(both.to(HALF), *given)
    # rounded to bfloat16 on the way, and where halfway perhaps to the other side
    for part, expected in zip(through, apart, strict=True):
        error = (part - expected).norm()
        assert error < 2**-7 * (expected.norm() + columns**0.5 * part.numel() ** 0.5)


@given(seed=seeds, rows=sizes, depth=sizes, columns=sizes, plain=st.booleans())
def test_a_layer_and_its_gradients_are_those_of_the_formulas(
    ours: FusedProducts, seed: int, rows: int, depth: int, columns: int, plain: bool
) -> None:
    torch.manual_seed(seed)
    check_layer(ours, rows, depth, columns, plain=plain)


@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [
        (2100, 40, 300),  # more rows and columns than a gradient takes at a time
        (40, 600, 1200),  # weights that do not stay in the cache, by columns
        (40, 2100, 700),  # and by depth, summed in parts
        # both, and more rows than a task has; slow where the instructions are emulated
        pytest.param(70, 1500, 1300, marks=pytest.mark.slow),
        pytest.param(4100, 600, 1150, marks=pytest.mark.slow),
    ],
)
def test_what_is_too_large_for_the_caches_is_cut_and_put_together(
    ours: FusedProducts, rows: int, depth: int, columns: int
) -> None:
    check_layer(ours, rows, depth, columns)


def layer_of(heads: Heads, n_tokens: int, d_head: int) -> tuple[Tensor, Linear]:
    """Input and layer of attention."""
    width = heads.n_head * d_head
    rows = width + 2 * heads.n_kv_head * d_head
    x = random(n_tokens, width, dtype=HALF)
    return x, Linear(random(rows, width, scale=width**-0.5), random(rows))


def attention(qkv: Tensor, d_y: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
    """What torch makes of q, k and v: y, and their gradients."""
    n_batch, n_time, n_head, n_kv_head, d_head = heads.shape(qkv)
    by_head = qkv.view(n_batch, n_time, -1, d_head).requires_grad_()
    parts = by_head.transpose(1, 2).split((n_head, n_kv_head, n_kv_head), 1)
    q, k, v = (part.repeat_interleave(n_head // part.size(1), 1) for part in parts)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(d_y.shape)
    y.backward(d_y)
    assert by_head.grad is not None
    return y.detach(), by_head.grad.reshape(qkv.shape).double()


def check_attention(ours: FusedProducts, time: int, d_head: int, heads: Heads) -> None:
    """As near to float64 as torch comes in bfloat16."""
    x, layer = layer_of(heads, heads.n_batch * time, d_head)
    y, (qkv, logs) = ours.attend(x, layer, heads)
    d_y = random(*y.shape, dtype=HALF)
    expected, gradient = attention(qkv.double(), d_y.double(), heads)
    assert_near(y, expected)
    found, sums, _ = ours.attend_backward(d_y, y, (qkv, logs), heads)
    _, usual = attention(qkv.clone(), d_y, heads)
    error, usual_error = ((part.double() - gradient).norm() for part in (found, usual))
    assert error <= 1.2 * usual_error + 1e-3 * gradient.norm()
    torch.testing.assert_close(
        sums.double(), found.double().sum(0), rtol=0, atol=2**-8 * gradient.norm().item() + 1e-6
    )


@given(
    seed=seeds,
    batch=st.integers(1, 3),
    time=sizes,
    n_kv_head=st.integers(1, 3),
    n_shared=st.integers(1, 3),
    d_head=sizes,
)
def test_attention_and_its_gradients_are_those_of_torch(
    ours: FusedProducts,
    seed: int,
    batch: int,
    time: int,
    n_kv_head: int,
    n_shared: int,
    d_head: int,
) -> None:
    torch.manual_seed(seed)
    check_attention(ours, time, d_head, Heads(batch, n_kv_head * n_shared, n_kv_head))


@pytest.mark.parametrize(("time", "n_kv_head"), [(256, 2), (257, 1), (600, 2), (300, 1)])
def test_queries_of_a_long_text_are_taken_in_spans(
    ours: FusedProducts, time: int, n_kv_head: int
) -> None:
    check_attention(ours, time, 32, Heads(1, 2, n_kv_head))


def test_attention_turns_queries_and_keys_before(ours: FusedProducts) -> None:
    time, d_head = 40, 16
    angles = random(time, d_head // 2).repeat(1, 2)
    gains = random(4, d_head).unbind()
    norms = Norm(gains[0], gains[1], 1e-5), Norm(gains[2], gains[3], 1e-5)
    for of_heads in (None, norms):
        heads = Heads(2, 4, 2, of_heads, (angles.cos(), angles.sin()))
        x, layer = layer_of(heads, 2 * time, d_head)
        y, kept = ours.attend(x, layer, heads)
        d_y = random(*y.shape, dtype=HALF)
        qkv = ours.linear_bias(x, layer)
        was = ours.turn_heads_(qkv, heads)
        assert torch.equal(qkv, kept[0])
        d_qkv, _, _ = ours.attend_backward(d_y, y, kept, heads._replace(norms=None, rotation=None))
        expected = ours.turn_heads_backward_(d_qkv, was, heads)
        found, sums, of_norms = ours.attend_backward(d_y, y, kept, heads)
        assert torch.equal(found, d_qkv)
        assert_near(sums, found.double().sum(0), sums=2 * time)
        assert all(map(torch.equal, of_norms, expected))


@pytest.mark.parametrize("drop", [None, DROP], ids=["", "dropout"])
@pytest.mark.parametrize("apart", [False, True], ids=["", "documents"])
@pytest.mark.parametrize(("time", "d_head"), [(7, 5), (150, 16), (300, 8)])
def test_attention_drops_and_keeps_documents_apart_as_the_formula_does(
    ours: FusedProducts, time: int, d_head: int, apart: bool, drop: Dropout | None
) -> None:
    batch, n_head = 2, 3
    heads = Heads(batch, n_head, n_head)
    x, layer = layer_of(heads, batch * time, d_head)
    starts = torch.arange(time).div(11, rounding_mode="floor").mul(11).repeat(batch, 1)
    given = (heads, starts if apart else None, drop)
    y, (qkv, logs) = ours.attend(x, layer, *given)
    d_y = random(*y.shape, dtype=HALF)
    found, *_ = ours.attend_backward(d_y, y, (qkv, logs), *given)

    by_head = qkv.double().view(batch, time, 3, n_head, d_head).requires_grad_()
    q, k, v = by_head.permute(2, 0, 3, 1, 4)
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
    gradient = by_head.grad.reshape(qkv.shape)
    assert (found.double() - gradient).norm() < 0.01 * gradient.norm()


@pytest.mark.parametrize(("rows", "width"), [(3, 5), (140, 70), (5, 200)])
def test_a_layer_drops_what_the_formula_drops(ours: FusedProducts, rows: int, width: int) -> None:
    x, weight, bias = random(rows, width, dtype=HALF), random(width, width), random(width)
    stream, gain = random(rows, width), random(width)
    exact = (x.double() @ rounded(weight).t(), bias.double(), stream.double())
    layer = Linear(weight, bias)
    total = ours.linear_add(x, layer, stream, DROP)
    assert_near(total, EXACT.add(*exact, DROP), sums=width)
    by = Norm(gain, bias, 1e-5)
    again, (normed, *_) = ours.linear_add_and_norm(x, layer, stream, by, DROP)
    assert torch.equal(again, total)
    assert torch.equal(normed, ours.norm(total, by, HALF)[0])


def test_attention_sees_no_later_token(ours: FusedProducts) -> None:
    heads = Heads(1, 2, 2)
    x, layer = layer_of(heads, 70, 16)
    y, _ = ours.attend(x, layer, heads)
    for token in (1, 31, 32, 50):
        other = x.clone()
        other[token:] += 1
        seen, _ = ours.attend(other, layer, heads)
        assert torch.equal(seen[:token], y[:token])
        assert not torch.equal(seen[token], y[token])


def test_any_number_of_threads_gives_the_same_bits(ours: FusedProducts) -> None:
    x, weight, bias = random(140, 65, dtype=HALF), random(3 * 65, 65), random(3 * 65)
    d, slope = random(140, 3 * 65, dtype=HALF), random(140, 65, dtype=HALF)
    stream, gain = random(140, 65), torch.ones(65)
    stats = tuple(random(2, 140, 1).unbind())
    large, more = random(700, 1000), random(140, 1000, dtype=HALF)
    back = random(140, 700, dtype=HALF)

    layer, heads, by = Linear(weight, bias), Heads(7, 5, 5), Norm(gain, gain, 1e-5)

    def everything() -> list[Tensor]:
        y, kept = ours.attend(x, layer, heads)
        d_qkv, sums, _ = ours.attend_backward(y, y, kept, heads)
        y, slopes = ours.linear_swiglu(x, layer, layer)
        results = [d_qkv, sums, y, *slopes, *ours.linear_activated(x, layer, "gelu")[1]]
        for of_slope in ours.linear_backward_slopes(d, weight, (slope, slope)):
            results += of_slope
        results += ours.linear_backward_norm([(d, weight)], stream, by, stats, stream)
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
    layer = Linear(weight, bias)
    by_row = (
        ours.linear(x, weight),
        ours.linear_add(x, layer, random(40, 40)),
        ours.linear_activated(x, layer, "gelu")[1][0],
        ours.linear_swiglu(x, layer, layer)[0],
        ours.linear_backward(x, weight),
    )
    for result in by_row:
        assert not result[1].isfinite().any()
        assert result[0].isfinite().all()  # what follows a row in memory is not of it
    squares = ours.linear_activated(x, layer, "relu2")[0]
    assert not squares[1].isfinite().all()  # that of -infinity is 0
    assert squares[0].isfinite().all()
    assert not ours.linear_weights(x, x.clone(), torch.float32)[0].isfinite().any()
    [(_, sums)] = ours.linear_backward_slopes(x, weight, (x.new_ones(40, 40),))
    assert not sums.isfinite().any()
    y, _ = ours.attend(x, Linear(random(120, 40), random(120)), Heads(1, 2, 2))
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
