"""A resumed run equals one that was never interrupted, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import processes
from tinygpt import train

# Runs the trainer in one process after another.  The third argument says how each one dies:
# "op:N" kills itself with SIGKILL at its N-th operation on a file, "end:N" at its N-th one after
# the last step, "at:S" is killed from outside after S seconds, "never" runs to the end.
DRIVER = """
import os, pathlib, signal, sys, time
import torch, safetensors.torch
from dataclasses import dataclass
from tinygpt import train
from tinygpt.components.loggers import jsonl
from tinygpt.interfaces import Callback, CallbackConfig
from tinygpt.records import plots
from tinygpt.registry import import_all, register
from tinygpt.training import checkpoint, launch, run

import_all()
counting = True

class End(Callback):
    def on_end(self, state):
        global counting
        counting = True

@register("callback")
@dataclass
class EndConfig(CallbackConfig):
    name: str = "end"

    def build(self, context):
        return End()

def die_at(n):
    seen = 0
    def counted(function):
        def call(*args, **kwargs):
            nonlocal seen
            seen += counting
            if seen == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return call
    for owner, name in [(os, "fsync"), (os, "replace"), (os, "rename"), (os, "mkdir"),
                        (os, "rmdir"),
                        (os, "unlink"), (pathlib.Path, "write_text"), (pathlib.Path, "rename"),
                        (pathlib.Path, "replace"), (pathlib.Path, "write_bytes"),
                        (checkpoint, "save_file"), (plots, "loss_curve"),
                        (safetensors.torch, "save_file"), (jsonl.json, "dumps")]:
        setattr(owner, name, counted(getattr(owner, name)))

outputs = pathlib.Path(sys.argv[1])
settings = sys.argv[2].split("|")
kills = 0
for death in sys.argv[3].split("|"):
    kind, _, when = death.partition(":")
    child = os.fork()
    if child == 0:
        if kind in ("op", "end"):
            die_at(int(when))
        if kind == "end":
            counting = False
        runs = sorted(outputs.glob("*/run.json"))
        train.main([f"resume={runs[0].parent}"] if runs else settings)
    if kind == "at":
        time.sleep(float(when))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    kills += os.WIFSIGNALED(status)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) != 0:
        sys.exit(f"exit {os.WEXITSTATUS(status)} after {death}")
print("kills", kills)
"""


def survive(settings: list[str], deaths: list[str], outputs: Path) -> int:
    """Run and resume until every death has happened; how many processes were killed."""
    command = [sys.executable, "-c", DRIVER, str(outputs), "|".join(settings), "|".join(deaths)]
    done = processes.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout.rsplit("kills", 1)[1])


def in_new_process(settings: list[str]) -> str:
    """Train in a process of its own; returns what it printed."""
    command = [sys.executable, "-m", "tinygpt.train", *settings]
    done = processes.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def train_here(settings: list[str]) -> None:
    """Train in this process."""
    with pytest.raises(SystemExit) as exit_info:
        train.main(settings)
    assert exit_info.value.code == 0


def result(outputs: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Weights and optimizer of the last checkpoint, and the rows without those of the clock."""
    (folder,) = (path.parent for path in outputs.glob("*/run.json"))
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    newest = max((folder / "checkpoints").glob("step-*"))
    tensors = load_file(newest / "model.safetensors") | load_file(newest / "optimizer.safetensors")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timeless = [
        {k: v for k, v in row.items() if not k.startswith("perf/") and k != "elapsed_s"}
        for row in rows
    ]
    return tensors, timeless


TIMES = ("run", "elapsed_s", "tokens_per_sec", "peak_mem_bytes")


def ending(outputs: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The summary without what the clock and the memory say, and the samples by file."""
    (folder,) = (path.parent for path in outputs.glob("*/run.json"))
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["elapsed_s"] > 0
    assert summary["tokens_per_sec"] > 0
    samples = {path.name: path.read_text() for path in (folder / "samples").iterdir()}
    return {key: value for key, value in summary.items() if key not in TIMES}, samples


def assert_same(a: Path, b: Path) -> None:
    assert ending(a) == ending(b)
    (tensors_a, rows_a), (tensors_b, rows_b) = result(a), result(b)
    assert tensors_a.keys() == tensors_b.keys()
    for name, tensor in tensors_a.items():
        assert torch.equal(tensor, tensors_b[name]), name
    assert rows_a == rows_b


@pytest.fixture
def hard(tiny, tmp_path) -> list[str]:
    """Dropout, four micro batches a step, several epochs, rows that span checkpoints."""
    changed = ("output_dir", "trainer.max_steps", "trainer.log_every", "trainer.seq_len")
    kept = [text for text in tiny if not text.startswith(changed)]
    return [
        *kept,
        "model.dropout=0.2",
        "trainer.seq_len=32",
        "trainer.micro_batch_size=4",
        "trainer.tokens_per_step=512",
        "trainer.max_steps=14",  # two epochs and a bit
        "trainer.log_every=3",
    ]


def test_five_steps_and_a_new_process_and_five_more_equal_ten(hard, tmp_path):
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    ten = [*(s for s in hard if "max_steps" not in s), "trainer.max_steps=10"]
    train_here([*ten, f"output_dir={straight}"])
    # the loss of step 6 needs the checkpoint of step 5: remove what came after it
    train_here([*ten, f"output_dir={parts}", "trainer.keep_checkpoints=10"])
    (run,) = (path.parent for path in parts.glob("*/run.json"))
    for checkpoint in (run / "checkpoints").iterdir():
        if checkpoint.name > "step-00000005":
            for file in checkpoint.iterdir():
                file.unlink()
            checkpoint.rmdir()
    assert "going on after step 5" in in_new_process([f"resume={run}"])
    assert_same(straight, parts)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_run_resumes_compiled_to_the_same_bits(hard, tmp_path):
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    settings = [*(s for s in hard if "max_steps" not in s), "device.compile=always"]
    settings += ["schedule=constant", "schedule.warmup_ratio=0"]  # the same for both lengths
    in_new_process([*settings, "trainer.max_steps=10", f"output_dir={straight}"])
    in_new_process([*settings, "trainer.max_steps=5", f"output_dir={parts}"])
    (run,) = (path.parent for path in parts.glob("*/run.json"))
    assert json.loads((run / "run.json").read_text())["derived"]["compiled"]
    said = in_new_process([f"resume={run}", "trainer.max_steps=10", "device.compile=auto"])
    assert "device.compile=auto: compiled" in said
    (tensors_a, rows_a), (tensors_b, rows_b) = result(straight), result(parts)
    for name, tensor in tensors_a.items():
        assert torch.equal(tensor, tensors_b[name]), name
    assert rows_a[-1] == rows_b[-1]  # of the others one more is of the end after five steps


@pytest.mark.slow  # test_checkpoint.py dies at each operation on a checkpoint's files
def test_processes_killed_at_operations_on_files_lose_nothing(hard, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    settings = [*hard, "trainer.save_every=1"]
    train_here([*settings, f"output_dir={straight}"])
    deaths = [f"op:{n}" for n in (25, 34, 40, 43, 47, 55)]
    assert survive([*settings, f"output_dir={killed}"], [*deaths, "never"], killed) >= 5
    assert_same(straight, killed)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "deaths", [range(1, 14, 4), pytest.param(range(1, 16), marks=pytest.mark.slow)]
)
def test_a_process_killed_after_the_last_step_loses_no_result(tiny, tmp_path, deaths):
    """Going on completes summary, samples and picture, and exits 0, as the driver checks."""
    settings = [s for s in tiny if not s.startswith(("output_dir", "callback"))]
    settings += ["callback.sample.max_new_tokens=4"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train_here([*settings, "callback=[sample]", f"output_dir={straight}"])
    ends = [f"end:{n}" for n in deaths]
    watched = [*settings, "callback=[end,sample]"]
    kills = survive([*watched, f"output_dir={killed}"], [*ends, "never"], killed)
    assert kills > len(ends) / 2
    assert_same(straight, killed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_processes_killed_anywhere_lose_nothing(hard, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    settings = [s for s in hard if "max_steps" not in s]
    settings += ["trainer.max_steps=120", "trainer.save_every=1"]
    train_here([*settings, f"output_dir={straight}"])
    deaths = [f"op:{n}" for n in range(20, 80)] + [f"at:{0.1 + i / 60:.3f}" for i in range(40)]
    kills = survive([*settings, f"output_dir={killed}"], [*deaths, "never"], killed)
    print("kills", kills)
    assert kills >= 80
    assert_same(straight, killed)


def test_a_signal_saves_and_ends_the_run_which_can_be_resumed(hard, tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    settings = [s for s in hard if "max_steps" not in s]
    settings += ["trainer.max_steps=45", "trainer.eval_every=15", "trainer.save_every=1000"]
    train_here([*settings, f"output_dir={straight}"])
    typed, seen = [*settings, f"output_dir={stopped}"], 0
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        command = [sys.executable, "-m", "tinygpt.train", *typed]
        process = processes.Forked(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        while not any(path.stat().st_size > seen for path in stopped.glob("*/metrics.jsonl")):
            time.sleep(0.01)
        os.kill(process.pid, number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == code, output
        (run,) = (path.parent for path in stopped.glob("*/run.json"))
        assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
        assert f"resume={run}" in output
        typed, seen = [f"resume={run}"], (run / "metrics.jsonl").stat().st_size
    train_here([f"resume={run}"])
    assert_same(straight, stopped)


def test_a_finished_run_continues_only_to_a_longer_horizon(tiny, tmp_path, capfd):
    train_here(tiny)
    (run,) = (path.parent for path in (tmp_path / "outputs").glob("*/run.json"))
    before = json.loads((run / "run.json").read_text())
    train_here([f"resume={run}"])
    assert "type a longer one" in "".join(capfd.readouterr())
    after = json.loads((run / "run.json").read_text())
    assert {key: value for key, value in after.items() if value != before.get(key)} == {}
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    train_here([f"resume={run}", "trainer.max_steps=12"])
    assert "going on after step 10" in "".join(capfd.readouterr())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert len(json.loads((run / "run.json").read_text())["resumed"]) == 1
