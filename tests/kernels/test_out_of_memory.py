"""Each allocation of each kernel fails once: MemoryError, no leak, and the next call is right."""

import ctypes
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.kernels.compiled import EMULATED_AVX512, HEADERS, compile_kernels
from tests.kernels.near import random
from tinygpt.kernels.formulas import Heads, Linear, Norm
from tinygpt.kernels.fused import Fused
from tinygpt.kernels.products import FusedProducts

pytestmark = pytest.mark.gcc

HALF, FLOAT = torch.bfloat16, torch.float32
FAIL = ("-include", str(HEADERS / "fail.h"), "-O1")
# allocations in all of the calls below
N_ALLOCATIONS = {"fp32": 12, "bf16": 19}


def fp32_calls(ours: Fused) -> list[Callable[[], object]]:
    x, d = random(40, 24), random(40, 24)
    gain, stats = random(24), tuple(random(2, 40, 1).unbind())
    by = Norm(gain, gain, 1e-5)
    heads = Heads(2, 2, 1, norms=(Norm(None, None, 1e-5), Norm(None, None, 1e-5)))
    kept = random(40, 18)
    plain, layer = Heads(2, 1, 1), Linear(random(72, 24), random(72))
    y, of_y = ours.attend(x, layer, plain)
    return [
        lambda: ours.round_and_sum(x, FLOAT),
        lambda: ours.norm_backward(d, x, by, stats, x),
        lambda: ours.slope_backward_(d.clone(), x),
        lambda: ours.slopes_backward_(d.clone(), x, x),
        lambda: ours.turn_heads_(x.clone(), heads),
        lambda: ours.turn_heads_backward_(d.clone(), kept, heads),
        lambda: ours.mix_backward(d, x, x, gain[:2].clone()),
        lambda: ours.attend(x, layer, plain),
        lambda: ours.attend_backward(d, y, of_y, plain),
        lambda: ours.cross_entropy_(x.clone(), torch.arange(40) % 24, 0.5),
    ]


def bf16_calls(ours: FusedProducts) -> list[Callable[[], object]]:
    x, d, bias = random(40, 24, dtype=HALF), random(40, 24, dtype=HALF), random(24)
    weight, stream, stats = random(24, 24), random(40, 24), tuple(random(2, 40, 1).unbind())
    large, wide = random(700, 1000), random(3, 1000, dtype=HALF)  # not packed by all together
    qkv, heads, by = Linear(random(72, 24), random(72)), Heads(2, 3, 3), Norm(bias, bias, 1e-5)
    y, kept = ours.attend(x, qkv, heads)
    layer = Linear(weight, bias)
    return [
        lambda: ours.linear(x, weight),
        lambda: ours.linear(wide, large),
        lambda: ours.linear_backward(d, weight),
        lambda: ours.linear_weights(d, x, FLOAT),
        lambda: ours.linear_activated(x, layer, "gelu"),
        lambda: ours.linear_swiglu(x, layer, layer),
        lambda: ours.linear_add(x, layer, stream),
        lambda: ours.linear_add_and_norm(x, layer, stream, by),
        lambda: ours.linear_backward_slopes(d, weight, (x,)),
        lambda: ours.linear_backward_slopes(d, weight, (x, x)),
        lambda: ours.linear_backward_norm([(d, weight)], stream, by, stats, stream),
        lambda: ours.attend(x, qkv, heads),
        lambda: ours.attend_backward(d, y, kept, heads),
    ]


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def library(request: pytest.FixtureRequest):
    """Kernels whose allocations can be made to fail, and their type of activations."""
    flags = () if request.param == "fp32" else ("-DBFLOAT16", "-U__AMX_BF16__", *EMULATED_AVX512)
    return request.param, compile_kernels((*flags, *FAIL))


def test_an_allocation_that_fails_is_an_error_and_nothing_leaks(library) -> None:
    torch.manual_seed(0)
    kind, loaded = library
    calls = (
        fp32_calls(Fused(loaded, FLOAT)) if kind == "fp32" else bf16_calls(FusedProducts(loaded))
    )
    made, fail_at, live = (
        ctypes.c_int.in_dll(loaded, name) for name in ("calls", "fail_at", "live")
    )
    failed = 0
    for call in calls:
        made.value = fail_at.value = 0
        before = call()
        n_allocations = made.value
        for fail_at.value in range(1, n_allocations + 1):
            made.value = 0
            with pytest.raises(MemoryError, match="not enough memory"):
                call()
            assert live.value == 0
            failed += 1
        fail_at.value = 0
        after = call()
        if all(isinstance(result, Tensor) for result in (before, after)):
            assert torch.equal(before, after)  # type: ignore[arg-type]  # just checked
    assert failed == N_ALLOCATIONS[kind]


def test_a_product_without_memory_writes_no_sums(library) -> None:
    kind, loaded = library
    if kind == "fp32":
        pytest.skip("fp32 products are PyTorch's")
    FusedProducts(loaded)  # declares the argument types
    d, slope, weight = random(40, 24, dtype=HALF), random(40, 24, dtype=HALF), random(24, 24)
    d_x, sums = torch.empty_like(slope), torch.full((24,), 7.0)
    fail_at, made = (ctypes.c_int.in_dll(loaded, name) for name in ("fail_at", "calls"))
    made.value, fail_at.value = 0, 2  # the rows of sums are there, the packed blocks are not
    tensors = (d, weight, slope, d_x, sums)
    failure = loaded.linear_backward_slope(*(t.data_ptr() for t in tensors), 40, 24, 24, 1)
    fail_at.value = 0
    assert failure == 1
    assert (sums == 7).all()
