"""The scheduler: which runs it starts, and until which step."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tinygpt.config import compose
from tinygpt.interfaces import Launcher, Search
from tinygpt.records.folder import write_json
from tinygpt.sweeps import scheduler
from tinygpt.sweeps.folder import PlannedRun, SweepFolder
from tinygpt.sweeps.stoppings.asha import AshaConfig


def record(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "run.json").read_text())
    return content


class Scripted(Launcher):
    """Starts nothing, and remembers what it was to start; `happens` to a run when it would run."""

    slots, threads = 1, 1

    def __init__(self, happens: Callable[[Path], None]) -> None:
        self.happens = happens
        self.commands: list[list[str]] = []
        self.over: list[Path] = []

    def start(self, run: Path, command: Sequence[str]) -> None:
        self.commands.append(list(command))
        self.happens(run)
        self.over.append(run)

    def ended(self) -> dict[Path, str | None]:
        over, self.over = self.over, []
        return dict.fromkeys(over)

    def stop(self) -> None:
        pass


def schedule(folder: SweepFolder, launcher: Launcher) -> int:
    """Go on with a sweep of one run by a rule that judges it at step 4 of 8."""
    rule = AshaConfig(first_rung=0.5, reduction=2).build()
    return scheduler.Scheduler(
        folder, Search(), rule, launcher, retry_failed=False, config_dir=None
    ).run()


@pytest.fixture
def one_run(tiny: list[str], tmp_path: Path) -> Iterator[SweepFolder]:
    cfg = compose.compose("train", [*tiny, "trainer.max_steps=8"], config_dir=None)
    folder = SweepFolder.create(
        tmp_path / "a_sweep",
        command=["python"],
        settings=[],
        swept=[],
        cfg=compose.compose("sweep", ["sweep=asha"], config_dir=None),
        runs=[PlannedRun([], cfg)],
    )
    yield folder
    folder.close()


def interrupt(run: Path) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def kill(run: Path) -> None:
    """Leave what a run leaves that was killed after its first words, on the way to step 4."""
    write_json(run / "run.json", record(run) | {"status": "running", "pause_at": 4})


def finish(run: Path) -> None:
    write_json(run / "run.json", record(run) | {"status": "finished"})


def test_a_run_that_had_not_begun_when_the_sweep_ended_is_judged_all_the_same(
    one_run: SweepFolder,
) -> None:
    assert schedule(one_run, Scripted(interrupt)) == 130
    assert one_run.runs[0].status == "queued"
    launcher = Scripted(finish)
    assert schedule(one_run, launcher) == 0
    assert [command[-1] for command in launcher.commands] == ["until=4"]


def test_a_run_that_was_killed_before_a_rung_continues_to_it(one_run: SweepFolder) -> None:
    kill(one_run.runs[0].path)
    one_run.runs[0].refresh()
    launcher = Scripted(finish)
    assert schedule(one_run, launcher) == 0
    assert [command[-1] for command in launcher.commands] == ["until=4"]


def test_a_run_that_is_damaged_while_the_sweep_goes_on_ends_alone(
    one_run: SweepFolder, caplog: pytest.LogCaptureFixture
) -> None:
    assert schedule(one_run, Scripted(lambda run: shutil.rmtree(run))) == 1
    assert one_run.runs[0].status == "damaged"
    assert "a_sweep/0 is left out: run.json is missing" in caplog.text


@pytest.mark.parametrize("requeues", [True, False])
def test_a_run_whose_time_was_over_waits_for_its_next_turn_on_a_cluster(
    one_run: SweepFolder, requeues: bool
) -> None:
    def time_is_over(run: Path) -> None:
        over = len(launcher.commands) == 1
        changes = {"status": "interrupted", "pause_at": 4} if over else {"status": "finished"}
        write_json(run / "run.json", record(run) | changes)

    launcher = Scripted(time_is_over)
    launcher.requeues = requeues
    assert schedule(one_run, launcher) == (0 if requeues else 1)
    turns = 2 if requeues else 1  # here somebody wanted it to end
    assert [command[-1] for command in launcher.commands] == ["until=4"] * turns
