"""What the sample command prints: texts as they are written, surprise in colours, progress."""

from __future__ import annotations

import io
import json
import math
import os
import sys
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

from tinygpt.errors import visible
from tinygpt.generation.engine import Event, FinishedEvent, TokenEvent

if TYPE_CHECKING:
    from tinygpt.interfaces import Tokenizer

REPORT_EVERY_S = 5.0
DRAW_EVERY_S = 0.2
# surprise in bits, below which a token has this background of the 256 colours; None: no colour
SURPRISES: list[tuple[float, int | None]] = [
    *((1, None), (3, 194), (6, 229), (10, 216), (math.inf, 210)),
]


class View(ABC):
    """Shows one text after another."""

    def begin(self, prompt: str) -> None:
        """Show the prompt of the next text."""
        print(visible(prompt), end="", flush=True)

    @abstractmethod
    def token(self, event: TokenEvent) -> None:
        """Show one more token."""

    def finish(self, event: FinishedEvent) -> None:
        """End the text, and its line."""
        print(visible(event.text))

    def add(self, event: Event) -> None:
        """Show what an event says."""
        if isinstance(event, FinishedEvent):
            self.finish(event)
        else:
            self.token(event)


class TextView(View):
    """The text alone; control characters are shown as escapes."""

    def __init__(self) -> None:
        # "\r\n" becomes a newline, even if its two characters come from different tokens
        self._newlines = io.IncrementalNewlineDecoder(None, translate=True)

    def token(self, event: TokenEvent) -> None:
        self._print(event.text)

    def finish(self, event: FinishedEvent) -> None:
        self._print(event.text, final=True)
        self._newlines.reset()
        print()

    def _print(self, text: str, *, final: bool = False) -> None:
        if shown := visible(self._newlines.decode(text, final=final)):
            print(shown, end="", flush=True)


class ColourView(TextView):
    """The text, where the background of a token is its surprise."""

    def token(self, event: TokenEvent) -> None:
        assert event.logprob is not None
        colour = colour_of(-event.logprob / math.log(2))
        text = visible(self._newlines.decode(event.text))
        for line in text.splitlines(keepends=True):  # a colour would fill the rest of its line
            shown = line.rstrip("\n")
            print(painted(shown, colour), end="\n" if line.endswith("\n") else "", flush=True)


class RowView(View):
    """A row for each token: log-probability, probability, token and likeliest tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def begin(self, prompt: str) -> None:
        super().begin(prompt)
        print("\n logprob       p  token")

    def token(self, event: TokenEvent) -> None:
        assert event.logprob is not None
        row = f"{event.logprob:8.4f}  {math.exp(event.logprob):.4f}  {self._shown(event.token)}"
        likeliest = ", ".join(f"{self._shown(t)} {math.exp(p):.4f}" for t, p in event.top)
        print(f"{row:<40}  of {likeliest}" if likeliest else row, flush=True)

    def finish(self, event: FinishedEvent) -> None:
        print(f"ended: {event.reason}")

    def _shown(self, token: int) -> str:
        if token == self._tokenizer.eot_id:
            return "end of text"
        data = self._tokenizer.decode_bytes([token])
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return f"bytes {data.hex(' ')}"
        return visible(json.dumps(text, ensure_ascii=False)) if data else f"id {token}"


def colour_of(bits: float) -> int | None:
    """The background for a token of this surprise."""
    return next(colour for below, colour in SURPRISES if bits < below or below == math.inf)


def painted(text: str, colour: int | None) -> str:
    """The text in black on a background of the 256 colours."""
    return text if colour is None or not text else f"\x1b[30;48;5;{colour}m{text}\x1b[0m"


def legend() -> str:
    """What the colours mean."""
    shown, low = [], 0.0
    for below, colour in SURPRISES:
        span = f"{low:g} or more" if below == math.inf else f"{low:g} to {below:g}"
        shown.append(painted(f" {span} ", colour))
        low = below
    return f"surprise in bits: {' '.join(shown)}"


def has_colours(stream: TextIO) -> bool:
    """Whether the stream is a terminal that shows colours."""
    dumb = os.environ.get("TERM", "dumb") == "dumb" or "NO_COLOR" in os.environ
    return stream.isatty() and not dumb


class InOrder:
    """Shows samples that are written at the same time one after another, each as early as it can.

    `prompts` gives the prompt of each sample.  Call it with the events of all samples.
    """

    def __init__(self, view: View, prompts: Iterable[str]) -> None:
        self._view = view
        self._prompts = iter(prompts)
        self._number = -1
        self._later: defaultdict[int, list[Event]] = defaultdict(list)
        self._begin_next()

    def __call__(self, index: int, event: Event) -> None:
        """Show the event, or keep it until the samples before have ended."""
        if index != self._number:
            self._later[index].append(event)
            return
        self._view.add(event)
        if isinstance(event, FinishedEvent):
            self._begin_next()

    def _begin_next(self) -> None:
        for prompt in self._prompts:
            self._number += 1
            print(f"\n--- sample {self._number + 1}")
            self._view.begin(prompt)
            events = self._later.pop(self._number, [])
            for event in events:
                self._view.add(event)
            if not (events and isinstance(events[-1], FinishedEvent)):
                return


class Speed:
    """Counts tokens and says how fast they came."""

    def __init__(self) -> None:
        self.n_tokens = 0
        self._began = time.perf_counter()
        self._first: float | None = None

    def add(self, event: Event) -> None:
        """Count the token of an event."""
        self.n_tokens += isinstance(event, TokenEvent)
        self._first = self._first or time.perf_counter()

    def __str__(self) -> str:
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        tokens = "1 token" if self.n_tokens == 1 else f"{self.n_tokens:,} tokens"
        words = f"{tokens} in {elapsed:.2f} s, {self.n_tokens / elapsed:,.0f} tok/s"
        if self._first is None:
            return words
        return f"{words}, the first after {self._first - self._began:.3f} s"


class Progress:
    """How many samples are done, on standard error: a line that changes, or one every 5 s."""

    def __init__(
        self, n_samples: int, speed: Speed, *, n_done: int = 0, every_s: float | None = None
    ) -> None:
        self._n_samples, self._n_done, self._speed = n_samples, n_done, speed
        self._redraws = has_colours(sys.stderr)
        self._every = DRAW_EVERY_S if self._redraws else REPORT_EVERY_S
        if every_s is not None:
            self._every = every_s
        self._next = time.monotonic() + self._every

    def add(self, event: Event) -> None:
        """Count an event; shown when it is time."""
        self._n_done += isinstance(event, FinishedEvent)
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        line = f"{self._n_done:,} of {self._n_samples:,} samples, {self._speed}"
        if self._redraws:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr)

    def close(self) -> None:
        """Remove the line that changes."""
        if self._redraws:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
