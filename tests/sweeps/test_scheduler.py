"""Sweeps: their folders, and how they continue after any interruption."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
import yaml

from tests import processes
from tinygpt import config, registry, train
from tinygpt.components.loggers.jsonl import read_rows
from tinygpt.config import compose
from tinygpt.errors import UserError
from tinygpt.interfaces import Launcher, Search
from tinygpt.records.folder import write_json
from tinygpt.sweeps import scheduler
from tinygpt.sweeps.folder import PlannedRun, SweepFolder, find_sweep
from tinygpt.sweeps.launchers import local
from tinygpt.sweeps.stoppings.asha import AshaConfig

WEIGHTS = "checkpoints/step-00000010/model.safetensors"


class Train(Protocol):
    def __call__(self, settings: list[str], cwd: Path, *, code: int = 0) -> str: ...


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Iterator[Train]:
    """Runs a command in this process; returns what it prints on both streams."""
    threads = torch.get_num_threads()

    def call(settings: list[str], cwd: Path, *, code: int = 0) -> str:
        with contextlib.chdir(cwd), pytest.raises(SystemExit) as exit_info:
            train.main(settings)
        said = "".join(capfd.readouterr())
        assert exit_info.value.code == code, said
        return said

    yield call
    torch.set_num_threads(threads)


def only_sweep(folder: Path) -> Path:
    (found,) = (folder / "outputs").glob("*_sweep")
    return found


def record(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "run.json").read_text())
    return content


def losses(path: Path) -> list[tuple[float, ...]]:
    """What the rows say of the training itself, and not of the clock."""
    names = ("step", "train/loss", "optim/grad_norm", "val/bpb")
    return [tuple(row.get(name, -1) for name in names) for row in read_rows(path / "metrics.jsonl")]


def settings_in(tiny: list[str]) -> list[str]:
    """The tiny run, with relative folders."""
    kept = [text for text in tiny if not text.startswith(("output_dir", "cache_dir"))]
    return [*kept, "output_dir=outputs", "cache_dir=cache"]


@pytest.fixture
def forked_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The local launcher forks its runs. It does not choose their cores then, nor end them with
    their parent; the tests of launchers show both.
    """
    monkeypatch.setattr(local, "subprocess", processes.FORKING)


@pytest.mark.usefixtures("forked_runs")
def test_a_sweep_keeps_its_configs_isolates_failures_and_adds_new_runs(
    run: Train, tiny: list[str], tmp_path: Path
) -> None:
    settings = [*settings_in(tiny), "trainer.grad_clip=0", "optimizer.lr=1e-3,1e30"]
    said = run(["-m", *settings, "launcher.jobs=1"], tmp_path, code=1)
    folder = only_sweep(tmp_path)

    # a failure stays local, and its reason is said in the end
    good, bad = (record(folder / n) for n in "01")
    assert (good["status"], bad["status"]) == ("finished", "failed")
    assert "the loss is not finite" in bad["error"]
    assert "the loss is not finite" in said
    assert "retry_failed=true" in said
    assert good["group"] == folder.name
    assert good["id"] == f"{folder.name}-0"

    # threads are frozen, and a run alone gives the same bytes
    registry.import_all()
    cfg = config.load(folder / "0" / "config.yaml")
    assert cfg.device.threads == len(os.sched_getaffinity(0))
    run([f"config_file={folder / '0/config.yaml'}", "output_dir=alone"], tmp_path)
    (alone,) = (tmp_path / "alone").iterdir()
    assert (alone / WEIGHTS).read_bytes() == (folder / "0" / WEIGHTS).read_bytes()
    assert losses(alone) == losses(folder / "0")

    # the same command starts nothing that has ended
    before = (folder / "0" / "metrics.jsonl").stat().st_mtime_ns
    again = run(["-m", *settings], tmp_path, code=1)
    assert "2 of 2 runs have ended" in again
    assert "sweep=new" in again
    assert only_sweep(tmp_path) == folder
    assert (folder / "0" / "metrics.jsonl").stat().st_mtime_ns == before

    # new values are added behind, and numbers go on
    more = run(["-m", "sweep=latest", "optimizer.lr=1e-3,1e-2"], tmp_path, code=1)
    assert "1 new runs; 1 are in the sweep already" in more
    assert "2 of 3 runs have ended, 1 at once" in more  # the launcher is remembered
    assert sorted(path.name for path in folder.glob("[0-9]*")) == ["0", "1", "2"]
    assert record(folder / "2")["status"] == "finished"
    assert config.load(folder / "2" / "config.yaml").optimizer.lr == 1e-2
    saved = yaml.safe_load((folder / "sweep.yaml").read_text())
    assert saved["next"] == 3
    assert saved["swept"] == ["optimizer.lr"]


@pytest.mark.usefixtures("forked_runs")  # where the launcher is local
@pytest.mark.parametrize(
    "launcher",
    [
        ["launcher.jobs=2"],
        pytest.param(
            ["launcher=slurm", "launcher.cluster=local", "launcher.jobs=2"], marks=pytest.mark.slow
        ),
        pytest.param(["launcher=ray"], marks=pytest.mark.slow),
    ],
    ids=["local", "slurm", "ray"],
)
def test_survivors_of_asha_are_continued_bit_for_bit(
    launcher: list[str], run: Train, tiny: list[str], tmp_path: Path
) -> None:
    settings = [*settings_in(tiny), "optimizer.lr=1e-4,1e-2", "trainer.max_steps=16"]
    rule = ["sweep=asha", "stopping.first_rung=0.5", "stopping.reduction=2"]
    said = run(["-m", *settings, *rule, *launcher], tmp_path)
    folder = only_sweep(tmp_path)
    dropped, best = folder / "0", folder / "1"
    assert record(best)["status"] == "finished"
    assert record(dropped)["status"] == "stopped"
    assert "place 2 of 2 at step 8" in record(dropped)["error"]
    assert "place 2 of 2 at step 8" in said
    assert [row["step"] for row in read_rows(dropped / "metrics.jsonl")] == list(range(1, 9))
    # the best was paused at step 8, and is what it would have been without
    assert len(record(best)["resumed"]) == 1
    run([f"config_file={best / 'config.yaml'}", "output_dir=alone"], tmp_path)
    (alone,) = (tmp_path / "alone").iterdir()
    weights = "checkpoints/step-00000016/model.safetensors"
    assert (alone / weights).read_bytes() == (best / weights).read_bytes()
    assert losses(alone) == losses(best)


@pytest.fixture
def sweeps(tiny: list[str]) -> Iterator[Callable[..., scheduler.OpenSweep]]:
    """Opens sweeps of tiny runs as `-m` does, without starting a run."""
    opened: list[scheduler.OpenSweep] = []

    def open_sweep(*typed: str, config_dir: Path | None = None) -> scheduler.OpenSweep:
        for sweep in opened:
            sweep.folder.close()
        settings = typed if typed[0].startswith("sweep=/") else [*tiny, *typed]
        opened.append(scheduler.open_sweep(settings, command=typed, config_dir=config_dir))
        return opened[-1]

    yield open_sweep
    for sweep in opened:
        sweep.folder.close()


def seeds(sweep: scheduler.OpenSweep) -> list[int]:
    return [run.cfg.seed for run in sweep.folder.runs]


OpenSweeps = Callable[..., scheduler.OpenSweep]


def test_a_run_is_made_once_however_many_threads_the_launcher_gives(sweeps: OpenSweeps) -> None:
    first = sweeps("launcher.jobs=1", "seed=0,1")
    cores = len(os.sched_getaffinity(0))
    assert {run.cfg.device.threads for run in first.folder.runs} == {cores}
    place = f"sweep={first.folder.path}"
    # the launcher is remembered, and another one makes no other runs
    again = sweeps(place, "seed=0,1,2")
    assert again.launcher.slots == 1
    assert seeds(again) == [0, 1, 2]
    other = sweeps(place, f"launcher.jobs={2 * cores}", "seed=0,1,2,3")
    assert seeds(other) == [0, 1, 2, 3]
    assert [run.cfg.device.threads for run in other.folder.runs] == [cores] * 3 + [1]
    assert sweeps(place).launcher.slots == 2 * cores
    # the same command finds its sweep, also with another launcher
    settings = ["optimizer.lr=1e-3", "seed=0,1"]
    new = sweeps(*settings, "launcher.jobs=1")
    assert sweeps(*settings, "launcher.jobs=2").folder.path == new.folder.path
    assert sweeps(*settings, "sweep=new").folder.path != new.folder.path


def test_threads_that_are_typed_are_compared(sweeps: OpenSweeps) -> None:
    sweep = sweeps("device.threads=1,2", "launcher.jobs=1")
    assert [run.cfg.device.threads for run in sweep.folder.runs] == [1, 2]
    more = sweeps(f"sweep={sweep.folder.path}", "device.threads=1,2,3")
    assert [run.cfg.device.threads for run in more.folder.runs] == [1, 2, 3]


def test_a_value_written_in_two_ways_is_one_run(
    sweeps: OpenSweeps, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = sweeps("optimizer.lr=0.001,1e-3,2e-3", "name=a,b")
    assert [run.cfg.optimizer.lr for run in sweep.folder.runs] == [1e-3, 2e-3]  # type: ignore[attr-defined]  # of adamw
    assert "4 of 6 runs repeat another; each runs once" in caplog.text


def break_json(folder: Path) -> None:
    (folder / "run.json").write_text("{")


def break_config(folder: Path) -> None:
    (folder / "config.yaml").write_text("seed: [")


def break_rows(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text("no row\n{}\n")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_json, "1 is left out: run.json cannot be read: JSONDecodeError"),
        (break_config, "1/config.yaml is not YAML that can be read"),
        (break_rows, "is not a row of metrics; delete that line"),
        (empty, "1 is left out: run.json cannot be read: No such file or directory"),
    ],
)
def test_a_damaged_run_is_named_and_left_out_and_its_place_stays_empty(
    damage: Callable[[Path], None],
    words: str,
    sweeps: OpenSweeps,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sweep = sweeps("seed=0,1")
    path = sweep.folder.path
    damage(path / "1")
    (path / "7").mkdir()
    again = sweeps(f"sweep={path}", "seed=0,1,2")
    assert words in caplog.text
    assert "7 is left out: run.json cannot be read: No such" in caplog.text
    # the lost run is made anew, under a number of its own
    assert [(run.number, run.cfg.seed) for run in again.folder.runs] == [(0, 0), (8, 1), (9, 2)]


def test_a_damaged_sweep_hides_no_other(
    sweeps: OpenSweeps, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = sweeps("seed=0,1").folder.path
    for name, text in (("x", "{"), ("y", "settings: 3\nsweep: {}\n"), ("z", "jobs: {}\n")):
        (tmp_path / "outputs" / f"9999-{name}_sweep").mkdir()
        (tmp_path / "outputs" / f"9999-{name}_sweep" / "sweep.yaml").write_text(text)
    assert sweeps("seed=0,1").folder.path == good
    assert find_sweep("latest", output_dir=tmp_path / "outputs") == good
    assert "9999-x_sweep/sweep.yaml is not YAML that can be read" in caplog.text
    assert "9999-y_sweep/sweep.yaml is damaged: settings or sweep is of the wrong" in caplog.text
    assert "9999-z_sweep" not in caplog.text  # of an earlier version, and whole


def test_a_run_that_is_damaged_while_the_sweep_goes_on_ends_alone(
    one_run: SweepFolder, caplog: pytest.LogCaptureFixture
) -> None:
    assert schedule(one_run, Scripted(lambda run: shutil.rmtree(run))) == 1
    assert one_run.runs[0].status == "damaged"
    assert "a_sweep/0 is left out: run.json is missing" in caplog.text


MINE = """\
# @package _global_
defaults:
  - override /stopping: median
axes:
  optimizer.lr: [1e-3, 3e-3]
  trainer:
    grad_clip: 1,2
  seed: range(2)
"""


def test_a_sweep_can_be_kept_in_a_file_with_its_axes(sweeps: OpenSweeps, tmp_path: Path) -> None:
    (tmp_path / "mine" / "sweep").mkdir(parents=True)
    (tmp_path / "mine" / "sweep" / "lrs.yaml").write_text(MINE)
    mine = tmp_path / "mine"
    sweep = sweeps("sweep=lrs", config_dir=mine)
    assert len(sweep.folder.runs) == 8
    assert sweep.cfg.stopping.name == "median"
    assert sweep.folder.content["swept"] == ["optimizer.lr", "trainer.grad_clip", "seed"]
    # what is typed wins over the file; the same command goes on; the folder needs no file
    other = sweeps("sweep=lrs", "seed=5", "trainer.grad_clip=1", config_dir=mine)
    assert [run.cfg.optimizer.lr for run in other.folder.runs] == [1e-3, 3e-3]  # type: ignore[attr-defined]  # of adamw
    assert sweeps("sweep=lrs", config_dir=mine).folder.path == sweep.folder.path
    (mine / "sweep" / "lrs.yaml").unlink()
    more = sweeps(f"sweep={sweep.folder.path}", "seed=2")
    assert len(more.folder.runs) == 12
    assert more.cfg.stopping.name == "median"


def running_in(folder: Path) -> list[int]:
    """The processes whose working directory is the folder: a sweep and its runs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if (entry / "cwd").readlink() == folder:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@dataclass(frozen=True)
class Moment:
    """When a sweep is killed: so long after its start, and with so many rows of metrics."""

    seconds: float = 0.0
    rows: int = 0

    def has_come(self, began: float, folder: Path) -> bool:
        logs = folder.glob("outputs/*_sweep/*/metrics.jsonl")
        rows = sum(log.read_bytes().count(b"\n") for log in logs)
        return time.monotonic() - began >= self.seconds and rows >= self.rows


def kill_at(moments: list[Moment], settings: list[str], folder: Path) -> None:
    """Start a sweep and kill all of its processes at each moment."""
    for moment in moments:
        began = time.monotonic()
        process = processes.Forked(
            [sys.executable, "-c", processes.FORKING_TRAIN, *settings],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not moment.has_come(began, folder):
            assert process.poll() is None, f"the sweep ended before {moment}"
            time.sleep(0.02)
        assert process.poll() is None, f"the sweep ended before {moment}"
        for pid in sorted(running_in(folder), reverse=True):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        while running_in(folder):
            assert time.monotonic() - began < 120
            time.sleep(0.02)


def kill_and_compare(
    run: Train, tiny: list[str], tmp_path: Path, moments: list[Moment], *, steps: int = 80
) -> None:
    """Kill a sweep, finish it, and compare each run with one that nothing interrupted."""
    settings = [
        *["-m", *settings_in(tiny), "seed=0,1", "launcher.jobs=2"],
        *[f"trainer.max_steps={steps}", "trainer.save_every=15", "trainer.eval_every=40"],
    ]
    kill_at(moments, settings, tmp_path)
    run(settings, tmp_path)
    # a kill before the folder exists leaves nothing; later calls go on with the same folder
    sweep = only_sweep(tmp_path)
    assert sorted(path.name for path in sweep.glob("[0-9]*")) == ["0", "1"]
    weights = f"checkpoints/step-{steps:08d}/model.safetensors"
    for number in "01":
        assert record(sweep / number)["status"] == "finished"
        assert (sweep / number / "summary.json").exists()
        run([f"config_file={sweep / number / 'config.yaml'}", f"output_dir=calm{number}"], tmp_path)
        (calm,) = (tmp_path / f"calm{number}").iterdir()
        assert (sweep / number / weights).read_bytes() == (calm / weights).read_bytes()
        assert losses(sweep / number) == losses(calm)


@pytest.mark.usefixtures("forked_runs")
def test_a_sweep_that_is_killed_whole_continues_to_the_same_bytes(
    run: Train, tiny: list[str], tmp_path: Path
) -> None:
    kill_and_compare(run, tiny, tmp_path, [Moment(rows=6)], steps=50)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("batch", range(4))
def test_a_sweep_survives_kills_at_random_moments(
    run: Train, tiny: list[str], tmp_path: Path, batch: int
) -> None:
    generator = random.Random(batch)
    steps = 4000
    starting = [Moment(seconds=generator.uniform(0.1, 3)) for _ in range(4)]
    rows = sorted(generator.uniform(0, 0.9) * 2 * steps for _ in range(8))
    training = [Moment(rows=int(number)) for number in rows]
    kill_and_compare(run, tiny, tmp_path, starting + training, steps=steps)


def test_ctrl_c_lets_the_runs_save_and_says_how_to_continue(
    tiny: list[str], tmp_path: Path
) -> None:
    settings = ["-m", *settings_in(tiny), "seed=0,1", "launcher.jobs=2", "trainer.max_steps=100000"]
    process = processes.Forked(
        [sys.executable, "-c", processes.FORKING_TRAIN, *settings],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("outputs/*_sweep/*/metrics.jsonl"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    folder = only_sweep(tmp_path)
    assert f"python -m tinygpt.train -m sweep=outputs/{folder.name}" in said
    for number in "01":
        assert record(folder / number)["status"] == "interrupted"
        assert list((folder / number / "checkpoints").glob("step-*"))


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


def refusal(settings: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_info:
        train.main(settings)
    assert exit_info.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["stopping=asha"], "stopping=asha is about several runs; type -m before it"),
        (["-m", "stopping=ash"], "stopping=ash is not a choice; did you mean stopping=asha?"),
        (["-m", "search.trails=3", "search=random"], "did you mean search.trials?"),
        (["-m", "search.trials=3"], "it belongs to search=optuna, search=random"),
        (["until=3"], "until=STEP pauses a run that goes on; type resume=RUN with it"),
        (["-m", "launcher.jobs=0"], "launcher.jobs=0 must be at least 1"),
        (
            ["-m", "sweep=nosuch"],
            "choices: asha, grid, halving, median, optuna, random, latest, new",
        ),
        (["-m", "stopping=asha", "trainer.max_time=1m"], "give them a length by trainer.max_steps"),
        (["-m", "seed=0,1", "optimizer.lr=-1"], "optimizer.lr=-1.0 must be above 0"),
        (["-m", "optimizer.lr=interval(0,1)"], "or search=random"),
        (
            ["-m", "seed=range(0,1000000000)"],
            "seed=range(0,1000000000) makes 1,000,000,000 runs, and a sweep has at most 10,000",
        ),
        (["-m", "seed=range(200)", "optimizer.lr=shuffle(range(1,90))"], "makes 17,800 runs"),
        (["-m", "seed=range(3,3)"], "seed=range(3,3) has no values; type seed=A,B,C"),
        (
            ["-m", "search=random", "seed=range(0,1000000000)", "optimizer.lr=1,2"],
            "seed=range(0,1000000000) makes 1,000,000,000 runs",
        ),
        (
            ["-m", "search=random", "search.trials=5000", "seed=1,2,3", "optimizer.lr=1,2"],
            "search.trials=5000 with every seed makes 15,000 runs",
        ),
        (["-m", "search=optuna", "search.trials=10001"], "search.trials=10001 must be at most"),
        (["-m", "objective=val/bbp"], "did you mean objective=val/bpb?"),
        (
            ["-m", "stopping=asha", "trainer.max_steps=9,18"],
            "compares runs at equal steps, and these differ in trainer.max_steps",
        ),
        (
            ["-m", "sweep=optuna", "stopping=asha", "trainer.max_steps=9,18"],
            "compares runs at equal steps, and these differ in trainer.max_steps",
        ),
    ],
)
def test_a_mistyped_sweep_gets_an_error_with_what_to_type_and_leaves_nothing(
    typed: list[str],
    words: str,
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = [text for text in tiny if not text.startswith("trainer.max_steps")]
    assert words in refusal([*settings, *typed], capsys)
    assert not (tmp_path / "outputs").exists()


def test_what_is_typed_is_of_the_sweep_or_of_its_runs() -> None:
    for text in ("search.trials=3", "stopping=asha", "launcher.jobs=2", "+sweep=asha"):
        assert scheduler.is_about_sweeps(text)
    for text in ("optimizer.lr=1", "schedule=cosine", "seed=1"):
        assert not scheduler.is_about_sweeps(text)


def test_a_sweep_is_found_by_its_folder_its_name_or_as_the_latest(tmp_path: Path) -> None:
    for name in ("2026-01-01_sweep", "2026-01-02_sweep"):
        (tmp_path / name).mkdir()
        sweep = "{search: {}, stopping: {}, launcher: {}, objective: val/bpb}"
        (tmp_path / name / "sweep.yaml").write_text(f"settings: []\nsweep: {sweep}\n")
    newest = tmp_path / "2026-01-02_sweep"
    for text in (str(newest), newest.name, "latest"):
        assert find_sweep(text, output_dir=tmp_path) == newest
    with pytest.raises(UserError, match=r"did you mean sweep=.*2026-01-01_sweep"):
        find_sweep("2026-01-01_swep", output_dir=tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("axes: {seed: [0, 1]}", "sweep/mine.yaml: its first line must be\n  # @package _global_"),
        ("# @package _global_\naxes: {modle: [a, b]}", "modle is not a field; did you mean model?"),
        ("# @package _global_\naxes: 3", "sweep/mine.yaml: Cannot assign int to Dict"),
        ("# @package _global_\naxes: {seed: 'range(0,1000000)'}", "makes 1,000,000 runs"),
    ],
)
def test_a_mistake_in_a_sweep_that_is_kept_in_a_file_is_named(
    content: str, words: str, sweeps: OpenSweeps, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "sweep").mkdir(parents=True)
    (tmp_path / "mine" / "sweep" / "mine.yaml").write_text(content)
    with pytest.raises(UserError, match=re.escape(words)):
        sweeps("sweep=mine", config_dir=tmp_path / "mine")
    assert not (tmp_path / "outputs").exists()


def test_the_latest_sweep_is_that_of_the_run_that_began_last(
    sweeps: OpenSweeps, tmp_path: Path
) -> None:
    old = sweeps("seed=0,1").folder
    new = sweeps("seed=2,3").folder
    assert find_sweep("latest", output_dir=tmp_path / "outputs") == new.path
    write_json(old.path / "1" / "run.json", record(old.path / "1") | {"started_at": "9999"})
    assert find_sweep("latest", output_dir=tmp_path / "outputs") == old.path


def test_a_sweep_of_an_earlier_version_is_recognized(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("command: x\njobs: {}\n")
    with pytest.raises(UserError, match="is a sweep of an earlier version"):
        SweepFolder(tmp_path)
