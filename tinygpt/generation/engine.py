"""The engine that writes texts: many sequences at once, each a pure function of its request.

A text depends on the weights, the settings, the prompt and the repeat number, but not on the other
sequences, their number or their order: a decoder's logits of a slot depend on that slot's tokens
only, and each sequence has its own random numbers.

When the context window of a sequence is full, its newest half is read again, which leaves room for
as many tokens as were dropped.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from tinygpt.errors import UserError
from tinygpt.generation.sampling import Sampler, SamplingConfig, likeliest, log_softmax
from tinygpt.generation.text import TextStream

if TYPE_CHECKING:
    from tinygpt.interfaces import Tokenizer
    from tinygpt.language_model import Decoder, LanguageModel

AT_ONCE = 16  # sequences decoded together; each has a cache of the context window
MOST_OPEN = 8 * AT_ONCE  # sequences submitted at a time, so that memory does not grow with the rest
Reason = Literal["eot", "length", "stop", "cancelled"]


@dataclass(frozen=True)
class TokenEvent:
    """A sequence got a token that is not the end of text."""

    sequence: int  # as returned by `submit`
    token: int
    text: str  # the characters that this token completes
    logprob: float | None = None  # of the token, by the model's own distribution, if asked for
    top: tuple[tuple[int, float], ...] = ()  # the likeliest tokens with theirs, likeliest first


@dataclass(frozen=True)
class FinishedEvent:
    """A sequence has ended.

    Reasons: "eot": the model drew the end of text; "length": max_new_tokens tokens; "stop": a stop
    string, or no token that the settings allow; "cancelled".
    """

    sequence: int
    reason: Reason
    text: str  # the rest of the text: U+FFFD if it ends inside a character, else ""


Event = TokenEvent | FinishedEvent


@dataclass
class Sample:
    """A generated text, complete once it has a reason."""

    tokens: list[int] = field(default_factory=list)  # drawn ones, a stop string's included
    text: str = ""  # without prompt and without the stop string
    reason: Reason | None = None  # see FinishedEvent
    logprobs: list[float] = field(default_factory=list)  # of each token, if asked for
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Add what an event of this sequence says."""
        self.text += event.text
        if isinstance(event, FinishedEvent):
            self.reason = event.reason
            return
        self.tokens.append(event.token)
        if event.logprob is not None:
            self.logprobs.append(event.logprob)
            self.top.append(event.top)


@dataclass(frozen=True)
class _Drawn:
    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


class _Sequence:
    def __init__(
        self,
        number: int,
        prompt: tuple[int, ...],
        config: SamplingConfig,
        *,
        repeat: int,
        logprobs: int | None,
        tokenizer: Tokenizer,
    ) -> None:
        self.number, self.prompt, self.config, self.logprobs = number, prompt, config, logprobs
        self.sampler = Sampler(config, prompt, repeat=repeat, eot_id=tokenizer.eot_id)
        self.stream = TextStream(tokenizer.decode_bytes, config.stop)
        self.n_drawn = 0
        self.unreleased: deque[_Drawn] = deque()
        self.slot = -1
        self.window: list[int] = []  # what the slot holds, and the newest token before it is read
        self.logits: npt.NDArray[np.float32] | None = None  # after the window; None: newest unread


class Engine:
    """Sequences on the slots of a decoder; one that ends makes room for the next that waits.

    `submit` and `cancel` may be called from any thread; `step` from one thread at a time.  The last
    of several slots holds the prompt that is sampled repeatedly, so that it is read once.
    """

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer) -> None:
        self.decoder = decoder
        self.tokenizer = tokenizer
        self._free = list(range(max(1, decoder.n_slots - 1)))[::-1]
        self._shared_slot = decoder.n_slots - 1 if decoder.n_slots > 1 else None
        self._shared: tuple[tuple[int, ...], npt.NDArray[np.float32]] | None = None
        self._numbers = itertools.count()
        self._lock = threading.Condition()  # of the next three
        self._waiting: deque[_Sequence] = deque()
        self._waiting_prompts: Counter[tuple[int, ...]] = Counter()
        self._cancelled: set[int] = set()
        self._active: list[_Sequence] = []

    def submit(
        self,
        prompt: Sequence[int],
        config: SamplingConfig,
        *,
        repeat: int = 0,
        logprobs: int | None = None,
    ) -> int:
        """Queue a continuation of the prompt's tokens; returns the number of the sequence.

        The end-of-text token is put before the prompt.  Different `repeat` give different samples.
        `logprobs` asks for the log-probability of each token and of that many likeliest ones.
        Raises UserError for a token in logit_bias that the vocabulary lacks.
        """
        config.check_vocabulary(self.tokenizer.vocab_size)
        sequence = _Sequence(
            *(next(self._numbers), tuple(prompt), config),
            repeat=repeat,
            logprobs=logprobs,
            tokenizer=self.tokenizer,
        )
        with self._lock:
            self._waiting.append(sequence)
            self._waiting_prompts[sequence.prompt] += 1
            self._lock.notify_all()
        return sequence.number

    def cancel(self, sequence: int) -> None:
        """End a sequence early; the next `step` says that it has finished.

        One that has already finished is left alone.
        """
        with self._lock:
            self._cancelled.add(sequence)
            self._lock.notify_all()

    @property
    def idle(self) -> bool:
        """Whether no sequence is active or waits."""
        return not (self._active or self._waiting)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until a sequence is submitted or `timeout` seconds pass; whether there is one."""
        with self._lock:
            return self._lock.wait_for(lambda: not self.idle, timeout)

    def events(self) -> Iterator[Event]:
        """Step until no sequence is left, and yield what happens."""
        while not self.idle:
            yield from self.step()

    def step(self) -> list[Event]:
        """Draw one token for each active sequence; returns what happened.

        Reads the tokens drawn by the step before, then starts waiting sequences on free slots.
        """
        events: list[Event] = []
        self._end_cancelled(events)
        self._read_newest()
        self._start_waiting()
        for sequence in list(self._active):
            self._draw(sequence, events)
        return events

    def _end_cancelled(self, events: list[Event]) -> None:
        with self._lock:
            cancelled, self._cancelled = self._cancelled, set()
            for sequence in [s for s in self._waiting if s.number in cancelled]:
                self._waiting.remove(sequence)
                self._forget_waiting(sequence)
                self._finish(sequence, "cancelled", events)
        for sequence in [s for s in self._active if s.number in cancelled]:
            self._finish(sequence, "cancelled", events)

    def _read_newest(self) -> None:
        """Have the decoder read each active sequence's newest token."""
        capacity, together = self.decoder.capacity, []
        for sequence in self._active:
            if sequence.logits is not None:
                continue  # an error has interrupted the step before
            if capacity is None:
                sequence.window = sequence.window[-1:]
            elif len(sequence.window) > capacity:
                sequence.window = sequence.window[-max(1, capacity // 2) :]
                sequence.logits = self.decoder.prefill(sequence.slot, sequence.window)
                continue
            together.append(sequence)
        if together:
            rows = self.decoder.step(
                [sequence.slot for sequence in together],
                [sequence.window[-1] for sequence in together],
            )
            for sequence, logits in zip(together, rows, strict=True):
                sequence.logits = logits

    def _start_waiting(self) -> None:
        while self._free:
            with self._lock:
                if not self._waiting:
                    return
                sequence = self._waiting.popleft()
                is_shared = self._forget_waiting(sequence)
            sequence.slot = self._free.pop()
            self._active.append(sequence)
            window = [self.tokenizer.eot_id, *sequence.prompt]
            if self.decoder.capacity is not None:
                window = window[-self.decoder.capacity :]
            sequence.window = window
            sequence.logits = self._read_prompt(sequence, is_shared=is_shared)

    def _forget_waiting(self, sequence: _Sequence) -> bool:
        """Count one sequence less; returns whether another with the same prompt waits."""
        left = self._waiting_prompts.pop(sequence.prompt) - 1
        if left:
            self._waiting_prompts[sequence.prompt] = left
        return left > 0

    def _read_prompt(self, sequence: _Sequence, *, is_shared: bool) -> npt.NDArray[np.float32]:
        shared_slot, prompt = self._shared_slot, sequence.prompt
        if shared_slot is None:
            return self.decoder.prefill(sequence.slot, sequence.window)
        if self._shared is None or self._shared[0] != prompt:
            if not is_shared:
                return self.decoder.prefill(sequence.slot, sequence.window)
            self._shared = None
            logits = self.decoder.prefill(shared_slot, sequence.window)
            self._shared = prompt, logits.copy()
        self.decoder.copy(shared_slot, sequence.slot)
        return self._shared[1]

    def _draw(self, sequence: _Sequence, events: list[Event]) -> None:
        logits = sequence.logits
        assert logits is not None
        token = sequence.sampler.draw(logits)
        if token is None or token == self.tokenizer.eot_id:
            self._finish(sequence, "stop" if token is None else "eot", events)
            return
        drawn = _Drawn(token, None, ())
        if sequence.logprobs is not None:
            scores = log_softmax(logits)
            drawn = _Drawn(token, float(scores[token]), likeliest(scores, sequence.logprobs))
        sequence.n_drawn += 1
        sequence.unreleased.append(drawn)
        self._release(sequence, sequence.stream.add(token), events)
        if sequence.stream.stopped:
            self._finish(sequence, "stop", events)
        elif sequence.n_drawn == sequence.config.max_new_tokens:
            self._finish(sequence, "length", events)
        else:
            sequence.window.append(token)
            sequence.logits = None

    def _release(self, sequence: _Sequence, texts: list[str], events: list[Event]) -> None:
        for text in texts:
            drawn = sequence.unreleased.popleft()
            events.append(TokenEvent(sequence.number, drawn.token, text, drawn.logprob, drawn.top))

    def _finish(self, sequence: _Sequence, reason: Reason, events: list[Event]) -> None:
        texts, rest = sequence.stream.finish()
        self._release(sequence, texts, events)
        events.append(FinishedEvent(sequence.number, reason, rest))
        if sequence in self._active:
            self._active.remove(sequence)
            self._free.append(sequence.slot)


def open_engine(
    model: LanguageModel,
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    n_sequences: int = AT_ONCE,
    weights: str = "auto",
) -> Engine:
    """An engine for so many sequences at once, at most AT_ONCE; the model is in evaluation mode.

    `weights` is how a compiled decoder holds them: see `LanguageModel.decoder`.  Raises UserError
    for bf16 or int8 if the model has no compiled decoder where it is.
    """
    from tinygpt.generation.slot_decoder import SlotDecoder
    from tinygpt.generation.torch_decoder import TorchDecoder

    n_sequences = min(n_sequences, AT_ONCE)
    n_slots = n_sequences + (n_sequences > 1)
    decoder = model.decoder(n_slots, weights=weights)
    if decoder is None:
        if weights not in ("auto", "fp32"):
            raise UserError(
                f"weights={weights} is for models that are decoded by compiled kernels "
                "(transformers on a CPU with Linux and gcc), and this model is decoded by PyTorch; "
                "leave out weights, or type weights=fp32"
            )
        on_cpu = next(model.parameters()).device.type == "cpu"
        if not on_cpu and model.new_slots(1) is not None:
            # always as many slots, because the rounding of a row depends on how many there are
            decoder = SlotDecoder(model, AT_ONCE + 1, seq_len=seq_len)
        else:
            # one sequence at a time: several at once would only start to show later
            decoder = TorchDecoder(model, min(n_slots, 2), seq_len=seq_len)
    return Engine(decoder, tokenizer)


def generate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    config: SamplingConfig,
    seq_len: int,
    logprobs: int | None = None,
    weights: str = "auto",
    on_event: Callable[[int, Event], None] | None = None,
) -> list[Sample]:
    """Continue each prompt's tokens; returns the samples in the order of the prompts.

    List a prompt several times for several samples of it.  `on_event(index of the prompt, event)`
    is called for everything as it happens.  The model's mode is restored.
    """
    n = max(1, len(prompts))
    with evaluating(model):
        engine = open_engine(model, tokenizer, seq_len=seq_len, n_sequences=n, weights=weights)
        return list(samples(engine, prompts, config=config, logprobs=logprobs, on_event=on_event))


def samples(
    engine: Engine,
    prompts: Iterable[Sequence[int]],
    *,
    config: SamplingConfig,
    skip: int = 0,
    logprobs: int | None = None,
    on_event: Callable[[int, Event], None] | None = None,
) -> Iterator[Sample]:
    """As `generate`, on an engine without other work; yields each sample when it is the next one.

    The first `skip` prompts are counted and not continued.
    Holds at most MOST_OPEN prompts and samples, however many there are.
    """
    left = enumerate(prompts)
    repeats = Counter(tuple(prompt) for _, prompt in itertools.islice(left, skip))
    indices: dict[int, int] = {}  # of the open sequences
    opened: dict[int, Sample] = {}
    following = skip

    def fill() -> None:
        for index, prompt in itertools.islice(left, MOST_OPEN - len(opened)):
            repeat = repeats[tuple(prompt)]
            repeats[tuple(prompt)] += 1
            number = engine.submit(prompt, config, repeat=repeat, logprobs=logprobs)
            indices[number], opened[index] = index, Sample()

    fill()
    while opened:
        for event in engine.step():
            index = indices[event.sequence]
            opened[index].add(event)
            if on_event:
                on_event(index, event)
            if isinstance(event, FinishedEvent):
                del indices[event.sequence]
        while following in opened and opened[following].reason is not None:
            yield opened.pop(following)
            following += 1
        fill()


@contextmanager
def evaluating(model: LanguageModel) -> Iterator[None]:
    """Put the model into evaluation mode, and back at the end of the block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
