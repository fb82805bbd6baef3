"""The kernels in C against the formulas in float64."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.near import assert_near, random
from tinygpt import kernels
from tinygpt.kernels import Formulas
from tinygpt.kernels.build import Build
from tinygpt.kernels.formulas import Dropout, Heads, Linear, Norm
from tinygpt.kernels.fused import Fused

EXACT = Formulas()
DTYPES = (torch.bfloat16, torch.float32)
BUILT: dict[torch.dtype, Fused] = {}
seeds = st.integers(0, 1000)
sizes = st.integers(1, 70)
dtypes = st.sampled_from(DTYPES)


def fused(dtype: torch.dtype) -> Fused:
    if dtype not in BUILT:
        BUILT[dtype] = Build(dtype).finish()
    return BUILT[dtype]


@pytest.fixture(autouse=True)
def repeatable_and_formulas_afterwards() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    kernels.choose(None)


def in_float64(tree):
    """The same tensors in float64, also those in tuples."""
    if isinstance(tree, Tensor):
        return tree.double()
    if not isinstance(tree, tuple):
        return tree
    parts = [in_float64(part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


@st.composite
def norms(draw: st.DrawFn) -> tuple[bool, bool, bool]:
    """Whether a norm has a gain, a shift, and no mean."""
    return draw(st.booleans()), draw(st.booleans()), draw(st.booleans())


def norm_of(kind: tuple[bool, bool, bool], width: int) -> Norm:
    has_gain, has_shift, rms = kind
    gain, shift = random(2, width).unbind()
    return Norm(gain if has_gain else None, shift if has_shift else None, 1e-5, rms)


@pytest.mark.gcc
@given(seed=seeds, dtype=dtypes, rows=sizes, width=sizes, kind=norms(), has_bias=st.booleans())
def test_norms_and_sums_are_those_of_the_formulas(
    seed: int,
    dtype: torch.dtype,
    rows: int,
    width: int,
    kind: tuple[bool, bool, bool],
    has_bias: bool,
) -> None:
    torch.manual_seed(seed)
    update, x = random(rows, width, dtype=dtype), random(rows, width, scale=3)
    bias, by = random(width) if has_bias else None, norm_of(kind, width)
    found = fused(dtype).add_and_norm(update, bias, x, by)
    total, parts = EXACT.add_and_norm(*in_float64((update, bias, x, by)))
    assert_near(found[0], total, sums=3)
    # a row of a few elements that are all near their mean is divided by next to nothing
    wild = parts[2].max().item()
    for ours, exact in zip(found[1], parts, strict=True):
        assert_near(ours, exact, sums=width * (1 + int(wild**2)))
    assert torch.equal(fused(dtype).add(update, bias, x), found[0])
    again = fused(dtype).norm(found[0], by, dtype)
    assert all(map(torch.equal, again, found[1]))


@pytest.mark.gcc
@given(
    seed=seeds,
    dtype=dtypes,
    rows=sizes,
    width=st.integers(8, 70),
    kind=norms(),
    has_residual=st.booleans(),
)
def test_the_gradient_of_a_norm_is_that_of_the_formula(
    seed: int,
    dtype: torch.dtype,
    rows: int,
    width: int,
    kind: tuple[bool, bool, bool],
    has_residual: bool,
) -> None:
    torch.manual_seed(seed)
    d, x, by = random(rows, width, dtype=dtype), random(rows, width), norm_of(kind, width)
    residual = random(rows, width) if has_residual else None
    _, *stats = EXACT.norm(x, by, dtype)
    given = (d, x, by, tuple(stats), residual)
    found = fused(dtype).norm_backward(*given)
    for ours, expected in zip(found, EXACT.norm_backward(*in_float64(given)), strict=True):
        assert_near(ours, expected, sums=10 * (width + rows))


@pytest.mark.gcc
@given(seed=seeds, dtype=dtypes, rows=sizes, width=sizes)
def test_rounding_sums_what_it_rounds(seed: int, dtype: torch.dtype, rows: int, width: int) -> None:
    torch.manual_seed(seed)
    x = random(rows, width)
    rounded, total = fused(dtype).round_and_sum(x, dtype)
    assert torch.equal(rounded, x.to(dtype))
    assert_near(total, x.double().sum(0), sums=rows)


@pytest.mark.gcc
def test_sums_over_many_rows_swallow_nothing() -> None:
    x = torch.rand(65_536, 8)
    _, total = fused(torch.float32).round_and_sum(x, torch.float32)
    torch.testing.assert_close(total.double(), x.double().sum(0), rtol=2e-6, atol=0)


@pytest.mark.gcc
def test_of_two_that_are_as_near_the_even_one_is_taken() -> None:
    halfway = torch.arange(0x3F800000, 0x3F900000, 0x8000, dtype=torch.int32).view(torch.float32)
    rounded, _ = fused(torch.bfloat16).round_and_sum(halfway[None].contiguous(), torch.bfloat16)
    assert torch.equal(rounded[0], halfway.to(torch.bfloat16))


@pytest.mark.gcc
@given(
    seed=seeds,
    dtype=dtypes,
    rows=sizes,
    width=sizes,
    activation=st.sampled_from(["gelu", "relu2"]),
    has_bias=st.booleans(),
)
def test_activations_and_their_gradients_are_those_of_the_formulas(
    seed: int, dtype: torch.dtype, rows: int, width: int, activation: str, has_bias: bool
) -> None:
    torch.manual_seed(seed)
    x, bias, d = random(rows, width, dtype=dtype, scale=4), random(width), random(rows, width)
    bias, d = bias if has_bias else None, d.to(dtype)
    y, slope = EXACT.activate_(*in_float64((x, bias)), activation)
    our_y, our_slope = fused(dtype).activate_(x.clone(), bias, activation)
    assert_near(our_y, y)
    assert_near(our_slope, slope)
    d_x, d_bias = EXACT.slope_backward_(d.double(), our_slope.double())
    our_d_x, our_d_bias = fused(dtype).slope_backward_(d.clone(), our_slope)
    assert_near(our_d_x, d_x)
    assert_near(our_d_bias, d_bias, sums=4 * rows)


@pytest.mark.gcc
@given(seed=seeds, dtype=dtypes, rows=sizes, width=sizes, has_bias=st.booleans())
def test_swiglu_and_its_gradients_are_those_of_the_formulas(
    seed: int, dtype: torch.dtype, rows: int, width: int, has_bias: bool
) -> None:
    torch.manual_seed(seed)
    gate, up, d = random(3, rows, width, dtype=dtype, scale=3).unbind()
    biases = random(2, width).unbind() if has_bias else (None, None)
    given = (gate, biases[0], up, biases[1])
    expected = EXACT.swiglu_(*in_float64(given))
    found = fused(dtype).swiglu_(gate.clone(), biases[0], up.clone(), biases[1])
    for ours, exact in zip(found, expected, strict=True):
        assert_near(ours, exact, sums=9)
    slopes = found[1:]
    ours = fused(dtype).slopes_backward_(d.clone(), *slopes)
    exact = EXACT.slopes_backward_(*in_float64((d, *slopes)))
    for (our_d, our_sum), (exact_d, exact_sum) in zip(ours, exact, strict=True):
        assert_near(our_d, exact_d, sums=9)
        assert_near(our_sum, exact_sum, sums=100 * rows)


@pytest.mark.gcc
@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_is_right_far_from_zero(dtype: torch.dtype) -> None:
    x = torch.tensor([[-1e9, -1e4, -100.0, -12.0, 0.0, 12.0, 100.0, 1e4, 1e9]], dtype=dtype)
    y, slope = fused(dtype).gelu_(x.clone(), torch.zeros(9))
    assert torch.equal(y[0, 4:], x[0, 4:])
    assert (y[0, :4].abs() < 1e-20).all()
    assert slope.tolist() == [[*4 * [pytest.approx(0, abs=1e-11)], 0.5, 1, 1, 1, 1]]


@pytest.mark.gcc
@given(seed=seeds, dtype=dtypes, rows=sizes, width=sizes)
def test_mixtures_and_capped_logits_are_those_of_the_formulas(
    seed: int, dtype: torch.dtype, rows: int, width: int
) -> None:
    torch.manual_seed(seed)
    given = (*random(2, rows, width).unbind(), random(2))
    assert_near(fused(dtype).mix(*given), EXACT.mix(*in_float64(given)), sums=9)
    d = random(rows, width)
    found = fused(dtype).mix_backward(d, *given)
    expected = EXACT.mix_backward(*in_float64((d, *given)))
    for ours, exact in zip(found, expected, strict=True):
        assert_near(ours, exact, sums=9 * rows * width)
    ours = random(rows, width, dtype=dtype, scale=20)
    exact = ours.double()
    assert_near(fused(dtype).softcap_(ours, 15.0), EXACT.softcap_(exact, 15.0))
    assert_near(ours, exact, sums=30)


@pytest.mark.gcc
@given(seeds, dtypes, st.integers(1, 3), st.integers(1, 20), st.integers(1, 150), st.booleans())
def test_a_recurrence_is_that_of_the_formulas(
    seed: int, dtype: torch.dtype, batch: int, time: int, width: int, documents: bool
) -> None:
    torch.manual_seed(seed)
    rows = random(batch, time, 2 * width, dtype=dtype, scale=3)
    begins = (torch.rand(batch, time) < 0.3).long() if documents else None
    h, d = fused(dtype).recur(rows, begins), random(batch, time, width)
    exact = EXACT.recur(rows.double(), begins)
    assert_near(h, exact, sums=time)
    found = fused(dtype).recur_backward(d, rows, begins, h)
    expected = EXACT.recur_backward(d.double(), rows.double(), begins, exact)
    assert_near(found, expected, sums=10 * time)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """B, T, H, G and D."""
    n_kv_head = draw(st.integers(1, 3))
    n_head = n_kv_head * draw(st.integers(1, 3))
    batch, time, d_head = draw(st.integers(1, 3)), draw(sizes), draw(st.integers(1, 35))
    return batch, time, n_head, n_kv_head, 2 * d_head


@pytest.mark.gcc
@given(
    seed=seeds,
    dtype=dtypes,
    shape=shapes(),
    has_bias=st.booleans(),
    apart=st.booleans(),
    p=st.sampled_from([0.0, 0.2]),
)
def test_attention_and_its_gradients_are_those_of_the_formulas(
    seed: int, dtype: torch.dtype, shape: tuple[int, ...], has_bias: bool, apart: bool, p: float
) -> None:
    torch.manual_seed(seed)
    batch, time, n_head, n_kv_head, d_head = shape
    heads, width = Heads(batch, n_head, n_kv_head), (n_head + 2 * n_kv_head) * d_head
    x = random(batch * time, 20, dtype=dtype)
    layer = Linear(random(width, 20, scale=20**-0.5), random(width) if has_bias else None)
    lengths = torch.randint(1, 50, (batch, time)).cumsum(1)
    starts = torch.arange(time) - torch.arange(time) % lengths[:, :1] if apart else None
    drop = Dropout.draw(p)
    y, kept = fused(dtype).attend(x, layer, heads, starts, drop)
    qkv = kept[0]  # rounded, so the formulas begin from it
    unit = Linear(torch.eye(width).double(), None)
    exact, exact_kept = EXACT.attend(qkv.double(), unit, heads, starts, drop)
    assert_near(y, exact)
    d_y = random(*y.shape, dtype=dtype)
    found, total, _ = fused(dtype).attend_backward(d_y, y, kept, heads, starts, drop)
    given_exactly = (d_y.double(), exact, exact_kept, heads, starts, drop)
    expected, exact_total, _ = EXACT.attend_backward(*given_exactly)
    assert_near(found, expected, sums=8)
    assert total is not None
    assert exact_total is not None
    # of terms that come from rounded products
    assert_near(total.to(dtype), exact_total, sums=8 * batch * time)
    no_sums = fused(dtype).attend_backward(d_y, y, kept, heads, starts, drop, sums=False)
    assert no_sums[1] is None


@pytest.mark.gcc
@given(
    seed=seeds,
    dtype=dtypes,
    shape=shapes(),
    kind=st.one_of(st.none(), norms()),
    rotates=st.booleans(),
)
def test_queries_and_keys_are_turned_and_turned_back_as_the_formulas_do(
    seed: int,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    kind: tuple[bool, bool, bool] | None,
    rotates: bool,
) -> None:
    torch.manual_seed(seed)
    batch, time, n_head, n_kv_head, d_head = shape
    angles = random(time, d_head // 2, scale=9).repeat(1, 2)
    heads = Heads(
        *shape[:1],
        *(n_head, n_kv_head),
        norms=None if kind is None else (norm_of(kind, d_head), norm_of(kind, d_head)),
        rotation=(angles.cos(), angles.sin()) if rotates else None,
    )
    # no row is nearly constant: it would be divided by next to nothing
    qkv, d = random(2, batch * time, (n_head + 2 * n_kv_head) * d_head, dtype=dtype).unbind()
    qkv = qkv + 4 * torch.tensor([1.0, -1.0]).to(dtype).repeat(qkv.size(1) // 2)
    ours, exact, before = qkv.clone(), qkv.double(), qkv.clone()
    in_exact = in_float64(heads)
    kept, exact_kept = fused(dtype).turn_heads_(ours, heads), EXACT.turn_heads_(exact, in_exact)
    assert_near(ours, exact, sums=9)
    n_values = n_kv_head * d_head
    assert torch.equal(ours[:, -n_values:], before[:, -n_values:])
    assert (kept is None) == (exact_kept is None) == (kind is None)
    our_d, exact_d = d.clone(), d.double()
    of_norms = fused(dtype).turn_heads_backward_(our_d, kept, heads)
    expected = EXACT.turn_heads_backward_(exact_d, exact_kept, in_exact)
    # a turned gradient is rounded to bfloat16 before the norm's formula is applied
    assert_near(our_d, exact_d, sums=9 * d_head)
    for our_sum, exact_sum in zip(of_norms, expected, strict=True):
        slack = 1 if dtype == torch.float32 else 2**10
        assert_near(our_sum, exact_sum, sums=slack**2 * 30 * batch * time * n_head)


@pytest.mark.gcc
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_sees_no_later_key(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ours, heads, layer = fused(dtype), Heads(1, 2, 1), Linear(torch.eye(32), None)
    x = random(70, 32, dtype=dtype)
    before, kept = ours.attend(x, layer, heads)
    later = x.clone()
    later[40:] = random(30, 32, dtype=dtype)
    after, _ = ours.attend(later, layer, heads)
    assert torch.equal(before[:40], after[:40])
    d_y = torch.zeros_like(before)
    d_y[:40] = 1
    d_qkv, _, _ = ours.attend_backward(d_y, before, kept, heads)
    assert (d_qkv[40:] == 0).all()
    assert (d_qkv[:40] != 0).any()


@pytest.mark.gcc
@given(seed=seeds, dtype=dtypes, rows=sizes, width=st.integers(2, 300))
def test_cross_entropy_and_its_gradient_are_those_of_the_formula(
    seed: int, dtype: torch.dtype, rows: int, width: int
) -> None:
    torch.manual_seed(seed)
    logits, targets = random(rows, width, dtype=dtype, scale=4), torch.randint(width, (rows,))
    exact, ours = logits.double(), logits.clone()
    expected = EXACT.cross_entropy_(exact, targets, 0.25)
    nats = fused(dtype).cross_entropy_(ours, targets, 0.25)
    assert nats.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6 * rows)
    assert_near(ours, exact)
    kept = logits.clone()
    assert torch.equal(fused(dtype).cross_entropy_(kept, targets, None), nats)
    assert torch.equal(kept, logits)


@pytest.mark.gcc
@pytest.mark.parametrize("target", [-1, 7])
def test_a_target_outside_of_the_vocabulary_is_an_error(target: int) -> None:
    logits = random(2, 7)
    with pytest.raises(IndexError, match="cross_entropy"):
        fused(torch.float32).cross_entropy_(logits, torch.tensor([3, target]), 1.0)


@pytest.mark.gcc
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_not_hidden(dtype: torch.dtype, bad: float) -> None:
    def spoilt(*shape: int) -> Tensor:
        tensor = random(*shape, dtype=dtype)
        tensor.view(-1)[0] = bad
        return tensor

    ours, ones = fused(dtype), torch.ones(40)
    by = Norm(ones, ones, 1e-5)
    normed = ours.add_and_norm(spoilt(2, 40), ones, torch.zeros(2, 40), by)[1][0]
    results = (
        normed[0],
        ours.attend(spoilt(3, 40), Linear(torch.eye(40)[:30], None), Heads(1, 1, 1))[0],
        ours.cross_entropy_(spoilt(1, 40), torch.tensor([3]), 1.0),
        ours.slope_backward_(spoilt(2, 40), spoilt(2, 40))[1][:1],
        ours.relu2_(spoilt(2, 40), None)[0][0, :1],
        ours.swiglu_(spoilt(2, 40), None, spoilt(2, 40), None)[0][0, :1],
    )
    for result in results:
        assert not result.isfinite().any()
    assert not ours.gelu_(spoilt(2, 40), ones)[0][0, 0].isfinite()


@pytest.mark.gcc
def test_the_same_threads_give_the_same_bits() -> None:
    x = random(301, 33)
    kept = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        first, second = (fused(torch.bfloat16).round_and_sum(x, torch.bfloat16) for _ in range(2))
        assert all(map(torch.equal, first, second))
        torch.set_num_threads(1)
        rounded, total = fused(torch.bfloat16).round_and_sum(x, torch.bfloat16)
    finally:
        torch.set_num_threads(kept)
    assert torch.equal(rounded, first[0])
    torch.testing.assert_close(total, first[1], rtol=0, atol=1e-4)


@pytest.mark.gcc
def test_what_is_chosen_is_what_is_used() -> None:
    half, x = torch.bfloat16, torch.ones(1)
    assert type(kernels.kernels_for(x, half)) is Formulas
    kernels.choose(half)
    assert isinstance(kernels.kernels_for(x, half), Fused)
    assert kernels.describe().startswith("fused")
    for other, dtype in ((x, x.dtype), (x.half(), half), (x.double(), half), (x.to("meta"), half)):
        assert type(kernels.kernels_for(other, dtype)) is Formulas
    kernels.choose(None)
    assert type(kernels.kernels_for(x, half)) is Formulas
    assert kernels.describe() == "torch"
