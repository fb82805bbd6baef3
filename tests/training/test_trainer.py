"""The training loop: steps, evaluation, and the ends of a run."""

import errno
import itertools
import json
import math
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tinygpt import train
from tinygpt.config import compose
from tinygpt.corpus.prepared import prepare
from tinygpt.evaluation.subject import Subject
from tinygpt.hardware.runtime import Runtime
from tinygpt.interfaces import Logger
from tinygpt.language_model import LanguageModel
from tinygpt.training import checkpoint
from tinygpt.training.cadence import Cadence, affordable_evals
from tinygpt.training.checkpoint import Checkpoints, load_state
from tinygpt.training.state import TrainState
from tinygpt.training.trainer import Trainer
from tinygpt.training.validation import Validation


def run(settings: list[str], *, code: int = 0) -> Path:
    """Train by the entry point; the folder of the run."""
    with pytest.raises(SystemExit) as exit_info:
        train.main(settings)
    assert exit_info.value.code == code
    outputs = Path(next(s for s in settings if s.startswith("output_dir=")).partition("=")[2])
    return max(outputs.iterdir(), key=lambda path: path.name)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = max((folder / "checkpoints").glob("step-*"))
    return load_file(newest / "model.safetensors")


@pytest.fixture(scope="module")
def plain(tiny_in, tmp_path_factory) -> Path:
    """A run of the tiny settings."""
    return run(tiny_in(tmp_path_factory.mktemp("plain")))


def test_growing_steps_take_the_data_in_order_follow_the_rate_in_tokens_and_resume(
    tiny, tmp_path, capsys
):
    """A run of 10 steps from 1 to 4 sequences; its first steps are smaller than a micro batch."""
    first = "trainer.first_tokens_per_step=16"
    settings = [*(s for s in tiny if not s.startswith("output_dir")), first]
    settings += ["trainer.keep_checkpoints=2"]
    straight = run([*settings, f"output_dir={tmp_path / 'straight'}"])
    made = rows(straight)
    sizes = np.diff([0, *(row["tokens"] for row in made)])
    assert sizes.tolist() == [16] * 4 + [32] * 2 + [64] * 4
    total, schedule = 384, compose.compose("train", settings).schedule
    for row, size in zip(made, sizes, strict=True):
        progress = (row["tokens"] - size / 2) / total
        assert row["optim/lr"] == pytest.approx(1e-3 * schedule.multiplier(progress), rel=1e-12)
    record = json.loads((straight / "run.json").read_text())
    summary = json.loads((straight / "summary.json").read_text())
    assert record["derived"]["max_tokens"] == summary["tokens"] == total

    parts = shutil.copytree(straight, tmp_path / "parts" / straight.name)
    output_dir = f"output_dir={tmp_path / 'parts'}"
    shutil.rmtree(parts / "checkpoints" / "step-00000010")  # as if killed between steps 5 and 10
    run([f"resume={parts}", "trainer.max_steps=20", output_dir], code=2)
    assert "trainer.max_steps=20 would move the steps at which updates grow" in (
        capsys.readouterr().err
    )
    run([f"resume={parts}", output_dir])
    assert [(row["tokens"], row["train/loss"]) for row in rows(parts)] == [
        (row["tokens"], row["train/loss"]) for row in made
    ]
    for name, tensor in weights(straight).items():
        assert torch.equal(tensor, weights(parts)[name])


def test_a_step_that_does_not_fill_its_forwards_is_the_mean_over_its_sequences(tiny, tmp_path):
    """Forwards of 3 and 1 of 4 sequences weigh 3 to 1: as if all were in one forward."""
    settings = [s for s in tiny if not s.startswith(("output_dir", "trainer.micro", "trainer.tok"))]
    settings += ["trainer.tokens_per_step=192", "trainer.first_tokens_per_step=96"]
    settings += ["trainer.max_steps=1"]
    losses = []
    for size in (4, 6, 12):
        folder = run(
            [*settings, f"trainer.micro_batch_size={size}", f"output_dir={tmp_path / str(size)}"]
        )
        (row,) = rows(folder)
        assert row["tokens"] == 96
        losses.append((row["train/loss"], row["optim/grad_norm"]))
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)
    assert losses[1] == pytest.approx(losses[2], rel=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(plain, tiny):
    first, again = weights(plain), weights(run(tiny))
    other = weights(run([*tiny, "seed=1"]))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_the_result_does_not_depend_on_the_micro_batch(plain, tiny):
    wide, narrow = plain, run([*tiny, "trainer.micro_batch_size=1"])
    for name, tensor in weights(wide).items():
        torch.testing.assert_close(weights(narrow)[name], tensor, rtol=1e-4, atol=1e-6)
    for a, b in zip(rows(wide), rows(narrow), strict=True):
        assert a["train/loss"] == pytest.approx(b["train/loss"], rel=1e-5)


def test_a_small_text_is_learned_by_heart(tiny):
    shape = ["model.d_model=32", "trainer.seq_len=64", "trainer.tokens_per_step=512"]
    shape.append("trainer.micro_batch_size=8")
    length = ["trainer.max_steps=250", "trainer.log_every=50", "trainer.eval_every=250"]
    losses = [row["train/loss"] for row in rows(run([*tiny, *shape, *length, "optimizer.lr=1e-2"]))]
    assert losses[0] > 1.5
    assert losses[-1] < 0.5


def test_gradients_are_made_no_longer_than_the_limit(tiny):
    def first_step(limit: float) -> tuple[float, float]:
        """The norm in the row, and that of the gradients which the optimizer saw."""
        folder = run([*tiny, "trainer.max_steps=1", f"trainer.grad_clip={limit}"])
        (checkpoint,) = (folder / "checkpoints").iterdir()
        moments = load_file(checkpoint / "optimizer.safetensors")
        squares = sum(
            float(m.square().sum()) for name, m in moments.items() if name.endswith("exp_avg")
        )
        return rows(folder)[0]["optim/grad_norm"], math.sqrt(squares) / (1 - 0.9)

    norm, seen = first_step(0)
    assert seen == pytest.approx(norm, rel=1e-5)
    for limit in (2 * norm, norm / 2):
        said, clipped = first_step(limit)
        assert said == norm
        assert clipped == pytest.approx(min(norm, limit), rel=1e-5)


def test_the_norm_of_many_gradients_is_right(tiny):
    """A running total in fp32 would lose three in ten thousand of it."""
    trainer = by_the_clock(tiny)
    trainer.state.model = model = nn.Embedding(100_000, 100)
    torch.manual_seed(0)
    model.weight.grad = torch.randn(100_000, 100)
    exact = model.weight.grad.double().norm().item()
    assert trainer.runtime.clip(model.parameters(), 1.0).item() == pytest.approx(exact, rel=1e-6)
    assert model.weight.grad.double().norm().item() == pytest.approx(1, rel=1e-5)


def test_rows_hold_the_mean_loss_of_the_steps_since_the_row_before(tiny):
    every = [row["train/loss"] for row in rows(run([*tiny, "trainer.eval_every=10"]))]
    folder = run([*tiny, "trainer.eval_every=10", "trainer.log_every=5"])
    fives = [row["train/loss"] for row in rows(folder)]
    assert fives == pytest.approx([np.mean(every[:5]), np.mean(every[5:])], rel=1e-6)


def test_the_learning_rate_follows_the_schedule_at_the_middle_of_each_step(tiny):
    settings = [*tiny, "schedule=linear", "schedule.warmup_ratio=0", "schedule.min_lr_ratio=0"]
    lrs = [row["optim/lr"] for row in rows(run([*settings, "optimizer.lr=1"]))]
    assert lrs == pytest.approx([1 - (step + 0.5) / 10 for step in range(10)])


def without_horizon(settings: list[str]) -> list[str]:
    return [s for s in settings if not s.startswith("trainer.max_steps")]


def test_each_horizon_ends_the_run_where_it_says(tiny):
    def steps(horizon: str) -> int:
        return rows(run([*without_horizon(tiny), horizon]))[-1]["step"]

    n_windows = (prepared(tiny).splits["train"].tokens - 1) // 16
    assert steps("trainer.max_tokens=448") == 7
    assert steps("trainer.max_epochs=0.1") == round(0.1 * n_windows / 4)


def test_a_run_by_the_clock_stops_soon_after_it(tiny):
    folder = run([*without_horizon(tiny), "trainer.max_time=1s"])
    assert rows(folder)[-1]["step"] > 3
    assert 1.0 <= json.loads((folder / "summary.json").read_text())["elapsed_s"] < 3.0


def prepared(settings: list[str]):
    return prepare(compose.compose("train", settings), print)


def test_equal_compute_gives_a_wider_model_fewer_steps(tiny):
    def planned(width: int) -> tuple[int, int]:
        cfg = ["trainer.max_steps=null", "trainer.max_flops=2e7", f"model.d_model={width}"]
        record = json.loads((run([*tiny, *cfg]) / "run.json").read_text())["derived"]
        return record["max_steps"], record["flops_per_token"]

    (narrow, cheap), (wide, dear) = planned(8), planned(32)
    assert narrow == round(2e7 / (cheap * 64)) > wide == round(2e7 / (dear * 64)) >= 1


def test_evaluations_are_as_many_as_are_affordable():
    """For an eightieth of the work; a short run up to five, for at most a tenth of the work."""
    assert affordable_evals(run=80 * 7, each=1) == 7
    assert affordable_evals(run=80 * 5, each=1) == 5
    assert affordable_evals(run=80 * 2, each=1) == 5
    assert affordable_evals(run=50, each=1) == 5
    assert affordable_evals(run=49, each=1) == pytest.approx(4.9)  # the tenth
    assert affordable_evals(run=10, each=1) == pytest.approx(1)
    assert affordable_evals(run=10**9, each=1) == 20  # at most


def test_a_run_by_steps_shows_a_curve_where_it_is_cheap(tiny):
    trainer = by_the_clock(tiny)
    trainer.validation.tokens = range(2 * 64)  # an evaluation takes as long as a step of 64 tokens

    def evaluations(steps: int) -> int:
        sizes = trainer.cfg.step_sizes(steps=steps)
        parts = {"validation": trainer.validation, "sizes": sizes}
        every = Cadence(trainer.cfg, trainer.state, **parts).eval_every
        return math.ceil(steps / every)

    found = {steps: evaluations(steps) for steps in (10, 20, 30, 50, 399, 480, 1600, 10**6)}
    assert found == {10: 2, 20: 2, 30: 3, 50: 5, 399: 5, 480: 6, 1600: 20, 10**6: 20}


def test_a_run_that_leaves_it_open_evaluates_logs_and_saves_by_its_own_defaults(tiny):
    open_ = [f"trainer.{name}_every=null" for name in ("eval", "log", "save")]
    folder = run([*tiny, *open_])
    found = rows(folder)
    assert [row["step"] for row in found if "val/bpb" in row] == [5, 10]
    assert [row["step"] for row in found] == list(range(1, 11))
    assert (folder / "checkpoints" / "step-00000010").is_dir()


def by_the_clock(settings: list[str]) -> Trainer:
    """A trainer for 600 s in which nothing says how often things happen."""
    free = ("trainer.max_steps", "trainer.eval_every", "trainer.log_every", "trainer.save_every")
    cfg = compose.compose(
        "train", [*(s for s in settings if not s.startswith(free)), "trainer.max_time=10m"]
    )
    data, runtime = prepared(settings), Runtime(cfg.device)
    model = cfg.model.build(vocab_size=data.tokenizer.vocab_size, seq_len=cfg.trainer.seq_len)
    state = TrainState(model, cfg.optimizer.build(model), runtime.scaler())
    parts = {"runtime": runtime, "prepared": data, "logger": Logger(), "callbacks": {}}
    return Trainer(cfg, state, checkpoints=Checkpoints(Path("unused")), **parts)


def times_due(trainer: Trainer, due: str, happened: str) -> list[int]:
    """The seconds at which something is due, in a run that looks once a second."""
    found = []
    for second in range(1, 601):
        trainer.state.elapsed_s = float(second)
        trainer.state.tokens = 1000 * second
        if getattr(trainer, due)():
            found.append(second)
            setattr(trainer, happened, float(second))
    return found


def test_by_the_clock_evaluations_are_as_many_as_they_are_affordable(tiny):
    trainer = by_the_clock(tiny)

    def times(eval_tokens: int) -> list[int]:
        trainer.validation.tokens = range(eval_tokens)
        trainer.evaluated_s = 0.0
        return times_due(trainer, "eval_due", "evaluated_s")

    # a thousand tokens a second: an evaluation of so many takes a half of so many milliseconds
    assert times(10) == [*range(30, 600, 30), 600]
    assert times(2_000) == [*range(80, 560, 80), 560, 600]  # an eightieth of the time
    assert times(5_000) == [120, 240, 360, 480, 600]  # a curve, for a fiftieth
    assert times(24_000) == [120, 240, 360, 480, 600]  # for a tenth
    assert times(48_000) == [240, 480, 600]
    assert times(100_000) == [600]


def test_by_the_clock_rows_are_bounded_and_checkpoints_come_every_minute_if_they_are_quick(tiny):
    trainer = by_the_clock(tiny)
    trainer.max_time_s = 10_000.0
    assert times_due(trainer, "row_due", "logged_s") == [*range(10, 601, 10)]
    assert times_due(trainer, "save_due", "saved_s") == [*range(61, 601, 61)]
    for takes_s, portion_s in ((2.0, 200), (60.0, 600)):
        trainer.saved_s, trainer.save_takes_s = 0.0, takes_s
        due = times_due(trainer, "save_due", "saved_s")
        assert due == [*range(portion_s + 1, 601, portion_s + 1)]


def test_an_evaluation_leaves_out_what_was_compiled_for_training(tiny):
    trainer = by_the_clock(tiny)
    before = trainer.evaluate()
    trainer.model_loss = None  # what a compiled model would be
    assert trainer.evaluate() == before


def test_validation_covers_every_document_and_counts_its_bytes(tiny):
    data = prepared(tiny)
    validation = Validation(data, max_bytes=None)
    texts = data.tokenizer.decode(validation.tokens.tolist())
    assert validation.documents == data.splits["validation"].documents
    assert validation.utf8_bytes == len(texts.encode())


def test_a_pinned_part_of_validation_is_whole_documents(tiny):
    data = prepared(tiny)
    ends = data.document_ends("validation")
    two_documents = int(ends[1, 1])
    for limit in (two_documents, two_documents + 1):
        part = Validation(data, max_bytes=limit)
        assert part.documents == 2
        assert part.utf8_bytes == ends[1, 1]
        assert part.tokens[-1] == data.tokenizer.eot_id
    assert Validation(data, max_bytes=two_documents - 1).documents == 1
    assert Validation(data, max_bytes=3).documents == 1  # at least


def test_the_pinned_part_is_the_same_text_for_every_tokenizer(tiny):
    char, byte = (prepared([*tiny, f"tokenizer={name}"]) for name in ("char", "byte"))
    parts = [Validation(data, max_bytes=300) for data in (char, byte)]
    assert parts[0].checksum == parts[1].checksum
    assert parts[0].utf8_bytes == parts[1].utf8_bytes
    texts = [
        data.tokenizer.decode(part.tokens[:].tolist())
        for data, part in zip((char, byte), parts, strict=True)
    ]
    assert texts[0] == texts[1]
    assert Validation(char, max_bytes=None).checksum != parts[0].checksum


def test_bits_per_byte_of_an_untrained_model_is_that_of_a_uniform_guess(tiny):
    """With all weights zero each of V tokens costs log2 V bits, and ASCII text has a byte each."""
    folder = run([*tiny, "trainer.max_steps=1", "optimizer.lr=1e-9", "trainer.eval_every=1"])
    row = rows(folder)[-1]
    data = prepared(tiny)
    info = data.splits["validation"]
    expected = math.log2(data.tokenizer.vocab_size) * (info.tokens - 1) / info.utf8_bytes
    assert row["val/bpb"] == pytest.approx(expected, rel=0.02)  # initial weights are near zero
    nats = row["val/loss"] * (info.tokens - 1)
    assert row["val/bpb"] == pytest.approx(nats / math.log(2) / info.utf8_bytes, rel=1e-9)


def test_evaluation_equals_a_plain_pass_one_window_at_a_time(plain, tiny):
    folder = plain
    cfg, data = compose.compose("train", tiny), prepared(tiny)
    model = cfg.model.build(vocab_size=data.tokenizer.vocab_size, seq_len=16)
    model.load_state_dict(weights(folder), strict=False)
    model.eval()
    tokens = torch.from_numpy(data.tokens("validation")[:].astype(np.int64))
    nats = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 16):
            window = tokens[start : start + 17]
            log_p = torch.log_softmax(model(window[None, :-1])[0], dim=-1)
            nats -= log_p.gather(1, window[1:, None]).sum().item()
    last = rows(folder)[-1]
    assert last["val/loss"] == pytest.approx(nats / (len(tokens) - 1), rel=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_step(tiny, capsys):
    settings = [*tiny, "optimizer.lr=1e20", "trainer.grad_clip=0", "trainer.log_every=5"]
    folder = run([*settings, "trainer.save_every=1"], code=1)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "failed"
    assert "the loss is not finite at step" in record["error"]
    assert "lower optimizer.lr" in capsys.readouterr().err
    for tensor in weights(folder).values():  # the last good checkpoint
        assert torch.isfinite(tensor).all()


def test_best_and_newest_checkpoints_stay_and_others_go(tiny):
    settings = [*tiny, "trainer.max_steps=40", "trainer.eval_every=4", "optimizer.lr=0.3"]
    folder = run([*settings, "schedule=constant", "trainer.save_every=1"])
    bpb = {row["step"]: row["val/bpb"] for row in rows(folder) if "val/bpb" in row}
    best = min(bpb, key=lambda step: bpb[step])
    kept = {int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").iterdir()}
    assert kept == {best, 40}
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["best_step"], summary["best_val_bpb"]) == (best, bpb[best])


def test_a_callback_may_end_the_run_and_its_reason_is_kept(tiny):
    settings = [*tiny, "callback=[early_stop]", "callback.early_stop.patience=1"]
    settings += ["optimizer.lr=1", "schedule=constant", "trainer.max_steps=400"]
    folder = run(settings)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["step"] < 400
    assert "has not improved" in summary["stop_reason"]
    assert max((folder / "checkpoints").iterdir()).name == f"step-{summary['step']:08d}"


def test_bf16_trains_to_about_the_same_loss(plain, tiny):
    exact, rounded = plain, run([*tiny, "device.precision=bf16"])
    assert rows(rounded)[-1]["val/loss"] == pytest.approx(rows(exact)[-1]["val/loss"], rel=0.02)
    assert all(tensor.dtype == torch.float32 for tensor in weights(rounded).values())


def test_a_disk_that_is_full_ends_the_run_also_when_the_last_checkpoint_is_written(
    tiny, monkeypatch, capsys
):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_file", full)
    for first, saves in ((5, "trainer.save_every=5"), (10, "trainer.save_every=100")):
        folder = run([*tiny, "trainer.eval_every=100", saves], code=1)
        error = json.loads((folder / "run.json").read_text())["error"]
        assert f"is full: the checkpoint of step {first} does not fit; make room" in error
        assert f"resume={folder}" in error
        assert error.partition("\n")[0] in capsys.readouterr().err


# Windows and documents


class Witness(LanguageModel):
    """Predicts a token from the one before, and keeps the sequences that it was trained on."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(vocab_size, vocab_size)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, tokens: Tensor) -> Tensor:
        if self.training:
            self.seen += map(tuple, tokens.tolist())
        return self.rows(tokens)


def numbers(tmp_path: Path) -> list[str]:
    """A text in which no window of 16 characters comes twice, in documents of many lengths."""
    documents = [" ".join(map(str, range(i * i, i * i + i % 23 + 1))) for i in range(10, 80)]
    path = tmp_path / "numbers.txt"
    path.write_text("\n\n".join(documents))
    return [f"dataset.path={path}"]


@pytest.mark.parametrize("window", ["packed", "document"])
def test_after_three_and_a_half_epochs_and_a_resume_no_window_was_seen_more_than_once_more(
    tiny, tmp_path, window
):
    settings = [*without_horizon(tiny), *numbers(tmp_path), f"dataset.window={window}"]
    settings += ["trainer.tokens_per_step=96", "trainer.eval_every=1000", "trainer.save_every=7"]
    settings += ["trainer.micro_batch_size=2"]
    data = prepared(settings)
    seen: Counter[tuple[int, ...]] = Counter()

    def train_until(horizon: str) -> Trainer:
        cfg = compose.compose("train", [*settings, horizon])
        model = Witness(data.tokenizer.vocab_size)
        runtime = Runtime(cfg.device)
        state = TrainState(model, cfg.optimizer.build(model), runtime.scaler())
        checkpoints = Checkpoints(tmp_path / "checkpoints")
        if latest := checkpoints.latest(print):
            load_state(state, latest)
        parts = {"runtime": runtime, "prepared": data, "logger": Logger(), "callbacks": {}}
        trainer = Trainer(cfg, state, checkpoints=checkpoints, **parts)
        trainer.fit()
        seen.update(model.seen)
        return trainer

    assert train_until("trainer.max_steps=61").state.step == 61
    trainer = train_until("trainer.max_epochs=3.5")
    n = trainer.batches.n_windows
    steps = round(3.5 * n / 6)
    expected = Counter(
        tuple(row[:-1].tolist()) for step in range(steps) for row in trainer.batches.step(step)
    )
    assert seen == expected
    if window == "document":  # the same ones in each epoch
        assert set(seen.values()) == {3, 4}
        assert len(seen) == n


def test_windows_that_begin_with_documents_are_another_run_on_the_same_prepared_tokens(plain, tiny):
    packed, document = prepared(tiny), prepared([*tiny, "dataset.window=document"])
    assert packed.folder == document.folder
    other = run([*tiny, "dataset.window=document"])
    assert rows(other)[-1]["train/loss"] != rows(plain)[-1]["train/loss"]


def test_masked_documents_change_what_is_learned_and_how_it_is_evaluated(plain, tiny):
    folder = run([*tiny, "dataset.mask_documents=true"])
    assert rows(folder)[-1]["train/loss"] != rows(plain)[-1]["train/loss"]
    cfg, data = compose.compose("train", tiny), prepared(tiny)
    model = cfg.model.build(vocab_size=data.tokenizer.vocab_size, seq_len=16)
    model.load_state_dict(weights(folder), strict=False)
    tokens = torch.from_numpy(data.tokens("validation")[:].astype(np.int64))
    nats = 0.0
    with torch.no_grad():
        for window in tokens.unfold(0, 17, 16):  # each part of a document on its own
            parts = np.flatnonzero(window[:-1] == data.tokenizer.eot_id).tolist()
            for start, stop in zip([0, *parts], [*parts, 16], strict=True):
                apart = window[:stop].clone()
                apart[:start] = 1  # whatever was before
                ids = (torch.arange(stop) >= start).long()
                logits = model(apart[None], documents=ids[None])[0, start:]
                targets = window[start + 1 : stop + 1]
                nats += nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        rest = tokens[(len(tokens) - 1) // 16 * 16 :]
        ids = (rest[:-1] == data.tokenizer.eot_id).cumsum(0)
        if len(rest) > 1:
            logits = model(rest[None, :-1], documents=ids[None])[0]
            nats += nn.functional.cross_entropy(logits, rest[1:], reduction="sum").item()
    assert rows(folder)[-1]["val/loss"] == pytest.approx(nats / (len(tokens) - 1), rel=1e-5)


def test_whole_documents_are_evaluated_from_their_beginnings(tiny):
    typed = [*tiny, "dataset.window=document", "dataset.mask_documents=true"]
    typed += ["trainer.seq_len=200", "trainer.tokens_per_step=400"]
    typed += ["trainer.max_steps=12", "optimizer.lr=0.1"]  # what a position sees has to matter
    typed += ["trainer.micro_batch_size=2"]
    typed += ["model.positions=rope"]  # so that a document may stand anywhere in a window
    data = prepared(typed)
    begins = [0, *(data.document_ends("validation")[:, 0] - 1).tolist()]
    assert max(np.diff(begins)) <= 200, "each document fits into a window"
    folder = run(typed)
    cfg = compose.compose("train", typed)
    model = cfg.model.build(vocab_size=data.tokenizer.vocab_size, seq_len=200)
    model.load_state_dict(weights(folder), strict=False)
    tokens = torch.from_numpy(data.tokens("validation")[:].astype(np.int64))
    nats = 0.0
    with torch.no_grad():
        for first, end in itertools.pairwise(begins):
            logits, targets = model(tokens[None, first:end])[0], tokens[first + 1 : end + 1]
            nats += nn.functional.cross_entropy(logits, targets, reduction="sum").item()
    row = rows(folder)[-1]
    assert row["val/loss"] == pytest.approx(nats / (len(tokens) - 1), rel=1e-5)
    subject = Subject(folder, checkpoint="latest", device="cpu", say=print, warn=print)
    assert subject.pinned_bpb() == row["val/bpb"]


def test_rows_say_which_share_of_the_time_the_data_took(plain):
    ratios = [row["perf/data_wait_ratio"] for row in rows(plain)]
    assert all(0 < ratio < 1 for ratio in ratios)
