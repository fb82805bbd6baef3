"""The encoding benchmark: how its figures are computed, and that it runs."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.encode import main, summarise
from benchmarks.encoders import ENCODINGS, missing

ROOT = Path(__file__).parents[2]


def stories(folder: Path) -> Path:
    """Two parquet files of short texts in a folder."""
    rng = random.Random(0)
    words = ["once", "there", "was", "a", "little", "red", "bird", "under", "an", "old", "tree"]
    for name in ("a", "b"):
        texts = [" ".join(rng.choices(words, k=12)) + ".\n" for _ in range(100)]
        pq.write_table(pa.table({"text": texts}), folder / f"{name}.parquet")
    return folder


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.encode", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_rates_are_bytes_by_the_median_time_and_ratios_are_of_medians() -> None:
    """4 MB in 1, 2 and 4 s are 2 MB/s in the middle and 4 at best."""
    part = {"reading_s": 1.0, "encoding_s": 2.0, "writing_s": 3.0, "whole_s": 4.0}
    ours = [{"seconds": s, "tokens": 1_000_000, **part} for s in (4.0, 1.0, 2.0)]
    theirs = [{"seconds": s, "tokens": 2_000_000} for s in (8.0, 5.0, 6.0)]
    summary = summarise({"tinygpt": ours, "peer": theirs}, utf8_bytes=4_000_000)
    us, peer = summary["encodings"].values()
    assert (us["mb_per_s"], us["best_mb_per_s"], us["ours_is_faster"]) == (2.0, 4.0, 1.0)
    assert (peer["mb_per_s"], peer["ours_is_faster"]) == (4 / 6, 3.0)
    assert (us["bytes_per_token"], peer["bytes_per_token"]) == (4.0, 2.0)
    assert summary["ours"] == part


@pytest.mark.slow
def test_it_measures_us_beside_a_peer_that_makes_the_same_tokens(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ["--vocab-size", "320", "--rounds", "2", "--peers", "sentencepiece", "--json", out]
    done = run("--data", stories(tmp_path), "--copies", "2", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(out.read_text())
    assert {"date", "commit", "cpu", "cores", "versions", "train_s"} <= set(content)
    assert (content["documents"], content["vocab_size"]) == (400, 320)
    ours, theirs = (content["encodings"][name] for name in ("tinygpt", "sentencepiece"))
    assert ours["tokens"] == theirs["tokens"] > 400 * 12
    assert len(ours["rounds"]) == len(theirs["rounds"]) == 2
    assert all(turn["seconds"] <= turn["whole_s"] for turn in ours["rounds"])
    assert all(name in done.stdout for name in ("sentencepiece", "reading", "cores", "MB/s"))


@pytest.mark.slow
def test_all_peers_that_are_installed_run(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ["--vocab-size", "280", "--rounds", "1", "--json", out]
    done = run("--data", stories(tmp_path) / "a.parquet", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(out.read_text())
    assert set(content["skipped"]) == {name for name in ENCODINGS if missing(name)}
    assert set(content["encodings"]) == set(ENCODINGS) - set(content["skipped"])
    merges = {"tiktoken", "tiktoken-joined", "tokenizers", "nanogpt"} & set(content["encodings"])
    assert len({content["encodings"][name]["tokens"] for name in merges}) <= 1


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--data nowhere", "--data nowhere is no .parquet file and no folder of them"),
        ("--data . --peers tictoken", "--peers tictoken is none of tinygpt, tiktoken,"),
        ("--data . --rounds 0", "--rounds and --copies must be above 0"),
        ("--data . --vocab-size 70000", "--vocab-size 70000 is above 65536"),
        ("--data . --json nowhere/out.json", "there is no folder nowhere; make it first"),
    ],
)
def test_a_mistyped_argument_is_reported(
    typed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(typed.split())
    assert exit_info.value.code != 0
    assert said in capsys.readouterr().err
