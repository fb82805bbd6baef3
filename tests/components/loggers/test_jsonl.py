"""metrics.jsonl: valid JSON always, whole rows only, and nothing twice after a resume."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from numpy import float32

from tinygpt.components.loggers.jsonl import JsonlLogger, read_rows
from tinygpt.errors import UserError
from tinygpt.interfaces import RunInfo


def run_info(path: Path, *, resumed_at: int | None = None) -> RunInfo:
    return RunInfo(path.parent, "id", None, {}, {}, resumed_at)


def write(path: Path, steps: range, *, resumed_at: int | None = None) -> None:
    logger = JsonlLogger(path)
    logger.start(run_info(path, resumed_at=resumed_at))
    for step in steps:
        logger.log(step, {"train/loss": 1 / step})
    logger.finish("finished", {})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_a_row_reads_back_exactly_as_it_was_logged(path: Path) -> None:
    single: Any = float32(0.5)
    logger = JsonlLogger(path)
    logger.start(run_info(path))
    logger.log(10, {"train/loss": 0.1 + 0.2, "tokens": 40960, "optim/lr": single})
    logger.log(20, {"val/loss": 1e-300})
    logger.finish("finished", {})
    assert read_rows(path) == [
        {"step": 10, "train/loss": 0.1 + 0.2, "tokens": 40960, "optim/lr": 0.5},
        {"step": 20, "val/loss": 1e-300},
    ]
    assert isinstance(read_rows(path)[0]["tokens"], int)


def test_a_row_is_in_the_file_when_log_returns(path: Path) -> None:
    code = f"""
import os, pathlib
from tinygpt.interfaces import RunInfo
from tinygpt.components.loggers.jsonl import JsonlLogger
path = pathlib.Path({str(path)!r})
logger = JsonlLogger(path)
logger.start(RunInfo(path.parent, "id", None, {{}}, {{}}, None))
logger.log(1, {{"train/loss": 2.0}})
os._exit(1)  # like a kill: no buffer is written out
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert read_rows(path) == [{"step": 1, "train/loss": 2.0}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, float32("inf")])
def test_a_number_that_is_not_finite_is_null_for_others_and_nan_for_us(
    path: Path, value: float
) -> None:
    logger = JsonlLogger(path)
    logger.start(run_info(path))
    logger.log(3, {"optim/grad_norm": value})
    logger.finish("failed", {})
    assert path.read_text() == '{"step": 3, "optim/grad_norm": null}\n'
    assert math.isnan(read_rows(path)[0]["optim/grad_norm"])


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_last_line_cut_anywhere_is_left_out(path: Path, cut: int) -> None:
    write(path, range(1, 4))
    os.truncate(path, path.stat().st_size - cut)
    whole = 3 if cut == 1 else 2  # without its line end the row is still whole
    assert [row["step"] for row in read_rows(path)] == list(range(1, whole + 1))


def test_a_resumed_run_continues_the_file_as_if_it_had_never_stopped(path: Path) -> None:
    straight = path.with_name("straight.jsonl")
    write(straight, range(1, 9))
    write(path, range(1, 7))
    with path.open("a") as file:
        file.write('{"step": 7, "train/lo')  # killed here; the checkpoint was at step 4
    write(path, range(5, 9), resumed_at=4)
    assert path.read_bytes() == straight.read_bytes()
    assert sorted(p.name for p in path.parent.iterdir()) == ["metrics.jsonl", "straight.jsonl"]


def test_a_resume_after_a_lost_line_end_does_not_join_two_rows(path: Path) -> None:
    write(path, range(1, 4))
    os.truncate(path, path.stat().st_size - 1)
    write(path, range(4, 6), resumed_at=3)
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3, 4, 5]


def test_a_resume_without_a_file_begins_one(path: Path) -> None:
    write(path, range(5, 7), resumed_at=4)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [5, 6]


@pytest.mark.parametrize("garbage", ['{"step": 2, "tra', "7", '{"loss": 1}', "\x00\x00"])
def test_damage_in_the_middle_is_an_error_that_names_the_line(path: Path, garbage: str) -> None:
    write(path, range(1, 3))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], garbage, lines[1]]) + "\n")
    with pytest.raises(UserError, match=r"metrics.jsonl line 2 is not a row of metrics"):
        read_rows(path)
