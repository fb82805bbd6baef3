"""What a resume may change, and what each change does."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tinygpt import train
from tinygpt.config import compose
from tinygpt.training import trial
from tinygpt.training.start import RunStart

Result = tuple[list[dict[str, float]], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def shared(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The settings of every run here, with clipped gradients and prepared tokens in common."""
    return [
        "dataset=text",
        f"dataset.path={text_file}",
        "dataset.separator='\\n\\n'",
        "model=nano",
        "model.n_layer=1",
        "model.d_model=16",
        "model.n_head=2",
        "device=cpu",
        "device.kernels=torch",
        "device.precision=fp32",
        "callback=[]",
        "schedule=constant",
        "schedule.warmup_ratio=0",
        "trainer.seq_len=16",
        "trainer.tokens_per_step=128",
        "trainer.log_every=1",
        "trainer.eval_every=100",
        "trainer.eval_bytes=300",
        f"cache_dir={tmp_path_factory.mktemp('cache')}",
    ]


def trained(settings: list[str], *, code: int = 0) -> None:
    with pytest.raises(SystemExit) as exit_info:
        train.main(settings)
    assert exit_info.value.code == code


def begun(settings: list[str], folder: Path, *more: str) -> Path:
    """A run of four steps, below this folder."""
    trained([*settings, "trainer.max_steps=4", f"output_dir={folder}", *more])
    (record,) = folder.glob("*/run.json")
    return record.parent


@pytest.fixture(scope="module")
def typed_size(shared: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begun(shared, tmp_path_factory.mktemp("typed"), "trainer.micro_batch_size=4")


@pytest.fixture(scope="module")
def measured_size(shared: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "BRIEFLY", 0.001)
        return begun(shared, tmp_path_factory.mktemp("auto"), "trainer.micro_batch_size=auto")


def resumed(run: Path, to: Path, *overrides: str) -> Path:
    """A copy of the run, two steps further, with these changes."""
    shutil.copytree(run, to)
    trained([f"resume={to}", "trainer.max_steps=6", *overrides])
    return to


def derived(run: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((run / "run.json").read_text())["derived"]
    return content


def result(run: Path) -> Result:
    """The rows of the last two steps, and the weights and optimizer after them."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    newest = max((run / "checkpoints").glob("step-*"))
    tensors = load_file(newest / "model.safetensors") | load_file(newest / "optimizer.safetensors")
    return rows[-2:], tensors


def assert_equal_up_to_rounding(ours: Result, reference: Result) -> None:
    for a, b in zip(ours[0], reference[0], strict=True):
        for name in ("step", "tokens", "train/loss", "optim/grad_norm", "optim/lr"):
            assert a[name] == pytest.approx(b[name], rel=2e-5), (a["step"], name)
    assert ours[0][-1]["val/bpb"] == pytest.approx(reference[0][-1]["val/bpb"], rel=1e-5)
    assert ours[1].keys() == reference[1].keys()
    for name, tensor in reference[1].items():
        torch.testing.assert_close(ours[1][name], tensor, rtol=1e-3, atol=1e-5)


# The micro batch


@pytest.mark.parametrize(("size", "grad_accum"), [(1, 8), (2, 4), (8, 1)])
def test_a_resume_with_another_micro_batch_trains_the_same(
    size: int, grad_accum: int, typed_size: Path, tmp_path: Path
) -> None:
    unchanged = resumed(typed_size, tmp_path / "unchanged")
    assert derived(unchanged)["grad_accum"] == 2
    changed = resumed(typed_size, tmp_path / "changed", f"trainer.micro_batch_size={size}")
    assert derived(changed)["micro_batch_size"] == size
    assert derived(changed)["grad_accum"] == grad_accum
    assert_equal_up_to_rounding(result(changed), result(unchanged))


def test_a_typed_micro_batch_replaces_one_that_was_measured(
    measured_size: Path, tmp_path: Path
) -> None:
    unchanged = resumed(measured_size, tmp_path / "unchanged")
    had = derived(unchanged)["micro_batch_size"]
    assert had == derived(measured_size)["micro_batch_size"]
    size = 2 if had == 1 else 1
    changed = resumed(measured_size, tmp_path / "changed", f"trainer.micro_batch_size={size}")
    assert derived(changed)["micro_batch_size"] == size
    assert derived(changed)["grad_accum"] == 8 // size
    assert_equal_up_to_rounding(result(changed), result(unchanged))


def test_auto_typed_at_a_resume_is_measured_then(
    typed_size: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number before was typed: it may have been too large for the memory."""
    monkeypatch.setattr(trial, "BRIEFLY", 0.001)
    monkeypatch.setattr(trial, "LARGEST", 1)  # then only one size can be the answer
    unchanged = resumed(typed_size, tmp_path / "unchanged")
    changed = resumed(typed_size, tmp_path / "changed", "trainer.micro_batch_size=auto")
    assert derived(changed)["micro_batch_size"] == 1
    assert derived(changed)["grad_accum"] == 8
    assert_equal_up_to_rounding(result(changed), result(unchanged))
    monkeypatch.setattr(trial, "LARGEST", 256)
    again = resumed(changed, tmp_path / "again", "trainer.max_steps=8")
    assert derived(again)["micro_batch_size"] == 1  # kept, as it was measured


# What is sent to the other ranks


def test_a_start_reaches_other_ranks_unchanged(shared: list[str]) -> None:
    prompt = r"callback.sample.prompts=['a \${b} c']"
    cfg = compose.compose(
        "train", [*shared, "trainer.micro_batch_size=4", "callback=[sample]", prompt]
    )
    start = RunStart(cfg, Path("outputs/x"), resumed=True, pause_at=3, compiled=False)
    sent = json.loads(json.dumps(start.to_json()))
    assert RunStart.from_json(sent) == start
    assert start.cfg.callback["sample"].prompts == ["a ${b} c"]  # type: ignore[attr-defined]
