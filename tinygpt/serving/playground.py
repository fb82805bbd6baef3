"""Requests of the playground: a text token by token, and the tokens of a given text."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tinygpt.errors import UserError
from tinygpt.generation.engine import FinishedEvent, TokenEvent
from tinygpt.serving import asking
from tinygpt.serving.errors import ApiError, error_body
from tinygpt.serving.models import Model
from tinygpt.serving.services import Services, json_body
from tinygpt.serving.streaming import EventStream, message

_WRITING = ("id", "model", "prompt", "prompt_ids", "repeat", "top", "checkpoint", *asking.SAMPLING)
_SCORING = ("id", "text", "ids", "top", "checkpoint")


def routes(services: Services) -> list[Route]:
    """The routes of the playground."""
    made = _Playground(services)
    return [
        Route("/api/generate", made.generate, methods=["POST"]),
        Route("/api/score", made.score, methods=["POST"]),
    ]


class _Playground:
    def __init__(self, services: Services) -> None:
        self.services = services

    async def generate(self, request: Request) -> Response:
        content = await json_body(request)
        asking.check_known(content, _WRITING)
        run_id, path, checkpoint = await self._run(content)
        written = content.get("prompt_ids", content.get("prompt", ""))
        if not isinstance(written, str) and not asking.is_ids(written):
            raise ApiError(400, "send prompt: a text, or prompt_ids: a list of ids", param="prompt")
        drawing = asking.sampling(content, defaults={})
        top = asking.whole(content, "top", 10, low=0, high=asking.MOST_TOP)
        repeat = asking.whole(content, "repeat", 0, low=0, high=10**6)

        async def parts() -> AsyncIterator[bytes]:
            try:
                if not self.services.models.is_loaded(path, checkpoint):
                    yield message({"loading": True})
                model = await self.services.models.get(path, checkpoint)
                ids = await run_in_threadpool(asking.prompt, model, written)
                yield message(
                    {
                        "start": True,
                        "id": run_id,
                        "checkpoint": model.checkpoint,
                        "seq_len": model.seq_len,
                        "prompt_ids": ids,
                        "seed": drawing.seed,
                        "device": str(model.trained.device),
                    }
                )
                text = model.begin(ids, drawing, repeat=repeat, top=top)
                begun = time.monotonic()
                async for events in text.parts():
                    tokens = [event for event in events if isinstance(event, TokenEvent)]
                    if tokens:
                        yield b"".join(message(_token(model, event)) for event in tokens)
                    end = events[-1]
                    if isinstance(end, FinishedEvent):
                        if end.text:
                            yield message({"text": end.text})
                        spent = max(time.monotonic() - begun, 1e-9)
                        speed = round(text.n_tokens / spent, 1)
                        done = {"done": end.reason, "n_tokens": text.n_tokens}
                        yield message({**done, "tokens_per_s": speed})
            except ApiError as error:
                yield message(error.content)
            except UserError as error:
                yield message(error_body(400, str(error)))

        return EventStream(parts())

    async def score(self, request: Request) -> Response:
        content = await json_body(request)
        asking.check_known(content, _SCORING)
        run_id, path, checkpoint = await self._run(content)
        given: Any = content.get("ids", content.get("text"))
        if not isinstance(given, str) and not asking.is_ids(given):
            raise ApiError(400, "send text: a text, or ids: a list of ids", param="text")
        top = asking.whole(content, "top", 10, low=0, high=asking.MOST_TOP)
        model = await self.services.models.get(path, checkpoint)
        ids = await run_in_threadpool(asking.prompt, model, given, param="text")
        tokens = await model.score(ids, top=top)

        def shown() -> dict[str, Any]:
            nats = -math.fsum(token.logprob for token in tokens)
            n_bytes = len(model.tokenizer.decode_bytes(ids))
            return {
                "id": run_id,
                "checkpoint": model.checkpoint,
                "seq_len": model.seq_len,
                "nats": nats,
                "bits_per_byte": nats / math.log(2) / n_bytes if n_bytes else None,
                "tokens": [
                    {
                        "token_id": token.token,
                        "text": model.shown(token.token),
                        "bytes": model.data(token.token),
                        "logprob": round(token.logprob, 6),
                        "top": model.listed(token.top),
                    }
                    for token in tokens
                ],
            }

        return JSONResponse(await run_in_threadpool(shown))

    async def _run(self, content: Mapping[str, Any]) -> tuple[str, Path, str]:
        run_id = content.get("id", content.get("model"))
        if not isinstance(run_id, str):
            raise ApiError(400, "id is missing: the run's id as a text", param="id")
        checkpoint = content.get("checkpoint") or "best"
        if checkpoint not in ("best", "latest"):
            raise ApiError(400, "checkpoint must be best or latest", param="checkpoint")
        path = await run_in_threadpool(self.services.outputs.readable, run_id)
        return run_id, path, checkpoint


def _token(model: Model, event: TokenEvent) -> dict[str, Any]:
    assert event.logprob is not None
    return {
        "token_id": event.token,
        "text": event.text,
        "logprob": round(event.logprob, 6),
        "top": model.listed(event.top),
        "bytes": model.data(event.token),
    }
