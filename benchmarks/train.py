"""Measure tokens per second of complete training steps, tinygpt's and other projects'.

    python -m benchmarks.train --nanogpt PATH --shapes a,b,c,d --rounds 5 --json OUT

Each contestant has its own process and sleeps while another one runs. benchmarks/README.md
describes what is measured and how.
"""

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.contestants import (
    MODELS,
    OPTIMIZERS,
    SWITCHES,
    WAITS,
    Contestant,
    Matmul,
    MatmulWork,
    Mode,
    Variant,
    make,
    make_text,
    settings,
)
from benchmarks.processes import Failed, Process, Timed, busy
from benchmarks.shapes import SHAPES, Shape, parse
from tinygpt import console
from tinygpt.config import compose
from tinygpt.corpus.prepared import prepare
from tinygpt.errors import UserError
from tinygpt.hardware.waiting import VARIABLES

SHIPPED = {"cpu": "nanogpt fp32", "cuda": "nanogpt bf16-compiled"}  # as in its README and config
WARMUP_STEPS = 3
CPU_SHAPES, CUDA_SHAPES = "a,b,c,d", "a,e,f"
PEER_MODES = "fp32,bf16,fp32-compiled,bf16-compiled"


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; exits with 0 only if every contestant ran."""
    raise SystemExit(console.guarded(lambda: _main(arguments)))


def _main(arguments: Sequence[str] | None) -> int:
    args = _parser().parse_args(arguments)
    shapes = args.shapes or (CUDA_SHAPES if args.device == "cuda" else CPU_SHAPES)
    named = {text: parse(text) for text in shapes.split(",")}
    ours = [Mode.parse(text, auto=True) for text in dict.fromkeys(args.ours.split(","))]
    variants = [Variant.parse(text) for text in dict.fromkeys(args.models.split(","))]
    peer_modes = [Mode.parse(text, auto=False) for text in dict.fromkeys(args.modes.split(","))]
    if args.nanogpt and not (args.nanogpt / "model.py").is_file():
        raise UserError(
            f"--nanogpt {args.nanogpt} has no model.py; get it with\n"
            "  git clone https://github.com/karpathy/nanoGPT"
        )
    if args.litgpt and find_spec("litgpt") is None:
        raise UserError("--litgpt: it is not installed; type: pip install litgpt")
    if args.rounds < 1 or args.seconds <= 0:
        raise UserError("--rounds and --seconds must be above 0")
    if args.busy < 0:
        raise UserError("--busy must be 0 or more")
    if args.busy_period < 0 or (args.busy_period and not args.busy):
        raise UserError("--busy-period must be 0 or more, and needs --busy 1 or more")
    waits = list(dict.fromkeys(args.waits.split(",")))
    if unknown := set(waits) - set(WAITS):
        raise UserError(f"--waits {','.join(sorted(unknown))} is not one of {', '.join(WAITS)}")
    if waits != ["auto"] and (fixed := [name for name in VARIABLES if name in os.environ]):
        raise UserError(f"--waits would be ignored: unset the environment variable {fixed[0]}")
    if args.device == "cuda" and waits != ["auto"]:
        raise UserError("--waits is for CPU threads; type --device cpu")
    if args.device == "cpu" and (gpu := {"e", "f"} & set(named)):
        raise UserError(f"--shapes {','.join(sorted(gpu))} is for a GPU; type --device cuda too")
    if args.json and not args.json.parent.is_dir():
        raise UserError(f"--json {args.json}: there is no folder {args.json.parent}; make it first")
    projects = ["nanogpt"] * bool(args.nanogpt) + ["transformers"] * args.transformers
    projects += ["litgpt"] * args.litgpt
    contents: dict[str, Any] = {
        "rounds": args.rounds,
        "seconds_per_round": args.seconds,
        "nanogpt_commit": args.nanogpt and report.commit(args.nanogpt),
        "settings": args.set,
        "models": [str(variant) for variant in variants],
        "busy_processes": args.busy,
        "busy_period_s": args.busy_period,
        "shapes": {},
    }
    if args.logs:
        args.logs.mkdir(parents=True, exist_ok=True)
    failures = 0
    for name, shape in named.items():
        with tempfile.TemporaryDirectory(prefix="tinygpt-benchmark-") as folder:
            common = text_and_settings(shape, Path(folder), args.set)
            tokens = prepared_tokens(common, Path(folder))
            contestants = [
                Contestant(
                    *("tinygpt", mode, shape, args.device),
                    settings=text_and_settings(shape, Path(folder), args.set, variant),
                    variant=variant,
                    wait=wait,
                )
                for variant in variants
                for mode in ours
                for wait in waits
            ] + [
                Contestant(project, mode, shape, args.device, tokens=tokens, checkout=args.nanogpt)
                for project in projects
                for mode in peer_modes
            ]
            with busy(args.busy, period=args.busy_period):
                summary, hardware = measure(
                    contestants,
                    rounds=args.rounds,
                    seconds=args.seconds,
                    logs=args.logs or Path(folder),
                )
        if not contents["shapes"]:
            contents = report.about(hardware) | contents
            print(_heading(contents), flush=True)
        contents["shapes"][name] = summary
        report.print_shape(name, summary)
        failures += len(summary["failed"])
        if args.json:
            report.write(args.json, contents)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train",
        description="Measure tokens per second of training steps, tinygpt's and other projects'.",
    )
    add = parser.add_argument
    letters = ", ".join(SHAPES)
    add("--nanogpt", type=Path, metavar="PATH", help="a checkout of nanoGPT, if it should run")
    add("--transformers", action="store_true", help="also run GPT2LMHeadModel")
    add("--litgpt", action="store_true", help="also run litgpt's GPT, as Llama")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add(
        "--shapes",
        help=f"letters of {letters}, or 2x2x32x16x4x65: layers, heads, width, tokens, "
        f"sequences, vocabulary (default: {CPU_SHAPES}; with cuda {CUDA_SHAPES})",
    )
    add(
        "--ours",
        default="auto",
        metavar="MODES",
        help="modes of tinygpt: auto or any of --modes; ratios use the first (default: auto)",
    )
    add(
        "--models",
        default="gpt2",
        help=f"architectures of tinygpt, of {', '.join(MODELS)}, each perhaps with an optimizer "
        f"({', '.join(OPTIMIZERS)}) and switches ({', '.join(SWITCHES)}) behind +: "
        "gpt2,llama,gpt2+muon,gpt2+dropout (default: gpt2)",
    )
    add("--modes", default=PEER_MODES, help="modes of the other projects (default: all)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a setting for tinygpt, such as device.threads=1; may be repeated",
    )
    add(
        "--waits",
        default="auto",
        help=f"how tinygpt's threads wait for each other: any of {','.join(WAITS)}; ratios use the "
        "first (default: auto)",
    )
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=2.5, help="a contestant's turn in a round (default: 2.5)")
    add(
        "--busy",
        type=int,
        default=0,
        metavar="N",
        help="keep N other processes busy while it measures (default: 0)",
    )
    add(
        "--busy-period",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="let them compute for so long, then sleep for so long, and so on (default: 0, never)",
    )
    add("--json", type=Path, metavar="OUT", help="write all figures, including each round's")
    add("--logs", type=Path, metavar="FOLDER", help="keep the output of the contestants")
    return parser


def text_and_settings(
    shape: Shape, folder: Path, extra: Sequence[str], variant: Variant | None = None
) -> list[str]:
    """Settings for tinygpt; writes a text with the right vocabulary size to the folder."""
    text = folder / "random.txt"
    make_text(text, vocab_size=shape.vocab_size)
    return [*settings(shape, text, folder=folder, variant=variant), *extra]


def prepared_tokens(typed: Sequence[str], folder: Path) -> Path:
    """Prepare the data of the settings; returns a file with all training tokens as uint16."""
    prepared = prepare(compose.compose("train", list(typed)), lambda message: None)
    path = folder / "tokens.bin"
    np.asarray(prepared.tokens("train")[:], dtype="<u2").tofile(path)
    return path


def measure(
    contestants: Sequence[Contestant], *, rounds: int, seconds: float, logs: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure one shape: returns its summary and the hardware; the first contestant is tinygpt.

    On a GPU the contestants run one after another, because they do not fit into memory together.
    """
    first = contestants[0]
    shape, device = first.shape, first.device
    groups = [[c] for c in contestants] if device == "cuda" else [list(contestants)]
    measured: dict[str, report.Measured] = {}
    failed: dict[str, str] = {}
    products: list[dict[str, float]] = []
    spec = Matmul(shape, device, seconds=seconds / 30)
    matmul = Process(MatmulWork, spec, log=logs / "matmul.log")
    try:
        try:
            hardware = matmul.describe()
        except Failed as error:
            raise UserError(f"nothing can be measured: {error}") from None
        for group in groups:
            turns = _Turns(group, seconds=seconds, logs=logs)
            try:
                for number in range(rounds):
                    _note(f"round {number + 1} of {rounds}")
                    products.append(matmul.run(1).result)
                    turns.next_round(peak=max(products[-1].values()))
                measured |= turns.measured()
                failed |= turns.failed
            finally:
                turns.close()
    finally:
        matmul.close()
        _note("")
    summary = report.summarise(
        shape, measured, products=products, ours=first.name, shipped=SHIPPED[device]
    )
    return summary | {"failed": failed, "interleaved": len(groups) == 1}, hardware


class _Turns:
    """Contestants that take turns; one that fails is removed, and the others continue."""

    def __init__(self, contestants: Sequence[Contestant], *, seconds: float, logs: Path) -> None:
        self.failed: dict[str, str] = {}
        self._processes: dict[str, Process] = {}
        self._details: dict[str, dict[str, Any]] = {}
        self._steps: dict[str, int] = {}
        self._turns: dict[str, list[Timed]] = {c.name: [] for c in contestants}
        self._peaks: list[float] = []
        self._round = 0
        for contestant in contestants:
            name = contestant.name
            _note(f"{name}: warming up")
            log = logs / f"{name.replace(' ', '-')}.log"
            process = self._processes[name] = Process(
                make, contestant, log=log, environment=WAITS[contestant.wait]
            )
            try:
                details = process.describe()
                warmup = process.run(WARMUP_STEPS)
                paced = process.run(1)
                # one step of a small model is too short to time
                if paced.seconds < seconds / 4:
                    paced = process.run(max(1, math.ceil(seconds / 4 / paced.seconds)))
            except Failed as error:
                self._out(name, error)
                continue
            self._details[name] = details | {"warmup_s": warmup.seconds}
            self._steps[name] = max(1, round(seconds * paced.steps / paced.seconds))

    def next_round(self, *, peak: float) -> None:
        """Run each contestant once, in a rotating order; `peak` is this round's peak FLOP/s."""
        self._peaks.append(peak)
        names = list(self._steps)
        first = self._round % max(1, len(names))
        self._round += 1
        for name in names[first:] + names[:first]:
            try:
                self._turns[name].append(self._processes[name].run(self._steps[name]))
            except Failed as error:
                self._out(name, error)

    def measured(self) -> dict[str, report.Measured]:
        """All turns of the contestants that did not fail."""
        return {
            name: report.Measured(
                precision=self._details[name]["precision"],
                steps=[turn.steps for turn in self._turns[name]],
                seconds=[turn.seconds for turn in self._turns[name]],
                peaks=self._peaks,
                peak_mem_bytes=self._processes[name].peak_mem_bytes(),
                details=self._details[name] | {"loss": self._turns[name][-1].result},
            )
            for name in self._steps
        }

    def close(self) -> None:
        """End all processes."""
        for process in self._processes.values():
            process.close()

    def _out(self, name: str, error: Failed) -> None:
        self.failed[name] = str(error)
        self._steps.pop(name, None)
        self._processes[name].close()


def _heading(contents: dict[str, Any]) -> str:
    threads, torch = contents["threads"], contents["torch"]
    return (
        f"{contents['date']}  commit {contents['commit']}  {contents['device_name']}, "
        f"{threads} threads  torch {torch}  nanoGPT {contents['nanogpt_commit']}\n"
        f"our kernels: {contents['kernels']}"
    )


def _note(text: str) -> None:
    """Show progress on one line of the terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
