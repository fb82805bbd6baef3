"""A model that is no transformer: its two forms, and what every model keeps."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.generation.vocabulary import Pieces
from tinygpt import kernels
from tinygpt.components.models.mingru import MinGRUConfig
from tinygpt.components.models.mingru_torch import MinGRU
from tinygpt.components.models.parts.recurrence import MinGRULayer
from tinygpt.errors import UserError
from tinygpt.generation.engine import generate
from tinygpt.generation.sampling import SamplingConfig
from tinygpt.kernels import Formulas
from tinygpt.kernels.formulas import scan

V, T = 50, 13


@pytest.fixture
def model() -> MinGRU:
    torch.manual_seed(0)
    model = MinGRUConfig(n_layer=2, d_model=8).build(vocab_size=V, seq_len=T)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("n_time", [1, 2, 3, 8, 13])
def test_a_scan_is_the_recurrence_step_by_step(n_time: int) -> None:
    kept, added = torch.rand(2, 3, n_time, 4, dtype=torch.float64)
    state = torch.rand(3, 4, dtype=torch.float64)
    for before in (None, state):
        h, expected = torch.zeros_like(state) if before is None else before, []
        for t in range(n_time):
            h = kept[:, t] * h + added[:, t]
            expected.append(h)
        torch.testing.assert_close(scan(kept, added, before), torch.stack(expected, 1))


def test_a_layer_is_the_formula_of_the_paper() -> None:
    layer = MinGRULayer(d_model=3, d_state=4)
    x = torch.randn(2, 5, 3)
    gates, candidates = layer.gate_candidate(x).chunk(2, -1)
    h, expected = torch.zeros(2, 4), []
    for t in range(5):
        z, c = gates[:, t].sigmoid(), candidates[:, t]
        h = (1 - z) * h + z * torch.where(c >= 0, c + 0.5, c.sigmoid())
        expected.append(layer.out(h))
    found, state = layer(x)
    torch.testing.assert_close(found, torch.stack(expected, 1))
    torch.testing.assert_close(state, h)


@pytest.mark.gcc
def test_its_kernels_compute_what_autograd_does() -> None:
    """Loss and gradients, with documents, by the kernels in C and by autograd in float64."""
    torch.manual_seed(0)
    model = MinGRUConfig(n_layer=2, d_model=24).build(vocab_size=V, seq_len=T)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    tokens = torch.randint(V, (3, T + 1))
    documents = (tokens[:, :-1] < 7).cumsum(1)
    found = {}
    for name in ("kernels", "autograd"):
        model.zero_grad()
        kernels.choose(torch.float32 if name == "kernels" else None)
        assert model.use_kernels(name == "kernels") == []
        if name == "autograd":
            model.double()
        loss = model.loss(tokens[:, :-1], tokens[:, 1:], documents)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        found[name] = [loss, *(p.grad for p in model.parameters())]
    kernels.choose(None)
    for ours, exact in zip(found["kernels"], found["autograd"], strict=True):
        assert ours is not None
        assert exact is not None
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-5)
    assert MinGRUConfig(n_layer=1, d_model=8, dropout=0.1).build(
        vocab_size=V, seq_len=T
    ).use_kernels(True) == ["feed-forward layers (model.dropout=0.1)"]


def test_the_formulas_of_the_recurrence_are_its_gradient() -> None:
    formulas, rows = Formulas(), torch.randn(2, 6, 8, dtype=torch.float64, requires_grad=True)
    begins = torch.zeros(2, 6, dtype=torch.int64)
    begins[1, 3] = 1
    h = formulas.recur(rows, begins)
    d = torch.randn_like(h)
    (expected,) = torch.autograd.grad(h, rows, d)
    torch.testing.assert_close(formulas.recur_backward(d, rows, begins, h), expected)


@pytest.mark.parametrize("lengths", [[1] * T, [5, 1, 7]])
def test_the_recurrent_form_equals_the_parallel_form(model: MinGRU, lengths: list[int]) -> None:
    tokens, cache = torch.randint(V, (2, T)), model.new_cache()
    pieces = [model(piece, cache) for piece in torch.split(tokens, lengths, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(tokens))


def test_its_memory_does_not_grow_and_text_continues_past_the_window(model: MinGRU) -> None:
    cache = model.new_cache()
    for _ in range(3):
        model(torch.randint(V, (2, T)), cache)
        assert [state.shape for state in cache] == [(2, 12)] * 2
    config = SamplingConfig(temperature=0, max_new_tokens=3 * T)
    prompt = torch.randint(1, V, (2 * T,)).tolist()
    (sample,) = generate(model, Pieces.of_ids(V), [prompt], config=config, seq_len=T)
    tokens = [0, *prompt]
    for token in sample.tokens:  # each is the likeliest after all that came before
        assert int(model(torch.tensor([tokens]))[0, -1].argmax()) == token
        tokens.append(token)
    assert sample.tokens


def test_a_token_changes_nothing_before_itself(model: MinGRU) -> None:
    tokens = torch.randint(V, (2, T))
    before = model(tokens)
    tokens[:, 7] = (tokens[:, 7] + 1) % V
    after = model(tokens)
    assert torch.equal(after[:, :7], before[:, :7])
    assert (after[:, 7:] != before[:, 7:]).any(-1).all()


def test_a_document_is_what_it_is_alone(model: MinGRU) -> None:
    tokens = torch.randint(V, (1, T))
    documents = torch.tensor([[0] * 5 + [1] * 8])
    apart = model(tokens, documents=documents)
    torch.testing.assert_close(apart[:, :5], model(tokens[:, :5]))
    torch.testing.assert_close(apart[:, 5:], model(tokens[:, 5:]))


def test_the_loss_and_its_gradients_are_those_of_the_logits(model: MinGRU) -> None:
    tokens, targets = torch.randint(V, (2, 2, T))
    documents = torch.tensor([[0] * 5 + [1] * 8, [0] * T])

    def gradients(loss: Tensor) -> list[Tensor]:
        return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]

    logits = model(tokens, documents=documents)
    expected = gradients(F.cross_entropy(logits.flatten(0, 1), targets.flatten()))
    found = gradients(model.loss(tokens, targets, documents))
    torch.testing.assert_close(found, expected)
    assert all(gradient.isfinite().all() and gradient.any() for gradient in found)


def test_flops_are_those_that_torch_counts(model: MinGRU) -> None:
    tokens = torch.randint(V, (2, T))
    with FlopCounterMode(display=False) as counter:
        model(tokens).sum().backward()
    assert counter.get_total_flops() == model.flops_per_token() * tokens.numel()


@pytest.mark.parametrize(
    ("field", "value"), [("n_layer", 0), ("d_model", 0), ("expansion", 0.0), ("dropout", 1.0)]
)
def test_values_out_of_range_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"model.{field}={value} must be"):
        MinGRUConfig(**{field: value})
