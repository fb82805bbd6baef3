"""The training benchmark: how its figures are computed, and that it runs."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import report
from benchmarks.command import Run
from benchmarks.command import summarise as summarise_command
from benchmarks.contestants import Contestant, Mode, Variant, make
from benchmarks.processes import Process, busy
from benchmarks.shapes import SHAPES, Shape, parse
from benchmarks.train import main, prepared_tokens, text_and_settings
from tests.benchmarks.variables import Variables
from tinygpt.components.models.gpt import GPTConfig
from tinygpt.config import compose
from tinygpt.corpus.prepared import prepare
from tinygpt.errors import UserError
from tinygpt.hardware.waiting import VARIABLES

ROOT = Path(__file__).parents[2]
TINY = Shape(2, 2, 32, 16, 4, 65)

# a checkout of a peer: the names that are used of nanoGPT, around the smallest model; bf16 fails
CHECKOUT = """
import torch

class GPTConfig:
    def __init__(self, **fields):
        self.__dict__ |= fields

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        print("what it says must not disturb")
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate)

    def forward(self, x, targets):
        assert not torch.is_autocast_enabled("cpu"), "no bf16 here"
        assert x.shape == targets.shape == (4, 16) and bool((x[:, 1:] == targets[:, :-1]).all())
        logits = self.table(x)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""


def test_flops_of_a_token_are_six_per_weight_and_the_causal_half_of_attention() -> None:
    c = SHAPES["c"]
    assert c.n_matmul == 12 * 8 * 512**2 + 4096 * 512 == 27_262_976
    assert c.flops_per_token == 6 * 27_262_976 + 6 * 8 * 256 * 512 == 169_869_312


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_the_weights_that_are_counted_are_those_of_the_model(name: str) -> None:
    shape = SHAPES[name]
    config = GPTConfig(n_layer=shape.n_layer, n_head=shape.n_head, d_model=shape.d_model)
    with torch.device("meta"):
        model = config.build(vocab_size=shape.vocab_size, seq_len=shape.seq_len)
    matrices = {n: p.numel() for n, p in model.named_parameters() if p.dim() == 2}
    assert sum(matrices.values()) - matrices["position_embedding.weight"] == shape.n_matmul
    *layer, logits = (2 * rows * k * columns for rows, k, columns in shape.linear_layers)
    assert shape.n_layer * sum(layer) + logits == 2 * shape.n_matmul * shape.tokens_per_step


def measured(precision: str, *seconds: float, peak: int = 1000) -> report.Measured:
    steps, peaks = [10] * len(seconds), (5e7, 8e7, 2e7)[: len(seconds)]
    return report.Measured(precision, steps, seconds, peaks, peak, {})


def test_rates_are_medians_over_rounds_and_ratios_are_of_medians() -> None:
    """Ten steps of 64 tokens in 1, 2 and 4 s are 640, 320 and 160 tokens per second."""
    summary = report.summarise(
        TINY,
        {
            "tinygpt auto": measured("bf16", 1, 2, 4, peak=600),
            "nanogpt fp32": measured("fp32", 8, 8, 1, peak=1200),
            "nanogpt bf16": measured("bf16", 5, 4, 4, peak=800),
        },
        products=[
            {"bf16 1x1x1": 5e7, "fp32 1x1x1": 2e7},
            {"bf16 1x1x1": 8e7, "fp32 1x1x1": 1e7},
            {"bf16 1x1x1": 2e7, "fp32 1x1x1": 1e7},
        ],
        ours="tinygpt auto",
        shipped="nanogpt fp32",
    )
    rows = summary["contestants"]
    assert [row["tokens_per_sec"] for row in rows.values()] == [320, 80, 160]
    assert [row["best_tokens_per_sec"] for row in rows.values()] == [640, 640, 160]
    assert rows["nanogpt bf16"]["rounds"][0] == {"steps": 10, "seconds": 5}
    assert (summary["ratio_vs_shipped"], summary["ratio_vs_best"]) == (4.0, 2.0)
    assert summary["best_peer"] == "nanogpt bf16"
    assert summary["peak_flops"] == 8e7
    assert summary["mfu"] == pytest.approx(320 * TINY.flops_per_token / 8e7)
    # 640 / 5, 320 / 8 and 160 / 2
    assert summary["mfu_by_round"] == pytest.approx(160 * TINY.flops_per_token / 2e7)
    # FLOP/s of each round relative to ours: 1/8, 2/8 and 4, and 1/5, 2/4 and 4/4
    assert [row["flops_vs_ours"] for row in rows.values()] == [1.0, 0.25, 0.5]
    assert rows["tinygpt auto"]["best_mfu"] == pytest.approx(640 * TINY.flops_per_token / 8e7)
    assert summary["peak_mem_bytes"] == 600
    assert summary["peak_mem_vs_same_mode"] == 600 / 800


def test_a_ratio_to_a_library_that_did_not_run_is_none() -> None:
    rounds: dict[str, Any] = {"products": [{"bf16 1x1x1": 1e9}], "shipped": "nanogpt fp32"}
    alone = report.summarise(
        TINY, {"tinygpt auto": measured("fp32", 1)}, ours="tinygpt auto", **rounds
    )
    peers = report.summarise(
        TINY, {"nanogpt fp32": measured("fp32", 1)}, ours="tinygpt auto", **rounds
    )
    for summary in (alone, peers):
        assert summary["ratio_vs_shipped"] is summary["ratio_vs_best"] is None
        assert summary["peak_mem_vs_same_mode"] is None
    assert peers["mfu"] is None


def test_time_of_the_command_that_is_not_training_is_the_rest_of_its_clock() -> None:
    """8,000 tokens at 1,000 per second are 8 s of training in a loop of 10 s."""
    run = Run([900.0, 1000.0, 20.0], tokens=8000, tokens_per_sec=1000.0, elapsed_s=10.0)
    summary = summarise_command(bare=[900, 1250, 5000], runs=[run], starts=[3, 5, 4])
    assert summary["share_not_training"] == pytest.approx(0.2)
    assert summary["ratio_vs_bare"] == 900 / 1250
    assert summary["overall_tokens_per_sec"] == 800
    assert summary["overall_vs_bare"] == 800 / 1250
    assert summary["start_s"] == 4


@pytest.mark.parametrize("vocab_size", [65, pytest.param(50304, marks=pytest.mark.slow)])
def test_the_random_text_has_exactly_the_vocabulary_of_the_shape(
    tmp_path: Path, vocab_size: int
) -> None:
    typed = text_and_settings(replace(TINY, vocab_size=vocab_size), tmp_path, [])
    for_peers = np.fromfile(prepared_tokens(typed, tmp_path), dtype=np.uint16)
    prepared = prepare(compose.compose("train", typed), print)
    assert prepared.tokenizer.vocab_size == vocab_size
    assert prepared.splits["train"].documents > 4000
    assert len(set(for_peers.tolist())) == vocab_size - 16  # no bytes of unknown characters
    assert len(for_peers) == prepared.splits["train"].tokens


def test_a_shape_is_a_letter_or_its_six_numbers() -> None:
    assert parse("2x2x32x16x4x65") == TINY
    assert parse("b") is SHAPES["b"]
    assert Mode.parse("bf16-compiled", auto=False) == Mode("bf16", True)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--shapes g", "--shapes g is not a shape; type one of a, b, c, d, e, f, or layers"),
        ("--shapes 2x2x32x16x4", "is not a shape"),
        ("--shapes 2x3x32x16x4x65", "model.d_model=32 is not a multiple of model.n_head=3"),
        ("--shapes 2x2x32x16x4x17", "a vocabulary of 17 cannot be measured; use 18 to 65536"),
        ("--shapes e", "--shapes e is for a GPU; type --device cuda too"),
        ("--ours fp64", "fp64 is not a mode; modes are auto, fp32, bf16"),
        ("--modes auto", "auto is not a mode; modes are fp32, bf16"),
        ("--nanogpt nowhere", "--nanogpt nowhere has no model.py; get it with"),
        ("--json nowhere/out.json", "there is no folder nowhere; make it first"),
        ("--rounds 0", "--rounds and --seconds must be above 0"),
        ("--busy -1", "--busy must be 0 or more"),
        ("--busy-period 1", "--busy-period must be 0 or more, and needs --busy 1 or more"),
        ("--waits nap", "--waits nap is not one of auto, spin, sleep, one"),
        ("--waits spin --device cuda", "--waits is for CPU threads; type --device cpu"),
        ("--shapes 2x2x32x16x4x65 --set optimizer.lrr=1", "optimizer.lrr is not a field"),
    ],
)
def test_a_mistyped_argument_is_reported(
    typed: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as exit_info:
        main(typed.split())
    assert exit_info.value.code != 0
    assert said in capsys.readouterr().err


def test_ways_to_wait_are_refused_if_a_variable_decides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    with pytest.raises(SystemExit):
        main(["--waits", "auto,spin"])
    said = "--waits would be ignored: unset the environment variable OMP_WAIT_POLICY"
    assert said in capsys.readouterr().err


def run(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def bench(tmp_path: Path, *arguments: str | Path, code: int) -> dict[str, Any]:
    """The JSON of two rounds of the tiniest shape, checked against its own rounds."""
    out = tmp_path / "out.json"
    options = ["--shapes", "2x2x32x16x4x65", "--rounds", "2", "--seconds", "0.05", "--json", out]
    done = run("benchmarks.train", *options, *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    content = json.loads(out.read_text())
    assert {"date", "commit", "device_name", "torch", "threads"} <= set(content)
    summary: dict[str, Any] = content["shapes"]["2x2x32x16x4x65"]
    assert len(summary["products"]) == 2
    for row in summary["contestants"].values():
        rates = [64 * turn["steps"] / turn["seconds"] for turn in row["rounds"]]
        assert len(rates) == 2
        assert row["tokens_per_sec"] == pytest.approx(sum(rates) / 2)
        assert 0 < row["loss"] < 10
        assert row["peak_mem_bytes"] > 0
    return summary | {"said": done.stdout}


@pytest.mark.slow
def test_it_measures_us_without_a_peer(tmp_path: Path) -> None:
    summary = bench(tmp_path, "--ours", "bf16", "--set", "device.threads=1", code=0)
    (ours,) = summary["contestants"].values()
    assert summary["ours"] == "tinygpt bf16"
    assert (ours["precision"], ours["threads"]) == ("bf16", 1)
    assert 0 < summary["mfu"] < 1
    assert summary["mfu"] == ours["mfu"]
    assert summary["ratio_vs_best"] is None
    assert "tinygpt bf16" in summary["said"]


@pytest.mark.slow
def test_it_measures_peers_and_one_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    peer = tmp_path / "peer"
    peer.mkdir()
    (peer / "model.py").write_text(CHECKOUT)
    summary = bench(tmp_path, "--nanogpt", peer, "--modes", "fp32,bf16", code=1)
    assert list(summary["contestants"]) == ["tinygpt auto", "nanogpt fp32"]
    ours, theirs = summary["contestants"].values()
    assert summary["ratio_vs_shipped"] == ours["tokens_per_sec"] / theirs["tokens_per_sec"]
    assert "no bf16 here" in summary["failed"]["nanogpt bf16"]
    assert "no bf16 here" in summary["said"]
    assert "what it says must not disturb" not in summary["said"]


@pytest.mark.slow
def test_the_command_is_measured_beside_its_bare_step(tmp_path: Path) -> None:
    options = ["--shape", "2x2x32x16x4x65", "--rounds", "1", "--seconds", "1"]
    done = run(
        "benchmarks.command", *options, "--json", tmp_path / "out.json", "trainer.save_every=20"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "out.json").read_text())
    assert 0 < content["share_not_training"] < 1
    assert content["ratio_vs_bare"] > 0
    assert content["start_s"] > 0
    assert content["settings"] == ["trainer.save_every=20"]


def test_busy_processes_compute_and_end_with_the_block() -> None:
    def ended_children_s() -> float:
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime

    before = ended_children_s()
    with busy(2):
        time.sleep(1)
        assert ended_children_s() == before  # both are still there
    assert ended_children_s() > before + 0.1


def test_a_contestant_gets_its_own_environment(tmp_path: Path) -> None:
    before = dict(os.environ)
    waits = {"OMP_NUM_THREADS": "7", "GOMP_SPINCOUNT": "5"}
    process = Process(Variables, None, log=tmp_path / "log", environment=waits)
    try:
        assert waits.items() <= process.describe().items()
    finally:
        process.close()
    assert dict(os.environ) == before


@pytest.mark.skipif(shutil.which("gcc") is None, reason="fused kernels need gcc")
@pytest.mark.parametrize("text", ["gpt2+dropout", pytest.param("mingru", marks=pytest.mark.slow)])
def test_our_contestant_trains_with_the_kernels_of_the_command(text: str, tmp_path: Path) -> None:
    variant = Variant.parse(text)
    typed = text_and_settings(TINY, tmp_path, ["device.threads=1"], variant)
    mode = Mode.parse("fp32", auto=True)
    contestant = Contestant("tinygpt", mode, TINY, "cpu", settings=typed, variant=variant)
    work: Any = make(contestant, lambda: None)
    assert work.run(1) < 10
    assert work.describe()["kernels"] == "fused"
    # the parts of the model that decide whether they call the kernels
    decisions = [
        part.uses_kernels for part in work.state.model.modules() if hasattr(part, "uses_kernels")
    ]
    assert decisions
    assert all(decisions)


def test_every_model_of_a_benchmark_is_measured_at_the_width_of_the_shape() -> None:
    texts = ("gpt2", "llama", "qwen3", "arcee", "modern+muon", "gpt2+dropout", "llama+documents")
    for text in texts:
        variant = Variant.parse(text)
        cfg = compose.compose("train", ["dataset=storyworld", *variant.settings(SHAPES["b"])])
        assert (cfg.model.n_layer, cfg.model.d_model) == (6, 384)
        assert cfg.model.dropout == (0.1 if "dropout" in text else 0)
        assert cfg.dataset.mask_documents == ("documents" in text)
        assert cfg.optimizer.name == ("muon" if "muon" in text else "adamw")
        assert str(variant) == text
        name = "tinygpt auto" if text == "gpt2" else f"tinygpt {text} auto"
        mode = Mode.parse("auto", auto=True)
        assert Contestant("tinygpt", mode, TINY, "cpu", variant=variant).name == name
    for wrong in ("lama", "gpt2+drop", "gpt2+muon+lion", "gpt2+dropout+dropout", "gpt2+"):
        with pytest.raises(UserError, match="models are gpt2, llama, qwen3, arcee, modern"):
            Variant.parse(wrong)
