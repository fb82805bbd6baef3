"""val/bpb over the learning rate, by size and batch, from summary.csv.

python experiments/lr_and_batch/picture.py
"""

import csv
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

from tinygpt.comparison.statistics import estimate

HERE = Path(__file__).parent

found: dict[tuple[int, int, int], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
with (HERE / "summary.csv").open() as file:
    for row in csv.DictReader(file):
        size = int(row["model.n_layer"]), int(row["model.d_model"])
        group = (int(row["trainer.tokens_per_step"]), *size)
        found[group][float(row["optimizer.lr"])].append(float(row["val/bpb"]))

figure = Figure(figsize=(9, 3.8), dpi=100, layout="constrained")
axes = figure.subplots(1, 2, sharey=True)
for number, (batch, ax) in enumerate(zip(sorted({key[0] for key in found}), axes, strict=True)):
    for offset, (key, by_rate) in enumerate(sorted(found.items())):
        if key[0] != batch:
            continue
        rates = sorted(by_rate)
        means = [estimate(by_rate[rate]) for rate in rates]
        shifted = [rate * 1.03 ** (offset % 3 - 1) for rate in rates]  # so that bars do not overlap
        ax.errorbar(
            shifted,
            [m.mean for m in means],
            yerr=[m.half_width or 0 for m in means],
            marker="os^"[offset % 3],
            capsize=3,
            label=f"{key[1]} layers of {key[2]}",
        )
    ax.set_xscale("log")
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.set(xlabel="peak learning rate", title=f"{batch:,} tokens per step")
    ax.grid(alpha=0.3)
    if number == 0:
        ax.set_ylabel("val/bpb, mean of 3 seeds, 95 % interval")
        ax.legend()
figure.savefig(HERE / "curves.png")
