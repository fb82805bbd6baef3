"""The train command end to end: the run folder that it writes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import processes
from tinygpt import config, train
from tinygpt.config import compose, overrides


def run(settings: list[str], *, code: int = 0) -> None:
    with pytest.raises(SystemExit) as exit_info:
        train.main(settings)
    assert exit_info.value.code == code


def only_run(outputs: Path) -> Path:
    (record,) = outputs.glob("*/run.json")
    return record.parent


@pytest.fixture(scope="module")
def trained(tiny_in, tmp_path_factory) -> Path:
    """The folder of a run of the tiny settings."""
    folder = tmp_path_factory.mktemp("trained")
    run(tiny_in(folder))
    return only_run(folder / "outputs")


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    """A copy of it, to go on with."""
    return shutil.copytree(trained, tmp_path / "outputs" / trained.name)


# A run as the command makes it, which fails if it imports torch.compile: that takes 3 s.
SMOKE = """
import sys
from tinygpt.train import main
try:
    main(["experiment=smoke", "cache_dir=cache"])
finally:
    assert "torch._dynamo" not in sys.modules
"""


def test_the_smallest_experiment_trains_and_writes_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-c", SMOKE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = only_run(tmp_path / "outputs")
    present = {path.name for path in folder.iterdir()}
    assert present >= {
        *("config.yaml", "overrides.yaml", "run.json", "train.log", "metrics.jsonl"),
        *("summary.json", "loss.png", "checkpoints", "samples", "tokenizer"),
    }
    last_line = done.stdout.splitlines()[-1]
    assert last_line.strip().startswith(f"python -m tinygpt.sample run=outputs/{folder.name}")
    sample = [sys.executable, "-m", "tinygpt.sample", "run=latest", "prompt=One day", "seed=3"]
    wrote = processes.run(sample, cwd=tmp_path, capture_output=True, text=True)
    assert wrote.returncode == 0, wrote.stderr
    assert "One day" in wrote.stdout


@pytest.mark.usefixtures("real_pictures")
def test_a_run_is_recorded_whole(tiny, tmp_path):
    run([*tiny, "callback=[sample]", "callback.sample.max_new_tokens=5"])
    folder = only_run(tmp_path / "outputs")
    cfg = config.load(folder / "config.yaml")
    assert cfg == compose.compose("train", overrides.jobs(
        [*tiny, "callback=[sample]", "callback.sample.max_new_tokens=5"], multirun=False)[0]
    )  # fmt: skip
    assert "model=nano" in yaml.safe_load((folder / "overrides.yaml").read_text())
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["error"] is None
    assert record["derived"]["max_steps"] == 10
    assert {"python", "torch", "tinygpt"} <= record["versions"].keys()
    assert record["derived"]["hardware"]["threads"] >= 1
    summary = json.loads((folder / "summary.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert summary["val/bpb"] == rows[-1]["val/bpb"]
    assert summary["tokens"] == 640
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "loss.png").stat().st_size > 5000
    samples = sorted(path.name for path in (folder / "samples").iterdir())
    assert samples == ["step-00000004.txt", "step-00000008.txt", "step-00000010.txt"]
    assert "finished in" in (folder / "train.log").read_text()


def test_the_config_of_a_run_makes_the_same_run_again(trained, tmp_path):
    run([f"config_file={trained / 'config.yaml'}", f"output_dir={tmp_path}"])
    weights = "checkpoints/step-00000010/model.safetensors"
    assert (only_run(tmp_path) / weights).read_bytes() == (trained / weights).read_bytes()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["model.d_model=1000000"], "the model has 24,"),
        (["trainer.tokens_per_step=1099511627776"], "trainer.tokens_per_step=1099511627776 needs"),
    ],
)
def test_what_memory_cannot_hold_is_refused_before_there_is_a_folder(
    settings, said, tiny, tmp_path, capsys
):
    run([*tiny, *settings], code=2)
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert "GB of memory are free; use a smaller" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_a_typo_in_the_last_job_of_a_sweep_is_reported_before_the_first_starts(tiny, tmp_path):
    run(["-m", *tiny, "optimizer.lr=1e-3,-1"], code=2)
    assert not (tmp_path / "outputs").exists()


def test_changed_data_cannot_be_resumed(tiny, tmp_path, text_file, capsys):
    path = tmp_path / "changing.txt"
    path.write_text(text_file.read_text())
    settings = [text for text in tiny if not text.startswith("dataset.path")]
    run([*settings, f"dataset.path={path}"])
    folder = only_run(tmp_path / "outputs")
    path.write_text(text_file.read_text() * 2)
    run([f"resume={folder}", "trainer.max_steps=20"], code=1)
    assert "are not those that the run began with" in capsys.readouterr().err


def test_a_run_by_storyworld_reports_how_far_above_the_floor_it_stands(tmp_path):
    run([
        "experiment=smoke", "callback=[]",
        f"cache_dir={tmp_path / 'cache'}", f"output_dir={tmp_path / 'outputs'}",
    ])  # fmt: skip
    summary = json.loads((only_run(tmp_path / "outputs") / "summary.json").read_text())
    assert summary["val/bpb"] - summary["floor_bpb"] == summary["val/bpb_above_floor"] > 0


def test_a_run_that_is_resumed_keeps_its_choices_and_changes_single_fields(copied, capsys):
    folder = copied
    run([f"resume={folder}", "logger=wandb"], code=2)
    assert "logger=wandb is a choice, and a resumed run keeps" in capsys.readouterr().err
    run([f"resume={folder}", "trainer.max_steps=12", "optimizer.lr=1e-4"])
    cfg = config.load(folder / "config.yaml")
    assert (cfg.trainer.max_steps, cfg.optimizer.lr) == (12, 1e-4)


@pytest.mark.gcc
def test_a_run_that_is_resumed_says_what_computes_its_numbers_differently(copied, capsys):
    resume = [f"resume={copied}"]
    run([*resume, "trainer.max_steps=12"])
    assert "last bits" not in capsys.readouterr().err
    run([*resume, "trainer.max_steps=14", "device.kernels=torch"])
    said = "kernels was fused and is torch: results may differ in the last bits from here on"
    assert f"warning: {said}" in capsys.readouterr().err


@pytest.mark.parametrize("typed", [
    ["dataset=hub", "dataset.repo=https://user:hunter2@host/x"],
    ["output_dir='${oc.env:SECRET}'"],
    ["logger=wandb", "logger.wandb.mode=offline"],
])  # fmt: skip
def test_a_secret_is_refused_before_there_is_a_folder(tiny, tmp_path, typed, monkeypatch, capsys):
    monkeypatch.setenv("SECRET", "hunter2")
    monkeypatch.setenv("WANDB_BASE_URL", "https://user:hunter2@host")
    before = sorted(tmp_path.rglob("*"))
    run([*(text for text in tiny if typed[0][:7] != "dataset" or "dataset" not in text), *typed],
        code=2)  # fmt: skip
    assert sorted(tmp_path.rglob("*")) == before
    assert "hunter2" not in "".join(capsys.readouterr())
