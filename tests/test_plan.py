"""What a run will take, and the micro batch that is measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tinygpt import plan, train
from tinygpt.components.loggers.jsonl import read_rows
from tinygpt.config import RunConfig, compose
from tinygpt.errors import UserError
from tinygpt.planning import estimate
from tinygpt.training import trial

SIXTEEN = ["trainer.tokens_per_step=16384", "tokenizer=bpe"]


def config(tiny: list[str], *more: str) -> RunConfig:
    cfg: RunConfig = compose.compose("train", [*tiny, *more])
    return cfg


@pytest.fixture(autouse=True)
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured here is not reported."""
    monkeypatch.setattr(estimate, "SECONDS", 0.02)
    monkeypatch.setattr(trial, "BRIEFLY", 0.005)


def said(capsys: pytest.CaptureFixture[str], *typed: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as exit_info:
        plan.main(list(typed))
    captured = capsys.readouterr()
    assert exit_info.value.code == code, captured.err
    return captured.out + captured.err


def test_parameters_are_counted_without_memory_for_them() -> None:
    cfg = compose.compose("train", ["model=gpt2_xl", "trainer.seq_len=1024", *SIXTEEN])
    count = trial.sizes(cfg, 50257)
    assert count.total == 1_557_611_200  # Radford et al. 2019, with tied embeddings
    assert count.embedding == (50257 + 1024) * 1600


def test_micro_batches_are_powers_of_two_that_divide_a_step(tiny: list[str]) -> None:
    step = "trainer.tokens_per_step={}"
    assert list(trial.candidates(config(tiny, step.format(16 * 12)))) == [1, 2, 4]
    assert list(trial.candidates(config(tiny, step.format(16 * 12)), ranks=2)) == [1, 2]


def test_the_largest_that_fits_follows_from_two_sizes(tiny: list[str]) -> None:
    cfg = config(tiny, "trainer.tokens_per_step=1024")  # 64 sequences

    def measured(size: int) -> int:
        return 100 + 10 * size

    assert estimate.largest_that_fits(cfg, measured, free=400) == (16, 10)  # 260 < 360 < 420
    assert estimate.largest_that_fits(cfg, measured, free=100) == (None, 10)


def test_a_plan_says_what_a_run_takes_and_counts_as_the_run_does(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, *tiny, "trainer.max_steps=200")
    assert "12,800 in 200 steps of 64" in text
    assert "100 different characters are assumed" in text
    assert "at its peak" in text
    assert "ms a step" in text
    assert "without evaluations, which are of all the validation text" in text


@pytest.mark.slow  # its runs are planned as the one above
def test_a_plan_of_a_sweep_adds_up(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "-m", *tiny, "seed=0,1,2", "launcher.jobs=1")
    assert "3 runs, 1 at once" in text
    assert text.count("parameters") == 1  # they are of one kind


def test_a_device_that_is_not_here_is_planned_by_formula(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    text = said(capsys, *tiny, "device=cuda", "device.precision=auto")
    assert "by formula" in text
    assert "cannot be predicted here: this machine has no cuda device" in text


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["modle=tiny"], "modle is not a field; did you mean model?"),
        (["seed=0,1"], "type -m before it"),
        (["-m", "sweep=optuna", "optimizer.lr=1e-3,1e-2"], "chooses its configs on the way"),
    ],
)
def test_a_mistyped_plan_is_told_what_to_type(
    typed: list[str], words: str, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in said(capsys, *tiny, *typed, code=2)


def test_a_trial_that_dies_is_told_with_what_to_type(tiny: list[str]) -> None:
    cfg = config(tiny)
    broken = replace(cfg, device=replace(cfg.device, type="mps"))
    with pytest.raises(UserError, match=r"the trial of trainer\.micro_batch_size=4 ended"):
        estimate.measure(broken, 50, seconds=0.1)


def test_a_trial_is_not_compiled_unless_that_is_asked_for(tiny: list[str]) -> None:
    """A run of a million steps would be, and compiling takes a minute for each micro batch."""
    cfg = config(tiny, "device.compile=auto", "device.kernels=torch")
    with trial.trial(cfg, trial.alone(cfg), 50) as trainer:
        assert trainer.model_loss is trainer.plain_loss


# test_run_start.py has fast ones, in which what is measured is replaced at a resume
@pytest.mark.slow
def test_an_automatic_micro_batch_is_recorded_and_kept_by_a_resume(
    tiny: list[str], tmp_path: Path
) -> None:
    settings = [*tiny, "trainer.micro_batch_size=auto"]
    with pytest.raises(SystemExit) as exit_info:
        train.main(settings)
    assert exit_info.value.code == 0
    (path,) = (tmp_path / "outputs").iterdir()
    record = json.loads((path / "run.json").read_text())
    assert record["derived"]["micro_batch_size"] in (1, 2, 4)
    assert record["config"]["trainer"]["micro_batch_size"] == "auto"
    record["derived"]["micro_batch_size"] = 1
    (path / "run.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit):
        train.main([f"resume={path}", "trainer.max_steps=12"])
    again = json.loads((path / "run.json").read_text())
    assert again["derived"]["micro_batch_size"] == 1
    assert again["derived"]["grad_accum"] == 4
    assert read_rows(path / "metrics.jsonl")[-1]["step"] == 12


@pytest.mark.parametrize("value", ["large", "0"])
def test_a_micro_batch_is_a_number_or_auto(value: str) -> None:
    with pytest.raises(UserError, match=r"trainer\.micro_batch_size="):
        compose.compose("train", [f"trainer.micro_batch_size={value}"])
