"""What is typed for a sweep: which runs it has, which sweep it means, and mistakes."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tinygpt import train
from tinygpt.errors import UserError
from tinygpt.records.folder import write_json
from tinygpt.sweeps import scheduler
from tinygpt.sweeps.folder import SweepFolder, find_sweep


def record(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "run.json").read_text())
    return content


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


MINE = """\
# @package _global_
defaults:
  - override /stopping: median
axes:
  trainer.ema: [0.5, 0.9]
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
    assert sweep.folder.content["swept"] == ["trainer.ema", "trainer.grad_clip", "seed"]
    # what is typed wins over the file; the same command goes on; the folder needs no file
    other = sweeps("sweep=lrs", "seed=5", "trainer.grad_clip=1", config_dir=mine)
    assert [run.cfg.trainer.ema for run in other.folder.runs] == [0.5, 0.9]
    assert sweeps("sweep=lrs", config_dir=mine).folder.path == sweep.folder.path
    (mine / "sweep" / "lrs.yaml").unlink()
    more = sweeps(f"sweep={sweep.folder.path}", "seed=2")
    assert len(more.folder.runs) == 12
    assert more.cfg.stopping.name == "median"


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
