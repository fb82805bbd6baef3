"""Table, summary.csv and curves.png of runs in two precisions and several seeds.

python experiments/precision/picture.py outputs/SWEEP
"""

import csv
import sys
from itertools import combinations
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tinygpt import console
from tinygpt.errors import UserError
from tinygpt.records.find import find_runs
from tinygpt.records.read import RunRecord, read_runs

HERE = Path(__file__).parent
COLORS = {"bf16": "#c8553d", "fp32": "#5b84b8"}
Curve = dict[int, float]  # tokens -> val/bpb


def main() -> None:
    """Read the runs, print the table, write the files beside this one."""
    runs = read_runs(find_runs(sys.argv[1:], output_dir=Path("outputs")))
    runs.sort(key=lambda run: (run.config["device"]["precision"], run.config["seed"]))
    curves = {_name(run): _curve(run) for run in runs}
    if len(curves) < len(runs) or len({tuple(curve) for curve in curves.values()}) != 1:
        raise UserError(
            "the runs must differ in precision or seed, and be evaluated at the same tokens"
        )
    print("| | val/bpb | tokens/s | seconds |\n|---|---|---|---|")
    for run in runs:
        bpb, rate, seconds = map(run.metric, ("val/bpb", "tokens_per_sec", "elapsed_s"))
        print(f"| {_name(run)} | {bpb:.4f} | {rate:,.0f} | {seconds:,.0f} |")
    for a, b in combinations(curves, 2):
        gaps = [curves[b][tokens] - curves[a][tokens] for tokens in curves[a]]
        print(f"{b} less {a}: at the end {gaps[-1]:+.4f}, at most {max(gaps, key=abs):+.4f}")
    with (HERE / "summary.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["tokens", *curves])
        for tokens in next(iter(curves.values())):
            table.writerow([tokens, *(f"{curve[tokens]:.5f}" for curve in curves.values())])
    _draw(curves)


def _name(run: RunRecord) -> str:
    return f"{run.config['device']['precision']}, seed {run.config['seed']}"


def _curve(run: RunRecord) -> Curve:
    return {int(row["tokens"]): row["val/bpb"] for row in run.rows if "val/bpb" in row}


def _draw(curves: dict[str, Curve]) -> None:
    """On the left the curves, on the right what each has more than the mean of all."""
    figure = Figure(figsize=(11, 4.2), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, curve in curves.items():
        color, line = COLORS[name[:4]], ("-", "--", ":")[int(name.split()[-1]) % 3]
        millions = [tokens / 1e6 for tokens in curve]
        more = [bpb - sum(c[t] for c in curves.values()) / len(curves) for t, bpb in curve.items()]
        label = f"{name}  {[*curve.values()][-1]:.4f}"
        left.plot(millions, [*curve.values()], line, color=color, label=label)
        right.plot(millions, more, line, color=color)
    left.set_title("val/bpb", loc="left", fontsize=10)
    right.set_title("val/bpb less the mean of all runs", loc="left", fontsize=10)
    left.legend(frameon=False)
    for ax in (left, right):
        ax.set_xlabel("million tokens")
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "curves.png")


if __name__ == "__main__":
    console.guarded(main)
