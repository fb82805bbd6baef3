"""The picture of a run: its loss, and how many bits a byte of unseen text costs it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN, VALIDATION, FLOOR, INK = "#5b84b8", "#c8553d", "#3a7d44", "#333333"
POINTS_SHOWN_AS_DOTS = 30

Row = Mapping[str, float]
Points = list[tuple[float, float]]  # (step, value)


def loss_curve(
    rows: Sequence[Row], path: Path, *, title: str, floor_bpb: float | None = None
) -> None:
    """Write a PNG: on the left the losses in nats per token, on the right val/bpb and its floor.

    Values that are missing or not finite are left out, and the right half too where no row has
    val/bpb.  The legends give the last values.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    train, val, bpb = (_points(rows, key) for key in ("train/loss", "val/loss", "val/bpb"))
    figure = Figure(figsize=(11 if bpb else 6.5, 4.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot: it keeps every figure of the process
    axes = figure.subplots(1, 2 if bpb else 1, squeeze=False)[0]
    figure.suptitle(title, fontsize=11, color=INK, parse_math=False)

    axes[0].set_title("loss, nats per token", loc="left", fontsize=10, color=INK)
    _line(axes[0], train, color=TRAIN, alpha=0.3)
    _line(axes[0], _smooth(train), color=TRAIN, label="train")
    _line(axes[0], val, color=VALIDATION, label="validation")
    if bpb:
        axes[1].set_title("validation, bits per byte", loc="left", fontsize=10, color=INK)
        _line(axes[1], bpb, color=VALIDATION, label="model")
        if floor_bpb is not None:
            _floor(axes[1], floor_bpb, under=bpb)
    for ax in axes:
        _dress(ax, rows)
    figure.savefig(path)


def _points(rows: Sequence[Row], key: str) -> Points:
    found = [(row["step"], row.get(key)) for row in rows]
    return [(step, value) for step, value in found if value is not None and math.isfinite(value)]


def _smooth(points: Points) -> Points:
    """Running mean over about a fiftieth of the points, over fewer where the loss still falls."""
    mean = 0.0
    smooth = []
    for index, (step, value) in enumerate(points):
        window = max(1.0, min(1 + index / 5, len(points) / 50))
        mean += (value - mean) / window
        smooth.append((step, mean))
    return smooth


def _line(ax: "Axes", points: Points, *, color: str, label: str = "", alpha: float = 1.0) -> None:
    """A line, with dots where the points are few; a label has the last value with it."""
    if points:
        steps, values = zip(*points, strict=True)
        marker = "o" if len(points) <= POINTS_SHOWN_AS_DOTS else None
        label = f"{label}  {values[-1]:.3f}" if label else "_not in the legend"
        ax.plot(steps, values, color=color, label=label, alpha=alpha, marker=marker, markersize=4)


def _floor(ax: "Axes", bpb: float, *, under: Points) -> None:
    """The entropy of the text, and what lies between it and the curve: what is left to learn."""
    steps, values = zip(*under, strict=True)
    ax.axhline(bpb, color=FLOOR, linestyle="--", label=f"entropy of the text  {bpb:.3f}")
    label = f"left to learn  {values[-1] - bpb:.3f}"
    ax.fill_between(steps, bpb, values, color=VALIDATION, alpha=0.1, linewidth=0, label=label)


def _dress(ax: "Axes", rows: Sequence[Row]) -> None:
    """What both halves have in common."""
    last = rows[-1] if rows else {}
    per_step = last["tokens"] / last["step"] if last.get("tokens") and last["step"] else 0
    each = f" of {per_step:,.0f} tokens" if per_step and per_step == round(per_step) else ""
    ax.set_xlabel(f"step{each}", color=INK)
    ax.set_xlim(0, last.get("step", 1) * 1.02 or 1)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, loc="upper right")
    else:
        ax.text(0.5, 0.5, "nothing was logged", transform=ax.transAxes, ha="center", color=INK)
