"""Runs whose terminal closes, whose pipe breaks, or that get a signal."""

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests import processes

ROOT = Path(__file__).parents[2]
WAIT_S = 120.0


@pytest.fixture
def endless(tiny: list[str]) -> list[str]:
    """Settings of a run that lasts until something ends it."""
    return [*(text for text in tiny if "max_steps" not in text), "trainer.max_steps=10_000_000"]


def start(line: str, settings: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Begin a line of bash in a session of its own; `train` in it is the command with settings."""
    command = shlex.join([sys.executable, "-m", "tinygpt.train", *settings])
    code = f"{line.replace('train', command, 1)}; exit ${{PIPESTATUS[0]}}"
    return subprocess.Popen(
        ["bash", "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "dumb"},
        start_new_session=True,
        **{"stdin": subprocess.DEVNULL} | options,
    )


def wait_for_rows(outputs: Path, *, runs: int = 1) -> list[Path]:
    """The folders of so many runs, when each has written a row."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        rows = [*outputs.glob("*/metrics.jsonl"), *outputs.glob("*/*/metrics.jsonl")]
        if len([path for path in rows if path.stat().st_size]) == runs:
            return [path.parent for path in rows]
        time.sleep(0.05)
    pytest.fail(f"no rows appear in {outputs}")


def assert_saved(folder: Path, name: str) -> None:
    """The signal has ended this run in order: it is recorded, and the newest step is saved."""
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["error"]) == ("interrupted", name)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    newest = max(path.name for path in (folder / "checkpoints").glob("step-*"))
    assert int(newest.removeprefix("step-")) >= last["step"]
    log = (folder / "train.log").read_text()
    assert f"{name}: saving after this step" in log
    assert f"{name}: interrupted; go on with" in log
    assert "Traceback" not in log


@pytest.mark.slow  # a broken pipe and a signal each have a test that is not
def test_ctrl_c_under_tee_saves(endless: list[str], tmp_path: Path) -> None:
    process = start("train | tee copy", endless, cwd=tmp_path, stdout=subprocess.DEVNULL)
    (folder,) = wait_for_rows(tmp_path / "outputs")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: tee and bash end at once
    process.wait(WAIT_S)
    wait_until_released(folder)
    assert_saved(folder, "SIGINT")


def wait_until_released(folder: Path) -> None:
    """Wait for the process of a run whose shell has ended before it."""
    deadline = time.monotonic() + WAIT_S
    while json.loads((folder / "run.json").read_text())["status"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)  # its last words


def test_a_terminal_that_closes_ends_the_run_and_saves(endless: list[str], tmp_path: Path) -> None:
    terminal, inside = pty.openpty()
    process = processes.Forked(
        [sys.executable, "-m", "tinygpt.train", *endless],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
        terminal=True,
    )
    os.close(inside)
    (folder,) = wait_for_rows(tmp_path / "outputs")
    os.close(terminal)  # SIGHUP, and every print fails from now on
    assert process.wait(WAIT_S) == 128 + signal.SIGHUP
    assert_saved(folder, "SIGHUP")


@pytest.mark.slow
def test_nohup_is_respected_and_missing_streams_are_no_obstacle(
    endless: list[str], tmp_path: Path
) -> None:
    process = start("trap '' HUP; exec train >&- 2>&-", endless)
    (folder,) = wait_for_rows(tmp_path / "outputs")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 128 + signal.SIGTERM
    assert_saved(folder, "SIGTERM")


def test_a_run_whose_console_is_a_full_disk_ends_as_any_other(
    tiny: list[str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tinygpt.train", *tiny]
    with Path("/dev/full").open("w") as full:
        done = processes.run(command, stdout=full, stderr=full)
    assert done.returncode == 0
    (folder,) = (path.parent for path in (tmp_path / "outputs").glob("*/run.json"))
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert "finished in" in (folder / "train.log").read_text()
    assert (folder / "summary.json").is_file()


@pytest.mark.slow
def test_a_sweep_whose_reader_has_left_saves_its_runs_at_a_hangup(
    endless: list[str], tmp_path: Path
) -> None:
    sweep = ["-m", *endless, "seed=0,1", "launcher.jobs=2"]
    process = start("train | head -1", sweep, stdout=subprocess.DEVNULL)
    folders = wait_for_rows(tmp_path / "outputs", runs=2)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "tinygpt.train"],
        capture_output=True,
        text=True,
        check=True,
    )
    for child in children.stdout.split():
        os.kill(int(child), signal.SIGHUP)
    assert process.wait(WAIT_S) == 128 + signal.SIGHUP
    for folder in folders:
        assert_saved(folder, "SIGTERM")  # passed on by the sweep
