"""Type prompts and read what the model makes of them, until the end of the input."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import suppress

from tinygpt import signals
from tinygpt.generation.engine import Engine, FinishedEvent, Reason
from tinygpt.generation.sampling import SamplingConfig
from tinygpt.generation.view import Speed, View

_HINT = (
    "Type a prompt. An empty line goes on with the text, Ctrl-C ends a text, Ctrl-D the session."
)


def interact(
    engine: Engine, view: View, config: SamplingConfig, *, logprobs: int | None = None
) -> None:
    """Read prompts from standard input and show a text for each.

    An empty line goes on with the text before, or begins a new document if that has come to its
    end.  A prompt that is typed again gives its next sample.  Ctrl-C ends the text, or the line
    that is being typed; the end of the input ends the session.
    """
    on_terminal = sys.stdin.isatty()
    if on_terminal:
        print(_HINT, file=sys.stderr)
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  # gives `input` its history and editing
    with suppress(AttributeError):
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    tokenizer, repeats = engine.tokenizer, Counter[tuple[int, ...]]()
    text: list[int] = []  # prompt and continuation, where that may go on
    while True:
        try:
            line = input("> " if on_terminal else "")
        except EOFError:
            if on_terminal:
                print()
            return
        except KeyboardInterrupt as error:
            if str(error) not in ("", "SIGINT"):
                raise
            print()
            continue
        goes_on = not line and bool(text)
        prompt = text if goes_on else tokenizer.encode(line)
        view.begin("" if goes_on else line)
        repeat = repeats[tuple(prompt)]
        repeats[tuple(prompt)] += 1
        reason, tokens = _write(engine, view, prompt, config, repeat=repeat, logprobs=logprobs)
        text = [] if reason == "eot" else [*prompt, *tokens]


def _write(
    engine: Engine,
    view: View,
    prompt: list[int],
    config: SamplingConfig,
    *,
    repeat: int,
    logprobs: int | None,
) -> tuple[Reason, list[int]]:
    """Show one text; returns why it ended, and its tokens."""

    def end(name: str) -> None:
        if name != "SIGINT":
            signals.interrupt(name)
        engine.cancel(number)

    speed, tokens = Speed(), list[int]()
    number = engine.submit(prompt, config, repeat=repeat, logprobs=logprobs)
    with signals.handled(end):
        for event in engine.events():
            view.add(event)
            speed.add(event)
            if isinstance(event, FinishedEvent):
                reason = event.reason
            else:
                tokens.append(event.token)
    if sys.stderr.isatty():
        print(speed, file=sys.stderr)
    return reason, tokens
