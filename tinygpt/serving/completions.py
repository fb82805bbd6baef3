"""OpenAI's API of completions, for programs that speak it: its client, lm_eval and others.

What differs from OpenAI's server, and why:
- The first token of a prompt has a log-probability too: the one after end of text.
- A prompt of ids may begin with the end of text, which is put before every prompt anyway.
- `top_k`, `min_p` and the other settings of `tinygpt.sample` are taken as well.
- Texts may be longer than the context window, which then slides; a prompt may not.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tinygpt.errors import UserError, nearest
from tinygpt.generation.engine import FinishedEvent, TokenEvent
from tinygpt.generation.sampling import SamplingConfig
from tinygpt.serving import asking
from tinygpt.serving.errors import ApiError, error_body
from tinygpt.serving.models import Model, Scored, Top
from tinygpt.serving.services import Services, json_body
from tinygpt.serving.streaming import END, EventStream, message

MOST_CHOICES = 128  # texts of a request
MAX_TOKENS = 16  # where a request says nothing, as OpenAI's server has it
_OWN = ("model", "prompt", "max_tokens", "n", "best_of", "stream", "stream_options", "echo", "user")
_FIELDS = (*_OWN, "logprobs", "suffix", *(n for n in asking.SAMPLING if n != "max_new_tokens"))
_REASONS = {"eot": "stop", "stop": "stop", "length": "length", "cancelled": "stop"}
_T = TypeVar("_T")


def routes(services: Services) -> list[Route]:
    """The routes of OpenAI's API."""
    made = _OpenAI(services)
    return [
        Route("/v1/models", made.models),
        Route("/v1/models/{model:path}", made.model),
        Route("/v1/completions", made.completions, methods=["POST"]),
        Route("/v1/chat/completions", _no_chat, methods=["GET", "POST"]),
        Route("/v1/{rest:path}", _not_here, methods=["GET", "POST"]),
    ]


async def _no_chat(request: Request) -> Response:
    raise ApiError(
        404,
        "these are base models without a chat format; send the text to continue as `prompt` to "
        "/v1/completions",
        code="no_chat",
    )


async def _not_here(request: Request) -> Response:
    raise ApiError(404, f"{request.url.path} is not here; /v1/models and /v1/completions are")


@dataclass(frozen=True)
class _Asked:
    """A request for completions, checked."""

    run: Path
    model: str
    prompts: list[str | list[int]]
    n: int
    echo: bool
    logprobs: int | None
    stream: bool
    include_usage: bool
    sampling: SamplingConfig | None  # None: max_tokens=0, which only echoes


@dataclass
class _Choice:
    """One text of the answer."""

    index: int
    logprobs: int | None
    text: str = ""
    reason: str | None = None
    n_tokens: int = 0
    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def add(self, model: Model, token: int, text: str, logprob: float | None, top: Top) -> None:
        """Add a token whose characters are `text`."""
        if self.logprobs is not None:
            self.tokens.append(_spelled(model, token))
            self.token_logprobs.append(logprob)
            self.top_logprobs.append(
                None if logprob is None else _by_text(model, token, logprob, top)
            )
            self.text_offset.append(len(self.text))
        self.text += text

    def answer(self, since: int = 0, characters: int = 0) -> dict[str, Any]:
        """As JSON: the part after so many tokens and characters."""
        listed = None
        if self.logprobs is not None:
            listed = {
                "tokens": self.tokens[since:],
                "token_logprobs": self.token_logprobs[since:],
                "top_logprobs": self.top_logprobs[since:] if self.logprobs else None,
                "text_offset": self.text_offset[since:],
            }
        return {
            "index": self.index,
            "text": self.text[characters:],
            "logprobs": listed,
            "finish_reason": self.reason,
        }


def _spelled(model: Model, token: int) -> str:
    """A token as text; bytes that are no characters as OpenAI spells them."""
    data = model.tokenizer.decode_bytes([token])
    try:
        return data.decode() if data else model.shown(token)
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _by_text(model: Model, token: int, logprob: float, top: Top) -> dict[str, float]:
    """The likeliest tokens by text, likeliest first, and the token itself."""
    found: dict[str, float] = {}
    for other, score in (*top, (token, logprob)):
        found.setdefault(_spelled(model, other), score)
    return found


class _OpenAI:
    def __init__(self, services: Services) -> None:
        self.services = services

    def models(self, request: Request) -> Response:
        shown = [view.summary for view in self.services.watcher.runs()]
        data = [_model(run) for run in shown if run["can"]["generate"]]
        return JSONResponse({"object": "list", "data": data})

    def model(self, request: Request) -> Response:
        run_id = request.path_params["model"]
        try:
            shown = self.services.watcher.run(run_id).summary
        except ApiError:
            raise self._unknown(run_id) from None
        return JSONResponse(_model(shown))

    async def completions(self, request: Request) -> Response:
        asked = await self._asked(await json_body(request))
        made = f"cmpl-{secrets.token_hex(12)}"
        try:
            model = await self.services.models.get(asked.run)
        except UserError as error:
            raise ApiError(400, str(error), param="model") from None
        prompts = await run_in_threadpool(_encoded, model, asked.prompts)
        beginning = {
            "id": made,
            "object": "text_completion",
            "created": int(time.time()),
            "model": asked.model,
        }
        if asked.stream:
            return EventStream(_streamed(model, asked, prompts, beginning))
        choices = await unless_left(request, _completed(model, asked, prompts))
        answers = [choice.answer() for choice in choices]
        return JSONResponse(beginning | {"choices": answers, "usage": _usage(prompts, choices)})

    def _unknown(self, name: str) -> ApiError:
        known = [v.id for v in self.services.watcher.runs() if v.summary["can"]["generate"]]
        match = nearest(name, known)
        hint = f"did you mean {match}?" if match else "GET /v1/models lists them"
        return ApiError(
            404,
            f"the model {name[:200]!r} is not here; {hint}",
            param="model",
            code="model_not_found",
        )

    def _path(self, name: Any) -> Path:
        if not isinstance(name, str):
            raise ApiError(400, "model is missing: the id of a run", param="model")
        try:
            return self.services.outputs.readable(name)
        except ApiError as error:
            if error.status == 404:
                raise self._unknown(name) from None
            raise

    async def _asked(self, content: dict[str, Any]) -> _Asked:
        asking.check_known(content, _FIELDS)
        run = await run_in_threadpool(self._path, content.get("model", self.services.run))
        n = asking.whole(content, "n", 1, low=1, high=MOST_CHOICES)
        if content.get("best_of") not in (None, n):
            raise ApiError(400, "best_of must be n: the server ranks nothing", param="best_of")
        if content.get("suffix"):
            raise ApiError(400, "suffix is not supported: models only go on", param="suffix")
        prompts = _prompts(content.get("prompt", ""))
        if len(prompts) * n > MOST_CHOICES:
            message = f"{len(prompts)} prompts with n={n} are more than {MOST_CHOICES} texts"
            raise ApiError(400, message, param="n")
        max_tokens = asking.whole(
            content, "max_tokens", MAX_TOKENS, low=0, high=asking.MOST_NEW_TOKENS
        )
        echo = _flag(content, "echo")
        if max_tokens == 0 and not echo:
            raise ApiError(400, "max_tokens=0 writes nothing without echo=true", param="max_tokens")
        logprobs = content.get("logprobs")
        if logprobs is not None:
            logprobs = asking.whole(content, "logprobs", 0, low=0, high=asking.MOST_TOP)
        options = content.get("stream_options") or {}
        if not isinstance(options, dict):
            raise ApiError(400, "stream_options must be an object", param="stream_options")
        defaults = {"temperature": 1.0, "top_k": None, "max_new_tokens": max(1, max_tokens)}
        return _Asked(
            run=run,
            model=str(content.get("model", self.services.run)),
            prompts=prompts,
            n=n,
            echo=echo,
            logprobs=logprobs,
            stream=_flag(content, "stream"),
            include_usage=_flag(options, "include_usage"),
            sampling=asking.sampling(content, defaults=defaults) if max_tokens else None,
        )


def _flag(content: dict[str, Any], name: str) -> bool:
    value = content.get(name)
    if value not in (None, True, False):
        raise ApiError(400, f"{name} must be true or false", param=name)
    return bool(value)


def _prompts(value: Any) -> list[str | list[int]]:
    """One prompt or several, each a text or ids."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and asking.is_ids(value):
        return [value]
    items = value if isinstance(value, list) and len(value) <= MOST_CHOICES else []
    if items and all(isinstance(item, str) or (item and asking.is_ids(item)) for item in items):
        return items
    raise ApiError(
        400,
        f"prompt must be a text, a list of ids, or a list of at most {MOST_CHOICES} of them",
        param="prompt",
    )


def _encoded(model: Model, prompts: Sequence[str | list[int]]) -> list[list[int]]:
    found = []
    for prompt in prompts:
        ids = asking.prompt(model, prompt)
        if len(ids) > model.seq_len:
            raise ApiError(
                400,
                f"this model's context is {model.seq_len} tokens, and the prompt has {len(ids)}; "
                "shorten it",
                param="prompt",
                code="context_length_exceeded",
            )
        found.append(ids)
    return found


def _model(shown: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": shown["id"],
        "object": "model",
        "created": _seconds(shown["started"]),
        "owned_by": "tinygpt",
        "context_length": shown["config"].get("trainer.seq_len"),
    }


def _seconds(moment: str | None) -> int:
    try:
        return int(datetime.fromisoformat(moment or "").timestamp())
    except ValueError:
        return 0


def _usage(prompts: Sequence[Sequence[int]], choices: Sequence[_Choice]) -> dict[str, int]:
    read, written = sum(map(len, prompts)), sum(choice.n_tokens for choice in choices)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
    }


async def _begun(model: Model, asked: _Asked, ids: list[int], number: int) -> list[_Choice]:
    """The choices of a prompt, with the prompt itself if it is echoed.

    An end of text that the prompt begins with is echoed too, without a probability.
    """
    choices = [_Choice(number * asked.n + i, asked.logprobs) for i in range(asked.n)]
    if not asked.echo:
        return choices
    scored: list[Scored] = []
    if asked.logprobs is not None:
        scored = await model.score(ids, top=asked.logprobs)
    texts = model.tokenizer.decode(ids)
    for choice in choices:
        if asked.logprobs is None:
            choice.text = texts
            continue
        given = asked.prompts[number]
        if given and given[0] == model.tokenizer.eot_id:
            choice.add(model, model.tokenizer.eot_id, "", None, ())
        offset = _offsets(model, ids)
        for token, start, end in zip(scored, offset, [*offset[1:], len(texts)], strict=True):
            choice.add(model, token.token, texts[start:end], token.logprob, token.top)
    return choices


def _offsets(model: Model, ids: Sequence[int]) -> list[int]:
    """Where each token begins, in characters of the whole text."""
    from tinygpt.generation.text import TextStream

    stream, at, found = TextStream(model.tokenizer.decode_bytes), 0, []
    for token in ids:
        found.append(at)
        at += sum(map(len, stream.add(token)))
    return found


async def _write(
    model: Model, asked: _Asked, ids: list[int], choice: _Choice
) -> AsyncIterator[None]:
    """Write the text of a choice; yields after each part of it."""
    if asked.sampling is None:
        choice.reason = "length"
        yield
        return
    text = model.begin(ids, asked.sampling, repeat=choice.index % asked.n, top=asked.logprobs)
    async for events in text.parts():
        for event in events:
            if isinstance(event, TokenEvent):
                choice.add(model, event.token, event.text, event.logprob, event.top)
                choice.n_tokens += 1
            elif isinstance(event, FinishedEvent):
                choice.text += event.text
                choice.reason = _REASONS[event.reason]
        yield


async def _completed(model: Model, asked: _Asked, prompts: Sequence[list[int]]) -> list[_Choice]:
    async def write(ids: list[int], choice: _Choice) -> None:
        async for _ in _write(model, asked, ids, choice):
            pass

    begun = [await _begun(model, asked, ids, number) for number, ids in enumerate(prompts)]
    async with asyncio.TaskGroup() as group:
        for ids, choices in zip(prompts, begun, strict=True):
            for choice in choices:
                group.create_task(write(ids, choice))
    return [choice for choices in begun for choice in choices]


async def _streamed(
    model: Model, asked: _Asked, prompts: Sequence[list[int]], beginning: dict[str, Any]
) -> AsyncIterator[bytes]:
    """The events of all choices as they come; stopped when the client leaves."""
    usage = {"usage": None} if asked.include_usage else {}
    queue: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue()

    async def write(ids: list[int], choice: _Choice) -> None:
        try:
            tokens = characters = 0
            async for _ in _write(model, asked, ids, choice):
                n, new = len(choice.tokens), len(choice.text)
                if new > characters or n > tokens or choice.reason:
                    queue.put_nowait(choice.answer(tokens, characters))
                    tokens, characters = n, new
            queue.put_nowait(None)
        except (ApiError, UserError) as error:
            queue.put_nowait(error)

    tasks: list[asyncio.Task[None]] = []
    choices: list[_Choice] = []
    try:
        for number, ids in enumerate(prompts):
            for choice in await _begun(model, asked, ids, number):
                choices.append(choice)
                tasks.append(asyncio.create_task(write(ids, choice)))
        left = len(tasks)
        while left:
            part = await queue.get()
            if isinstance(part, Exception):
                content = part.content if isinstance(part, ApiError) else None
                yield message(content or error_body(400, str(part)))
                return
            left -= part is None
            if part is not None:
                yield message(beginning | {"choices": [part]} | usage)
        if asked.include_usage:
            yield message(beginning | {"choices": [], "usage": _usage(prompts, choices)})
        yield END
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def unless_left(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """Do the work, and stop it when the client leaves."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client has left")
        return working.result()
    except BaseExceptionGroup as group:  # of the tasks of several texts, the first failure
        raise group.exceptions[0] from None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
