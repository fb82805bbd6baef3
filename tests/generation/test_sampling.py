"""Which tokens may be drawn, how likely, and by which random numbers."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt.errors import UserError
from tinygpt.generation.sampling import (
    Sampler,
    SamplingConfig,
    likeliest,
    likeliest_first,
    log_softmax,
)


def probabilities(logits: list[float], **fields: Any) -> list[float]:
    config = SamplingConfig(**{"temperature": 1.0, "top_k": None, **fields})
    result = np.zeros(len(logits))
    tokens, result_of_tokens = likeliest_first(np.array(logits, dtype=np.float32), config)
    result[tokens] = result_of_tokens
    return list(result)


LOGITS = [math.log(4), math.log(1), math.log(3), math.log(2)]  # weights 4, 1, 3, 2


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [0.4, 0.1, 0.3, 0.2]),
        ({"temperature": 0.5}, [16 / 30, 1 / 30, 9 / 30, 4 / 30]),
        ({"temperature": 0.0}, [1, 0, 0, 0]),
        ({"top_k": 1}, [1, 0, 0, 0]),
        ({"top_k": 3}, [4 / 9, 0, 3 / 9, 2 / 9]),
        ({"top_k": 100}, [0.4, 0.1, 0.3, 0.2]),
        ({"top_p": 1.0}, [0.4, 0.1, 0.3, 0.2]),
        ({"top_p": 0.75}, [4 / 9, 0, 3 / 9, 2 / 9]),  # 0.7 is not enough: the third one too
        ({"top_p": 0.65}, [4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0]),
        ({"top_k": 2, "top_p": 0.5}, [1, 0, 0, 0]),  # of the two that top-k left: 4/7
        ({"temperature": 0.5, "top_p": 0.8}, [16 / 25, 0, 9 / 25, 0]),  # after the temperature
        ({"min_p": 0.49}, [4 / 9, 0, 3 / 9, 2 / 9]),  # at least 0.196
        ({"min_p": 0.51}, [4 / 7, 0, 3 / 7, 0]),
        ({"min_p": 0.5, "temperature": 0.5}, [16 / 25, 0, 9 / 25, 0]),  # 4/16 is below a half
        # entropy 1.28 nats: surprises 0.92, 2.30, 1.20, 1.61, so the third, the fourth, the first
        ({"typical_p": 0.2}, [0, 0, 1, 0]),
        ({"typical_p": 0.4}, [0, 0, 3 / 5, 2 / 5]),
        ({"typical_p": 0.6}, [4 / 9, 0, 3 / 9, 2 / 9]),
        ({"typical_p": 1.0}, [0.4, 0.1, 0.3, 0.2]),
    ],
)
def test_probabilities_are_those_worked_out_by_hand(
    fields: dict[str, float], expected: list[float]
) -> None:
    assert probabilities(LOGITS, **fields) == pytest.approx(expected, abs=1e-7)


def test_of_equal_logits_the_lower_id_counts_as_likelier() -> None:
    equal = [1.0, 2.0, 2.0, 2.0]
    assert probabilities(equal, top_k=1) == probabilities(equal, temperature=0) == [0, 1, 0, 0]
    assert probabilities(equal, top_k=2) == [0, 0.5, 0.5, 0]
    for cut in ({"top_k": 5}, {"top_p": 5 / 128}, {"typical_p": 5 / 128}):
        assert probabilities([-1e9, 0.0] * 128, **cut) == [0, 0.2] * 5 + [0] * 246


def test_extreme_logits_and_temperatures_neither_overflow_nor_divide_by_zero() -> None:
    assert probabilities([1e4, -1e4, 1e4, -np.inf]) == [0.5, 0, 0.5, 0]
    assert probabilities([1e4, -1e4, 1e4, -np.inf], typical_p=0.9, min_p=1e-9) == [0.5, 0, 0.5, 0]
    assert probabilities([3.0, 2.0, 1.0], temperature=1e-30) == [1, 0, 0]


@settings(max_examples=50)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 300),
    st.fixed_dictionaries(
        {
            "temperature": st.floats(0.2, 3),
            "top_k": st.none() | st.integers(1, 400),
            "top_p": st.none() | st.floats(0.05, 1),
            "min_p": st.none() | st.floats(0.001, 1),
            "typical_p": st.none() | st.floats(0.05, 0.999),
            "repetition_penalty": st.just(1.0) | st.floats(0.5, 2),
            "no_repeat_ngram": st.none() | st.integers(1, 3),
        }
    ),
)
def test_the_distribution_is_that_of_transformers(
    seed: int, vocab_size: int, fields: dict[str, Any]
) -> None:
    import torch
    from transformers.generation import logits_process as processes

    random = np.random.default_rng(seed)
    logits = (random.normal(size=vocab_size) * 3).astype(np.float32)
    text = random.integers(vocab_size, size=12).tolist()
    config, eot_id = SamplingConfig(**fields), vocab_size  # an id that no n-gram bans
    changed = Sampler(config, text, repeat=0, eot_id=eot_id)._changed(logits)
    if np.isneginf(changed).all():
        return
    found = np.zeros(vocab_size)
    tokens, of_tokens = likeliest_first(changed, config)
    found[tokens] = of_tokens

    scores, ids = torch.from_numpy(logits).double()[None], torch.tensor([text])
    steps = []
    if config.repetition_penalty != 1:
        steps.append(processes.RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.no_repeat_ngram:
        steps.append(processes.NoRepeatNGramLogitsProcessor(config.no_repeat_ngram))
    steps.append(processes.TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        steps.append(processes.TopKLogitsWarper(config.top_k))
    if config.top_p is not None and config.top_p < 1:
        steps.append(processes.TopPLogitsWarper(config.top_p))
    if config.min_p is not None:
        steps.append(processes.MinPLogitsWarper(config.min_p))
    if config.typical_p is not None:
        steps.append(processes.TypicalLogitsWarper(config.typical_p))
    for step in steps:
        scores = step(ids, scores)
    np.testing.assert_allclose(found, scores.softmax(-1)[0].numpy(), atol=1e-6)


# Draws


def draws(logits: list[float], n: int, prompt: list[int] | None = None, **fields: Any) -> list[int]:
    """n tokens drawn from the same logits one after another; -1 where none is left."""
    config = SamplingConfig(**{"temperature": 1.0, "top_k": None, **fields})
    sampler = Sampler(config, prompt or [], repeat=0, eot_id=3)
    tokens = (sampler.draw(np.array(logits, dtype=np.float32)) for _ in range(n))
    return [-1 if token is None else token for token in tokens]


def test_tokens_are_drawn_as_often_as_their_probabilities_say() -> None:
    n = 4000
    expected = {0: n * 4 / 9, 2: n * 3 / 9, 3: n * 2 / 9}
    counts = Counter(draws(LOGITS, n, top_k=3))
    assert counts.keys() == expected.keys()
    chi_square = sum((counts[t] - expected[t]) ** 2 / expected[t] for t in expected)
    assert chi_square < 13.8  # 2 degrees of freedom: one in a thousand, and the seed is fixed


def test_draws_are_those_of_numpys_choice_over_all_ids() -> None:
    random = np.random.default_rng([5, 2])
    config = SamplingConfig(seed=5, top_p=0.9)
    sampler = Sampler(config, [], repeat=2, eot_id=0)
    for row in np.random.default_rng(0).normal(size=(200, 500)).astype(np.float32):
        dense = np.zeros(500)
        tokens, of_tokens = likeliest_first(row, config)
        dense[tokens] = of_tokens
        assert sampler.draw(row) == random.choice(500, p=dense)


def test_penalties_are_those_of_their_formulas() -> None:
    logits = [2.0, 1.5, -1.0, -9.0]
    # in prompt or text: divided if positive, multiplied if negative
    assert draws(logits, 3, [0], temperature=0, repetition_penalty=2.0) == [1, 0, 0]
    assert draws([-1.0, -1.5, -9, -9], 1, [0], temperature=0, repetition_penalty=2.0) == [1]
    # in the text only, and once however often
    assert draws(logits, 3, [0], temperature=0, presence_penalty=0.6) == [0, 1, 0]
    assert draws(logits, 5, [0], temperature=0, presence_penalty=0.4) == [0] * 5
    # for each time
    assert draws(logits, 6, [0], temperature=0, frequency_penalty=0.3) == [0, 0, 1, 0, 1, 0]


def test_no_sequence_of_n_tokens_comes_twice() -> None:
    logits = [3.0, 2.0, 1.0, -9.0]
    assert draws(logits, 5, temperature=0, no_repeat_ngram=1) == [0, 1, 2, 3, 3]  # 3 ends it
    assert draws(logits, 5, [0, 1], temperature=0, no_repeat_ngram=2) == [0, 0, 2, 0, 3]
    text = draws([0.0] * 3 + [-99.0], 28, [2, 2], no_repeat_ngram=3)
    triples = list(zip([2, 2, *text], [2, *text], text, strict=False))
    ended = text.index(3) if 3 in text else len(text)
    assert len(set(triples[:ended])) == ended > 9


def test_a_bias_forces_or_bans_and_the_end_of_text_can_be_left_out() -> None:
    assert draws(LOGITS, 3, logit_bias={1: 100.0}) == [1, 1, 1]
    assert 0 not in draws(LOGITS, 200, logit_bias={0: -100.0})
    sure_of_the_end = [0.0, 0.0, 0.0, 99.0]
    assert draws(sure_of_the_end, 3) == [3, 3, 3]
    assert Counter(draws(sure_of_the_end, 90, ignore_eot=True)).keys() == {0, 1, 2}


def test_where_every_token_is_banned_none_is_drawn() -> None:
    assert draws([0.0] * 4, 5, no_repeat_ngram=1, ignore_eot=True)[3:] == [-1, -1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_refused(value: float) -> None:
    for temperature in (0, 1):
        with pytest.raises(UserError, match=f"largest logit is {value}, so no token can be drawn"):
            draws([0.0, value], 1, temperature=temperature)


# Log-probabilities


def test_log_probabilities_are_exact_and_the_likeliest_come_first() -> None:
    scores = log_softmax(np.array(LOGITS, dtype=np.float32))
    assert scores == pytest.approx([math.log(p) for p in (0.4, 0.1, 0.3, 0.2)], abs=1e-7)
    assert likeliest(scores, 2) == ((0, scores[0]), (2, scores[2]))
    assert likeliest(scores, 0) == ()
    assert [token for token, _ in likeliest(np.zeros(9), 20)] == [*range(9)]


# What may be typed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("temperature", -0.1), ("temperature", math.inf), ("temperature", math.nan)),
        *(("top_k", 0), ("top_p", 0.0), ("top_p", 1.1), ("max_new_tokens", 0), ("seed", -1)),
        *(("min_p", 0.0), ("min_p", 1.1), ("typical_p", 0.0), ("typical_p", 2.0)),
        *(("repetition_penalty", 0.0), ("presence_penalty", 101.0), ("frequency_penalty", -101.0)),
        ("no_repeat_ngram", 0),
    ],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{field}={value} must be"):
        SamplingConfig(**{field: value})


def test_biases_and_stop_strings_are_checked() -> None:
    with pytest.raises(UserError, match=r"^logit_bias token=-1 must be at least 0"):
        SamplingConfig(logit_bias={-1: 1.0})
    with pytest.raises(UserError, match=r"^logit_bias of token 3=inf must be"):
        SamplingConfig(logit_bias={3: math.inf})
    with pytest.raises(UserError, match=r"^stop holds an empty text"):
        SamplingConfig(stop=["a", ""])
    with pytest.raises(UserError, match=r"^logit_bias names token 7, and the vocabulary has 7 "):
        SamplingConfig(logit_bias={7: 1.0}).check_vocabulary(7)


@pytest.mark.parametrize("fields", [{"top_p": 0.9}, {"seed": 1}, {"top_k": 3}, {"min_p": 0.1}])
def test_what_greedy_drawing_ignores_is_refused(fields: dict[str, Any]) -> None:
    (field,) = fields
    with pytest.raises(UserError, match=f"^{field}=.* changes nothing at temperature=0"):
        SamplingConfig(temperature=0, **fields).check_used()
    SamplingConfig(**fields).check_used()
    SamplingConfig(temperature=0, top_k=None).check_used()
