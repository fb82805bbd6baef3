"""The engine: the same text whatever else is written, and when and how texts end."""

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.generation.vocabulary import (
    Fixed,
    Pieces,
    cycle,
    greedy_by_full_forward,
    opinionated,
)
from tinygpt.components.models.gpt import GPTConfig
from tinygpt.components.models.gpt_torch import GPT
from tinygpt.components.models.mingru import MinGRUConfig
from tinygpt.errors import UserError
from tinygpt.generation.engine import (
    MOST_OPEN,
    Engine,
    Event,
    FinishedEvent,
    Sample,
    TokenEvent,
    generate,
    open_engine,
    samples,
)
from tinygpt.generation.sampling import SamplingConfig, likeliest_first
from tinygpt.generation.slot_decoder import SlotDecoder
from tinygpt.generation.torch_decoder import TorchDecoder
from tinygpt.language_model import Decoder, LanguageModel

V, SEQ_LEN, NO_EOT = 23, 16, 22
IDS = Pieces.of_ids(V, NO_EOT)


@pytest.fixture(scope="module")
def model() -> GPT:
    return opinionated(vocab_size=V, seq_len=SEQ_LEN, eot_id=NO_EOT)


def tokens_of(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    seq_len: int = SEQ_LEN,
    tokenizer: Pieces = IDS,
    **fields: Any,
) -> list[list[int]]:
    config = SamplingConfig(**fields)
    made = generate(model, tokenizer, prompts, config=config, seq_len=seq_len)
    return [sample.tokens for sample in made]


# One text


def test_greedy_is_the_argmax_of_the_full_forward(model: GPT) -> None:
    prompts = [[3, 1, 4], [], [5]]
    samples = tokens_of(model, prompts, temperature=0, max_new_tokens=10)
    expected = [greedy_by_full_forward(model, [NO_EOT, *prompt], 10) for prompt in prompts]
    assert samples == expected
    assert len({tuple(sample) for sample in samples}) == 3


def test_top_k_of_one_is_greedy(model: GPT) -> None:
    greedy = tokens_of(model, [[1]], temperature=0, max_new_tokens=30)
    assert greedy == tokens_of(model, [[1]], temperature=5.0, top_k=1, max_new_tokens=30)


def by_itself(
    model: LanguageModel, prompt: Sequence[int], *, repeat: int, config: SamplingConfig
) -> list[int]:
    """A sample by a forward of the whole window for each token, and numpy's `choice`."""
    random = np.random.default_rng([config.seed, repeat])
    window, text = [NO_EOT, *prompt], []
    window = window[-SEQ_LEN:] if model.bounded_cache else window
    for _ in range(config.max_new_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([window]))[0, -1].numpy()
        tokens, of_tokens = likeliest_first(logits, config)
        dense = np.zeros(logits.size)
        dense[tokens] = of_tokens
        token = int(random.choice(dense.size, p=dense))
        if token == NO_EOT:
            break
        text.append(token)
        window.append(token)
        if model.bounded_cache and len(window) > SEQ_LEN:
            window = window[-SEQ_LEN // 2 :]
    return text


class Uncached(GPT):
    """The same network without a cache."""

    def new_cache(self) -> None:  # type: ignore[override]
        return None


def mingru(**fields: Any) -> LanguageModel:
    torch.manual_seed(2)
    model = MinGRUConfig(n_layer=2, d_model=8).build(vocab_size=V, seq_len=SEQ_LEN)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return model.eval()


def uncached(gpt: GPT) -> GPT:
    model = Uncached(gpt.config, vocab_size=V, seq_len=SEQ_LEN)
    model.load_state_dict(gpt.state_dict())
    return model.eval()


def decoders(gpt: GPT, n_slots: int) -> dict[str, Decoder]:
    """Every decoder of the model that there is here, by a name."""
    compiled = gpt.decoder(n_slots, weights="fp32")
    return {
        "torch": TorchDecoder(gpt, n_slots, seq_len=SEQ_LEN),
        "torch, slots together": SlotDecoder(gpt, 6, seq_len=SEQ_LEN),
        "torch, without a cache": TorchDecoder(uncached(gpt), n_slots, seq_len=SEQ_LEN),
        **({} if compiled is None else {"compiled": compiled}),
    }


PROMPTS = st.lists(st.lists(st.integers(0, V - 2), max_size=24), min_size=1, max_size=4)
SETTINGS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.7, 1.5]),
        "top_k": st.sampled_from([None, 5]),
        "top_p": st.sampled_from([None, 0.8]),
        "seed": st.integers(0, 5),
        "max_new_tokens": st.integers(1, 24),
    }
)


def check_each_is_as_by_itself(
    model: LanguageModel,
    decoder: Decoder,
    prompts: list[list[int]],
    expected: list[list[int]],
    config: SamplingConfig,
) -> None:
    engine = Engine(decoder, IDS)
    assert [s.tokens for s in samples(engine, prompts, config=config)] == expected, decoder


@settings(max_examples=10)
@given(PROMPTS, SETTINGS, st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_text_is_the_same_in_any_batch_order_and_decoder_of_a_gpt(
    model: GPT, prompts: list[list[int]], fields: dict[str, Any], n_slots: int, random: Any
) -> None:
    prompts = prompts + prompts[: len(prompts) // 2]  # some come twice
    random.shuffle(prompts)
    config = SamplingConfig(**fields)
    repeats = [prompts[:i].count(prompt) for i, prompt in enumerate(prompts)]
    expected = [
        by_itself(model, prompt, repeat=repeat, config=config)
        for prompt, repeat in zip(prompts, repeats, strict=True)
    ]
    for decoder in decoders(model, n_slots).values():
        check_each_is_as_by_itself(model, decoder, prompts, expected, config)


@settings(max_examples=6)
@given(PROMPTS, SETTINGS, st.integers(1, 4))
def test_a_text_is_the_same_in_any_batch_of_a_recurrence(
    prompts: list[list[int]], fields: dict[str, Any], n_slots: int
) -> None:
    model, config = mingru(), SamplingConfig(**fields)
    prompts = [*prompts, prompts[0]]
    repeats = [prompts[:i].count(prompt) for i, prompt in enumerate(prompts)]
    expected = [
        by_itself(model, prompt, repeat=repeat, config=config)
        for prompt, repeat in zip(prompts, repeats, strict=True)
    ]
    decoder = TorchDecoder(model, n_slots, seq_len=SEQ_LEN)
    check_each_is_as_by_itself(model, decoder, prompts, expected, config)


def test_samples_of_a_prompt_differ_and_so_do_those_of_another_seed(model: GPT) -> None:
    a, b = [1, 2, 3], [4]

    def made(*prompts: list[int], seed: int = 0) -> list[list[int]]:
        return tokens_of(model, prompts, temperature=1.5, max_new_tokens=20, seed=seed)

    first, second, third = made(a, a, a)
    assert len({tuple(s) for s in (first, second, third)}) == 3
    assert made(a) == [first]
    assert made(b, a, b, a)[1::2] == [first, second]
    assert made(a, seed=1) != [first]


def test_sampling_leaves_the_generator_of_the_training_and_the_mode_alone(model: GPT) -> None:
    for training in (True, False):
        model.train(training)
        before = torch.get_rng_state()
        tokens_of(model, [[1]], max_new_tokens=5)
        assert torch.equal(torch.get_rng_state(), before)
        assert model.training is training


def test_dropout_is_off_while_sampling_and_the_mode_is_restored_after_an_error() -> None:
    torch.manual_seed(0)
    model = GPTConfig(n_layer=1, n_head=1, d_model=8, dropout=0.9).build(vocab_size=V, seq_len=8)
    made = tokens_of(model.train(), [[1]], seq_len=8, temperature=0, max_new_tokens=5)
    assert made == [greedy_by_full_forward(model.eval(), [NO_EOT, 1], 5)]

    model.train()
    with pytest.raises((IndexError, ValueError)):
        tokens_of(model, [[V]], seq_len=8)
    assert model.training


def test_it_continues_past_the_window_with_the_newest_half(model: GPT) -> None:
    (sample,) = tokens_of(model, [[1, 2]], temperature=0, max_new_tokens=60)
    window, expected = [NO_EOT, 1, 2], []
    for _ in range(60):
        if len(window) > 16:
            window = window[-8:]
        expected += greedy_by_full_forward(model, window, 1)
        window.append(expected[-1])
    assert sample == expected


def test_a_prompt_longer_than_the_window_counts_by_its_newest_tokens(model: GPT) -> None:
    prompt = [i % 20 for i in range(40)]
    made = tokens_of(model, [prompt, [9, 9, *prompt]], temperature=0, max_new_tokens=5)
    assert made[0] == made[1]
    assert made[0][:1] == greedy_by_full_forward(model, prompt[-16:], 1)


@pytest.mark.parametrize("seq_len", [1, 2, 3])
def test_the_shortest_windows_work(seq_len: int) -> None:
    model = GPTConfig(n_layer=1, n_head=1, d_model=4).build(vocab_size=V, seq_len=seq_len)
    (sample,) = tokens_of(model, [[1]], seq_len=seq_len, temperature=0, max_new_tokens=9)
    assert len(sample) <= 9


# When a text ends


def ended(prompts: Sequence[Sequence[int]], n: int = 6, **fields: Any) -> list[tuple[str, Any]]:
    """Text and reason of each sample of a model that counts: A is the end, then come B, C, ..."""
    made = generate(cycle(n), Pieces.of_ids(n), prompts, config=SamplingConfig(**fields), seq_len=4)
    return [(sample.text, sample.reason) for sample in made]


def test_the_end_of_the_text_is_left_out() -> None:
    assert ended([[2], [4], [5], []]) == [
        ("DEF", "eot"),
        ("F", "eot"),
        ("", "eot"),
        ("BCDEF", "eot"),
    ]


def test_a_text_has_max_new_tokens_at_most_and_so_many_without_an_end() -> None:
    assert ended([[1]], max_new_tokens=2) == [("CD", "length")]
    assert ended([[1]], max_new_tokens=4) == [("CDEF", "length")]
    ((text, reason),) = ended([[1]], max_new_tokens=40, ignore_eot=True)
    assert (len(text), reason, "A" in text) == (40, "length", False)


def test_a_stop_string_ends_the_text_and_is_left_out() -> None:
    assert ended([[1], [2], [4]], stop=["EF", "X"]) == [("CD", "stop"), ("D", "stop"), ("F", "eot")]
    assert ended([[]], stop=["B"]) == [("", "stop")]


def test_where_no_token_is_left_the_text_ends() -> None:
    assert ended([[]], n=3, ignore_eot=True, no_repeat_ngram=1) == [("BC", "stop")]


def test_the_tokens_of_a_sample_are_those_drawn() -> None:
    tokenizer = Pieces([b"", b"a\xc3", b"\xa9", b"b!", b"c"])
    config = SamplingConfig(stop=["!c"])
    (sample,) = generate(cycle(5), tokenizer, [[]], config=config, seq_len=4)
    assert sample == Sample(tokens=[1, 2, 3, 4], text="aéb", reason="stop")


# Events


def test_tokens_and_texts_are_heard_of_as_they_are_drawn() -> None:
    heard: list[tuple[int, Event]] = []
    made = generate(
        cycle(5),
        Pieces([b"", b"a\xc3", b"\xa9", b"b", b"\xc3"]),
        [[1], [3]],
        config=SamplingConfig(),
        seq_len=4,
        on_event=lambda index, event: heard.append((index, event)),
    )
    assert heard == [
        (0, TokenEvent(0, 2, "\ufffd")),
        (0, TokenEvent(0, 3, "b")),
        (0, TokenEvent(0, 4, "")),
        (0, FinishedEvent(0, "eot", "\ufffd")),
        (1, TokenEvent(1, 4, "")),
        (1, FinishedEvent(1, "eot", "\ufffd")),
    ]
    assert [sample.text for sample in made] == ["\ufffdb\ufffd", "\ufffd"]


def test_log_probabilities_are_the_models_own_whatever_the_settings(model: GPT) -> None:
    config = SamplingConfig(
        temperature=0.3, top_k=2, repetition_penalty=1.5, max_new_tokens=6, logit_bias={4: 3.0}
    )
    (sample,) = generate(model, IDS, [[1]], config=config, seq_len=SEQ_LEN, logprobs=3)
    tokens = torch.tensor([[NO_EOT, 1, *sample.tokens]])
    with torch.no_grad():
        scores = model(tokens)[0, 1:-1].log_softmax(-1)
    for row, token, logprob, top in zip(
        scores, sample.tokens, sample.logprobs, sample.top, strict=True
    ):
        assert logprob == pytest.approx(row[token].item(), abs=1e-5)
        best = row.topk(3)
        assert [i for i, _ in top] == best.indices.tolist()
        assert [p for _, p in top] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert generate(model, IDS, [[1]], config=config, seq_len=SEQ_LEN)[0].logprobs == []


def engine_of(model: LanguageModel, tokenizer: Pieces, n_slots: int) -> Engine:
    return Engine(TorchDecoder(model, n_slots, seq_len=SEQ_LEN), tokenizer)


def test_a_sequence_that_ends_makes_room_for_the_next() -> None:
    engine = engine_of(cycle(6), Pieces.of_ids(6), n_slots=3)  # two at once
    for prompt in ([4], [1], [3], [5]):
        engine.submit(prompt, SamplingConfig())
    steps = []
    while not engine.idle:
        steps.append([event.sequence for event in engine.step()])
    assert steps == [[0, 1], [0, 1], [1, 2], [1, 2], [1, 2], [3]]


def test_sequences_are_cancelled_while_they_wait_or_run() -> None:
    engine = engine_of(cycle(6), Pieces.of_ids(6), n_slots=1)
    running, waiting, last = (engine.submit([1], SamplingConfig()) for _ in range(3))
    assert engine.step() == [TokenEvent(running, 2, "C")]
    engine.cancel(running)
    engine.cancel(waiting)
    engine.cancel(99)
    events = engine.step()
    assert set(events[:2]) == {
        FinishedEvent(running, "cancelled", ""),
        FinishedEvent(waiting, "cancelled", ""),
    }
    assert events[2:] == [TokenEvent(last, 2, "C")]
    assert "".join(event.text for event in engine.events()) == "DEF"
    engine.cancel(last)  # has ended
    assert engine.step() == []


def test_a_cancelled_sequence_keeps_its_text_even_where_a_stop_string_might_have_begun() -> None:
    engine = engine_of(cycle(6), Pieces.of_ids(6), n_slots=1)
    number = engine.submit([1], SamplingConfig(stop=["CDX"]))
    assert engine.step() == []  # C may be the beginning
    engine.cancel(number)
    assert engine.step() == [TokenEvent(number, 2, "C"), FinishedEvent(number, "cancelled", "")]


def test_requests_come_in_from_other_threads_while_it_runs(model: GPT) -> None:
    engine = engine_of(model, IDS, n_slots=4)
    config = SamplingConfig(temperature=1.5, max_new_tokens=12)
    numbers: dict[int, tuple[int, int]] = {}

    def ask(client: int) -> None:
        for repeat in range(3):
            numbers[engine.submit([client], config, repeat=repeat)] = (client, repeat)

    clients = [threading.Thread(target=ask, args=(client,)) for client in range(4)]
    for client in clients:
        client.start()
    made: dict[int, Sample] = {}
    while any(client.is_alive() for client in clients) or not engine.idle:
        engine.wait(0.01)
        for event in engine.step():
            made.setdefault(event.sequence, Sample()).add(event)
    alone = tokens_of(
        model, [[c] for c in range(4) for _ in range(3)], temperature=1.5, max_new_tokens=12
    )
    assert {numbers[n]: sample.tokens for n, sample in made.items()} == {
        (i // 3, i % 3): tokens for i, tokens in enumerate(alone)
    }
    assert engine.wait(0) is False


class Counting(TorchDecoder):
    """Counts the tokens that are read."""

    def __init__(self, model: LanguageModel, n_slots: int) -> None:
        super().__init__(model, n_slots, seq_len=SEQ_LEN)
        self.prompts: list[list[int]] = []

    def prefill(self, slot: int, tokens: Sequence[int], *, every: bool = False) -> Any:
        self.prompts.append(list(tokens))
        return super().prefill(slot, tokens, every=every)


def test_a_prompt_is_read_once_for_all_its_samples(model: GPT) -> None:
    decoder = Counting(model, 4)
    prompts = [[1, 2], [5], [1, 2], [1, 2], [1, 2], [1, 2], [7], [7]]
    config = SamplingConfig(max_new_tokens=3)
    assert len(list(samples(Engine(decoder, IDS), prompts, config=config))) == 8
    assert decoder.prompts == [[NO_EOT, 1, 2], [NO_EOT, 5], [NO_EOT, 7]]


def test_samples_come_in_order_and_only_so_many_are_held(model: GPT) -> None:
    asked = 0

    def prompts() -> Iterable[list[int]]:
        nonlocal asked
        for i in range(3 * MOST_OPEN):
            asked = i + 1
            yield [i % V]

    engine = engine_of(cycle(V), Pieces.of_ids(V), n_slots=3)
    made = samples(engine, prompts(), config=SamplingConfig(max_new_tokens=2))
    first = next(made)
    assert asked <= MOST_OPEN + 2
    texts = [sample.text for sample in (first, *made)]
    assert texts[:3] == ["BC", "CD", "DE"]
    assert texts == texts[:V] * (3 * MOST_OPEN // V) + texts[: 3 * MOST_OPEN % V]


def test_a_bias_for_a_token_that_is_not_there_is_refused_when_it_is_submitted(model: GPT) -> None:
    with pytest.raises(UserError, match="logit_bias names token 50"):
        engine_of(model, IDS, 1).submit([], SamplingConfig(logit_bias={50: 1.0}))


def test_weights_that_only_a_compiled_decoder_holds_are_refused_without_one() -> None:
    with pytest.raises(UserError, match="weights=int8 is for models that are decoded by compiled"):
        open_engine(Fixed(torch.eye(3)), Pieces.of_ids(3), seq_len=4, weights="int8")
    open_engine(Fixed(torch.eye(3)), Pieces.of_ids(3), seq_len=4, weights="fp32")
