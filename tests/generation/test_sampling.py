import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tinygpt.components.models.gpt import GPTConfig
from tinygpt.components.models.gpt_torch import GPT
from tinygpt.errors import UserError
from tinygpt.generation.sampling import SamplingConfig, filtered_probabilities, generate
from tinygpt.language_model import LanguageModel

V, SEQ_LEN, NO_EOT = 23, 16, 22


@pytest.fixture
def model() -> GPT:
    """A random GPT with opinions that differ from place to place, and none to end the text."""
    torch.manual_seed(1)
    model = GPTConfig(n_layer=2, n_head=2, d_model=16).build(vocab_size=V, seq_len=SEQ_LEN)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("norm."):
                parameter.normal_()
        model.token_embedding.weight[NO_EOT] = 0  # its logit too, where others go up to 10
    return model


class Fixed(LanguageModel):
    """A model of somebody else's: no cache, and logits that depend on the last token only."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(logits)  # (V, V): row of the last token

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]


def greedy_by_full_forward(model: LanguageModel, tokens: list[int], n: int) -> list[int]:
    tokens = list(tokens)
    for _ in range(n):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[-n:]


# The distribution


def probabilities(logits: list[float], **fields: Any) -> list[float]:
    config = SamplingConfig(**{"temperature": 1.0, "top_k": None, **fields})
    return list(filtered_probabilities(np.array(logits, dtype=np.float32), config))


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
    ],
)
def test_filtered_probabilities_are_those_worked_out_by_hand(
    fields: dict[str, float], expected: list[float]
) -> None:
    assert probabilities(LOGITS, **fields) == pytest.approx(expected, abs=1e-7)


def test_of_equal_logits_the_lower_id_counts_as_likelier() -> None:
    equal = [1.0, 2.0, 2.0, 2.0]
    assert probabilities(equal, top_k=1) == probabilities(equal, temperature=0) == [0, 1, 0, 0]
    assert probabilities(equal, top_k=2) == [0, 0.5, 0.5, 0]
    for cut in ({"top_k": 5}, {"top_p": 5 / 128}):
        assert probabilities([-1e9, 0.0] * 128, **cut) == [0, 0.2] * 5 + [0] * 246


def test_extreme_logits_and_temperatures_neither_overflow_nor_divide_by_zero() -> None:
    assert probabilities([1e4, -1e4, 1e4, -np.inf]) == [0.5, 0, 0.5, 0]
    assert probabilities([3.0, 2.0, 1.0], temperature=1e-30) == [1, 0, 0]


def test_tokens_are_drawn_as_often_as_their_probabilities_say() -> None:
    model, n = Fixed(torch.tensor([LOGITS] * 4)), 4000
    config = SamplingConfig(temperature=1.0, top_k=3, max_new_tokens=n)
    (sample,) = generate(model, [[]], config=config, seq_len=8, eot_id=1)  # 1 is filtered out
    expected = {0: n * 4 / 9, 2: n * 3 / 9, 3: n * 2 / 9}
    counts = Counter(sample)
    assert counts.keys() == expected.keys()
    chi_square = sum((counts[t] - expected[t]) ** 2 / expected[t] for t in expected)
    assert chi_square < 13.8  # 2 degrees of freedom: one in a thousand, and the seed is fixed


# The loop


def test_greedy_is_the_argmax_of_the_full_forward(model: GPT) -> None:
    config = SamplingConfig(temperature=0, max_new_tokens=10)
    prompts = [[3, 1, 4], [], [5]]
    samples = generate(model, prompts, config=config, seq_len=SEQ_LEN, eot_id=NO_EOT)
    expected = [greedy_by_full_forward(model, [NO_EOT, *prompt], 10) for prompt in prompts]
    assert samples == expected
    assert len({tuple(sample) for sample in samples}) == 3


def test_top_k_of_one_is_greedy(model: GPT) -> None:
    greedy = SamplingConfig(temperature=0, max_new_tokens=30)
    top_1 = SamplingConfig(temperature=5.0, top_k=1, max_new_tokens=30)
    samples = [
        generate(model, [[1]], config=config, seq_len=SEQ_LEN, eot_id=NO_EOT)
        for config in (greedy, top_1)
    ]
    assert samples[0] == samples[1]


def test_a_sample_depends_on_nothing_beside_its_prompt_its_turn_and_the_seed(model: GPT) -> None:
    def samples(prompts: list[list[int]], seed: int = 0) -> list[list[int]]:
        config = SamplingConfig(temperature=1.5, max_new_tokens=20, seed=seed)
        return generate(model, prompts, config=config, seq_len=SEQ_LEN, eot_id=NO_EOT)

    a, b = [1, 2, 3], [4]
    first, second, third = samples([a, a, a])
    assert len({tuple(s) for s in (first, second, third)}) == 3
    assert samples([a]) == [first]
    assert samples([b, a, b, a])[1::2] == [first, second]
    assert samples([a], seed=1) != [first]


def test_sampling_leaves_the_generator_of_the_training_and_the_mode_alone(model: GPT) -> None:
    for training in (True, False):
        model.train(training)
        before = torch.get_rng_state()
        config = SamplingConfig(max_new_tokens=5)
        generate(model, [[1]], config=config, seq_len=SEQ_LEN, eot_id=NO_EOT)
        assert torch.equal(torch.get_rng_state(), before)
        assert model.training is training


def test_dropout_is_off_while_sampling_and_the_mode_is_restored_after_an_error() -> None:
    torch.manual_seed(0)
    model = GPTConfig(n_layer=1, n_head=1, d_model=8, dropout=0.9).build(vocab_size=V, seq_len=8)
    config = SamplingConfig(temperature=0, max_new_tokens=5)
    samples = generate(model.train(), [[1]], config=config, seq_len=8, eot_id=NO_EOT)
    assert samples == [greedy_by_full_forward(model.eval(), [NO_EOT, 1], 5)]

    model.train()
    with pytest.raises(IndexError):
        generate(model, [[V]], config=config, seq_len=8, eot_id=NO_EOT)
    assert model.training


def test_it_continues_past_the_window_with_the_newest_half(model: GPT) -> None:
    config = SamplingConfig(temperature=0, max_new_tokens=60)
    (sample,) = generate(model, [[1, 2]], config=config, seq_len=SEQ_LEN, eot_id=NO_EOT)
    window, expected = [NO_EOT, 1, 2], []
    for _ in range(60):
        if len(window) > 16:
            window = window[-8:]
        expected += greedy_by_full_forward(model, window, 1)
        window.append(expected[-1])
    assert sample == expected


def test_a_prompt_longer_than_the_window_counts_by_its_newest_tokens(model: GPT) -> None:
    config = SamplingConfig(temperature=0, max_new_tokens=5)
    prompt = [i % 20 for i in range(40)]
    samples = generate(
        model, [prompt, [9, 9, *prompt]], config=config, seq_len=SEQ_LEN, eot_id=NO_EOT
    )
    assert samples[0] == samples[1]
    assert samples[0][:1] == greedy_by_full_forward(model, prompt[-16:], 1)


@pytest.mark.parametrize("seq_len", [1, 2, 3])
def test_the_shortest_windows_work(seq_len: int) -> None:
    model = GPTConfig(n_layer=1, n_head=1, d_model=4).build(vocab_size=V, seq_len=seq_len)
    config = SamplingConfig(temperature=0, max_new_tokens=9)
    (sample,) = generate(model, [[1]], config=config, seq_len=seq_len, eot_id=-1 % V)
    assert len(sample) <= 9


def cycle(n: int) -> Fixed:
    """After token t comes t + 1, after the last the first."""
    return Fixed(torch.eye(n).roll(1, dims=1) * 100)


def test_it_stops_at_the_end_of_the_text_and_leaves_it_out() -> None:
    config = SamplingConfig(max_new_tokens=50)
    samples = generate(cycle(6), [[2], [4], [5], []], config=config, seq_len=4, eot_id=0)
    assert samples == [[3, 4, 5], [5], [], [1, 2, 3, 4, 5]]


def test_it_stops_after_max_new_tokens() -> None:
    config = SamplingConfig(max_new_tokens=2)
    assert generate(cycle(6), [[1]], config=config, seq_len=4, eot_id=0) == [[2, 3]]


def test_tokens_are_heard_of_in_the_order_in_which_they_are_drawn() -> None:
    heard: list[tuple[int, int]] = []
    samples = generate(
        cycle(5),
        [[1], [3], [2]],
        config=SamplingConfig(),
        seq_len=4,
        eot_id=0,
        on_token=lambda index, token: heard.append((index, token)),
    )
    assert heard == [(0, 2), (0, 3), (0, 4), (1, 4), (2, 3), (2, 4)]
    assert samples == [[2, 3, 4], [4], [3, 4]]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("temperature", -0.1), ("temperature", math.inf), ("temperature", math.nan)),
        *(("top_k", 0), ("top_p", 0.0), ("top_p", 1.1), ("max_new_tokens", 0), ("seed", -1)),
    ],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{field}={value} must be"):
        SamplingConfig(**{field: value})
