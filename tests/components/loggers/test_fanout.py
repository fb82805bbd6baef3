"""Several loggers used as one: each gets every call in order, and all are finished."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tinygpt.components.loggers.fanout import Fanout
from tinygpt.interfaces import Logger, Metrics, RunInfo


class Recorder(Logger):
    """Notes each call in a list that it shares with its neighbours."""

    def __init__(self, name: str, calls: list[Any]) -> None:
        self.name, self.calls = name, calls

    def start(self, run: RunInfo) -> None:
        self.calls.append((self.name, "start", run))

    def log(self, step: int, metrics: Metrics) -> None:
        self.calls.append((self.name, "log", step, metrics))

    def samples(self, step: int, texts: Sequence[str]) -> None:
        self.calls.append((self.name, "samples", step, texts))

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        self.calls.append((self.name, "finish", status, summary))


class Breaking(Recorder):
    """Fails at the end, as a full disk would make it."""

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        super().finish(status, summary)
        raise OSError(f"{self.name}: disk full")


def test_every_call_reaches_every_logger_in_order(tmp_path: Path) -> None:
    calls: list[Any] = []
    fanout = Fanout([Recorder("a", calls), Recorder("b", calls)])
    run = RunInfo(tmp_path, "id", None, {}, {}, None)
    fanout.start(run)
    fanout.log(1, {"train/loss": 2.0})
    fanout.samples(1, ["text"])
    fanout.finish("finished", {"steps": 1})
    expected = [
        ("start", run),
        ("log", 1, {"train/loss": 2.0}),
        ("samples", 1, ["text"]),
        ("finish", "finished", {"steps": 1}),
    ]
    assert calls == [(name, *call) for call in expected for name in "ab"]


def test_finish_reaches_all_although_two_fail_and_then_raises() -> None:
    calls: list[Any] = []
    fanout = Fanout([Breaking("a", calls), Recorder("b", calls), Breaking("c", calls)])
    with pytest.raises(OSError, match="disk full"):
        fanout.finish("failed", {})
    assert [name for name, *_ in calls] == ["a", "b", "c"]
