"""The decoder in C: against the model's forward, and the same bits in any company."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.components.models.test_switches import SWITCHES
from tests.kernels.compiled import DECODER, HEADERS, compile_kernels
from tests.kernels.test_sanitizers import ALL, compiled, run
from tinygpt.components.models.gpt import GPTConfig
from tinygpt.components.models.gpt_torch import GPT
from tinygpt.components.models.mingru import MinGRUConfig
from tinygpt.components.models.parts.decoding import network_of
from tinygpt.kernels.decode import TransformerDecoder

pytestmark = pytest.mark.gcc

V, T = 37, 40
SIZES: dict[str, dict[str, Any]] = {
    "heads of 80": {"d_model": 160, "n_head": 2},
    "heads of 5": {"d_model": 15, "n_head": 3},
    "16 queries of a key": {"d_model": 64, "n_head": 16, "n_kv_head": 1},
    "deep products": {"d_ff": 600},
}
FIELDS = {"gpt2": {}, **SWITCHES, **SIZES}
BEST = {"positions": "rope", "n_kv_head": 2, "value_residual": True, "window": 30, "ngram": 3}


def built(seq_len: int = T, **fields: Any) -> GPT:
    """A model whose weights are all random, so that none is zero or one by its initialisation."""
    torch.manual_seed(0)
    shape = {"n_layer": 3, "n_head": 4, "d_model": 24}
    model = GPTConfig(**{**shape, **fields}).build(vocab_size=V, seq_len=seq_len)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def decoder_of(model: GPT, n_slots: int = 4, weights: str = "fp32", **given: Any):
    return TransformerDecoder(network_of(model), n_slots=n_slots, weights=weights, **given)


def some_tokens(n: int = T) -> list[int]:
    return torch.randint(V, (n,)).tolist()


def reference(model: GPT, tokens: list[int]) -> np.ndarray:
    """Logits (T, V) in float64."""
    with torch.no_grad():
        return model.double()(torch.tensor([tokens]))[0].numpy()


def assert_near(found: np.ndarray, expected: np.ndarray, within: float = 1e-5) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert abs(found - expected).max() <= within * max(1.0, abs(expected).max())


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_logits_are_those_of_forward_for_every_architecture(fields) -> None:
    model, tokens = built(**fields), some_tokens()
    decoder = model.decoder(2)
    logits = decoder.prefill(1, tokens[:30], every=True)
    steps = [decoder.step([1], [token])[0] for token in tokens[30:]]
    assert_near(np.concatenate((logits, steps)), reference(model, tokens))


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("fields", [SWITCHES["all"], {}], ids=["all switches", "gpt2"])
def test_a_prompt_of_several_calls_is_read_as_by_steps(fields, weights) -> None:
    model = built(seq_len=270, **fields)
    tokens, decoder = some_tokens(270), decoder_of(model, weights=weights)
    logits = decoder.prefill(0, tokens, every=True)
    assert (decoder.prefill(1, tokens[:150]) == logits[149]).all()
    for token, expected in zip(tokens[150:], logits[150:], strict=True):
        assert (decoder.step([1], [token]) == expected).all()


@pytest.fixture(scope="module")
def sequences() -> dict[str, tuple[Any, np.ndarray, np.ndarray]]:
    """By weights: a decoder of 20 slots, tokens (8, T), and the logits of each alone."""
    model, given = built(**BEST), {}
    for weights in ("fp32", "bf16", "int8"):
        decoder = decoder_of(model, 20, weights)
        tokens = np.array([some_tokens() for _ in range(8)])
        alone = np.stack([decoder.prefill(0, list(row), every=True) for row in tokens])
        given[weights] = decoder, tokens, alone
    return given


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_logits_are_the_same_bits_in_any_batch(sequences, data) -> None:
    weights = data.draw(st.sampled_from(["fp32", "bf16", "int8"]))
    decoder, tokens, alone = sequences[weights]
    slots = data.draw(st.lists(st.integers(0, 19), min_size=1, max_size=20, unique=True))
    rows = [data.draw(st.integers(0, 7)) for _ in slots]
    known = [data.draw(st.integers(1, T - 1)) for _ in slots]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(data.draw(st.sampled_from([1, 2, 3])))
        decoder._one_thread = 0
        for slot, row, length in zip(slots, rows, known, strict=True):
            last = decoder.prefill(slot, list(tokens[row, :length]))
            assert (last == alone[row, length - 1]).all()
        for _ in range(3):
            going = [i for i, length in enumerate(known) if length < T]
            order = data.draw(st.permutations(going))
            logits = decoder.step(
                [slots[i] for i in order], [int(tokens[rows[i], known[i]]) for i in order]
            )
            for i, found in zip(order, logits, strict=True):
                assert (found == alone[rows[i], known[i]]).all()
                known[i] += 1
    finally:
        torch.set_num_threads(threads)


def test_a_copied_slot_goes_on_as_its_source_and_apart_from_it() -> None:
    model, tokens = built(**BEST), some_tokens()
    decoder = decoder_of(model)
    logits = decoder.prefill(0, tokens, every=True)
    decoder.prefill(2, tokens[:35])
    decoder.prefill(3, some_tokens(T))
    decoder.copy(2, 3)
    decoder.step([2], [tokens[0]])
    for token, expected in zip(tokens[35:], logits[35:], strict=True):
        assert (decoder.step([3], [token]) == expected).all()


def round_keys_and_values(module: nn.Module, _: Any, qkv: torch.Tensor) -> torch.Tensor:
    q, k_and_v = qkv.split([qkv.size(-1) // 3, qkv.size(-1) // 3 * 2], dim=-1)
    return torch.cat((q, k_and_v.bfloat16().to(q.dtype)), -1)


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_bf16_and_int8_compute_with_rounded_weights_keys_and_values(weights) -> None:
    """With int8 inputs of products are rounded to 16 bits too, which the tolerance allows for."""
    model, tokens = built(tied=False), some_tokens()
    decoder = decoder_of(model, weights=weights)
    for name, parameter in model.named_parameters():
        if name.endswith(("qkv.weight", "out.weight", "up.weight", "down.weight", "head.weight")):
            if weights == "bf16":
                parameter.data = parameter.data.bfloat16().float()
            else:
                largest = parameter.data.abs().amax(1, keepdim=True)
                inverse = torch.tensor(127.0) / largest  # 127 / largest is rounded twice
                parameter.data = (parameter.data * inverse).round() * (largest / 127)
    logits = decoder.prefill(0, tokens, every=True)
    unrounded = reference(model, tokens)
    for name, module in model.named_modules():
        if name.endswith("qkv"):
            module.register_forward_hook(round_keys_and_values)
    assert_near(logits, reference(model, tokens), 1e-4)
    with pytest.raises(AssertionError):
        assert_near(logits, unrounded, 1e-4)


def test_infinite_inputs_give_no_finite_logits_with_int8() -> None:
    model = built(tied=False)
    with torch.no_grad():
        model.token_embedding.weight[5, 3] = float("inf")
    logits = decoder_of(model, weights="int8").prefill(0, [1, 5], every=True)
    assert np.isfinite(logits[0]).all()
    assert np.isnan(logits[1]).all()


def test_the_weights_are_those_at_the_time() -> None:
    model, tokens = built(), some_tokens()
    decoder = decoder_of(model)
    before = decoder.prefill(0, tokens)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    assert (decoder.prefill(0, tokens) == before).all()


@pytest.fixture(scope="module", params=[4, pytest.param(16, marks=pytest.mark.slow)])
def library(request: pytest.FixtureRequest):
    """With vectors of so many floats, and allocations that can be made to fail."""
    flags = ("-O1", "-Wno-psabi", f"-DLANES={request.param}", "-include", str(HEADERS / "fail.h"))
    return compile_kernels(flags, [DECODER])


def test_vectors_of_any_machine_give_the_same_logits(library) -> None:
    model, tokens = built(**SWITCHES["all"]), some_tokens()
    tokens_before = tokens[:30]
    for weights in ("fp32", "bf16", "int8"):
        decoder = decoder_of(model, weights=weights, library=library)
        logits = decoder.prefill(1, tokens, every=True)
        assert (decoder.prefill(0, tokens_before) == logits[29]).all()
        # what is halfway between two integers, or two numbers in bf16, may become either
        within = 1e-3 if weights == "int8" else 1e-4 if weights == "bf16" else 1e-5
        here = decoder_of(model, weights=weights).prefill(0, tokens, every=True)
        assert_near(logits, here, within)


def test_models_without_a_decoder_return_none() -> None:
    assert MinGRUConfig().build(vocab_size=V, seq_len=T).decoder(1) is None
    assert built().double().decoder(1) is None
    assert built().to("meta").decoder(1) is None


def test_tokens_that_do_not_fit_are_refused_and_leave_the_slot_as_it_was() -> None:
    decoder = decoder_of(built())
    with pytest.raises(ValueError, match="0 tokens do not fit into seq_len=40"):
        decoder.prefill(0, [])
    with pytest.raises(ValueError, match="41 tokens do not fit into seq_len=40"):
        decoder.prefill(0, some_tokens(41))
    expected = decoder.prefill(0, some_tokens(40))
    with pytest.raises(ValueError, match="41 tokens do not fit into seq_len=40"):
        decoder.step([1, 0], [1, 1])
    with pytest.raises(ValueError, match="distinct slots"):
        decoder.step([1, 1], [1, 1])
    for token in (-1, V):
        with pytest.raises(IndexError, match="out of range"):
            decoder.prefill(1, [token])
    assert expected.shape == (V,)


def test_no_memory_is_an_error_and_the_next_call_is_right(library) -> None:
    decoder, tokens = decoder_of(built(), library=library), some_tokens()
    expected = decoder.prefill(0, tokens)
    calls, fail_at, live = (
        ctypes.c_int.in_dll(library, name) for name in ("calls", "fail_at", "live")
    )
    calls.value, fail_at.value = 0, 1
    with pytest.raises(MemoryError, match="not enough memory for its scratch space"):
        decoder.prefill(0, tokens)
    fail_at.value = 0
    assert live.value == 0
    assert (decoder.prefill(0, tokens) == expected).all()


@pytest.mark.slow
def test_the_decoder_stays_within_its_arrays(tmp_path: Path) -> None:
    done = run(compiled(tmp_path / "sanitize", (ALL,), [HEADERS / "sanitize_decode.c", DECODER]))
    assert done.returncode == 0, done.stderr[:2000]
