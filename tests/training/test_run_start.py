"""Settings that a resume may change, and the effect of each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tinygpt import train
from tinygpt.config import compose, load
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
        "tokenizer=char",
        "optimizer=adamw",
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
        patch.setattr(trial, "LARGEST", 2)
        return begun(shared, tmp_path_factory.mktemp("auto"), "trainer.micro_batch_size=auto")


def resumed(run: Path, to: Path, *overrides: str) -> Path:
    """A copy of the run, two steps further, with these changes."""
    shutil.copytree(run, to)
    trained([f"resume={to}", "trainer.max_steps=6", *overrides])
    return to


@pytest.fixture(scope="module")
def unchanged(typed_size: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a typed size, two steps further as it was."""
    return resumed(typed_size, tmp_path_factory.mktemp("unchanged") / "run")


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


@pytest.mark.parametrize(
    ("size", "grad_accum"),
    # smaller and larger than before
    [(1, 8), (8, 1), pytest.param(2, 4, marks=pytest.mark.slow)],
)
def test_a_resume_with_another_micro_batch_trains_the_same(
    size: int, grad_accum: int, typed_size: Path, unchanged: Path, tmp_path: Path
) -> None:
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
    typed_size: Path, unchanged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number before was typed: it may have been too large for the memory."""
    monkeypatch.setattr(trial, "BRIEFLY", 0.001)
    monkeypatch.setattr(trial, "LARGEST", 1)  # then only one size can be the answer
    changed = resumed(typed_size, tmp_path / "changed", "trainer.micro_batch_size=auto")
    assert derived(changed)["micro_batch_size"] == 1
    assert derived(changed)["grad_accum"] == 8
    assert_equal_up_to_rounding(result(changed), result(unchanged))
    monkeypatch.setattr(trial, "LARGEST", 256)
    again = resumed(changed, tmp_path / "again", "trainer.max_steps=8")
    assert derived(again)["micro_batch_size"] == 1  # kept, as it was measured


# Every other field: what it changes


CHANGED = [
    "optimizer.lr=5e-3",
    "schedule.warmup_ratio=0.25",
    "trainer.max_steps=8",
    "trainer.log_every=2",
    "trainer.eval_every=3",
    "trainer.save_every=1",
    "trainer.keep_checkpoints=3",
    "device.threads=2",
    "device.precision=bf16",
    "device.compile=auto",
    "callback.sample.prompts=[Ben]",
    "callback.early_stop.patience=99",
    "workers=1",
    "output_dir=elsewhere",
]


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def hardware(run: Path, name: str) -> object:
    return derived(run)["hardware"][name]  # type: ignore[index]


def log(run: Path) -> str:
    return (run / "train.log").read_text()


# setting -> (what it did to the run, that value in the run with all of CHANGED)
EFFECTS: dict[str, tuple[Callable[[Path], object], object]] = {
    "optimizer.lr": (lambda run: rows(run)[-1]["optim/lr"], 5e-3),
    # step 5 is the first one after the resume: the middle of it is 4.5 / 8 of the run
    "schedule.warmup_ratio": (lambda run: rows(run)[4]["optim/lr"] < 5e-3, False),
    "trainer.max_steps": (lambda run: derived(run)["max_steps"], 8),
    "trainer.log_every": (lambda run: 5 in [row["step"] for row in rows(run)[4:]], False),
    "trainer.eval_every": (
        lambda run: [row["step"] for row in rows(run)[4:] if "val/bpb" in row],
        [6, 8],
    ),
    "trainer.save_every": (lambda run: 7 in kept(run), True),
    "trainer.keep_checkpoints": (lambda run: len(kept(run)) >= 3, True),
    "device.threads": (lambda run: hardware(run, "threads"), 2),
    "device.precision": (lambda run: hardware(run, "precision"), "bf16"),
    "device.compile": (
        lambda run: "device.compile=auto: not compiled, as before" in log(run),
        True,
    ),
    "callback.sample.prompts": (
        lambda run: "--- prompt: 'Ben'" in newest_sample(run),
        True,
    ),
    "callback.early_stop.patience": (lambda run: "has not improved" in log(run), False),
    "workers": (lambda run: load(run / "config.yaml").workers, 1),
    "output_dir": (lambda run: load(run / "config.yaml").output_dir, "elsewhere"),
}


def kept(run: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in (run / "checkpoints").iterdir()]


def newest_sample(run: Path) -> str:
    return max((run / "samples").iterdir()).read_text()


@pytest.fixture(scope="module")
def plain_and_changed(
    shared: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run that was resumed as it is, but longer, and one with every change at once."""
    folder = tmp_path_factory.mktemp("changes")
    began = begun(
        shared,
        folder,
        "trainer.micro_batch_size=8",
        "schedule.warmup_ratio=0.9",
        "callback=[sample,early_stop]",
        "callback.early_stop.patience=1",
        "callback.early_stop.min_delta=9",
        "callback.sample.max_new_tokens=2",
        "device.compile=never",
        "device.threads=1",
    )
    plain, changed = folder / "plain", folder / "changed"
    shutil.copytree(began, changed)
    trained([f"resume={changed}", *CHANGED])
    torch.set_num_threads(1)
    return resumed(began, plain), changed


@pytest.mark.parametrize("setting", EFFECTS)
def test_a_field_that_is_changed_at_a_resume_takes_effect(
    setting: str, plain_and_changed: tuple[Path, Path]
) -> None:
    plain, changed = plain_and_changed
    effect, expected = EFFECTS[setting]
    assert effect(changed) == expected
    assert effect(plain) != expected
    assert setting in {text.partition("=")[0] for text in CHANGED}


@pytest.mark.parametrize(
    "change",
    ["optimizer.weight_decay=9", "optimizer.beta1=0", "optimizer.eps=1", "trainer.grad_clip=1e-3"],
)
def test_an_optimizer_that_is_changed_at_a_resume_makes_other_steps(
    change: str, typed_size: Path, unchanged: Path, tmp_path: Path
) -> None:
    before = result(unchanged)
    changed = result(resumed(typed_size, tmp_path / "b", change))
    first, other = (rows_of_steps[0] for rows_of_steps in (before[0], changed[0]))
    assert first["train/loss"] == other["train/loss"]  # the step before the first difference
    assert any(not torch.equal(before[1][name], changed[1][name]) for name in before[1])


REFUSED = {
    "seed=1": "would make resume=",
    "model.n_layer=3": "would make resume=",
    "dataset.window=document": "would make resume=",
    "tokenizer.name=byte": "would make resume=",
    "trainer.seq_len=8": "would make resume=",
    "trainer.tokens_per_step=256": "would make resume=",
    "trainer.eval_bytes=100": "would make resume=",
    "optimizer=adamw": "is a choice",
    "optimizer.name=adamw": "is a choice",
    "schedule=linear": "is a choice",
    "schedule.name=linear": "is a choice",
    "logger=tensorboard": "is a choice",
    "callback=[sample]": "is a choice",
    "callback.sample.name=early_stop": "is a choice",
    "device=cpu": "change single fields, such as device.type=cpu",
    "trainer=default": "is a choice",
    "optimizer.lrr=1": "optimizer.lrr is not a field; did you mean optimizer.lr?",
    "device.parallel=fsdp": "device.parallel=fsdp is for several processes",
    "device.kernels=other": "device.kernels=other",
    "trainer.micro_batch_size=3": "is not a multiple of",
    "trainer.max_steps=3": "trainer.max_steps=3 is 3 steps, and the run has reached step 4; "
    "type a longer one, such as trainer.max_steps=8",
    "trainer.max_tokens=256": "trainer.max_tokens=256 is 2 steps, and the run has reached step 4",
    "trainer.max_epochs=0.01": "trainer.max_epochs=0.01 is 1 steps",
    "trainer.max_flops=1": "trainer.max_flops=1 is 1 steps",
    "trainer.max_time=0.0001": "trainer.max_time=0.0001 is shorter than the",
    "until=3": "until=3 is before step 4, which the run has reached; type a later one",
}


def contents(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("typed", REFUSED)
def test_what_a_resume_cannot_change_is_refused_by_name_and_nothing_is_written(
    typed: str, typed_size: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(typed_size)
    trained([f"resume={typed_size}", typed], code=2)
    said = capsys.readouterr().err
    assert typed.partition("=")[0].rpartition(".")[2] in said
    assert REFUSED[typed] in said
    assert contents(typed_size) == before


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
