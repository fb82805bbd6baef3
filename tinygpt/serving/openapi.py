"""The description of the API: OpenAPI 3.1 as JSON, and the same as a page without scripts."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

import tinygpt
from tinygpt.comparison.curves import CURVES
from tinygpt.generation.sampling import SamplingConfig
from tinygpt.serving import asking, completions

_TEXT: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": "number"}
_WHOLE: dict[str, Any] = {"type": "integer"}
_YES: dict[str, Any] = {"type": "boolean"}
_IDS: dict[str, Any] = {"type": "array", "items": _WHOLE}
_TEXTS: dict[str, Any] = {"type": "array", "items": _TEXT}
_RUN = {**_TEXT, "description": "a run: its path inside output_dir, such as 2026-01-31_sweep/3"}
_TYPES: dict[str, dict[str, Any]] = {
    "float": _NUMBER,
    "int": _WHOLE,
    "bool": _YES,
    "list[str]": _TEXTS,
}


def routes(*, ui: bool) -> list[Route]:
    """The routes of the description; without `ui` it leaves out what is for the page."""

    def as_json(request: Request) -> Response:
        return JSONResponse(description(ui=ui))

    def as_page(request: Request) -> Response:
        return HTMLResponse(_page(description(ui=ui)))

    def style(request: Request) -> Response:
        return Response(_STYLE, media_type="text/css")

    return [
        Route("/openapi.json", as_json),
        Route("/docs", as_page),
        Route("/docs.css", style),
    ]


def description(*, ui: bool) -> dict[str, Any]:
    """OpenAPI's description of this server."""
    paths = _of_openai() | _of_server() | (_of_page() if ui else {})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tinygpt",
            "version": tinygpt.__version__,
            "description": "Runs, models and data of this machine. Errors are "
            '{"error": {"message", "type", "param", "code"}}.',
        },
        "paths": paths,
    }


def _sampling() -> dict[str, Any]:
    """The settings of sampling, with their defaults."""
    found: dict[str, dict[str, Any]] = {}
    for one in fields(SamplingConfig):
        kind = str(one.type).partition(" |")[0]
        found[one.name] = {**_TYPES.get(kind, {"type": "object"})}
        if one.default is not MISSING:
            found[one.name]["default"] = one.default
    found["seed"] = {**_WHOLE, "description": "random if it is left out"}
    found["max_new_tokens"]["maximum"] = asking.MOST_NEW_TOKENS
    return found


def _get(summary: str, answer: str, **parameters: dict[str, Any]) -> dict[str, Any]:
    listed = [
        {
            "name": name,
            "in": "query",
            "required": bool(schema.get("required")),
            "schema": {key: value for key, value in schema.items() if key != "required"},
        }
        for name, schema in parameters.items()
    ]
    return {"get": {"summary": summary, "parameters": listed, "responses": _answers(answer)}}


def _post(summary: str, answer: str, *required: str, **properties: Any) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"post": {"summary": summary, "requestBody": body, "responses": _answers(answer)}}


def _answers(words: str) -> dict[str, Any]:
    return {"200": {"description": words}, "4XX": {"description": "what is wrong with the request"}}


def _of_openai() -> dict[str, Any]:
    prompts = {"oneOf": [_TEXT, _TEXTS, _IDS, {"type": "array", "items": _IDS}]}
    drawing = {k: v for k, v in _sampling().items() if k != "max_new_tokens"}
    drawing["temperature"] = {**_NUMBER, "default": 1.0}
    drawing["top_k"] = {**_WHOLE, "default": None}
    return {
        "/v1/models": _get("The models, as OpenAI lists them", "{object, data: [{id, ...}]}"),
        "/v1/completions": _post(
            "Continue texts, as OpenAI's API",
            "a text_completion; with stream its parts as server-sent events, then [DONE]",
            "model",
            model=_RUN,
            prompt=prompts,
            max_tokens={**_WHOLE, "default": completions.MAX_TOKENS},
            n={**_WHOLE, "default": 1, "maximum": completions.MOST_CHOICES},
            stream=_YES,
            stream_options={"type": "object", "properties": {"include_usage": _YES}},
            logprobs={**_WHOLE, "maximum": asking.MOST_TOP},
            echo={**_YES, "description": "the prompt too, with logprobs its tokens' probabilities"},
            **drawing,
        ),
    }


def _of_server() -> dict[str, Any]:
    return {
        "/health": _get("Whether the server is there", '{"status": "ok"}'),
        "/metrics": _get("Numbers for Prometheus", "text in its format"),
    }


def _of_page() -> dict[str, Any]:
    run = {**_RUN, "required": True}
    confirm = {**_YES, "description": "must be true"}
    top = {**_WHOLE, "default": 10, "maximum": asking.MOST_TOP}
    checkpoint = {"enum": ["best", "latest"], "default": "best"}
    prepared = {**_TEXT, "required": True, "description": "an id of /api/data"}
    after = {**_TEXT, "description": "`next` of an answer before; left out, all rows"}
    return {
        "/api/info": _get(
            "Version, limits and defaults", "{version, output_dir, run, limits, ...}"
        ),
        "/api/runs": _get(
            "All runs and sweeps, newest first",
            "{runs: [...], sweeps: [...], total}",
            q={**_TEXT, "description": "conditions as of tinygpt.runs, such as status=failed"},
        ),
        "/api/run": _get(
            "One run", "{summary, config, log_tail, samples, evaluations, ...}", id=run
        ),
        "/api/rows": _get(
            "Rows of metrics.jsonl, thinned to 2,000 if there are more",
            "{rows, next, reset, thinned, n_rows}",
            id=run,
            after=after,
        ),
        "/api/events": _get(
            "What happens, as server-sent events",
            "events runs, rows, log and sample",
            id=_RUN,
            after=after,
        ),
        "/api/stop": _post(
            "Interrupt a run or a sweep, which saves",
            "{id, signal, pid}",
            "id",
            "confirm",
            id=_RUN,
            confirm=confirm,
        ),
        "/api/resume": _post(
            "Go on with a run or a sweep", "{id, pid}", "id", "confirm", id=_RUN, confirm=confirm
        ),
        "/api/compare": _get(
            "A comparison of runs; id= once for each",
            "{tables, runs, metrics, importance, evaluations, ...}",
            id=run,
            x={"enum": ["tokens", "step", "time", "flops"]},
            metric={**_TEXT, "default": "val/bpb"},
            baseline=_RUN,
        ),
        "/api/curves": _get(
            "The curves of a metric, thinned; id= once for each run or sweep",
            "a line of JSON for each run: {id, curve: {step, elapsed_s, value} or null}",
            id=run,
            metric={"enum": list(CURVES), "default": "val/bpb"},
        ),
        "/api/generate": _post(
            "Write a text, token by token",
            "server-sent events: start, then each token with its likeliest rivals, then done",
            "id",
            id=_RUN,
            prompt=_TEXT,
            prompt_ids=_IDS,
            top=top,
            repeat={**_WHOLE, "description": "another number gives another text of the seed"},
            checkpoint=checkpoint,
            **_sampling(),
        ),
        "/api/score": _post(
            "The tokens of a text with their probabilities",
            "{tokens: [{token_id, text, bytes, logprob, top}], nats, bits_per_byte, ...}",
            "id",
            id=_RUN,
            text=_TEXT,
            ids=_IDS,
            top=top,
            checkpoint=checkpoint,
        ),
        "/api/data": _get("Prepared tokens", "{sets: [{id, splits, used_by, ...}]}"),
        "/api/data/inspect": _get(
            "Statistics of a set", "{lengths, vocabulary, longest, rarest, copies}", id=prepared
        ),
        "/api/data/documents": _get(
            "Documents with the borders of their tokens",
            "{documents, items: [{index, n_tokens, tokens: [[text, id]], more}]}",
            id=prepared,
            split={"enum": ["train", "validation"]},
            **{"from": _WHOLE, "n": _WHOLE},
        ),
    }


# The page

_STYLE = """\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1.05rem; margin: 2rem 0 .2rem; }
code, h2 { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td { padding: .1rem 1rem .1rem 0; vertical-align: top; }
"""


def _page(content: dict[str, Any]) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>tinygpt API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="/docs.css"></head>\n<body>\n'
        "<h1>The API of tinygpt.serve</h1>\n"
        f"<p>{html.escape(content['info']['description'])} The same as JSON: "
        '<a href="/openapi.json">/openapi.json</a>.</p>\n'
        + "\n".join(_sections(content))
        + "\n</body>\n</html>\n"
    )


def _sections(content: dict[str, Any]) -> Iterator[str]:
    for path, methods in content["paths"].items():
        for method, one in methods.items():
            yield f"<h2>{method.upper()} {html.escape(path)}</h2>"
            answer = html.escape(one["responses"]["200"]["description"])
            yield f"<p>{html.escape(one['summary'])}. Answers <code>{answer}</code></p>"
            listed = {p["name"]: (p["schema"], p["required"]) for p in one.get("parameters", ())}
            if "requestBody" in one:
                schema = one["requestBody"]["content"]["application/json"]["schema"]
                for name, of in schema["properties"].items():
                    listed[name] = of, name in schema["required"]
            if listed:
                yield f"<table>{''.join(_row(name, *of) for name, of in listed.items())}</table>"


def _row(name: str, schema: dict[str, Any], required: bool) -> str:
    kind = schema.get("type") or " | ".join(schema.get("enum", ["several"]))
    words = [str(kind), "required" if required else ""]
    words += [
        f"{key} {schema[key]}" for key in ("default", "maximum") if schema.get(key) is not None
    ]
    words += [schema.get("description", "")]
    cells = (f"<code>{html.escape(name)}</code>", html.escape(", ".join(filter(None, words))))
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
