"""Plots of runs, corpora, coordinate checks and scaling laws, as PNG files."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tinygpt.interfaces import Split

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, VALIDATION, FLOOR, INK = "#5b84b8", "#c8553d", "#3a7d44", "#333333"
POINTS_SHOWN_AS_DOTS = 30

Row = Mapping[str, float]
Points = list[tuple[float, float]]  # (step, value)


def loss_curve(
    rows: Sequence[Row], path: Path, *, title: str, floor_bpb: float | None = None
) -> None:
    """Write a PNG: losses in nats per token on the left, val/bpb and its floor on the right.

    Missing and non-finite values are skipped. The right plot is omitted if no row has val/bpb. The
    legends show the last values.
    """
    train, val, bpb = (_points(rows, key) for key in ("train/loss", "val/loss", "val/bpb"))
    width = 11 if bpb else 6.5
    # fixed margins, in inches: to measure the texts would take longer than to draw the picture
    margins = (0.75 / width, 0.6 / 4.5, 1 - 0.2 / width, 1 - 0.75 / 4.5)
    figure, axes = _figure(2 if bpb else 1, width=width, title=title, layout=None)
    figure.subplots_adjust(*margins, wspace=0.18)
    axes[0].set_title("loss, nats per token", loc="left", y=1, fontsize=10, color=INK)
    _line(axes[0], train, color=TRAIN, alpha=0.3)
    _line(axes[0], _smooth(train), color=TRAIN, label="train")
    _line(axes[0], val, color=VALIDATION, label="validation")
    if bpb:
        axes[1].set_title("validation, bits per byte", loc="left", y=1, fontsize=10, color=INK)
        _line(axes[1], bpb, color=VALIDATION, label="model")
        _line(axes[1], _points(rows, "val/bpb_ema"), color=TRAIN, label="averaged weights")
        if floor_bpb is not None:
            _floor(axes[1], floor_bpb, under=bpb)
    for ax in axes:
        _dress(ax, rows)
    # strong compression would take a fifth of the time for a tenth of the bytes
    figure.savefig(path, pil_kwargs={"compress_level": 1})


def corpus(
    path: Path,
    *,
    title: str,
    lengths: Mapping[str, Mapping[Split, npt.NDArray[np.int64]]],
    sizes: Mapping[int, float],
    chosen: tuple[str, int, float],
) -> None:
    """Write a PNG: document lengths in each unit, and bytes per token by vocabulary size.

    `lengths[unit][split]` holds the length of each document. `chosen` is the current tokenizer's
    name, vocabulary size and bytes per token, drawn as a star beside the curve.
    """
    figure, axes = _figure(len(lengths) + 1, width=15, title=title)
    for ax, (unit, splits) in zip(axes, lengths.items(), strict=False):
        _histogram(ax, splits, unit=unit)
    _sizes(axes[-1], sizes, chosen)
    figure.savefig(path)


def coordinates(
    path: Path, *, widths: Sequence[int], sizes: Mapping[str, Mapping[str, Sequence[float]]]
) -> None:
    """Write a PNG with a plot for each key of `sizes`: sizes of activations over widths by kind."""
    figure, axes = _figure(len(sizes), width=12, title="mean absolute activation over widths")
    for ax, (title, kinds) in zip(axes, sizes.items(), strict=True):
        for kind, values in kinds.items():
            ax.plot(widths, values, marker="o", markersize=3, linewidth=1, label=kind)
        ax.set_title(title, loc="left", fontsize=10, color=INK)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        ax.set_xlabel("width", color=INK)
        _plain(ax)
    axes[-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path)


def scaling(
    path: Path,
    *,
    metric: str,
    points: Sequence[tuple[float, float, float]],
    law: Callable[[npt.ArrayLike, npt.ArrayLike], npt.NDArray[np.float64]],
    budgets: Sequence[
        tuple[float, Sequence[tuple[float, float]], tuple[float, float, float] | None, float | None]
    ],
    predicted: Sequence[tuple[float, float, float, float, float]],
    floor: float | None,
) -> None:
    """Write a PNG: loss over tokens for each size beside the law, and over size for each budget.

    `points` are (size, tokens, loss).  A budget is its FLOPs, (size, loss) of its runs, and the
    parabola of log loss over log size with its minimum.  `predicted` are (size, tokens, loss, low,
    high).  The right plot is left out if there are no budgets.
    """
    from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

    figure, axes = _figure(2 if budgets else 1, width=12 if budgets else 6.5, title="scaling law")
    ax = axes[0]
    lengths = [d for _, d, _ in points] + [d for _, d, *_ in predicted]
    d_range = np.geomspace(min(lengths), max(lengths), 100)
    sizes = sorted({n for n, _, _ in points})
    for n, color in zip(sizes, _shades(len(sizes)), strict=True):
        own = [(d, loss) for size, d, loss in points if size == n]
        ax.plot(*zip(*own, strict=True), "o", color=color, markersize=4, label=f"N = {n:,.0f}")
        ax.plot(d_range, law(n, d_range), color=color, linewidth=1)
    for number, (n, d, value, low, high) in enumerate(predicted):
        label = "predicted, 95 % interval" if number == 0 else None
        span = [[value - low], [high - value]]
        ax.errorbar([d], [value], yerr=span, fmt="D", color=VALIDATION, capsize=3, label=label)
        ax.annotate(f"N = {n:,.0f}", (d, low), (0, -14), textcoords="offset points", ha="right")
    if floor is not None:
        ax.axhline(floor, color=FLOOR, linestyle="--", label=f"entropy of the text  {floor:.3f}")
    ax.set_title(f"{metric} over tokens, and the law", loc="left", fontsize=10, color=INK)
    ax.set_xlabel("training tokens", color=INK)
    ax.legend(frameon=False, fontsize=7)
    for ax in axes:
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}")
        ax.tick_params(axis="y", which="minor", labelsize=7)
        _plain(ax)
    for (flops, runs, curve, best), color in zip(budgets, _shades(len(budgets)), strict=True):
        ax = axes[1]
        ax.plot(
            *zip(*runs, strict=True), "o", color=color, markersize=4, label=f"{flops:.2g} FLOPs"
        )
        if curve is not None:
            x = np.geomspace(min(n for n, _ in runs), max(n for n, _ in runs), 60)
            ax.plot(x, np.exp(np.polyval(curve, np.log(x))), color=color, linewidth=1)
        if curve is not None and best is not None:
            ax.plot(best, np.exp(np.polyval(curve, np.log(best))), "*", color=VALIDATION)
    if budgets:
        ax = axes[1]
        ax.set_title("equal FLOPs; stars are the best sizes", loc="left", fontsize=10, color=INK)
        ax.set_xlabel("parameters without embeddings", color=INK)
        if len(sizes) < 10:  # more would overlap
            ax.xaxis.set_major_locator(FixedLocator(sizes))
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
            ax.xaxis.set_minor_locator(NullLocator())
        ax.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path)


def _shades(count: int) -> list[Any]:
    """Colors from light to dark."""
    from matplotlib import colormaps

    return list(colormaps["viridis_r"](np.linspace(0.15, 1, count)))


def _figure(
    columns: int, *, width: float, title: str, layout: Literal["constrained"] | None = "constrained"
) -> tuple["Figure", list["Axes"]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.5), dpi=130, layout=layout)
    FigureCanvasAgg(figure)  # not pyplot, which keeps every figure in memory
    figure.suptitle(title, fontsize=11, color=INK, parse_math=False)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _histogram(ax: "Axes", splits: Mapping[Split, npt.NDArray[np.int64]], *, unit: str) -> None:
    """Histogram of document lengths; cuts off the longest documents and labels the maximum."""
    everything = np.concatenate(list(splits.values()))
    end = max(1.0, float(np.percentile(everything, 99.5, method="higher")))
    edges = np.linspace(0, end, min(50, math.ceil(end)) + 1)
    for (split, values), color in zip(splits.items(), (TRAIN, VALIDATION), strict=True):
        percent = 100 * np.histogram(values, edges)[0] / len(values)
        label = f"{split}, median {np.median(values):,.0f}"
        ax.stairs(percent, edges, color=color, fill=True, alpha=0.25)
        ax.stairs(percent, edges, color=color, label=label)
    ax.set_title(f"length of a document, {unit}", loc="left", fontsize=10, color=INK)
    longest = f", the longest {everything.max():,}" if everything.max() > end else ""
    ax.set_xlabel(f"{unit}{longest}", color=INK)
    ax.set_ylabel("% of the documents", color=INK)
    ax.set_xlim(0, end)
    ax.margins(y=0.25)  # room for the legend
    _plain(ax)
    ax.legend(frameon=False, loc="upper right")


def _sizes(ax: "Axes", sizes: Mapping[int, float], chosen: tuple[str, int, float]) -> None:
    """Plot bytes per token against vocabulary size."""
    name, chosen_size, chosen_ratio = chosen
    ax.plot(list(sizes), list(sizes.values()), color=TRAIN, marker="o", markersize=4)
    for size, ratio in sizes.items():
        ax.annotate(f"{ratio:.2f}", (size, ratio), (4, -12), textcoords="offset points")
    label = f"{name} {chosen_size:,}: {chosen_ratio:.2f}"
    ax.plot(chosen_size, chosen_ratio, "*", color=VALIDATION, markersize=12, label=label)
    ax.legend(frameon=False, loc="lower right")
    ax.set_title("bytes per token of validation", loc="left", fontsize=10, color=INK)
    ax.set_xlabel("vocabulary size of tokenizer=bpe", color=INK)
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(sizes) or [chosen_size], [f"{size:,}" for size in sizes or [chosen_size]])
    ax.minorticks_off()
    ax.margins(x=0.2, y=0.15)
    ax.set_ylim(bottom=0)
    _plain(ax)


def _points(rows: Sequence[Row], key: str) -> Points:
    found = [(row["step"], row.get(key)) for row in rows]
    return [(step, value) for step, value in found if value is not None and math.isfinite(value)]


def _smooth(points: Points) -> Points:
    """Running mean over about 1/50 of the points; over fewer at the start, where the loss falls."""
    mean = 0.0
    smooth = []
    for index, (step, value) in enumerate(points):
        window = max(1.0, min(1 + index / 5, len(points) / 50))
        mean += (value - mean) / window
        smooth.append((step, mean))
    return smooth


def _line(ax: "Axes", points: Points, *, color: str, label: str = "", alpha: float = 1.0) -> None:
    """Draw a line, with dots if there are few points; the label shows the last value."""
    if points:
        steps, values = zip(*points, strict=True)
        marker = "o" if len(points) <= POINTS_SHOWN_AS_DOTS else None
        label = f"{label}  {values[-1]:.3f}" if label else "_not in the legend"
        ax.plot(steps, values, color=color, label=label, alpha=alpha, marker=marker, markersize=4)


def _floor(ax: "Axes", bpb: float, *, under: Points) -> None:
    """Draw the entropy of the text, and shade the gap to the curve: what is left to learn."""
    steps, values = zip(*under, strict=True)
    ax.axhline(bpb, color=FLOOR, linestyle="--", label=f"entropy of the text  {bpb:.3f}")
    label = f"left to learn  {values[-1] - bpb:.3f}"
    ax.fill_between(steps, bpb, values, color=VALIDATION, alpha=0.1, linewidth=0, label=label)


def _dress(ax: "Axes", rows: Sequence[Row]) -> None:
    """Format an axis: labels, limits and legend.

    Where labels and at most how many ticks stand is given: matplotlib would measure every text for
    each of them, which is most of the time of a picture.
    """
    from matplotlib.ticker import MaxNLocator

    last = rows[-1] if rows else {}
    per_step = last["tokens"] / last["step"] if last.get("tokens") and last["step"] else 0
    each = f" of {per_step:,.0f} tokens" if per_step and per_step == round(per_step) else ""
    ax.set_xlabel(f"step{each}", color=INK)
    ax.set_xlim(0, last.get("step", 1) * 1.02 or 1)
    for axis, position in ((ax.xaxis, (0.5, -0.09)), (ax.yaxis, (-0.1, 0.5))):
        axis.set_label_coords(*position)
        axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    _plain(ax)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, loc="upper right")
    else:
        ax.text(0.5, 0.5, "nothing was logged", transform=ax.transAxes, ha="center", color=INK)


def _plain(ax: "Axes") -> None:
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
