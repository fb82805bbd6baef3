"""The best learning rate of each size, with intervals: tables and pictures of both studies.

python experiments/transfer/picture.py

The best rate is the minimum of a parabola in log rate through the lowest mean over seeds and its
two neighbours. Its 95 % interval is of 10,000 bootstrap samples: each draws the seeds of each rate
with replacement, their distances from the mean times sqrt(n / (n - 1)), and finds its own minimum.
A rate with one seed stays as it is.
"""

import csv
import math
from collections import defaultdict
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

HERE = Path(__file__).parent
SAMPLES = 10_000

Curve = dict[float, list[float]]  # val/bpb of the seeds by rate


def lowest(rates: list[float], means: np.ndarray) -> np.ndarray:
    """The rate at which the parabola of each row of means is lowest; an end stays as it is."""
    x, row = np.log2(rates), np.arange(len(means))
    place = means.argmin(axis=1)
    middle = np.clip(place, 1, len(rates) - 2)
    left, centre, right = (means[row, middle + step] for step in (-1, 0, 1))
    shift = (left - right) / (2 * (left - 2 * centre + right))  # rates are a factor 2 apart
    return 2.0 ** np.where(place == middle, x[middle] + shift, x[place])


def best_rate(curve: Curve) -> tuple[float, float, float]:
    """The best rate and its 95 % interval."""
    rates = sorted(curve)
    means = np.array([mean(curve[rate]) for rate in rates])
    (value,) = lowest(rates, means[None])
    rng, samples = np.random.default_rng(0), []
    for rate, centre in zip(rates, means, strict=True):
        n = len(curve[rate])
        distances = (np.array(curve[rate]) - centre) * math.sqrt(n / max(1, n - 1))
        samples.append(centre + rng.choice(distances, (SAMPLES, n)).mean(axis=1))
    low, high = np.quantile(lowest(rates, np.stack(samples, axis=1)), [0.025, 0.975])
    return float(value), float(low), float(high)


def half_width(values: list[float]) -> str:
    """Of the 95 % interval of a mean, Student's t; empty for one value."""
    if len(values) < 2:
        return ""
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return f" ± {float(stats.t.ppf(0.975, len(values) - 1)) * spread:.3f}"


def study(name: str, column: str, sizes: list[str]) -> None:
    """Print the tables of NAME.csv and draw NAME.png; sizes are in their order."""
    found: dict[str, dict[str, Curve]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    with (HERE / f"{name}.csv").open() as file:
        for row in csv.DictReader(file):
            found[row["scaling"]][row[column]][float(row["lr"])].append(float(row["val/bpb"]))
    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for ax, (scaling, by_size) in zip(axes, found.items(), strict=True):
        print(f"{name}, optimizer.scaling={scaling}")
        for size in sizes:
            draw(ax, size, by_size[size])
        carried(by_size, sizes[0], sizes[-1])
        ax.set(xscale="log", xlabel="optimizer.lr", title=f"optimizer.scaling={scaling}")
        every = sorted(set().union(*by_size.values()))
        ax.set_xticks(every, [f"{rate:g}" for rate in every], fontsize=8)
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("val/bpb")
    axes[-1].legend()
    figure.savefig(HERE / f"{name}.png")


def draw(ax: Axes, size: str, curve: Curve) -> None:
    """Print and draw the ends of the runs of a size over the rate, and its best rate."""
    rates = sorted(curve)
    means = {rate: mean(curve[rate]) for rate in rates}
    cells = [f"{means[r]:.3f}{half_width(curve[r])} ({r:g})" for r in rates]
    print(f"  {size}: " + " | ".join(cells))
    value, low, high = best_rate(curve)
    print(f"  {size}: best rate {value:.2g} ({low:.2g} to {high:.2g})")
    (line,) = ax.plot(rates, list(means.values()), label=size)
    for rate in rates:
        ax.scatter([rate] * len(curve[rate]), curve[rate], s=9, color=line.get_color())
    ax.axvline(value, color=line.get_color(), linestyle=":", linewidth=1)


def carried(by_size: dict[str, Curve], smallest: str, largest: str) -> None:
    """Print what the largest model loses by the best rate of the smallest one."""
    small, large = by_size[smallest], by_size[largest]
    taken = min(small, key=lambda rate: mean(small[rate]))
    own = min(large, key=lambda rate: mean(large[rate]))
    if taken not in large:
        print(f"  {largest} was not run at {taken:g}, the best rate of {smallest}")
        return
    lost = mean(large[taken]) - mean(large[own])
    interval = ""
    if taken != own and min(len(large[taken]), len(large[own])) > 1:
        test = stats.ttest_ind(large[taken], large[own], equal_var=False)
        low, high = test.confidence_interval()
        interval = f" ({low:+.4f} to {high:+.4f})"
    rates_of = f"{taken:g}, the best rate of {smallest}, instead of {own:g}"
    print(f"  {largest} by {rates_of}: {lost:+.4f}{interval}")


study("shakespeare", "d_model", ["16", "32", "64", "128"])
study("stories", "model", ["nano", "tiny", "small", "medium"])
