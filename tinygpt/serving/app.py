"""The web application.  Answers are JSON unless said otherwise; errors have OpenAI's form.

| address | answer |
| --- | --- |
| `GET /`, `GET /page/FILE` | the page and its files |
| `GET /api/info` | version, `run=`, limits, defaults of sampling |
| `GET /api/runs?q=` | `runs` (summaries, newest first), `sweeps`, `total` |
| `GET /api/run?id=` | `summary`, config, log, samples, evaluations of one run |
| `GET /api/rows?id=&after=` | `rows` after a place, `next` place, `reset` |
| `GET /api/events?id=&after=` | events `runs`, `rows`, `log`, `sample` as they happen |
| `POST /api/stop`, `/api/resume` | with `{"id", "confirm": true}` |
| `GET /api/compare?id=&id=` | the data of the comparison's page, without curves |
| `GET /api/curves?id=&id=&metric=` | curves, a line of JSON for each run as it is read |
| `POST /api/generate`, `/api/score` | text token by token; tokens of a text with probabilities |
| `GET /api/data`, `/api/data/inspect`, `/api/data/documents` | prepared tokens |
| `GET /v1/models`, `POST /v1/completions` | OpenAI's API |
| `GET /metrics`, `/health`, `/openapi.json`, `/docs` | the server itself |

`/openapi.json` states the fields.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tinygpt.console import warn
from tinygpt.errors import UserError
from tinygpt.serving import comparisons, completions, data_sets, openapi, playground, runs
from tinygpt.serving.errors import (
    ApiError,
    on_api_error,
    on_http_error,
    on_left,
    on_user_error,
)
from tinygpt.serving.guard import Guard, on_fault
from tinygpt.serving.services import Services

PAGE = Path(__file__).parent / "page"


async def _load(services: Services) -> None:
    """Load the model of `run=`, so that its first request need not wait."""
    if services.run is None:
        return
    try:
        path = await run_in_threadpool(services.outputs.readable, services.run)
        await services.models.get(path)
    except (ApiError, UserError) as error:
        warn(f"run={services.run} cannot be loaded: {error}")


def create_app(
    services: Services, *, ui: bool = True, host: str = "127.0.0.1", port: int, token: str | None
) -> Starlette:
    """The application; without `ui` only OpenAI's API and what is about the server."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load(services))
        yield
        loading.cancel()

    async def metrics(request: Request) -> Response:
        gauges = {
            "watching_clients": ("Open streams of events.", {"": services.watcher.n_clients}),
            "models": ("Loaded models.", {"": len(services.models.loaded)}),
            "model_bytes": (
                "Main memory of loaded models.",
                {"": sum(model.bytes for model in services.models.loaded)},
            ),
            "texts": (
                "Texts that are being written.",
                {"": sum(model.n_texts for model in services.models.loaded)},
            ),
        }
        return PlainTextResponse(services.counters.text(gauges))

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def page(request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    routes: list[Route | Mount] = [
        Route("/health", health),
        Route("/metrics", metrics),
        *completions.routes(services),
        *openapi.routes(ui=ui),
    ]
    if ui:
        routes += [
            Route("/", page),
            Mount("/page", StaticFiles(directory=PAGE)),
            *runs.routes(services),
            *comparisons.routes(services),
            *playground.routes(services),
            *data_sets.routes(services),
        ]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[
            Middleware(Guard, host=host, token=token, port=port, counters=services.counters)
        ],
        exception_handlers={
            ApiError: on_api_error,
            UserError: on_user_error,
            HTTPException: on_http_error,
            ClientDisconnect: on_left,
            Exception: on_fault,
        },
    )
