"""Curves are read incrementally, and thinned by the least and the largest of each part."""

import json
from pathlib import Path

import numpy as np
import pytest

from tinygpt.comparison.curves import POINTS, Curve, thinned


def lines(values: list[float | None], *, first: int = 1) -> str:
    rows = [
        {"step": step, "optim/lr": 1.0, "train/loss": value, "elapsed_s": step / 8}
        for step, value in enumerate(values, start=first)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("n", [0, 1, 199, 200, 201, 1000, 4097])
def test_thinning_keeps_both_ends_and_the_extremes_of_equal_parts(n: int) -> None:
    values = np.random.default_rng(0).normal(size=n)
    kept = thinned(np.arange(n), values, POINTS)
    assert len(kept) <= POINTS
    assert np.all(np.diff(kept) > 0)
    if n <= POINTS:
        assert list(kept) == list(range(n))
        return
    length = next(2**k for k in range(20) if 2 * -(-n // 2**k) + 2 <= POINTS)
    extremes = {0, n - 1}
    for start in range(0, n, length):
        part = values[start : start + length]
        extremes |= {start + int(part.argmin()), start + int(part.argmax())}
    assert set(kept) == extremes


@pytest.mark.parametrize("pieces", [2, 7, 40])
def test_a_file_that_grows_gives_the_same_curve_as_one_that_is_whole(
    tmp_path: Path, pieces: int
) -> None:
    text = lines(list(np.random.default_rng(0).normal(size=3000)))
    path, whole = tmp_path / "metrics.jsonl", Curve("train/loss")
    path.write_text(text)
    assert whole.read(path)
    path.write_text("")
    grown = Curve("train/loss")
    size = len(text) // pieces + 1
    for start in range(0, len(text), size):  # pieces end inside of a line
        with path.open("a") as file:
            file.write(text[start : start + size])
        grown.read(path)
        assert grown.points() is not None
    assert grown.points() == whole.points()
    assert not grown.read(path)


def test_points_are_of_rows_with_the_metric_and_lines_that_are_no_rows_are_left_out(
    tmp_path: Path,
) -> None:
    path, curve = tmp_path / "metrics.jsonl", Curve("train/loss")
    assert not curve.read(path)
    assert curve.points() is None
    path.write_text(
        lines([2.0, None, 1e-05])
        + '{"step": 4, "val/loss": 9.0}\n{"train/loss": 8.0}\nno "train/loss": 7.0}\n'
        + lines([-1.5], first=5)
        + '{"step": 6, "train/loss": 3.0'
    )
    curve.read(path)
    assert curve.points() == {
        "step": [1, 3, 5],
        "elapsed_s": [0.12, 0.38, 0.62],
        "value": [2.0, 1e-05, -1.5],
    }
    path.unlink()
    path.write_text(lines([5.0]))  # as after a resume, which writes the file anew
    curve.read(path)
    assert curve.points() == {"step": [1], "elapsed_s": [0.12], "value": [5.0]}
