"""Server-sent events: answers that go on while something happens."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class EventStream(StreamingResponse):
    """An answer of events; `on_end` is called when it ends, also if the client leaves first."""

    def __init__(
        self, parts: AsyncIterator[bytes], on_end: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(parts, media_type="text/event-stream", headers={"x-accel-buffering": "no"})
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


def message(data: Any, *, name: str | None = None, resume: str | None = None) -> bytes:
    """One event with JSON; `name` and `resume` are its `event` and `id`."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    lines = [f"event: {name}"] * bool(name) + [f"id: {resume}"] * (resume is not None)
    return ("\n".join([*lines, f"data: {text}"]) + "\n\n").encode()


BEAT = b": beat\n\n"
END = b"data: [DONE]\n\n"  # of OpenAI's streams
