"""Tokenizers at equal CPU time, each at its best learning rate: measures speeds, then trains.

python experiments/vocabulary/study.py dataset=tiny_stories dataset.path=FOLDER

First each tokenizer trains for 15 steps, in three rounds. The median step of the quickest round
gives its speed, in CPU time of one thread. Then each trains on as many tokens as it can in SECONDS,
at three learning rates with one seed, and at neighbouring rates while the best one is at an edge;
then at the best rate with the other seeds. Writes summary.csv and ends.png, and prints the table.
"""

import csv
import json
import math
import sys
import time
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

import tinygpt
from tinygpt.comparison.statistics import compare
from tinygpt.interfaces import Metrics
from tinygpt.records.read import RunRecord, read_run
from tinygpt.training import run as training
from tinygpt.training.trainer import Trainer

HERE = Path(__file__).parent
OUTPUTS = Path("outputs/vocabulary")
TOKENIZERS = {
    "char": ["tokenizer=char"],
    **{f"bpe{n}": ["tokenizer=bpe", f"tokenizer.vocab_size={n}"] for n in (512, 1024, 2048)},
    "bpe_auto": ["tokenizer=bpe", "tokenizer.vocab_size=auto"],
    **{f"bpe{n}": ["tokenizer=bpe", f"tokenizer.vocab_size={n}"] for n in (4096, 8192)},
}
SETTINGS = [
    *("model=modern_nano", "model.n_layer=2", "model.d_model=128"),
    *("optimizer=adamw", "schedule=linear"),
    *("trainer.seq_len=256", "trainer.micro_batch_size=4", "trainer.tokens_per_step=1024"),
    *("trainer.eval_every=1000000", "device=cpu", "device.threads=1", "callback=[]"),
]
RATES = (2e-3, 4e-3, 8e-3)
SEEDS = (0, 1, 2)
SECONDS = 15.0  # CPU time of each run's training
ROUNDS, STEPS = 3, 15  # of the runs that measure speed
SPENT_S: list[float] = []


class TimedTrainer(Trainer):
    """Notes the CPU seconds of each step, which other processes change less than the time."""

    def train_step(self) -> Metrics:
        """See Trainer."""
        began = time.process_time()
        row = super().train_step()
        SPENT_S.append(time.process_time() - began)
        return row


def speeds(typed: list[str]) -> dict[str, float]:
    """Tokens per CPU second of each tokenizer; measured once for a folder of outputs."""
    known = OUTPUTS / "speeds.json"
    found: dict[str, float] = json.loads(known.read_text()) if known.exists() else {}
    step_s = {name: math.inf for name in TOKENIZERS if name not in found}
    length = [f"trainer.max_steps={STEPS}", "trainer.eval_bytes=1000"]
    for _ in range(ROUNDS):
        for name in step_s:
            SPENT_S.clear()
            settings = [*SETTINGS, *TOKENIZERS[name], *length, *typed]
            tinygpt.run([*settings, f"output_dir={OUTPUTS / 'speed'}"], quiet=True)
            step_s[name] = min(step_s[name], median(SPENT_S[STEPS // 3 :]))
    found |= {name: 1024 / each for name, each in step_s.items()}
    known.write_text(json.dumps(found))
    return found


def bpb(typed: list[str], name: str, tokens: float, lr: float, seed: int) -> float:
    """What a run ends with; it is trained unless it is there."""
    for run in records():
        if (run.flat["name"], run.flat["optimizer.lr"], run.flat["seed"]) == (name, lr, seed):
            return float(run.summary["val/bpb"])
    own = [f"trainer.max_tokens={round(tokens)}", f"optimizer.lr={lr}", f"seed={seed}"]
    labels = [f"name={name}", f"output_dir={OUTPUTS}"]
    run = tinygpt.run([*SETTINGS, *TOKENIZERS[name], *own, *typed, *labels], quiet=True)
    print(f"{name}, lr {lr:g}, seed {seed}: {run.summary['val/bpb']:.4f}", flush=True)
    return float(run.summary["val/bpb"])


def records() -> list[RunRecord]:
    """The finished runs; those that measured speed are in a folder of their own."""
    return [run for run in map(read_run, OUTPUTS.glob("2*")) if run.status == "finished"]


def draw(runs: list[RunRecord], best: dict[str, float]) -> None:
    """The end of each run over the number of pieces; those at the best rate are full dots."""
    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    ax = figure.subplots()
    sizes = {run.flat["name"]: run.derived["vocab_size"] for run in runs}
    ends = {
        lr: [r for r in runs if r.flat["optimizer.lr"] == lr]
        for lr in sorted({run.flat["optimizer.lr"] for run in runs})
    }
    for lr, group in ends.items():
        x = [sizes[run.flat["name"]] for run in group]
        filled = [best[run.flat["name"]] == lr for run in group]
        y = [run.summary["val/bpb"] for run in group]
        color = f"C{[*ends].index(lr)}"
        faces = [color if full else "none" for full in filled]
        ax.scatter(x, y, facecolors=faces, edgecolors=color, s=24, label=f"lr {lr:g}")
    ax.set(xscale="log", xlabel="pieces", ylabel="val/bpb", title="equal CPU time")
    ax.set_xticks([*sizes.values()], [*sizes], rotation=30, ha="right")
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    ax.legend(title="full: the best rate", fontsize=8)
    figure.savefig(HERE / "ends.png")


def main(typed: list[str]) -> None:
    """Measure, train, compare, write; a second call continues where the first one ended."""
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    speed, best = speeds(typed), {}
    for name in TOKENIZERS:
        tokens, found = SECONDS * speed[name], {}
        left = [*RATES]
        while left:
            found |= {lr: bpb(typed, name, tokens, lr, SEEDS[0]) for lr in left}
            best[name] = min(found, key=lambda lr: found[lr])
            left = [lr for lr in (best[name] / 2, best[name] * 2) if lr not in found]
    for seed in SEEDS[1:]:
        for name, lr in best.items():
            bpb(typed, name, SECONDS * speed[name], lr, seed)
    runs = sorted(records(), key=lambda run: [*TOKENIZERS].index(run.flat["name"]))
    with (HERE / "summary.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["tokenizer", "lr", "seed", "tokens_per_cpu_s", "tokens", "val/bpb"])
        for run in runs:
            name, bits = run.flat["name"], run.summary["val/bpb"]
            about = [name, run.flat["optimizer.lr"], run.flat["seed"], round(speed[name])]
            rows.writerow([*about, run.summary["tokens"], f"{bits:.4f}"])
    draw(runs, best)
    (table,) = compare([r for r in runs if r.flat["optimizer.lr"] == best[r.flat["name"]]]).tables
    for group in table.configurations:
        cell = group.metrics["val/bpb"]
        difference = "" if group.difference is None else f"{group.difference:+.3f}"
        p_value = "" if group.p_value is None else f"{group.p_value:.2g}"
        tokens = f"{group.metrics['tokens'].mean:,.0f}"
        print(
            f"| {group.name} | {best[group.name]:g} | {cell.mean:.3f} ± {cell.half_width:.3f} | "
            f"{difference} | {p_value} | {speed[group.name]:,.0f} | {tokens} |"
        )


if __name__ == "__main__":
    training.Trainer = TimedTrainer  # type: ignore[misc]  # of this process alone
    main(sys.argv[1:])
