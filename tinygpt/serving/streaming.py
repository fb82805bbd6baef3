"""Server-sent events: answers that go on while something happens."""

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse


def event_stream(parts: AsyncIterator[bytes]) -> StreamingResponse:
    """An answer of events; `parts` is closed when the client leaves."""
    return StreamingResponse(
        parts, media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )


def message(data: Any, *, name: str | None = None, resume: str | None = None) -> bytes:
    """One event with JSON; `name` and `resume` are its `event` and `id`."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    lines = [f"event: {name}"] * bool(name) + [f"id: {resume}"] * (resume is not None)
    return ("\n".join([*lines, f"data: {text}"]) + "\n\n").encode()


BEAT = b": beat\n\n"
END = b"data: [DONE]\n\n"  # of OpenAI's streams
