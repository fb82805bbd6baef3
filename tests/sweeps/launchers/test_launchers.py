"""Launchers: slots, shares of the machine, and how the end of a run is reported."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tinygpt.errors import UserError
from tinygpt.interfaces import Launcher
from tinygpt.sweeps.launchers.local import Local, LocalConfig, how_it_died, visible_gpus
from tinygpt.sweeps.launchers.processes import run_command
from tinygpt.sweeps.launchers.ray import RayConfig
from tinygpt.sweeps.launchers.slurm import SlurmConfig

SAY = "import os; print(os.environ['{name}'], sorted(os.sched_getaffinity(0)))"


def wait(launcher: Launcher, *, seconds: float = 30) -> dict[Path, str | None]:
    """What has ended, as soon as anything has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ended := launcher.ended():
            return ended
        time.sleep(0.02)
    raise AssertionError("nothing ended")


def until(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    """Wait for a condition; fails if it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def says(log: Path, word: str) -> Callable[[], bool]:
    """Whether a process has written the word into its log."""
    return lambda: log.exists() and word in log.read_text()


def run_in(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def test_cores_are_shared_equally_and_each_run_stays_on_its_own(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    launcher = Local(len(cores), gpus=[])
    assert launcher.threads == 1
    runs = [run_in(tmp_path, str(n)) for n in range(len(cores))]
    # each stays until all have begun: else a later one would get the cores of one that has ended
    all_here = f"len(list(Path({str(tmp_path)!r}).glob('*/here'))) == {len(cores)}"
    for run in runs:
        code = f"""
{SAY.format(name="OMP_NUM_THREADS")}
import time
from pathlib import Path
Path({str(run / "here")!r}).touch()
while not {all_here}:
    time.sleep(0.02)
"""
        launcher.start(run, [sys.executable, "-c", code])
    ended: dict[Path, str | None] = {}
    while len(ended) < len(runs):
        ended |= wait(launcher)
    assert set(ended.values()) == {None}
    said = sorted((run / "process.log").read_text() for run in runs)
    assert said == sorted(f"1 [{core}]\n" for core in cores)


def test_each_run_sees_one_gpu_and_a_slot_is_given_again(tmp_path: Path) -> None:
    launcher = Local(None, gpus=["3", "GPU-abc"])
    assert (launcher.slots, launcher.threads) == (2, None)
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    for name in ("a", "b"):
        launcher.start(run_in(tmp_path, name), [sys.executable, "-c", code])
    ended = wait(launcher)
    while len(ended) < 2:
        ended |= wait(launcher)
    launcher.start(run_in(tmp_path, "c"), [sys.executable, "-c", code])
    wait(launcher)
    assert [(tmp_path / n / "process.log").read_text() for n in "abc"] == [
        "3\n",
        "GPU-abc\n",
        "3\n",
    ]


def test_gpus_that_were_chosen_before_are_the_ones_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    with pytest.raises(UserError, match="shows no NVIDIA GPU; type device=cpu"):
        LocalConfig().build(folder=Path(), devices={"cuda"})


def test_a_killed_process_is_reported_by_its_signal_with_advice(tmp_path: Path) -> None:
    launcher = Local(1, gpus=[])
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    launcher.start(run_in(tmp_path, "a"), [sys.executable, "-c", code])
    (death,) = wait(launcher).values()
    assert death == (
        "its process was ended by SIGKILL; was there too little memory? Type a lower launcher.jobs"
    )
    assert how_it_died(1) is None


PATIENT = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(0)))
print("ready", flush=True)
time.sleep(60)
"""


def test_stop_lets_a_process_save_and_the_second_one_kills(tmp_path: Path) -> None:
    launcher = Local(2, gpus=[])
    gentle, stubborn = run_in(tmp_path, "gentle"), run_in(tmp_path, "stubborn")
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    deaf += "import time; print('ready', flush=True); time.sleep(60)"
    launcher.start(gentle, [sys.executable, "-c", PATIENT])
    launcher.start(stubborn, [sys.executable, "-c", deaf])
    for run in (gentle, stubborn):
        until(says(run / "process.log", "ready"))
    launcher.stop()
    assert wait(launcher) == {gentle: None}
    assert "saved" in (gentle / "process.log").read_text()
    launcher.stop()
    (death,) = wait(launcher).values()
    assert death is not None
    assert "SIGKILL" in death


def test_the_processes_of_a_scheduler_that_was_killed_save_and_end(tmp_path: Path) -> None:
    run = run_in(tmp_path, "run")
    script = f"""
import os, signal, sys, time
from pathlib import Path
from tinygpt.sweeps.launchers.local import Local
launcher = Local(1, gpus=[])
launcher.start(Path({str(run)!r}), [sys.executable, "-c", {PATIENT!r}])
while "ready" not in Path({str(run / "process.log")!r}).read_text():
    time.sleep(0.02)
os.kill(os.getpid(), signal.SIGKILL)
"""
    code = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", script])
    assert code == -9
    until(says(run / "process.log", "saved"))


def test_a_command_on_a_cluster_has_its_threads_and_its_words_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "process.log"
    command = [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS']); exit(3)"]
    assert run_command(command, log, cwd=tmp_path, threads=5) == 3
    assert log.read_text() == "5\n"


def test_a_job_of_submitit_runs_the_command_and_reports_its_end(tmp_path: Path) -> None:
    config = SlurmConfig(cluster="local", jobs=2)
    launcher = config.build(folder=tmp_path / "sweep", devices={"cpu"})
    (tmp_path / "sweep").mkdir()
    assert (launcher.slots, launcher.threads) == (2, 1)
    run = run_in(tmp_path, "run")
    launcher.start(run, [sys.executable, "-c", "print('hello')"])
    assert wait(launcher) == {run: None}
    assert (run / "process.log").read_text() == "hello\n"
    patient = run_in(tmp_path, "patient")
    launcher.start(patient, [sys.executable, "-c", PATIENT])
    until(says(patient / "process.log", "ready"))
    launcher.stop()
    wait(launcher)
    until(says(patient / "process.log", "saved"))


def test_the_word_of_slurm_that_time_is_nearly_over_lets_a_run_save(tmp_path: Path) -> None:
    log = tmp_path / "process.log"

    def warn() -> None:
        until(says(log, "ready"))
        os.kill(os.getpid(), signal.SIGUSR2)

    threading.Thread(target=warn).start()
    command = [sys.executable, "-c", PATIENT]
    assert run_command(command, log, cwd=tmp_path, threads=None) == 0
    assert "saved" in log.read_text()


@pytest.mark.slow
def test_a_task_of_ray_runs_the_command_and_reports_its_end(tmp_path: Path) -> None:
    import ray

    launcher = RayConfig().build(folder=tmp_path, devices={"cpu"})
    try:
        assert launcher.threads == 1
        assert launcher.slots >= 1
        run, dead = run_in(tmp_path, "run"), run_in(tmp_path, "dead")
        launcher.start(run, [sys.executable, "-c", "print('hello')"])
        assert wait(launcher, seconds=60) == {run: None}
        assert (run / "process.log").read_text() == "hello\n"
        kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
        launcher.start(dead, [sys.executable, "-c", kill])
        (death,) = wait(launcher, seconds=60).values()
        assert death is not None
        assert "SIGKILL" in death
        patient = run_in(tmp_path, "patient")
        launcher.start(patient, [sys.executable, "-c", PATIENT])
        until(says(patient / "process.log", "ready"))
        launcher.stop()
        wait(launcher)
        assert "saved" in (patient / "process.log").read_text()
    finally:
        ray.shutdown()


def test_slurm_without_slurm_says_where_to_type_it() -> None:
    with pytest.raises(UserError, match="there is no srun here"):
        SlurmConfig().build(folder=Path(), devices={"cpu"})


@pytest.mark.parametrize("config", [SlurmConfig, RayConfig])
def test_gpus_and_devices_must_agree(config: type) -> None:
    with pytest.raises(UserError, match=r"type launcher\.gpus=1"):
        config().build(folder=Path(), devices={"cuda"})
    with pytest.raises(UserError, match="would lie idle"):
        config(gpus=1).build(folder=Path(), devices={"cpu"})


@pytest.mark.parametrize(
    ("config", "fields", "words"),
    [
        (LocalConfig, {"jobs": 0}, "launcher.jobs=0 must be at least 1"),
        (SlurmConfig, {"cluster": "pbs"}, "launcher.cluster=pbs is not a choice"),
        (SlurmConfig, {"cpus": 0}, "launcher.cpus=0 must be at least 1"),
        (RayConfig, {"gpus": 2}, "launcher.gpus=2 must be at most 1"),
    ],
)
def test_a_field_that_breaks_a_rule_is_named(config: type, fields: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        config(**fields)
