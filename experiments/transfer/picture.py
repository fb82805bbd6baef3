"""The best learning rate of each width, with intervals, from summary.csv: tables and a picture.

python experiments/transfer/picture.py

The best rate is the minimum of a parabola in log rate through the lowest mean over seeds and its
two neighbours. Its 95 % interval is of 10,000 bootstrap samples: each draws the seeds of each rate
with replacement, their distances from the mean times sqrt(n / (n - 1)), and finds its own minimum.
"""

import csv
import math
from collections import defaultdict
from pathlib import Path
from statistics import mean

import numpy as np
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
        distances = (np.array(curve[rate]) - centre) * math.sqrt(n / (n - 1))
        samples.append(centre + rng.choice(distances, (SAMPLES, n)).mean(axis=1))
    low, high = np.quantile(lowest(rates, np.stack(samples, axis=1)), [0.025, 0.975])
    return float(value), float(low), float(high)


def half_width(values: list[float]) -> float:
    """Of the 95 % interval of a mean, Student's t."""
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(stats.t.ppf(0.975, len(values) - 1)) * spread


found: dict[str, dict[int, Curve]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
with (HERE / "summary.csv").open() as file:
    for row in csv.DictReader(file):
        rate, width = float(row["lr"]), int(row["d_model"])
        found[row["scaling"]][width][rate].append(float(row["val/bpb"]))

figure = Figure(figsize=(10, 4), dpi=100, layout="constrained")
axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
for ax, (scaling, by_width) in zip(axes, found.items(), strict=True):
    print(f"optimizer.scaling={scaling}")
    for width, curve in sorted(by_width.items()):
        rates = sorted(curve)
        means = {rate: mean(curve[rate]) for rate in rates}
        cells = [f"{means[r]:.4f} ± {half_width(curve[r]):.4f} ({r:g})" for r in rates]
        print(f"  {width}: " + " | ".join(cells))
        value, low, high = best_rate(curve)
        print(f"  {width}: best rate {value:.2g} ({low:.2g} to {high:.2g})")
        (line,) = ax.plot(rates, list(means.values()), label=f"width {width}")
        for rate in rates:
            ax.scatter([rate] * len(curve[rate]), curve[rate], s=9, color=line.get_color())
        ax.axvline(value, color=line.get_color(), linestyle=":", linewidth=1)
    small, large = by_width[min(by_width)], by_width[max(by_width)]
    taken = min(small, key=lambda rate: mean(small[rate]))
    own = min(large, key=lambda rate: mean(large[rate]))
    lost = mean(large[taken]) - mean(large[own])
    test = stats.ttest_ind(large[taken], large[own], equal_var=False)
    low, high = test.confidence_interval() if taken != own else (0, 0)
    rates_of = f"{taken:g}, the best rate of {min(by_width)}, instead of {own:g}"
    print(f"  width {max(by_width)} by {rates_of}: {lost:+.4f} ({low:+.4f} to {high:+.4f})")
    ax.set(xscale="log", xlabel="optimizer.lr", title=f"optimizer.scaling={scaling}")
    every = sorted(set().union(*by_width.values()))
    ax.set_xticks(every, [f"{rate:g}" for rate in every])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
axes[0].set_ylabel("val/bpb")
axes[-1].legend()
figure.savefig(HERE / "rates.png")
