"""Requests for comparisons: the data of the comparison's page, and the script that draws it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from tinygpt.comparison import report
from tinygpt.comparison.statistics import Comparison, compare
from tinygpt.serving.errors import ApiError
from tinygpt.serving.services import Services, query

MOST_RUNS = 300
AXES = ("tokens", "step", "time", "flops")


def routes(services: Services) -> list[Route]:
    """The routes about comparisons."""
    made = _Comparisons(services)
    return [
        Route("/api/compare", made.data),
        Route("/page-report/shared.js", _shared),
    ]


class _Comparisons:
    def __init__(self, services: Services) -> None:
        self.services = services

    def data(self, request: Request) -> Response:
        comparison, x = self._compared(request)
        content = report.content(comparison, x=x)
        for shown, run in zip(content["runs"], comparison.runs, strict=True):
            shown["id"] = self.services.outputs.id_of(run.path)
        return JSONResponse(content)

    def _compared(self, request: Request) -> tuple[Comparison, str]:
        ids = request.query_params.getlist("id")
        if not 1 <= len(ids) <= MOST_RUNS:
            raise ApiError(400, f"type id= of 1 to {MOST_RUNS} runs", param="id")
        x = query(request, "x", "tokens")
        if x not in AXES:
            raise ApiError(400, f"x={x[:40]} is not one of {', '.join(AXES)}", param="x")
        baseline_id = request.query_params.get("baseline")
        runs = self.services.watcher.records(dict.fromkeys(ids))
        baseline = None
        if baseline_id:
            path = self.services.outputs.run(baseline_id)
            baseline = next((run for run in runs if run.path == path), None)
            if baseline is None:
                (baseline,) = self.services.watcher.records([baseline_id])
                runs.append(baseline)
        if len(runs) > MOST_RUNS:
            raise ApiError(400, f"{len(runs)} runs are too many; choose {MOST_RUNS}", param="id")
        metric = query(request, "metric", "val/bpb")
        return compare(runs, baseline=baseline, metric=metric), x


async def _shared(request: Request) -> Response:
    return FileResponse(report.PARTS / "shared.js")
