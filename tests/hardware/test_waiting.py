"""Threads sleep instead of spin while other work uses the cores, and results stay the same."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tinygpt.hardware import waiting
from tinygpt.hardware.waiting import (
    CALM,
    CALM_S,
    CONTENDED,
    INTERVAL_S,
    MAX_CALM_S,
    VARIABLES,
    Policy,
)

needs_libgomp = pytest.mark.skipif(waiting.libgomp() is None, reason="torch has no libgomp here")

# two threads, as a user has them who has set nothing
SCRIPT = """
import hashlib, json, os, sys, time
from pathlib import Path
import torch
from tinygpt.hardware import waiting
from tinygpt.train import main

outputs = Path(sys.argv[1])
settings = json.loads(sys.argv[2])
found = {}

def threads():
    return set(os.listdir("/proc/self/task"))

def soon(true):
    end = time.monotonic() + 10
    while not true() and time.monotonic() < end:
        time.sleep(0.01)

def cpu_s_of_others():
    own = str(os.getpid())
    files = [Path(f"/proc/self/task/{t}/schedstat") for t in threads() - {own}]
    texts = [file.read_text() for file in files if file.exists()]  # a thread may have ended
    return sum(int(text.split()[0]) for text in texts) / 1e9

def waits_s():
    x = torch.zeros(1 << 17)
    before = cpu_s_of_others()
    for _ in range(15):
        x.add_(1)  # by two threads; the other one waits during the pause
        time.sleep(0.02)
    return cpu_s_of_others() - before

def trained(name, *more):
    try:
        main([*settings, f"output_dir={outputs / name}", *more])
    except SystemExit as end:
        assert end.code == 0, end
    (run,) = (outputs / name).iterdir()
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    *_, checkpoint = sorted((run / "checkpoints").glob("step-*"))
    bits = hashlib.sha256()
    for name in ("model.safetensors", "optimizer.safetensors"):
        bits.update((checkpoint / name).read_bytes())
    log = (run / "train.log").read_text()
    return {"losses": [r["train/loss"] for r in rows], "bits": bits.hexdigest(), "log": log}

waits_s()
gomp = waiting.libgomp()
idle, n_before = waiting.IdleThreads(gomp), len(threads())
found["spin"] = waits_s()
assert idle.start()
soon(lambda: len(threads()) > n_before + gomp.omp_get_num_procs())
found["sleep"] = waits_s()
found["slept"] = trained("slept")
idle.end()
found["spin again"] = waits_s()
os.environ["GOMP_SPINCOUNT"] = "300000"  # libgomp has read it; this turns the monitor off
found["spun"] = trained("spun")
del os.environ["GOMP_SPINCOUNT"]

before = threads()
cores = os.sched_getaffinity(0)
for thread in before:  # all threads on one core: one waits while another one spins
    os.sched_setaffinity(int(thread), {min(cores)})
found["contended"] = trained("contended", "trainer.max_steps=null", "trainer.max_time=1.5")
soon(lambda: not threads() - before)
found["threads left"] = len(threads() - before)
Path(outputs / "found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> dict[str, Any]:
    """What SCRIPT finds in a process of its own."""
    folder = tmp_path_factory.mktemp("waiting")
    settings = [
        *("dataset=text", f"dataset.path={text_file}", "dataset.separator='\\n\\n'"),
        *("model=nano", "model.n_layer=2", "model.d_model=16", "model.n_head=2"),
        *("device=cpu", "device.precision=fp32", "device.compile=never", "callback=[]"),
        *("trainer.seq_len=16", "trainer.micro_batch_size=2", "trainer.tokens_per_step=64"),
        *("trainer.max_steps=4", "trainer.log_every=1", f"cache_dir={folder / 'cache'}"),
    ]
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder, json.dumps(settings)],
        env=environment | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return content


@pytest.mark.slow  # the policy below is tested without a process
@needs_libgomp
def test_idle_threads_make_the_others_sleep_until_they_end(found: dict[str, Any]) -> None:
    """CPU time of a thread that waits 15 times for 20 ms; it spins for 1 to 15 ms each time."""
    assert found["sleep"] < found["spin"] / 4
    assert found["sleep"] < found["spin again"] / 4


@pytest.mark.slow  # the policy below is tested without a process
@needs_libgomp
def test_sleeping_and_spinning_give_the_same_bits(found: dict[str, Any]) -> None:
    slept, spun = found["slept"], found["spun"]
    assert slept["losses"] == spun["losses"]
    assert slept["bits"] == spun["bits"]
    assert len(spun["losses"]) == 4


@pytest.mark.slow  # the policy below is tested without a process
@needs_libgomp
def test_a_run_on_contended_cores_adapts_says_so_once_and_leaves_no_thread(
    found: dict[str, Any],
) -> None:
    said = "other work uses the cores of this run: its threads now sleep instead of spin"
    assert found["contended"]["log"].count(said) == 1
    assert found["threads left"] == 0


# When there is nothing to adapt


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def is_monitored() -> bool:
    with waiting.adapted_to_load():
        inside = "waiting" in {thread.name for thread in threading.enumerate()}
    assert "waiting" not in {thread.name for thread in threading.enumerate()}
    return inside


@needs_libgomp
@pytest.mark.usefixtures("two_threads")
def test_one_thread_is_not_monitored() -> None:
    assert is_monitored()
    torch.set_num_threads(1)
    assert not is_monitored()


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", VARIABLES)
def test_who_chose_by_a_variable_how_threads_wait_is_not_overruled(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "passive")
    assert not is_monitored()


# The policy


def decisions(policy: Policy, delayed: float, *, start: float, seconds: float) -> list[bool]:
    n = round(seconds / INTERVAL_S)
    return [policy.decide(delayed, now=start + INTERVAL_S * i) for i in range(n)]


def test_threads_sleep_from_the_first_contended_measurement_until_calm_has_lasted() -> None:
    policy = Policy()
    assert not any(decisions(policy, CONTENDED - 0.01, start=0, seconds=10))
    assert all(decisions(policy, CONTENDED + 0.01, start=10, seconds=1))
    assert all(
        decisions(policy, CALM + 0.01, start=11, seconds=60)
    )  # less, as sleepers demand less
    after = decisions(policy, CALM - 0.01, start=71, seconds=5)
    assert after == [INTERVAL_S * i < CALM_S for i in range(len(after))]


def test_a_short_calm_is_none() -> None:
    policy = Policy()
    for start in range(0, 20, 2):
        assert all(decisions(policy, CONTENDED + 0.01, start=start, seconds=1.2))
        assert all(decisions(policy, 0, start=start + 1.2, seconds=0.8))


def test_where_sleeping_hides_the_contention_spinning_is_tried_less_and_less_often() -> None:
    policy, sleeps, spun_at = Policy(), False, []
    for i in range(round(300 / INTERVAL_S)):
        slept, now = sleeps, i * INTERVAL_S
        sleeps = policy.decide(0.0 if sleeps else 0.7, now=now)
        if slept and not sleeps:
            spun_at.append(now)
    gaps = [round(after - before) for before, after in pairwise(spun_at)]
    assert gaps[:5] == [2, 4, 8, 16, 30]
    assert set(gaps[5:]) == {round(MAX_CALM_S)}
    # after a time without contention, it is tried soon again
    policy.decide(0.0, now=1000)
    assert not policy.decide(0.0, now=1100)
    assert policy.decide(0.7, now=1200)
    policy.decide(0.0, now=1201)
    assert not policy.decide(0.0, now=1201 + CALM_S)
