"""Watches the run folders for all clients: one thread, which reads only what has changed.

Without a client that watches, nothing is read.  A client has a queue of bounded length; one that
does not read it is dropped.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from tinygpt.console import warn
from tinygpt.records.read import RunRecord
from tinygpt.records.tail import Cursor, read_lines
from tinygpt.serving.errors import ApiError
from tinygpt.serving.folders import Outputs
from tinygpt.serving.rows import read_rows
from tinygpt.serving.summaries import RunView, SweepView

TICK_S = 0.5  # between two looks at the files of watched runs
SCAN_S = 1.0  # between two looks at the runs that may go on
# looking for new runs and at ended ones takes this share of a core, and is done at least this often
LISTING_SHARE, LISTED_S = 0.005, 10.0
QUEUE = 128  # events that wait for a client; one more, and it is dropped
MOST_CLIENTS = 64
WATCHED = 8  # runs that a client watches at most
LOG_BYTES = 1 << 16  # of new log lines that are sent at a time
LONGEST_SAMPLE = 200_000  # bytes


@dataclass
class ServerEvent:
    """An event of the stream; `resume` is what the client sends back after a lost connection."""

    name: str
    data: dict[str, Any]
    resume: str | None = None


@dataclass
class Watched:
    """What a client has of a run so far."""

    cursor: Cursor | None
    log: Cursor | None
    samples: set[str] = field(default_factory=set)


class Client:
    """One connection that is told what happens."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.queue: asyncio.Queue[ServerEvent | None] = asyncio.Queue()  # None: the end
        self.watched: dict[str, Watched] = {}
        self.dropped = False

    def tell(self, event: ServerEvent | None) -> None:
        """Queue an event, or the end; from any thread."""
        if self.queue.qsize() >= QUEUE:
            self.dropped = True
        if not self.dropped:
            try:
                self.loop.call_soon_threadsafe(self.queue.put_nowait, event)
            except RuntimeError:  # the server is closing
                self.dropped = True


class Watcher:
    """The state of all runs, and the thread that renews it while a client watches."""

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs
        self._lock = threading.Lock()  # of the state
        self._runs: dict[str, RunView] = {}
        self._sweeps: dict[str, SweepView] = {}
        self._scanned = self._listed = -inf
        self._listing_s = 0.0  # CPU time of the last listing that found nothing new
        self._changed: dict[str, None] = {}  # since clients were told
        self._removed: dict[str, None] = {}
        self._changed_sweeps: dict[str, None] = {}
        self._clients: set[Client] = set()
        self._wake = threading.Condition()  # of the clients
        self._ending = False
        self._thread: threading.Thread | None = None

    # What requests ask for

    def runs(self) -> list[RunView]:
        """All runs, the newest first; at most SCAN_S old."""
        with self._lock:
            self._scan()
            return sorted(self._runs.values(), key=_newest, reverse=True)

    def sweeps(self) -> list[SweepView]:
        """All sweeps, the newest first."""
        with self._lock:
            self._scan()
            return sorted(self._sweeps.values(), key=lambda s: s.id, reverse=True)

    def run(self, run_id: str) -> RunView:
        """One run, read now; raises ApiError if there is none."""
        path = self.outputs.run(run_id)
        with self._lock:
            view = self._runs.get(run_id) or RunView(self.outputs, run_id, path)
            if view.refresh(self._swept(run_id)):
                self._changed[run_id] = None
            return view

    def with_runs_of_sweeps(self, ids: Iterable[str]) -> list[str]:
        """The ids, each sweep replaced by its runs.  Raises ApiError for one that is not there."""
        views = self.runs()
        found: dict[str, None] = {}
        for one in ids:
            if self.outputs.sweep(one):
                found |= dict.fromkeys(v.id for v in views if v.summary["sweep"] == one)
            else:
                self.outputs.run(one)
                found[one] = None
        return list(found)

    def records(self, ids: Iterable[str]) -> list[RunRecord]:
        """The records of runs, and of all runs of sweeps.

        Raises ApiError for a run whose files must not be read.
        """
        return [self._record(run_id) for run_id in self.with_runs_of_sweeps(ids)]

    def _record(self, run_id: str) -> RunRecord:
        """A copy, because what a record has read stays in memory."""
        path = self.outputs.readable(run_id)
        log = path / "train.log"
        if log.exists() and not self.outputs.file(path, "train.log"):
            raise ApiError(400, f"{log} is too large to compare", param="id")
        known = self.run(run_id).record
        return RunRecord(path, known.run, known.config, known.summary, known.damage)

    def columns(self, run_id: str) -> set[str]:
        """The metrics in a run's rows, as far as the list of runs has seen."""
        view = self._runs.get(run_id)
        return view.columns if view else set()

    def _swept(self, run_id: str) -> list[str]:
        sweep = self._sweeps.get(run_id.rpartition("/")[0])
        return sweep.swept if sweep else []

    # What changes

    def _scan(self) -> None:
        """Note what has changed: of runs that may go on, and of all if it is time to list them."""
        now, begun = time.monotonic(), time.thread_time()
        if now - self._scanned < SCAN_S:
            return
        lists = now - self._listed >= min(LISTED_S, self._listing_s / LISTING_SHARE)
        if lists:
            self._list()
        parents = set()
        for run_id, view in self._runs.items():
            if (lists or not view.has_ended) and view.refresh(self._swept(run_id)):
                self._changed[run_id] = None
                parents.add(run_id.rpartition("/")[0])
        for sweep_id, sweep in self._sweeps.items():
            if lists or sweep_id in parents or sweep.is_busy:
                inside = [v for i, v in self._runs.items() if i.rpartition("/")[0] == sweep_id]
                if sweep.refresh(sorted(inside, key=_number_in_sweep)):
                    self._changed_sweeps[sweep_id] = None
        self._scanned = time.monotonic()
        if lists:
            self._listed = self._scanned
            if not parents:  # reading what is new takes its own time, once
                self._listing_s = time.thread_time() - begun

    def _list(self) -> None:
        """Look which runs and sweeps there are."""
        found = dict(self.outputs.runs())
        for run_id in [run_id for run_id in self._runs if run_id not in found]:
            del self._runs[run_id]
            self._removed[run_id] = None
        for run_id, path in found.items():
            if run_id not in self._runs:
                self._runs[run_id] = RunView(self.outputs, run_id, path)
        sweeps = dict(self._sweep_folders(found))
        for sweep_id, path in sweeps.items():
            self._sweeps.setdefault(sweep_id, SweepView(sweep_id, path)).read()
        for sweep_id in [sweep_id for sweep_id in self._sweeps if sweep_id not in sweeps]:
            del self._sweeps[sweep_id]

    def _sweep_folders(self, found: dict[str, Path]) -> Iterator[tuple[str, Path]]:
        parents = dict.fromkeys(run_id.rpartition("/")[0] for run_id in found)
        parents |= dict.fromkeys(self._sweeps)
        for parent in filter(None, parents):
            if path := self.outputs.sweep(parent):
                yield parent, path

    # Clients

    @property
    def n_clients(self) -> int:
        """Clients that watch."""
        return len(self._clients)

    def connect(self, client: Client, places: dict[str, str]) -> None:
        """Tell the client from now on; `places` are the cursors of the runs that it watches.

        Raises ApiError for a run that is not there, and if MOST_CLIENTS watch already.
        """
        for run_id, place in places.items():
            path = self.outputs.run(run_id)
            client.watched[run_id] = Watched(
                Cursor.parse(place), _end(self.outputs, path), set(sample_names(self.outputs, path))
            )
        client.tell(ServerEvent("runs", {"runs": [], "removed": [], "sweeps": []}))
        self.runs()
        with self._lock:
            if not self._clients:  # what has changed before is in the lists that it asks for
                self._forget_changes()
        with self._wake:
            if len(self._clients) >= MOST_CLIENTS:
                raise ApiError(503, f"{MOST_CLIENTS} pages watch already; close some of them")
            self._clients.add(client)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def disconnect(self, client: Client) -> None:
        """Forget a client."""
        with self._wake:
            self._clients.discard(client)

    def close(self) -> None:
        """End the thread and the streams of all clients."""
        with self._wake:
            self._ending = True
            self._wake.notify_all()
            thread = self._thread
        if thread:
            thread.join(timeout=5)
        for client in list(self._clients):
            client.tell(None)

    def _watch(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._ending or self._clients)
                if self._ending:
                    return
                clients = list(self._clients)
            try:
                self._tell(clients)
            except Exception as error:  # a folder that changes while it is read
                warn(f"watching {self.outputs.path} failed: {type(error).__name__}: {error}")
            with self._wake:
                self._wake.wait_for(lambda: self._ending, TICK_S)

    def _tell(self, clients: list[Client]) -> None:
        with self._lock:
            self._scan()
            data = {
                "runs": [self._runs[i].summary for i in self._changed if i in self._runs],
                "removed": [i for i in self._removed if i not in self._runs],
                "sweeps": [
                    self._sweeps[i].summary for i in self._changed_sweeps if i in self._sweeps
                ],
            }
            self._forget_changes()
        if any(data.values()):
            for client in clients:
                client.tell(ServerEvent("runs", data))
        read: dict[Any, Any] = {}  # what was read for another client in this round
        for client in clients:
            for run_id, watched in list(client.watched.items()):
                path = self.outputs.path.joinpath(*run_id.split("/"))
                self._tell_rows(client, run_id, path, watched, read)
                self._tell_log(client, run_id, path, watched, read)
                self._tell_samples(client, run_id, path, watched)

    def _forget_changes(self) -> None:
        for noted in (self._changed, self._removed, self._changed_sweeps):
            noted.clear()

    def _tell_rows(
        self, client: Client, run_id: str, path: Path, watched: Watched, read: dict[Any, Any]
    ) -> None:
        key = ("rows", run_id, watched.cursor)
        if key not in read:
            file = path / "metrics.jsonl"
            has_grown = _has_changed(file, watched.cursor) and self.outputs.holds(file)
            read[key] = read_rows(file, watched.cursor) if has_grown else None
        rows = read[key]
        if rows is None:
            return
        watched.cursor = rows.cursor
        if not rows.rows and not rows.reset:
            return
        data = {"id": run_id, "rows": rows.rows, "next": str(rows.cursor), "reset": rows.reset}
        places = ",".join(str(other.cursor or "") for other in client.watched.values())
        client.tell(ServerEvent("rows", data, resume=places))

    def _tell_log(
        self, client: Client, run_id: str, path: Path, watched: Watched, read: dict[Any, Any]
    ) -> None:
        key = ("log", run_id, watched.log)
        if key not in read:
            file = path / "train.log"
            has_grown = _has_changed(file, watched.log) and self.outputs.holds(file)
            read[key] = read_lines(file, watched.log, most=LOG_BYTES) if has_grown else None
        chunk = read[key]
        if chunk is None:
            return
        watched.log = chunk.cursor
        if chunk.lines:
            lines = [line.decode("utf-8", "replace") for line in chunk.lines]
            client.tell(ServerEvent("log", {"id": run_id, "lines": lines}))

    def _tell_samples(self, client: Client, run_id: str, path: Path, watched: Watched) -> None:
        for name in sample_names(self.outputs, path):
            if name not in watched.samples:
                sample = read_sample(self.outputs, path, name)
                if sample and sample["text"]:  # empty while it is being written
                    watched.samples.add(name)
                    client.tell(ServerEvent("sample", {"id": run_id, **sample}))


def read_sample(outputs: Outputs, run: Path, name: str) -> dict[str, Any] | None:
    """The text of a file in a run's folder `samples`, and its step."""
    file = outputs.file(run, f"samples/{name}", most=LONGEST_SAMPLE)
    if file is None:
        return None
    digits = "".join(character for character in name if character.isdecimal())
    text = file.read_text("utf-8", errors="replace")
    return {"step": int(digits[:15] or 0), "text": text}


def sample_names(outputs: Outputs, run: Path) -> list[str]:
    """The names of the newest files with samples, oldest first."""
    folder = run / "samples"
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix == ".txt")
    except OSError:
        return []
    return names[-1000:] if outputs.holds(folder) else []


def _end(outputs: Outputs, run: Path) -> Cursor | None:
    """The end of the run's log."""
    file = outputs.file(run, "train.log", most=1 << 62)
    if file is None:
        return None
    found = file.stat()
    return Cursor(found.st_ino, found.st_size)


def _has_changed(file: Path, cursor: Cursor | None) -> bool:
    try:
        found = file.stat()
    except OSError:
        return False
    return cursor is None or (found.st_ino, found.st_size) != (cursor.inode, cursor.offset)


def _newest(view: RunView) -> tuple[str, str]:
    return view.record.started_at or view.record.run.get("created_at") or "", view.id


def _number_in_sweep(view: RunView) -> tuple[int, str]:
    name = view.id.rpartition("/")[2]
    return (int(name) if name.isdecimal() else -1, name)
