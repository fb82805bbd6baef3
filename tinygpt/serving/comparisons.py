"""Requests for comparisons: what the comparison's page holds, its curves, and its script."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tinygpt.comparison import report
from tinygpt.comparison.curves import CURVES, Curve
from tinygpt.comparison.statistics import Comparison, compare
from tinygpt.serving.errors import ApiError
from tinygpt.serving.recent import Recent
from tinygpt.serving.services import Services, query

MOST_RUNS = 300
MOST_CURVES = 3000  # that are kept, 18 kB each at most
PART_S = 0.05  # curves that were read in this time are sent together
AXES = ("tokens", "step", "time", "flops")


def routes(services: Services) -> list[Route]:
    """The routes about comparisons."""
    made = _Comparisons(services)
    return [
        Route("/api/compare", made.data),
        Route("/api/curves", made.curves),
        Route("/page-report/shared.js", _shared),
    ]


class _Comparisons:
    def __init__(self, services: Services) -> None:
        self.services = services
        self._recent = recent_curves()

    def data(self, request: Request) -> Response:
        """All but the curves: `metrics` are those that have one."""
        comparison, x = self._compared(request)
        content = report.content(comparison, x=x, curves=lambda run: {})
        columns = set[str]()
        for shown, run in zip(content["runs"], comparison.runs, strict=True):
            shown["id"] = self.services.outputs.id_of(run.path)
            columns |= self.services.watcher.columns(shown["id"])
        content["metrics"] = [name for name in CURVES if name in columns]
        return JSONResponse(content)

    def curves(self, request: Request) -> Response:
        metric = query(request, "metric", "val/bpb")
        if metric not in CURVES:
            raise ApiError(
                400, f"metric={metric[:40]} is not one of {', '.join(CURVES)}", param="metric"
            )
        ids = self.services.watcher.with_runs_of_sweeps(_ids(request))
        _check_number(len(ids))
        return StreamingResponse(self._parts(ids, metric), media_type="application/x-ndjson")

    def _parts(self, ids: Sequence[str], metric: str) -> Iterator[str]:
        """Lines of JSON as the curves are read: `id`, and `curve`, which may be null."""
        outputs = self.services.outputs
        lines, end = list[str](), time.monotonic() + PART_S
        for run_id in ids:
            path = outputs.path.joinpath(*run_id.split("/"))
            file = outputs.file(path, "metrics.jsonl", most=1 << 40)
            points = self._recent.get(file, metric) if file else "null"
            lines.append(f'{{"id":{json.dumps(run_id)},"curve":{points}}}\n')
            if time.monotonic() >= end:
                yield "".join(lines)
                lines, end = [], time.monotonic() + PART_S
        yield "".join(lines)

    def _compared(self, request: Request) -> tuple[Comparison, str]:
        ids = _ids(request)
        x = query(request, "x", "tokens")
        if x not in AXES:
            raise ApiError(400, f"x={x[:40]} is not one of {', '.join(AXES)}", param="x")
        baseline_id = request.query_params.get("baseline")
        runs = self.services.watcher.records(ids)
        baseline = None
        if baseline_id:
            path = self.services.outputs.run(baseline_id)
            baseline = next((run for run in runs if run.path == path), None)
            if baseline is None:
                (baseline,) = self.services.watcher.records([baseline_id])
                runs.append(baseline)
        _check_number(len(runs))
        metric = query(request, "metric", "val/bpb")
        return compare(runs, baseline=baseline, metric=metric), x


def recent_curves() -> Recent[Curve, str]:
    """The MOST_CURVES curves that were asked for last, as JSON; null without a point."""
    return Recent(MOST_CURVES, Curve, lambda c: json.dumps(c.points(), separators=(",", ":")))


def _ids(request: Request) -> list[str]:
    ids = request.query_params.getlist("id")
    if not 1 <= len(ids) <= MOST_RUNS:
        raise ApiError(400, f"type id= of 1 to {MOST_RUNS} runs", param="id")
    return list(dict.fromkeys(ids))


def _check_number(n_runs: int) -> None:
    if n_runs > MOST_RUNS:
        raise ApiError(400, f"{n_runs} runs are too many; choose {MOST_RUNS}", param="id")


async def _shared(request: Request) -> Response:
    return FileResponse(report.PARTS / "shared.js")
