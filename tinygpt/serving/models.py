"""Models that are loaded, and the threads that write with them.

A model is loaded once, whoever asks for it, and again when its run has another checkpoint.  It
stays loaded until all together take more than MEMORY_SHARE of main memory; then the least recently
used one that writes nothing is unloaded.  Each has an engine, which writes the texts of all who ask
at the same time together, in a thread of its own.
"""

from __future__ import annotations

import asyncio
import base64
import os
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from tinygpt.console import warn
from tinygpt.corpus.inspection import pieces
from tinygpt.errors import UserError
from tinygpt.generation.engine import Event, FinishedEvent
from tinygpt.serving.counters import Counters
from tinygpt.serving.errors import ApiError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tinygpt.generation.engine import Engine
    from tinygpt.generation.sampling import SamplingConfig
    from tinygpt.training.trained import Trained

MEMORY_SHARE = 0.25
MOST_TEXTS = 256  # of a model at a time, those that wait included
UNREAD = 2048  # events of a text that its client has not read; one more ends the text
# Events are held so many seconds for each text that is being written, and at most so many, to be
# delivered together: a delivery costs about 0.1 ms for each text, whatever the number of tokens.
# The first token of a text is not held.
HELD_S, MOST_HELD_S = 0.002, 0.1
ROWS_AT_ONCE = 128  # whose probabilities are computed together
Top = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Scored:
    """A token of a given text."""

    token: int
    logprob: float
    top: Top


class Model:
    """A loaded model."""

    def __init__(self, trained: Trained, counters: Counters) -> None:
        self.trained = trained
        self.tokenizer = trained.tokenizer
        self.seq_len = trained.cfg.trainer.seq_len
        self.checkpoint = trained.checkpoint.name
        self.used = time.monotonic()
        self._counters = counters
        self._engine = self._new_engine()
        decoder = getattr(self._engine.decoder, "nbytes", 0)
        self.bytes = decoder + sum(p.nbytes for p in trained.model.parameters())
        self._texts: dict[int, Text] = {}
        self._lock = threading.Lock()  # of the engine's numbers and the texts
        self._scoring = asyncio.Lock()
        self._closed = self._retired = False
        self._shown: dict[int, str] = {}
        threading.Thread(target=self._write, name="writer", daemon=True).start()

    def _new_engine(self) -> Engine:
        from tinygpt.generation.engine import open_engine

        return open_engine(self.trained.model, self.tokenizer, seq_len=self.seq_len)

    @property
    def n_texts(self) -> int:
        """Texts that are being written or wait."""
        return len(self._texts)

    @property
    def is_closed(self) -> bool:
        """Whether it writes no more."""
        return self._closed

    def close(self) -> None:
        """End the thread; the texts that are being written end."""
        self._closed = True

    def retire(self) -> None:
        """End the thread when the texts that are being written have ended."""
        self._retired = True

    def begin(
        self, prompt: Sequence[int], config: SamplingConfig, *, repeat: int, top: int | None
    ) -> Text:
        """Begin a text, from the event loop; raises ApiError if too many are being written."""
        self.used = time.monotonic()
        if self.n_texts >= MOST_TEXTS:
            raise ApiError(429, f"{MOST_TEXTS} texts are being written already; try again later")
        text = Text(self, asyncio.get_running_loop())
        with self._lock:
            if self._closed:
                raise ApiError(503, "the model was unloaded at this moment; try again")
            number = self._engine.submit(prompt, config, repeat=repeat, logprobs=top)
            text.number = number
            self._texts[number] = text
        self._counters.read(len(prompt))
        return text

    def end(self, text: Text) -> None:
        """Cancel a text, because its client has left."""
        with self._lock:
            if self._texts.get(text.number) is text:
                self._engine.cancel(text.number)

    def _write(self) -> None:
        held, delivered = list[Event](), -inf
        while not self._closed:
            if not self._engine.wait(1.0):
                with self._lock:
                    self._closed = self._closed or (self._retired and not self._texts)
                continue
            try:
                held += self._engine.step()
            except Exception as error:
                self._deliver(held)
                held = []
                self._give_up(error)
                continue
            now = time.monotonic()
            due = now - delivered >= min(MOST_HELD_S, HELD_S * self.n_texts)
            if due or self._engine.idle or self._begins(held):
                self._deliver(held)
                held, delivered = [], now
        self._give_up(UserError("the server has unloaded the model"))

    def _begins(self, events: Sequence[Event]) -> bool:
        """Whether the first token of a text is among the events."""
        with self._lock:
            return any((t := self._texts.get(e.sequence)) and not t.has_begun for e in events)

    def _deliver(self, events: Sequence[Event]) -> None:
        """Give the events to their texts, on the event loops of these."""
        loops: dict[asyncio.AbstractEventLoop, dict[Text, list[Event]]] = {}
        with self._lock:
            for event in events:
                if text := self._texts.get(event.sequence):
                    text.has_begun = True
                    loops.setdefault(text.loop, {}).setdefault(text, []).append(event)
                    if isinstance(event, FinishedEvent):
                        del self._texts[event.sequence]
        for loop, parts in loops.items():
            try:
                loop.call_soon_threadsafe(_receive, parts)
            except RuntimeError:  # the server is closing
                return

    def _give_up(self, error: Exception) -> None:
        """End all texts by an error, and begin with a new engine."""
        if not isinstance(error, UserError):
            warn(f"writing failed: {type(error).__name__}: {error}")
        with self._lock:
            texts, self._texts = list(self._texts.values()), {}
            try:
                self._engine = self._engine if self._closed else self._new_engine()
            except Exception as again:
                warn(f"no new engine: {type(again).__name__}: {again}; the model is closed")
                self._closed = True
        for text in texts:
            try:
                text.loop.call_soon_threadsafe(text.fail, error)
            except RuntimeError:
                return

    def ids(self, text: str) -> list[int]:
        """The token ids of a text."""
        return self.tokenizer.encode(text)

    def shown(self, token: int) -> str:
        """A token as it is shown: bytes that are no characters as <C3>."""
        if token == self.tokenizer.eot_id:
            return "<|endoftext|>"
        if token not in self._shown:
            self._shown[token] = next(pieces(self.tokenizer, [token]))
        return self._shown[token]

    def data(self, token: int) -> str:
        """The bytes of a token in base64."""
        return base64.b64encode(self.tokenizer.decode_bytes([token])).decode()

    def listed(self, top: Top) -> list[list[Any]]:
        """Likeliest tokens as [text, log-probability, id]."""
        return [[self.shown(token), round(logprob, 6), token] for token, logprob in top]

    async def score(self, ids: Sequence[int], *, top: int) -> list[Scored]:
        """Each token with its log-probability after end of text and those before it.

        A text longer than the context window is read in consecutive windows, as in validation.
        """
        self.used = time.monotonic()
        self._counters.read(len(ids))
        async with self._scoring:
            return await run_in_threadpool(self._score, ids, top)

    def _score(self, ids: Sequence[int], top: int) -> list[Scored]:
        import torch

        from tinygpt.generation.sampling import log_softmax

        stream, found = [self.tokenizer.eot_id, *ids], list[Scored]()
        model, device = self.trained.model, self.trained.device
        with torch.no_grad():
            for start in range(0, len(ids), self.seq_len):
                window = torch.tensor(stream[start : start + self.seq_len + 1], device=device)
                logits = model(window[None, :-1])[0]
                for row in range(0, len(logits), ROWS_AT_ONCE):
                    part = log_softmax(logits[row : row + ROWS_AT_ONCE].float().cpu().numpy())
                    targets = window[1 + row : 1 + row + len(part)].tolist()
                    found += [
                        _scored(scores, t, top) for scores, t in zip(part, targets, strict=True)
                    ]
        return found


def _scored(scores: npt.NDArray[np.float64], token: int, top: int) -> Scored:
    from tinygpt.generation.sampling import likeliest

    return Scored(token, float(scores[token]), likeliest(scores, top))


class Text:
    """A text that is being written, for one reader on the event loop."""

    def __init__(self, model: Model, loop: asyncio.AbstractEventLoop) -> None:
        self.model, self.loop = model, loop
        self.number = -1
        self.n_tokens = 0
        self.has_begun = False  # whether a token was delivered
        self._unread: list[Event] = []
        self._error: Exception | None = None
        self._ready = asyncio.Event()

    def receive(self, events: Sequence[Event]) -> None:
        """Take events of the engine; on the event loop."""
        if self._error:
            return
        if len(self._unread) + len(events) > UNREAD:
            self.fail(UserError("the text was not read as fast as it was written"))
            self.model.end(self)
            return
        self._unread += events
        self._ready.set()

    def fail(self, error: Exception) -> None:
        """End with an error; on the event loop."""
        self._error = error
        self._ready.set()

    async def parts(self) -> AsyncIterator[list[Event]]:
        """What the engine says, all that is ready at a time.  Left early, the text is stopped.

        The end is the last event of the last part.  Raises ApiError if the model fails.
        """
        reason = "cancelled"
        try:
            while True:
                await self._ready.wait()
                self._ready.clear()
                events, self._unread = self._unread, []
                if events:
                    end = events[-1]
                    has_ended = isinstance(end, FinishedEvent)
                    self.n_tokens += len(events) - has_ended
                    reason = end.reason if isinstance(end, FinishedEvent) else reason
                    yield events
                    if has_ended:
                        return
                if error := self._error:
                    status = 400 if isinstance(error, UserError) else 500
                    raise ApiError(status, str(error) or type(error).__name__)
        finally:
            if reason == "cancelled":
                self.model.end(self)
            self.model._counters.wrote(self.n_tokens, reason)


def _receive(parts: Mapping[Text, Sequence[Event]]) -> None:
    for text, events in parts.items():
        text.receive(events)


class Models:
    """The models that are loaded; used from the event loop."""

    def __init__(self, counters: Counters, *, device: str = "auto") -> None:
        self.counters, self.device = counters, device
        self.budget = MEMORY_SHARE * _main_memory()
        self._loaded: dict[tuple[Path, str], tuple[tuple[str, ...], asyncio.Task[Model]]] = {}

    @property
    def loaded(self) -> list[Model]:
        """The models in memory."""
        tasks = [task for _, task in self._loaded.values()]
        return [t.result() for t in tasks if t.done() and not t.cancelled() and not t.exception()]

    def is_loaded(self, run: Path, checkpoint: str) -> bool:
        """Whether `get` answers at once."""
        found = self._loaded.get((run, checkpoint))
        return found is not None and found[1].done() and found[0] == _saved(run)

    async def get(self, run: Path, checkpoint: str = "best") -> Model:
        """The model of a run, loaded if need be; raises UserError if it cannot be."""
        key, saved = (run, checkpoint), await run_in_threadpool(_saved, run)
        found = self._loaded.get(key)
        if found is None or found[0] != saved or _is_closed(found[1]):
            old = self._loaded.pop(key, None)
            task = asyncio.create_task(run_in_threadpool(self._load, run, checkpoint))
            self._loaded[key] = saved, task
            if old and old[1].done() and not old[1].exception():
                old[1].result().retire()
        _, task = self._loaded[key]
        try:
            model = await asyncio.shield(task)
        except BaseException:
            if task.done() and self._loaded.get(key, (None, None))[1] is task:
                del self._loaded[key]  # so that the next request tries again
            raise
        model.used = time.monotonic()
        self._unload(but=model)
        return model

    def _load(self, run: Path, checkpoint: str) -> Model:
        from tinygpt.training.trained import load_trained

        trained = load_trained(run, checkpoint=checkpoint, device=self.device, warn=warn)
        return Model(trained, self.counters)

    def _unload(self, *, but: Model) -> None:
        loaded = sorted(self.loaded, key=lambda model: model.used)
        total = sum(model.bytes for model in loaded)
        for model in loaded:
            if total <= self.budget:
                return
            if model is not but and not model.n_texts:
                total -= model.bytes
                self._forget(model)

    def _forget(self, model: Model) -> None:
        for key, (_, task) in list(self._loaded.items()):
            if task.done() and not task.exception() and task.result() is model:
                del self._loaded[key]
        model.close()

    def close(self) -> None:
        """Unload all."""
        for model in self.loaded:
            model.close()


def _is_closed(task: asyncio.Task[Model]) -> bool:
    return task.done() and not task.exception() and task.result().is_closed


def _saved(run: Path) -> tuple[str, ...]:
    """The names of a run's checkpoints."""
    try:
        names = (path.name for path in (run / "checkpoints").iterdir())
        return tuple(sorted(name for name in names if name.startswith("step-")))
    except OSError:
        return ()


def _main_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 8 << 30
