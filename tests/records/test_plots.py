"""The plot of a run shows the logged values, including values that are not finite."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tinygpt.records.plots import Row, corpus, loss_curve


@pytest.fixture
def drawn(real_pictures: None, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, so that a test can look at what is in them."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: Any, **options: Any) -> None:
        figures.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


def rows(count: int) -> list[dict[str, float]]:
    val = {"val/loss": 2.5, "val/bpb": 1.75}
    return [
        {"step": 10 * n, "tokens": 20480 * n, "train/loss": 2 + 1 / n} | val
        for n in range(1, count + 1)
    ]


def values(line: Line2D) -> list[float]:
    return [float(y) for y in np.asarray(line.get_ydata())]


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG\r\n") and path.stat().st_size > 5000


@pytest.mark.parametrize("count", [1, 2, 2000])
def test_both_halves_name_their_last_values(
    tmp_path: Path, drawn: list[Figure], count: int
) -> None:
    loss_curve(rows(count), tmp_path / "loss.png", title="a run", floor_bpb=1.25)
    assert is_png(tmp_path / "loss.png")
    left, right = drawn[0].axes
    train, val = legend(left)
    assert val == "validation  2.500"
    name, value = train.split()
    assert name == "train"
    assert float(value) == pytest.approx(2 + 1 / count, abs=0.05)
    assert legend(right) == ["model  1.750", "entropy of the text  1.250", "left to learn  0.500"]
    assert left.get_xlabel() == "step of 2,048 tokens"


def test_the_floor_is_a_dashed_line_at_its_height(tmp_path: Path, drawn: list[Figure]) -> None:
    loss_curve(rows(5), tmp_path / "loss.png", title="a run", floor_bpb=1.25)
    (dashed,) = (line for line in drawn[0].axes[1].lines if line.get_linestyle() == "--")
    assert values(dashed) == [1.25, 1.25]
    low, high = drawn[0].axes[1].get_ylim()
    assert low < 1.25 < 1.75 < high


def test_without_a_known_floor_none_is_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    loss_curve(rows(5), tmp_path / "loss.png", title="a run", floor_bpb=None)
    assert legend(drawn[0].axes[1]) == ["model  1.750"]


def test_an_empty_run_and_a_run_of_nans_say_that_nothing_was_logged(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    logged: list[list[Row]] = [[], [{"step": 1, "train/loss": math.nan}], [{"step": 0}]]
    for number, found in enumerate(logged):
        loss_curve(found, tmp_path / f"{number}.png", title="a run", floor_bpb=1.25)
        assert is_png(tmp_path / f"{number}.png")
        (only,) = drawn[number].axes
        assert [text.get_text() for text in only.texts] == ["nothing was logged"]


def test_values_that_are_not_finite_are_left_out_of_the_curves(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    losses = [3.0, math.nan, 2.0, math.inf, 1.0, -math.inf]
    found = [{"step": n, "train/loss": loss} for n, loss in enumerate(losses, start=1)]
    loss_curve(found, tmp_path / "loss.png", title="a run")
    for line in drawn[0].axes[0].lines:
        assert np.asarray(line.get_xdata()).tolist() == [1, 3, 5]
        assert values(line) == [3.0, 2.0, 1.0]


def test_the_smooth_curve_follows_the_noise_at_the_level_of_its_mean(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    found = [{"step": n, "train/loss": 2.0 + (-1) ** n} for n in range(1, 1001)]
    loss_curve(found, tmp_path / "loss.png", title="a run")
    raw, smooth = drawn[0].axes[0].lines
    assert set(values(raw)) == {1.0, 3.0}
    assert max(abs(y - 2.0) for y in values(smooth)[200:]) < 0.1


def test_a_title_is_shown_as_it_is_typed(tmp_path: Path, drawn: list[Figure]) -> None:
    loss_curve(rows(1), tmp_path / "loss.png", title=r"$\frac{ & <b> 100% $")
    assert is_png(tmp_path / "loss.png")
    assert drawn[0].get_suptitle() == r"$\frac{ & <b> 100% $"


# A corpus

LENGTHS = {
    "characters": {"train": np.arange(1, 1001), "validation": np.arange(500, 601)},
    "tokens": {"train": np.array([7]), "validation": np.array([7])},
}
SIZES = {512: 2.0, 1024: 3.0, 4096: 3.5}


def test_a_corpus_is_drawn_with_its_medians_and_each_vocabulary(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    corpus(
        tmp_path / "a.png", title="a corpus", lengths=LENGTHS, sizes=SIZES, chosen=("char", 97, 1.0)
    )
    assert is_png(tmp_path / "a.png")
    characters, tokens, sizes = drawn[0].axes
    assert legend(characters) == ["train, median 500", "validation, median 550"]
    assert characters.get_xlabel() == "characters, the longest 1,000"
    assert legend(tokens) == ["train, median 7", "validation, median 7"]
    assert tokens.get_xlabel() == "tokens"
    curve, chosen = sizes.lines
    assert (np.asarray(curve.get_xdata()).tolist(), values(curve)) == ([*SIZES], [*SIZES.values()])
    assert (np.asarray(chosen.get_xdata()).tolist(), values(chosen)) == ([97], [1.0])
    assert legend(sizes) == ["char 97: 1.00"]


def test_a_corpus_without_candidates_is_drawn_too(tmp_path: Path, drawn: list[Figure]) -> None:
    corpus(tmp_path / "a.png", title="", lengths=LENGTHS, sizes={}, chosen=("byte", 257, 0.99))
    assert is_png(tmp_path / "a.png")
    assert legend(drawn[0].axes[2]) == ["byte 257: 0.99"]


def test_the_shares_of_a_histogram_are_percent_of_each_split(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    lengths = {"tokens": {"train": np.array([1, 2, 3, 4]), "validation": np.array([2])}}
    corpus(tmp_path / "a.png", title="", lengths=lengths, sizes={}, chosen=("byte", 257, 1.0))
    heights = [patch.get_data().values for patch in drawn[0].axes[0].patches]  # type: ignore[attr-defined]
    assert [sum(each) for each in heights] == [100, 100, 100, 100]  # filled, and an outline
