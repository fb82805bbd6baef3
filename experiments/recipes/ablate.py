"""Each switch of a recipe against the recipe, at equal time: measures speeds, then trains.

python experiments/recipes/ablate.py shakespeare dataset.path=FILE
python experiments/recipes/ablate.py stories dataset.path=FOLDER
python experiments/recipes/ablate.py storyworld

First each variant trains for 20 steps, in four rounds. The median step of the quickest round gives
its speed, in CPU time of one thread. Then each trains with three seeds on as many tokens as it can
in the time of the recipe. Writes NAME.csv and prints its rows.
"""

import csv
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import yaml

from tinygpt import train
from tinygpt.comparison.statistics import compare
from tinygpt.config.choices import CONF
from tinygpt.errors import as_typed
from tinygpt.interfaces import Metrics
from tinygpt.records.read import read_run
from tinygpt.training import run as training
from tinygpt.training.trainer import Trainer

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
ROUNDS = 4
STEPS = 20  # of a run that measures speed
SAME_WORK = (  # a step takes the time of the recipe's
    *("model.zero_init=", "model.copy_init=", "model.embedding_std="),
    *("optimizer.lr=", "schedule="),
)
RECIPES = {
    "shakespeare": ("shakespeare_fast", ["model.tied=true"], 105_000),
    "storyworld": (
        "demo",
        [
            "dataset.train_stories=6000",
            "dataset.validation_stories=60",
            "trainer.max_time=null",
            *("trainer.micro_batch_size=1", "trainer.tokens_per_step=768"),  # so short a run
        ],
        250_000,
    ),
    "stories": (
        "stories",
        [
            *("trainer.max_time=null", "trainer.eval_bytes=null"),
            *("trainer.micro_batch_size=4", "trainer.tokens_per_step=1024"),  # so short a run
            "optimizer.adamw_lr=0.008",
        ],
        70_000,
    ),
}
# the switch, its source, and what is typed after the recipe; the recipe itself is the first one
VARIANTS = {
    "recipe": ("", []),
    "without hashed n-grams": ("arXiv 2412.09871", ["model.ngram=1", "model.ngram_rows=null"]),
    "AdamW for Muon": (
        "kellerjordan.github.io/posts/muon",
        ["optimizer=adamw", "optimizer.lr=1e-2"],
    ),
    "learned positions for RoPE": ("arXiv 2104.09864", ["model.positions=learned"]),
    "without QK-norm": ("arXiv 2010.04245", ["model.qk_norm=false"]),
    "GELU for ReLU²": ("arXiv 2109.08668", ["model.feedforward=gelu"]),
    "SwiGLU for ReLU²": ("arXiv 2002.05202", ["model.feedforward=swiglu"]),
    "without softcap": ("arXiv 2408.00118", ["model.logit_softcap=null"]),
}
SPENT_S: list[float] = []
COLUMNS = (
    *("variant", "source", "settings", "speed", "tokens", "bpb", "half_width", "difference", "p"),
    "verdict",
)
FOR_RECIPE = {
    "shakespeare": {
        "n-grams up to 3": ("arXiv 2412.09871", ["model.ngram=3"]),
        "a quarter of the rows": ("arXiv 2412.09871", ["model.ngram_rows=2048"]),
        "LayerNorm for RMSNorm": ("arXiv 1910.07467", ["model.norm=layernorm"]),
        "norms with gain": ("modded-nanogpt", ["model.norm_gain=true"]),
        "without zero-init": ("arXiv 1901.09321", ["model.zero_init=false"]),
        "embedding norm": ("modded-nanogpt", ["model.embedding_norm=true"]),
        "value embeddings": ("modded-nanogpt", ["model.value_embeddings=true"]),
        "untied output": ("arXiv 1608.05859", ["model.tied=false"]),
        "cosine for linear": ("arXiv 2502.15938", ["schedule=cosine"]),
        "WSD for linear": ("arXiv 2404.06395", ["schedule=wsd", "schedule.decay_ratio=0.5"]),
        "x0 shortcut": ("modded-nanogpt", ["model.x0_shortcut=true"]),
    },
    "storyworld": {
        "n-grams up to 4": ("arXiv 2412.09871", ["model.ngram=4"]),
        "without copy_init": ("arXiv 2305.09828", ["model.copy_init=0"]),
        "embeddings of spread 0.02": ("", ["model.embedding_std=0.02"]),
        "Muon 0.03": ("", ["optimizer.lr=0.03"]),
        "norms without gain": ("modded-nanogpt", ["model.norm_gain=false"]),
        "tied output": ("arXiv 1608.05859", ["model.tied=true"]),
        "documents seen together": ("", ["dataset.mask_documents=false"]),
        "windows that cut stories": ("", ["dataset.window=packed"]),
        "two layers of width 96": (
            "",
            ["model.n_layer=2", "model.d_model=96", "model.x0_shortcut=true"],
        ),
    },
    "stories": {
        "AdamW for Muon": (
            "kellerjordan.github.io/posts/muon",
            ["optimizer=adamw", "optimizer.lr=4e-3"],
        ),
        "n-grams up to 4": ("arXiv 2412.09871", ["model.ngram=4"]),
        "tied output": ("arXiv 1608.05859", ["model.tied=true"]),
        "norms with gain": ("modded-nanogpt", ["model.norm_gain=true"]),
        "without zero-init": ("arXiv 1901.09321", ["model.zero_init=false"]),
        "without x0 shortcut": ("modded-nanogpt", ["model.x0_shortcut=false"]),
        "value embeddings": ("modded-nanogpt", ["model.value_embeddings=true"]),
        "windows that cut stories": ("", ["dataset.window=packed"]),
        "cosine for linear": ("arXiv 2502.15938", ["schedule=cosine"]),
    },
}


class TimedTrainer(Trainer):
    """Notes the CPU seconds of each step, which other processes change less than the time."""

    def train_step(self) -> Metrics:
        """See Trainer."""
        began = time.process_time()
        row = super().train_step()
        SPENT_S.append(time.process_time() - began)
        return row


def run(settings: list[str], outputs: Path) -> Path:
    """Train on one thread without callbacks; the run's folder. A run that fails ends all."""
    try:
        train.main([*settings, f"output_dir={outputs}", "callback=[]", "device.threads=1"])
    except SystemExit as end:
        if end.code:
            raise
    return max(outputs.glob("2*"), key=lambda path: path.name)


def settings_of(experiment: str) -> list[str]:
    """An experiment as settings."""
    content = yaml.safe_load((CONF / "experiment" / f"{experiment}.yaml").read_text())
    chosen = [next(iter(choice.items())) for choice in content.pop("defaults")]
    return [
        *(f"{key.removeprefix('override /')}={as_typed(value)}" for key, value in chosen),
        *(f"{k}.{f}={as_typed(v)}" for k, fields in content.items() for f, v in fields.items()),
    ]


def speeds_of(
    variants: dict[str, tuple[str, list[str]]], base: Callable[[str], list[str]], outputs: Path
) -> dict[str, float]:
    """Tokens per CPU second of each variant: the quickest round; measured once for a folder."""
    known = outputs / "speeds.json"
    if known.exists():
        return dict(json.loads(known.read_text()))
    step_s = dict.fromkeys(variants, math.inf)
    length = ["trainer.max_tokens=null", f"trainer.max_steps={STEPS}", "trainer.eval_bytes=1000"]
    for _ in range(ROUNDS):
        for what, (_, switch) in variants.items():
            if switch and switch[0].startswith(SAME_WORK):
                continue
            SPENT_S.clear()
            run([*base(what), *switch, *length], outputs / "speed")
            step_s[what] = min(step_s[what], median(SPENT_S[STEPS // 3 :]))
    speeds = {  # steps have equal sizes
        what: 1 / (each if math.isfinite(each) else step_s["recipe"])
        for what, each in step_s.items()
    }
    known.write_text(json.dumps(speeds))
    return speeds


def main(name: str = "", *typed: str) -> None:
    """Measure, train, compare, write; a second call goes on where the first one ended."""
    if name not in RECIPES:
        raise SystemExit(f"error: {name!r} is not a recipe; type one of {', '.join(RECIPES)}")
    experiment, changes, tokens = RECIPES[name]
    variants = VARIANTS | FOR_RECIPE[name]

    def base(what: str) -> list[str]:
        recipe = [*settings_of(experiment), *changes]
        if "AdamW" in what:  # which has an optimizer of its own
            recipe = [text for text in recipe if not text.startswith("optimizer")]
        return [*recipe, "trainer.eval_every=1000000", *typed]

    outputs = Path(f"outputs/recipes_{name}")
    speed = speeds_of(variants, base, outputs)
    finished = [one for one in map(read_run, outputs.glob("2*")) if one.status == "finished"]
    done = {(one.flat["name"], one.flat["seed"]) for one in finished}
    for seed in SEEDS:
        for what, (_, switch) in variants.items():
            if (what, seed) not in done:
                length = f"trainer.max_tokens={round(tokens * speed[what] / speed['recipe'])}"
                run([*base(what), *switch, length, f"seed={seed}", f"name={what}"], outputs)
    runs = [one for one in map(read_run, outputs.glob("2*")) if one.status == "finished"]
    first = next(one for one in runs if one.flat["name"] == "recipe")
    (found,) = compare(runs, baseline=first).tables
    with (HERE / f"{name}.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*COLUMNS])
        for group in found.configurations:
            source, switch = variants[group.name]
            bpb, tokens_of = group.metrics["val/bpb"], group.metrics["tokens"]
            row = [
                group.name,
                source,
                " ".join(switch),
                f"{speed[group.name] / speed['recipe']:.2f}",
                int(tokens_of.mean),
                f"{bpb.mean:.4f}",
                f"{bpb.half_width:.4f}",
                "" if group.difference is None else f"{group.difference:+.4f}",
                "" if group.p_value is None else f"{group.p_value:.2g}",
                group.words,
            ]
            rows.writerow(row)
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    training.Trainer = TimedTrainer  # type: ignore[misc]  # of this process alone
    main(*sys.argv[1:])
