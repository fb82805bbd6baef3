"""The ends of all runs over the learning rate, from summary.csv.

python experiments/architectures/picture.py
"""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure

HERE = Path(__file__).parent

found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
with (HERE / "summary.csv").open() as file:
    for row in csv.DictReader(file):
        if row["budget"] == "flops":
            found[row["model"]][float(row["lr"])].append(float(row["val/bpb"]))

figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
ax = figure.subplots()
for model, by_rate in found.items():
    rates = sorted(by_rate)
    label = "nano (GPT-2)" if model == "nano" else model
    (line,) = ax.plot(rates, [mean(by_rate[rate]) for rate in rates], label=label)
    for rate in rates:
        ax.scatter([rate] * len(by_rate[rate]), by_rate[rate], s=14, color=line.get_color())
ax.set(xscale="log", xlabel="learning rate", ylabel="val/bpb", title="equal FLOPs, three seeds")
every = sorted(set().union(*found.values()))
ax.set_xticks(every, [f"{rate:g}" for rate in every])
ax.minorticks_off()
ax.grid(alpha=0.3)
ax.legend()
figure.savefig(HERE / "rates.png")
