"""The spread over seeds of each recipe, from curves.csv: standard deviations and a picture.

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

found: dict[str, dict[int, dict[int, float]]] = {}  # recipe -> step -> seed -> val/bpb
with (HERE / "curves.csv").open() as file:
    for row in csv.DictReader(file):
        steps = found.setdefault(row["recipe"], defaultdict(dict))
        steps[int(row["step"])][int(row["seed"])] = float(row["val/bpb"])

ends = {recipe: np.array(list(steps[max(steps)].values())) for recipe, steps in found.items()}
for recipe, steps in found.items():
    last = steps[max(steps)]
    for step, values in steps.items():
        x = np.array([values[seed] for seed in last])
        sd = float(x.std(ddof=1))
        # a variance over its estimate is chi-squared with n - 1 degrees of freedom
        low, high = (
            sd * math.sqrt((len(x) - 1) / stats.chi2.ppf(q, len(x) - 1)) for q in (0.975, 0.025)
        )
        rank = stats.spearmanr(x, list(last.values())).statistic
        print(
            f"{recipe}, step {step}: {len(x)} seeds, mean {x.mean():.4f} "
            f"± {stats.t.ppf(0.975, len(x) - 1) * sd / math.sqrt(len(x)):.4f}, range "
            f"{np.ptp(x):.4f}, standard deviation {sd:.4f} ({low:.4f} to {high:.4f}), "
            f"rank correlation with the end {rank:.2f}"
        )
    sd = float(ends[recipe].std(ddof=1))
    for seeds in (3, 5, 10, 16):
        # the difference of two means that is as likely as not to reach p < 0.05
        least = stats.t.ppf(0.975, 2 * seeds - 2) * sd * math.sqrt(2 / seeds)
        print(f"{recipe}, {seeds} seeds each: a difference of {least:.3f} is significant")
high, low, muon = ends.values()
print(f"spread of {' and '.join(list(ends)[:2])}: p {stats.levene(high, low).pvalue:.2g} (Levene)")
print(f"spread of {' and '.join(list(ends)[1:])}: p {stats.levene(low, muon).pvalue:.2g} (Levene)")
print(f"means of the first two: p {stats.ttest_ind(high, low, equal_var=False).pvalue:.2g} (Welch)")

figure = Figure(figsize=(9, 3.6), dpi=100, layout="constrained")
for ax, (recipe, steps) in zip(
    figure.subplots(1, len(found), sharey=True, sharex=True), found.items(), strict=True
):
    for seed in steps[max(steps)]:
        ax.plot(list(steps), [steps[step][seed] for step in steps], marker="o", linewidth=1)
    ax.set(xlabel="step of 256 tokens", title=f"{recipe}: {len(ends[recipe])} seeds")
    ax.set_xticks(list(steps))
    ax.label_outer()
    ax.grid(alpha=0.3)
figure.axes[0].set_ylabel("val/bpb")
figure.savefig(HERE / "curves.png")
