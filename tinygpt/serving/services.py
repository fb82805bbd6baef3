"""What the handlers of requests share, and how they read a request."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from tinygpt.serving.counters import Counters
from tinygpt.serving.errors import ApiError
from tinygpt.serving.folders import Outputs
from tinygpt.serving.models import Models
from tinygpt.serving.watching import Watcher


@dataclass
class Services:
    """The parts of a running server."""

    outputs: Outputs
    watcher: Watcher
    counters: Counters
    models: Models
    cache_dir: str = "~/.cache/tinygpt"
    components: list[str] = field(default_factory=list)
    run: str | None = None  # the id of `run=`

    def close(self) -> None:
        """End all streams and threads."""
        self.watcher.close()
        self.models.close()


def query(request: Request, name: str, default: str | None = None) -> str:
    """A parameter of the address; raises ApiError if it is missing and has no default."""
    value = request.query_params.get(name, default)
    if value is None:
        raise ApiError(400, f"{name}= is missing in the address", param=name)
    return value


def whole_number(request: Request, name: str, default: int, *, low: int, high: int) -> int:
    """A number of the address, inside its bounds; raises ApiError."""
    text = query(request, name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and low <= int(text) <= high):
        raise ApiError(400, f"{name}={text[:40]} must be from {low} to {high:,}", param=name)
    return int(text)


async def json_body(request: Request) -> dict[str, Any]:
    """The body as a JSON object; raises ApiError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "send the header Content-Type: application/json")
    try:
        content = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None
    if not isinstance(content, dict):
        raise ApiError(400, "the body is not a JSON object")
    return content
