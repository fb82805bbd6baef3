"""The runs of a sweep: failures, rungs, and how they continue after any interruption."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
import yaml

from tests import processes
from tinygpt import config, registry, train
from tinygpt.components.loggers.jsonl import read_rows
from tinygpt.sweeps.launchers import local

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
    kill_and_compare(run, tiny, tmp_path, [Moment(rows=6)], steps=30)


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
