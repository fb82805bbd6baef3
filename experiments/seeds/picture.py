"""The curves and the spread over seeds, from curves.csv: standard deviations and a picture.

python experiments/seeds/picture.py
"""

import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

HERE = Path(__file__).parent

found: dict[int, dict[int, float]] = defaultdict(dict)  # step -> seed -> val/bpb
with (HERE / "curves.csv").open() as file:
    for row in csv.DictReader(file):
        found[int(row["step"])][int(row["seed"])] = float(row["val/bpb"])

last = found[max(found)]
for step, values in found.items():
    n, sd = len(values), float(np.std(list(values.values()), ddof=1))
    # a variance over its estimate is chi-squared with n - 1 degrees of freedom
    low, high = (sd * math.sqrt((n - 1) / stats.chi2.ppf(q, n - 1)) for q in (0.975, 0.025))
    spread = max(values.values()) - min(values.values())
    rank = stats.spearmanr([values[seed] for seed in last], list(last.values())).statistic
    print(
        f"step {step}: {n} seeds, mean {np.mean(list(values.values())):.4f}, range {spread:.4f}, "
        f"standard deviation {sd:.4f} ({low:.4f} to {high:.4f}), rank correlation with the end "
        f"{rank:.2f}"
    )
sd = float(np.std(list(last.values()), ddof=1))
for seeds in (3, 5, 10, 16):
    # the difference of two means that is as likely as not to reach p < 0.05
    least = stats.t.ppf(0.975, 2 * seeds - 2) * sd * math.sqrt(2 / seeds)
    print(f"{seeds} seeds each: a difference of {least:.3f} is significant")

figure = Figure(figsize=(9, 3.6), dpi=100, layout="constrained")
curves, dots = figure.subplots(1, 2, width_ratios=[2, 1])
for seed in last:
    curves.plot(list(found), [found[step][seed] for step in found], marker="o", linewidth=1)
curves.set(xlabel="step of 256 tokens", ylabel="val/bpb", title="a line for each seed")
curves.set_xticks(list(found))
dots.hist(list(last.values()), bins=np.arange(1.8, 2.3, 0.04))
dots.set(xlabel="val/bpb at the end", ylabel="seeds", title=f"{len(last)} seeds")
for ax in (curves, dots):
    ax.grid(alpha=0.3)
figure.savefig(HERE / "curves.png")
