"""Dropout and documents in the block: the masks of the formulas, in forward and backward."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.kernels.near import assert_near, random
from tinygpt import kernels
from tinygpt.components.models.gpt import GPTConfig
from tinygpt.components.models.gpt_torch import GPT
from tinygpt.kernels import Dropout, Formulas
from tinygpt.kernels.block import BlockKind, BlockParameters, Masks, block_forward
from tinygpt.kernels.build import Build
from tinygpt.kernels.formulas import Norm, philox

EXACT = Formulas()
FLOAT, HALF = torch.float32, torch.bfloat16
KIND = BlockKind(n_head=3, n_kv_head=3, eps=1e-5)
DROP = Dropout(key=0x123456789ABCDEF0 - (1 << 61), stream=5, threshold=6554)


@pytest.fixture(autouse=True)
def repeatable_and_formulas_afterwards() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    kernels.choose(None)


def test_philox_gives_the_published_numbers() -> None:
    # Random123, kat_vectors: philox4x32 with 7 and 10 rounds, counters and keys of zero
    for rounds, expected in (
        (7, [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]),
        (10, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ):
        assert [int(word) for word in philox((0, 0, 0, 0), 0, rounds=rounds)] == expected


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_asked_and_neighbours_are_independent(p: float) -> None:
    drop = Dropout.draw(p)
    assert drop is not None
    factors = drop.factors(torch.arange(1000), 1000)
    kept = (factors != 0).double()
    n, deviation = kept.numel(), (p * (1 - p)) ** 0.5
    assert abs(kept.mean() - (1 - p)) < 5 * deviation / n**0.5 + 1e-5
    assert factors.max().item() == pytest.approx(1 / (1 - p), abs=1e-3)
    assert abs(factors.mean() - 1) < 0.01
    other = (drop.at(6).factors(torch.arange(1000), 1000) != 0).double()
    centred = kept - kept.mean()
    for pairs in (
        (centred[:, 1:], centred[:, :-1]),
        (centred[1:], centred[:-1]),
        (centred[:, 16:], centred[:, :-16]),
        (centred[:, 128:], centred[:, :-128]),
        (centred, other - other.mean()),
    ):
        correlation = (pairs[0] * pairs[1]).mean() / deviation**2
        assert abs(correlation) < 5 / n**0.5
    # counts per row and per column are binomial: their variance is n p (1 - p)
    for counts in (kept.sum(0), kept.sum(1)):
        assert counts.var().item() == pytest.approx(1000 * p * (1 - p), rel=0.25)


def test_no_dropout_is_none_and_draws_nothing() -> None:
    state = torch.get_rng_state()
    assert Dropout.draw(0.0) is None
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.gcc
@pytest.mark.parametrize("dtype", [FLOAT, HALF])
@pytest.mark.parametrize(("rows", "width"), [(3, 5), (40, 130), (7, 300)])
def test_the_kernels_drop_what_the_formulas_drop(dtype: torch.dtype, rows: int, width: int) -> None:
    ours = Build(dtype).finish()
    update, x = random(rows, width, dtype=dtype), random(rows, width)
    bias, gain = random(width), random(width)
    exact = [t.double() for t in (update, bias, x)]
    assert_near(ours.add(update, bias, x, DROP), EXACT.add(*exact, DROP), sums=3)
    total, (normed, *_) = ours.add_and_norm(update, bias, x, Norm(gain, bias, 1e-5), DROP)
    assert torch.equal(total, ours.add(update, bias, x, DROP))
    assert_near(
        normed,
        EXACT.norm(total.double(), Norm(gain.double(), bias.double(), 1e-5), torch.float64)[0],
        sums=width,
    )
    rounded, sums = ours.round_and_sum(x, dtype, DROP)
    exact_x, exact_sums = EXACT.round_and_sum(x.double(), torch.float64, DROP)
    assert_near(rounded, exact_x)
    assert_near(sums, exact_sums, sums=rows)


def starts_of(batch: int, time: int) -> Tensor:
    """Documents of random lengths: for each token, where its own begins."""
    ids = (torch.rand(batch, time) < 0.1).cumsum(1)
    first = torch.ones(batch, time, dtype=torch.bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    return torch.where(first, torch.arange(time), 0).cummax(1).values


def block(width: int, d_ff: int) -> BlockParameters:
    shapes = (
        *((width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,)),
        *((width,), (width,), (d_ff, width), (d_ff,), (width, d_ff), (width,)),
    )
    return BlockParameters(*(torch.nn.Parameter(0.3 * torch.randn(shape)) for shape in shapes))


def by_autograd(
    x: Tensor, given: BlockParameters, n_head: int, starts: Tensor | None, drop: Dropout | None
) -> Tensor:
    """The block as formulas that autograd differentiates."""
    batch, time, width = x.shape

    def dropped(values: Tensor, place: int) -> Tensor:
        if drop is None:
            return values
        rows = torch.arange(values.numel() // values.size(-1))
        factors = drop.at(drop.stream + place).factors(rows, values.size(-1))
        return values * factors.view_as(values).to(values.dtype)

    norm, linear = torch.nn.functional.layer_norm, torch.nn.functional.linear
    qkv = linear(norm(x, (width,), given.gain1, given.shift1), given.w_qkv, given.b_qkv)
    q, k, v = qkv.view(batch, time, 3, n_head, -1).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(2, 3) / q.size(-1) ** 0.5
    tokens = torch.arange(time)
    hidden = tokens[None, None, :] > tokens[None, :, None]
    if starts is not None:
        hidden = hidden | (tokens < starts[:, :, None])
    p = scores.masked_fill(hidden[:, None], -torch.inf).softmax(-1)
    y = (dropped(p, 0) @ v).transpose(1, 2).reshape(batch, time, width)
    x = x + dropped(linear(y, given.w_out, given.b_out), 1)
    up = linear(norm(x, (width,), given.gain2, given.shift2), given.w_up, given.b_up)
    up = torch.nn.functional.gelu(up, approximate="tanh")
    return x + dropped(linear(up, given.w_down, given.b_down), 2)


def gradients(forward, x: Tensor, given: BlockParameters, d_out: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    out = forward(x, given)
    weights = [weight for weight in given if weight is not None]
    return [out.detach(), *torch.autograd.grad(out, [x, *weights], d_out)]


@pytest.mark.parametrize("drop", [None, DROP], ids=["", "dropout"])
@pytest.mark.parametrize("apart", [False, True], ids=["", "documents"])
@pytest.mark.parametrize(
    "dtype", [torch.float64, pytest.param(FLOAT, marks=pytest.mark.gcc)], ids=["formulas", "fp32"]
)
@pytest.mark.parametrize("time", [5, 150])
def test_a_block_and_its_gradients_are_those_of_autograd(
    time: int, dtype: torch.dtype, apart: bool, drop: Dropout | None
) -> None:
    kernels.choose(FLOAT if dtype == FLOAT else None)
    given = block(24, 40)
    x, d_out = torch.randn(2, 2, time, 24, dtype=torch.float64)
    starts = starts_of(2, time) if apart else None
    weights = (p if p is None else p.detach().double().requires_grad_() for p in given)
    exact = BlockParameters(*weights)
    expected = gradients(lambda x, given: by_autograd(x, given, 3, starts, drop), x, exact, d_out)
    mine = exact if dtype == torch.float64 else given
    found = gradients(
        lambda x, given: block_forward(x, given, KIND, masks=Masks(starts, drop)),
        *(x.to(dtype), mine, d_out.to(dtype)),
    )
    precision = 1e-9 if dtype == torch.float64 else 1e-5
    scale = max(part.norm().item() for part in expected[1:])
    for ours, part in zip(found, expected, strict=True):
        assert (ours - part).norm() < precision * (part.norm() + 0.1 * scale)


def gpt(**fields) -> GPT:
    torch.manual_seed(1)
    return GPTConfig(n_layer=2, n_head=2, d_model=32, **fields).build(vocab_size=11, seq_len=40)


@pytest.mark.gcc
@pytest.mark.parametrize("window", [None, 7])
def test_a_model_keeps_documents_apart_by_kernels_as_by_autograd(window: int | None) -> None:
    model = gpt(window=window)
    tokens = torch.randint(0, 11, (3, 41))
    documents = (tokens[:, :-1] == 0).cumsum(1)
    found = {}
    for by_kernels in (False, True):
        kernels.choose(FLOAT if by_kernels else None)
        assert model.use_kernels(by_kernels) == []
        loss = model.loss(tokens[:, :-1], tokens[:, 1:], documents)
        found[by_kernels] = [loss, *torch.autograd.grad(loss, list(model.parameters()))]
    for ours, plain in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.gcc
def test_dropout_follows_the_seed_differs_by_layer_and_stops_in_evaluation() -> None:
    kernels.choose(FLOAT)
    model = gpt(dropout=0.3)
    assert model.use_kernels(True) == []
    tokens = torch.randint(0, 11, (3, 40))

    def logits(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return model(tokens)

    assert torch.equal(logits(7), logits(7))
    assert not torch.equal(logits(7), logits(8))
    model.eval()
    assert torch.equal(logits(7), logits(8))
    drop = Masks.draw(None, 0.3)
    streams = [place.stream for layer in (0, 1) for place in drop.of_block(layer).drops()]
    assert streams == list(range(6))


@pytest.mark.gcc
def test_the_mean_over_masks_is_nearly_the_result_without_dropout() -> None:
    kernels.choose(FLOAT)
    given = block(24, 40)
    x = torch.randn(1, 20, 24)
    with torch.no_grad():
        small = BlockParameters(
            *(p if p is None else 0.1 * p for p in given)
        )  # nearly linear, where the mean passes through

        def out(p: float) -> Tensor:
            return block_forward(x, small, KIND, masks=Masks.draw(None, p)) - x

        mean = torch.stack([out(0.3) for _ in range(2000)]).mean(0)
        assert (mean - out(0.0)).norm() < 0.1 * out(0.0).norm()
