"""Continuations are scored exactly, however many there are and however long."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.generation.test_engine import decoders
from tests.generation.vocabulary import opinionated
from tinygpt.components.models.gpt_torch import GPT
from tinygpt.errors import UserError
from tinygpt.generation.scoring import score
from tinygpt.generation.torch_decoder import TorchDecoder

V, SEQ_LEN, EOT = 23, 16, 22


@pytest.fixture(scope="module")
def model() -> GPT:
    return opinionated(vocab_size=V, seq_len=SEQ_LEN, eot_id=EOT)


def by_full_forward(model: GPT, tokens: list[int], n: int) -> float:
    """Nats of the last n tokens."""
    with torch.no_grad():
        scores = model(torch.tensor([tokens[:-1]]))[0].log_softmax(-1)
    return -sum(scores[t - 1, tokens[t]].item() for t in range(len(tokens) - n, len(tokens)))


TOKENS = st.integers(0, V - 1)


@settings(max_examples=12)
@given(
    st.lists(TOKENS, max_size=6),
    st.lists(st.lists(TOKENS, min_size=1, max_size=9), min_size=1, max_size=6),
    st.integers(1, 4),
)
def test_nats_are_those_of_a_forward_over_prompt_and_continuation(
    model: GPT, prompt: list[int], continuations: list[list[int]], n_slots: int
) -> None:
    expected = [by_full_forward(model, [EOT, *prompt, *c], len(c)) for c in continuations]
    for decoder in decoders(model, n_slots).values():
        found = score(decoder, prompt, continuations, eot_id=EOT)
        assert found == pytest.approx(expected, abs=2e-5, rel=1e-5)


def test_all_continuations_of_one_token_share_the_whole_probability(model: GPT) -> None:
    decoder = TorchDecoder(model, 2, seq_len=SEQ_LEN)
    nats = score(decoder, [1, 2], [[token] for token in range(V)], eot_id=EOT)
    assert sum(math.exp(-n) for n in nats) == pytest.approx(1)


def test_of_a_prompt_that_is_too_long_the_newest_tokens_count(model: GPT) -> None:
    decoder: Any = TorchDecoder(model, 3, seq_len=SEQ_LEN)
    prompt, short, long = [i % 20 for i in range(30)], [3], [4, 5, 6]
    window = prompt[-(SEQ_LEN - 2) :]  # the last of the three is not read
    expected = [by_full_forward(model, [*window, *c], len(c)) for c in (short, long)]
    assert score(decoder, prompt, [short, long], eot_id=EOT) == pytest.approx(expected, abs=1e-4)


def test_continuations_that_have_no_score_are_refused(model: GPT) -> None:
    decoder = TorchDecoder(model, 2, seq_len=SEQ_LEN)
    with pytest.raises(UserError, match="continuation 2 has no tokens"):
        score(decoder, [], [[1], []], eot_id=EOT)
    with pytest.raises(UserError, match="has 17 tokens, and the context window 16"):
        score(decoder, [], [[1] * 17], eot_id=EOT)
    assert score(decoder, [], [[1] * 16], eot_id=EOT)[0] > 0
    assert score(decoder, [], [], eot_id=EOT) == []
