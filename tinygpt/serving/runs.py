"""Requests about runs: the list, one run, its rows, and the stream of what happens."""

from __future__ import annotations

import asyncio
import math
import os
import shlex
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import tinygpt
from tinygpt.comparison.report import warnings
from tinygpt.errors import UserError
from tinygpt.generation.sampling import SamplingConfig
from tinygpt.records.listing import Filter, choose
from tinygpt.records.processes import interrupt
from tinygpt.records.read import RunRecord
from tinygpt.records.tail import Cursor
from tinygpt.serving import resuming
from tinygpt.serving.asking import MOST_CHARACTERS, MOST_NEW_TOKENS, MOST_TOP
from tinygpt.serving.errors import ApiError
from tinygpt.serving.rows import MOST_ROWS, read_rows, recent_rows
from tinygpt.serving.services import Services, json_body, query
from tinygpt.serving.streaming import BEAT, EventStream, message
from tinygpt.serving.summaries import RunView, plain
from tinygpt.serving.watching import WATCHED, Client, read_sample, sample_names
from tinygpt.sweeps.folder import interrupt_sweep

BEAT_S = 15.0
SAVING_S = 60.0  # after a signal to stop, before another one may be sent
SAMPLES = 50  # that a run's page gets at first
LOG_LINES, LOG_BYTES = 200, 1 << 16
MOST_FILES = 100_000  # of a run that are counted for its size on disk


def routes(services: Services) -> list[Route]:
    """The routes of /api about runs."""
    made = _Runs(services)
    return [
        Route("/api/info", made.info),
        Route("/api/runs", made.all),
        Route("/api/run", made.one),
        Route("/api/rows", made.rows),
        Route("/api/events", made.events),
        Route("/api/stop", made.stop, methods=["POST"]),
        Route("/api/resume", made.resume, methods=["POST"]),
    ]


class _Runs:
    def __init__(self, services: Services) -> None:
        self.services = services
        self.outputs, self.watcher = services.outputs, services.watcher
        self._rows = recent_rows()
        self._stopping = threading.Lock()  # of the next
        self._told_to_stop: dict[Path, float] = {}  # when, by the monotonic clock

    def info(self, request: Request) -> Response:
        drawn = SamplingConfig()
        names = ("temperature", "top_k", "top_p", "min_p", "max_new_tokens", "repetition_penalty")
        return JSONResponse(
            {
                "version": tinygpt.__version__,
                "output_dir": str(self.outputs.path),
                "run": self.services.run,
                "settings": self._settings(),
                "limits": {
                    "rows": MOST_ROWS,
                    "watched": WATCHED,
                    "max_new_tokens": MOST_NEW_TOKENS,
                    "prompt_characters": MOST_CHARACTERS,
                    "top": MOST_TOP,
                },
                "defaults": {name: getattr(drawn, name) for name in names},
            }
        )

    def _settings(self) -> dict[str, str]:
        """What a command must be given so that the page shows what it makes, as it is typed."""
        folders = {"output_dir": str(self.outputs.path), "cache_dir": self.services.cache_dir}
        usual = {"output_dir": "outputs", "cache_dir": "~/.cache/tinygpt"}
        return {
            name: shlex.quote(f"{name}={path}")
            for name, path in folders.items()
            if path != usual[name]
        }

    def all(self, request: Request) -> Response:
        views = self.watcher.runs()
        chosen = _filtered(views, request.query_params.get("q", ""))
        return JSONResponse(
            {
                "runs": [view.summary for view in chosen],
                "sweeps": [sweep.summary for sweep in self.watcher.sweeps()],
                "total": len(views),
            }
        )

    def one(self, request: Request) -> Response:
        view = self.watcher.run(query(request, "id"))
        run, path = view.record, view.path
        rows = self.outputs.file(path, "metrics.jsonl", most=1 << 40)
        found = self._rows.get(rows) if rows else None
        checkpoints = _checkpoints(path)
        return JSONResponse(
            {
                "summary": view.summary,
                "config": plain(run.flat),
                "config_yaml": self._text(path, "config.yaml"),
                "overrides": _overrides(self._text(path, "overrides.yaml")),
                "command": run.run.get("command"),
                "resumed": plain(run.run.get("resumed") or []),
                "hardware": plain(run.derived.get("hardware") or {}),
                "derived": plain(run.derived),
                "versions": plain(run.run.get("versions") or {}),
                "git": plain(run.run.get("git")),
                "data": plain(run.run.get("data") or {}),
                "init_from": plain(run.run.get("init_from")),
                "final": plain(run.summary),
                "disk_bytes": _disk_bytes(path),
                "checkpoints": checkpoints,
                "samples": self._samples(path),
                "log_tail": self._log(path),
                "warnings": warnings(run) if self.outputs.file(path, "train.log") else [],
                "columns": found.columns if found else [],
                "evaluations": [] if self.outputs.not_to_be_read(path) else _evaluations(run),
            }
        )

    def _text(self, path: Path, name: str) -> str:
        file = self.outputs.file(path, name, most=1 << 20)
        return file.read_text("utf-8", errors="replace") if file else ""

    def _samples(self, path: Path) -> list[dict[str, Any]]:
        names = sample_names(self.outputs, path)[: -SAMPLES - 1 : -1]
        return [sample for name in names if (sample := read_sample(self.outputs, path, name))]

    def _log(self, path: Path) -> list[str]:
        file = self.outputs.file(path, "train.log", most=1 << 40)
        if file is None:
            return []
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - LOG_BYTES))
            return log.read(LOG_BYTES).decode("utf-8", "replace").splitlines()[-LOG_LINES:]

    def rows(self, request: Request) -> Response:
        run_id = query(request, "id")
        path = self.outputs.run(run_id)
        cursor = Cursor.parse(query(request, "after", ""))
        file = self.outputs.file(path, "metrics.jsonl", most=1 << 40)
        found = None
        if file:
            found = read_rows(file, cursor) if cursor else self._rows.get(file)
        if found is None:
            empty = {"rows": [], "next": "", "reset": cursor is not None, "thinned": False}
            return JSONResponse({"id": run_id, **empty, "n_rows": 0})
        return JSONResponse(
            {
                "id": run_id,
                "rows": found.rows,
                "next": str(found.cursor),
                "reset": found.reset or cursor is None,
                "thinned": found.thinned,
                "n_rows": found.n_rows,
            }
        )

    async def events(self, request: Request) -> Response:
        ids = request.query_params.getlist("id")
        if len(ids) > WATCHED:
            raise ApiError(400, f"id= may be there {WATCHED} times at most", param="id")
        places = request.query_params.getlist("after")
        if last := request.headers.get("last-event-id"):
            places = last.split(",")
        watched = dict(zip(ids, [*places, *[""] * len(ids)], strict=False))
        client = Client(asyncio.get_running_loop())
        await run_in_threadpool(self.watcher.connect, client, watched)
        return EventStream(self._told(client), on_end=lambda: self.watcher.disconnect(client))

    async def _told(self, client: Client) -> AsyncIterator[bytes]:
        while not client.dropped:
            try:
                event = await asyncio.wait_for(client.queue.get(), BEAT_S)
            except TimeoutError:
                yield BEAT
                continue
            if event is None:
                return
            yield message(event.data, name=event.name, resume=event.resume)

    async def stop(self, request: Request) -> Response:
        run_id, path, is_sweep = await self._confirmed(request, "stop")
        pid = await run_in_threadpool(self._stop, path, interrupt_sweep if is_sweep else interrupt)
        return JSONResponse({"id": run_id, "signal": "SIGTERM", "pid": pid})

    def _stop(self, path: Path, interrupt: Callable[[Path], int]) -> int:
        """Send one signal to a process; a second one would kill what still saves."""
        with self._stopping:
            told_at = self._told_to_stop.get(path, -math.inf)
            if time.monotonic() - told_at < SAVING_S:
                raise ApiError(409, f"{path} was told to stop, and saves; wait for its end")
            try:
                pid = interrupt(path)
            except UserError as error:
                raise ApiError(409, str(error)) from None
            self._told_to_stop[path] = time.monotonic()
            return pid

    async def resume(self, request: Request) -> Response:
        run_id, path, is_sweep = await self._confirmed(request, "resume")
        summary = await run_in_threadpool(self._summary, run_id, is_sweep)
        if not summary["can"]["resume"]:
            raise ApiError(409, f"{path} is {summary['status']}, so it cannot be resumed")
        self._told_to_stop.pop(path, None)
        if is_sweep:
            retry = summary["can"]["retry_failed"]
            pid = await run_in_threadpool(resuming.resume_sweep, path, retry_failed=retry)
        else:
            pid = await run_in_threadpool(resuming.resume_run, path, self.services.components)
        return JSONResponse({"id": run_id, "pid": pid})

    def _summary(self, run_id: str, is_sweep: bool) -> dict[str, Any]:
        if not is_sweep:
            return self.watcher.run(run_id).summary
        found = (sweep.summary for sweep in self.watcher.sweeps() if sweep.id == run_id)
        summary = next(found, None)
        if summary is None:
            raise ApiError(404, f"there is no run in the sweep {run_id!r}", param="id")
        return summary

    async def _confirmed(self, request: Request, verb: str) -> tuple[str, Path, bool]:
        """The id and the folder of a run or a sweep, and whether it is a sweep."""
        content = await json_body(request)
        run_id = content.get("id")
        if not isinstance(run_id, str):
            raise ApiError(400, "id is missing: the id of a run or a sweep as a text", param="id")
        sweep = await run_in_threadpool(self.outputs.sweep, run_id)
        path = sweep if sweep is not None else await run_in_threadpool(self.outputs.run, run_id)
        if content.get("confirm") is not True:
            raise ApiError(
                400, f'to {verb} {run_id} send "confirm": true too', param="confirm", code="confirm"
            )
        return run_id, path, sweep is not None


def _filtered(views: list[RunView], text: str) -> list[RunView]:
    """The runs that pass all conditions of the text, in the same order."""
    if len(text) > 1000:
        raise ApiError(400, "a filter has at most 1,000 characters", param="q")
    filters, words = [], []
    for word in text.split():
        wanted = Filter.parse(word)
        filters += [wanted] if wanted else []
        words += [] if wanted else [word.lower()]
    passed = choose([view.record for view in views], filters, sort=None)
    chosen = {id(record) for record in passed}
    return [
        view
        for view in views
        if id(view.record) in chosen and all(word in _searched(view) for word in words)
    ]


def _searched(view: RunView) -> str:
    shown = view.summary
    return "\n".join([shown["id"], shown["name"], shown["note"], *shown["tags"]]).lower()


def _overrides(text: str) -> list[str]:
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return []
    return [str(value) for value in found] if isinstance(found, list) else []


def _checkpoints(path: Path) -> list[dict[str, Any]]:
    folder = path / "checkpoints"
    try:
        names = sorted(p.name for p in folder.iterdir() if p.name.startswith("step-"))[-100:]
    except OSError:
        return []
    return [{"name": name, "bytes": _disk_bytes(folder / name)} for name in names]


def _disk_bytes(path: Path) -> int:
    """Bytes of the files in a folder, without following links."""
    total = n_files = 0
    for folder, _, names in os.walk(path, followlinks=False):
        for name in names:
            n_files += 1
            try:
                total += Path(folder, name).lstat().st_size
            except OSError:
                continue
        if n_files > MOST_FILES:
            break
    return total


def _evaluations(run: RunRecord) -> list[dict[str, Any]]:
    return [
        {
            "suite": suite,
            "checkpoint": result.checkpoint,
            "protocol_id": result.protocol_id,
            "numbers": [
                {
                    "name": name,
                    **{key: plain(getattr(n, key)) for key in ("value", "low", "high", "n")},
                    "better": n.better,
                    "words": n.in_words(),
                }
                for name, n in result.numbers.items()
            ],
            "notes": result.notes,
        }
        for suite, result in run.evaluations.items()
    ]
