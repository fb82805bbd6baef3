"""The benchmark of writing tokens: what its figures mean, and that it runs."""

import json
from pathlib import Path

import pytest

from benchmarks.sample import Measured, main, prompt_flops, summarise
from benchmarks.samplers import Task
from benchmarks.shapes import Shape

TINY = Shape(2, 2, 32, 32, 1, 65)


def test_rates_count_new_tokens_and_shares_what_a_step_reads() -> None:
    """Ten steps a second read 1000 bytes of weights and 2 * 2 * 32 * 32 * 4 / 2 of each cache."""
    one, two, first = Task(1, 1, 31), Task(2, 1, 31), Task(1, 20, 1)
    seconds = {
        one.name: {"tinygpt fp32": [3.1, 6.2, 1.0]},
        two.name: {"tinygpt fp32": [3.1]},
        first.name: {"tinygpt fp32": [0.5]},
    }
    about = {"tinygpt fp32": {"weight_bytes": 1000, "cached_bytes": 4}}
    tasks = summarise(TINY, Measured(seconds, [1e6, 9e6, 1e5], about))["tasks"]
    alone = tasks["1 sequence of 31"]["tinygpt fp32"]
    assert alone["tokens_per_sec"] == pytest.approx(10)
    assert alone["best_tokens_per_sec"] == pytest.approx(31)
    assert alone["share_of_memory"] == pytest.approx(10 * (1000 + 8192) / 1e6)
    both = tasks["2 sequences of 31"]["tinygpt fp32"]
    assert both["tokens_per_sec"] == pytest.approx(20)
    assert both["share_of_memory"] == pytest.approx(10 * (1000 + 2 * 8192) / 1e6)
    assert tasks["first token after 20"]["tinygpt fp32"]["seconds"] == 0.5


def test_a_prompt_is_read_by_layers_and_attention_and_once_by_the_head() -> None:
    layers, attention, head = 2 * 12 * 32**2 * 20, 2 * 32 * 20**2, 65 * 32
    assert prompt_flops(TINY, 20) == 2 * (layers + attention + head)
    first = Task(1, 20, 1)
    measured = Measured({first.name: {"tinygpt fp32": [0.5]}}, [1.0], products=[1e6, 4e6, 2e6])
    rows = summarise(TINY, measured)["tasks"][first.name]
    share = prompt_flops(TINY, 20) / 0.5 / 2e6
    assert rows["tinygpt fp32"]["share_of_products"] == pytest.approx(share)


@pytest.mark.slow
@pytest.mark.gcc
def test_it_runs_and_names_a_writer_that_fails(tmp_path: Path, capfd) -> None:
    (tmp_path / "model.py").write_text("raise ImportError('no such thing')\n")
    out = tmp_path / "out.json"
    given = ["--shape", "2x2x32x32x1x65", "--sequences", "2", "--prompt", "20", "--rounds", "1"]
    with pytest.raises(SystemExit) as left:
        main([*given, "--ours", "int8", "--nanogpt", str(tmp_path), "--json", str(out)])
    assert left.value.code == 1
    shown = capfd.readouterr().out
    assert "2 sequences of 31" in shown
    assert "nanogpt fp32 failed: ImportError: no such thing" in shown
    assert json.loads(out.read_text())["tasks"].keys() == {
        "2 sequences of 31",
        "first token after 20",
    }


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (["--ours", "fp16"], "--ours fp16: weights are fp32, bf16, int8"),
        (["--prompt", "256"], "--prompt must be below the shape's 256 tokens"),
        (["--llama2c", "/nowhere"], "/nowhere has no run.c"),
    ],
)
def test_mistakes_are_named(given: list[str], error: str, capsys) -> None:
    with pytest.raises(SystemExit) as left:
        main(given)
    assert left.value.code
    assert error in capsys.readouterr().err
