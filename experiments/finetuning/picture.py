"""Table, summary.csv and curves.png of the runs that began with trained weights, and from scratch.

python experiments/finetuning/picture.py outputs
"""

import csv
import sys
from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt

import tinygpt

HERE = Path(__file__).parent
COLOURS = {"pretrained": "#2a6f97", "from scratch": "#b5651d"}


def main(outputs: str) -> None:
    """Draw a curve for each seed; the table has means and standard deviations over seeds."""
    curves: dict[str, dict[int, dict[int, float]]] = {name: {} for name in COLOURS}
    rows = []
    for run in tinygpt.find(outputs, status="finished"):
        kind = "from scratch" if run.config.init_from is None else "pretrained"
        points = {row["step"]: row["val/bpb"] for row in run.metrics if "val/bpb" in row}
        curves[kind][run.config.seed] = points
        rows.append({"kind": kind, "seed": run.config.seed, **points})
    steps = sorted({step for of_kind in curves.values() for of in of_kind.values() for step in of})
    with (HERE / "summary.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["kind", "seed", *steps], lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (row["kind"], row["seed"])))
    print("| step | " + " | ".join(COLOURS) + " |\n|---|" + "---|" * len(COLOURS))
    for step in steps:
        cells = []
        for of_kind in curves.values():
            values = [points[step] for points in of_kind.values() if step in points]
            spread = f" \u00b1 {stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.3f}{spread}" if values else "")
        print(f"| {step} | " + " | ".join(cells) + " |")
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for kind, of_kind in curves.items():
        for number, points in enumerate(of_kind.values()):
            label = f"{kind}, {len(of_kind)} seeds" if number == 0 else None
            axes.plot(list(points), list(points.values()), ".-", color=COLOURS[kind], label=label)
    axes.set_xlabel("step of 4,096 tokens on tiny Shakespeare")
    axes.set_ylabel("validation, bits per byte")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(HERE / "curves.png", dpi=110)


if __name__ == "__main__":
    main(sys.argv[1])
