"""Which numbers of tinygpt.evaluate put sizes in the order of their bits per byte.

Prints a table, and writes numbers.csv and numbers.png.

    python experiments/evaluation/study.py outputs/SWEEP ...

The runs differ in model.d_model and seed, and were measured by tinygpt.evaluate.
"""

import csv
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tinygpt.comparison.statistics import estimate
from tinygpt.interfaces import Finding
from tinygpt.records.find import find_runs
from tinygpt.records.read import RunRecord, read_runs

HERE = Path(__file__).parent
THREE = (16, 32, 64)  # widths that are better the wider, after equal time
DRAWN = (
    *("likelihood/bpb_split", "choices/mean", "choices/world_name", "choices/order"),
    *("choices/object", "generation/distance_2grams", "generation/grammar_lints"),
    "generation/longest_copy",
)


def numbers_of(run: RunRecord) -> dict[str, Finding]:
    """All numbers of a run's evaluations, by suite and name."""
    return {
        f"{suite}/{name}": number
        for suite, result in run.evaluations.items()
        for name, number in result.numbers.items()
    }


def in_order(by_size: list[list[float]], better: str | None) -> bool:
    """Whether every run of a size is better than every run of the sizes before it."""
    sign = -1 if better == "lower" else 1
    signed = [[sign * value for value in values] for values in by_size]
    return all(max(a) < min(b) for a, b in pairwise(signed))


def text(values: list[float]) -> str:
    """Mean and 95 % interval over seeds."""
    found = estimate(values)
    return f"{found.mean:.3g}" + (f" ± {found.half_width:.2g}" if found.half_width else "")


def main() -> None:
    """Print the table of all numbers that have a better direction."""
    runs = read_runs(find_runs(sys.argv[1:], output_dir=Path("outputs")))
    suites = {"likelihood", "choices", "generation"}
    found = {run: numbers_of(run) for run in runs if suites <= run.evaluations.keys()}
    runs = list(found)
    by_size: dict[int, list[RunRecord]] = defaultdict(list)
    for run in runs:
        by_size[run.flat["model.d_model"]].append(run)
    # the size with the most bits per byte first
    sizes = sorted(
        by_size, key=lambda d: -sum(r.summary["val/bpb"] for r in by_size[d]) / len(by_size[d])
    )
    with (HERE / "numbers.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["d_model", "seed", "number", "value", "low", "high", "n"])
        for run, numbers in found.items():
            for name, n in numbers.items():
                size, seed = run.flat["model.d_model"], run.flat["seed"]
                writer.writerow([size, seed, name, n.value, n.low, n.high, n.n])
    bits = [found[run]["likelihood/bpb_split"].value for run in runs]
    widths = " | ".join(f"width {size}" for size in sizes)
    print(
        f"| number | {widths} | held out | interval of a run | spread of seeds | r "
        "| 16 < 32 < 64 | all |"
    )
    print(f"|---|{'---|' * len(sizes)}---|---|---|---|---|---|")
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, number in found[runs[0]].items():
        if number.better is None:
            continue
        values = [[found[run][name].value for run in by_size[size]] for size in sizes]
        suite, _, own = name.partition("/")
        data = found[runs[0]].get(f"{suite}/data/{own}")
        halves = [(n.high - n.low) / 2 for f in found.values() if (n := f[name]).low is not None]
        several = [of_size for of_size in values if len(of_size) > 1]
        spread = float(np.sqrt(np.mean([np.var(of_size, ddof=1) for of_size in several])))
        of_runs = [found[run][name].value for run in runs]
        r = float(np.corrcoef(bits, of_runs)[0, 1]) if len(set(of_runs)) > 1 else 0.0
        three = [values[sizes.index(size)] for size in THREE]
        ordered = in_order(three, number.better)
        counts[suite][0] += ordered
        counts[suite][1] += 1
        cells = [
            f"{name} ({'↓' if number.better == 'lower' else '↑'})",
            *map(text, values),
            "" if data is None else f"{data.value:.4g}",
            f"± {np.mean(halves):.2g}" if halves else "",
            f"{spread:.2g}",
            f"{r:+.2f}",
            "**yes**" if ordered else "no",
            "yes" if in_order(values, number.better) else "no",
        ]
        print(f"| {' | '.join(cells)} |")
    for suite, (yes, of) in counts.items():
        print(f"\n{suite}: {yes} of {of} numbers put the runs of widths 16, 32 and 64 in order")
    draw(found, sizes)


def draw(found: dict[RunRecord, dict[str, Finding]], sizes: list[int]) -> None:
    """Each run as a point over its bits per byte, with the interval of its items."""
    figure = Figure(figsize=(11, 5.2), dpi=100, layout="constrained")
    for ax, name in zip(figure.subplots(2, 4).flat, DRAWN, strict=True):
        for number, size in enumerate(sizes):
            points = [
                (n["likelihood/bpb_split"].value, n[name])
                for run, n in found.items()
                if run.flat["model.d_model"] == size
            ]
            x, y = [bits for bits, _ in points], [p.value for _, p in points]
            ends = [
                [p.value - p.low if p.low is not None else 0 for _, p in points],
                [p.high - p.value if p.high is not None else 0 for _, p in points],
            ]
            ax.errorbar(
                x, y, yerr=ends, fmt="Dos^"[number], capsize=3, alpha=0.8, label=f"width {size}"
            )
        ax.set_title(name, fontsize=10)
        ax.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.supxlabel("bits per byte of the validation split")
    figure.savefig(HERE / "numbers.png")


if __name__ == "__main__":
    main()
