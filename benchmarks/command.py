"""Measure the training command against its own bare step, and its start-up time.

    python -m benchmarks.command --shape b --rounds 3 --seconds 30

Prints the tokens/s that `python -m tinygpt.train` logs and those of the bare step
(benchmarks/train.py), the share of the run's time that is not training, and the seconds from the
command to the end of its first step with prepared data. Settings of the run may follow.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.contestants import LOG_EVERY, Contestant, Mode, make
from benchmarks.processes import Process
from benchmarks.shapes import parse
from benchmarks.train import WARMUP_STEPS, prepared_tokens, text_and_settings
from tinygpt import console
from tinygpt.errors import UserError

POLL_S = 0.005


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point."""
    raise SystemExit(console.guarded(lambda: _main(arguments)))


def _main(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.command",
        description="Measure the training command against its bare step, and its start-up time.",
    )
    parser.add_argument("--shape", default="b", help="as in benchmarks.train (default: b)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30, help="a run's length (default: 30)")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("settings", nargs="*", metavar="FIELD=VALUE", help="of the run")
    args = parser.parse_args(arguments)
    shape = parse(args.shape)
    with tempfile.TemporaryDirectory(prefix="tinygpt-benchmark-") as name:
        folder = Path(name)
        typed = text_and_settings(shape, folder, [f"device={args.device}", *args.settings])
        prepared_tokens(typed, folder)
        starts = [_seconds_to_first_step(typed, folder) for _ in range(args.rounds)]
        bare = Contestant("tinygpt", Mode("auto", None), shape, args.device, settings=typed)
        process = Process(make, bare, log=folder / "bare.log")
        try:
            hardware = process.describe()
            process.run(WARMUP_STEPS)
            bare_rates, runs = [], []
            for _ in range(args.rounds):
                until = time.perf_counter() + args.seconds / 2
                while time.perf_counter() < until:
                    turn = process.run(LOG_EVERY)
                    bare_rates.append(turn.steps * shape.tokens_per_step / turn.seconds)
                runs.append(_run(typed, folder, seconds=args.seconds))
        finally:
            process.close()
    summary = summarise(bare=bare_rates, runs=runs, starts=starts)
    print(
        f"command {summary['tokens_per_sec']:,.0f} tok/s, bare step "
        f"{summary['bare_tokens_per_sec']:,.0f} tok/s: ratio {summary['ratio_vs_bare']:.3f}\n"
        f"{summary['share_not_training']:.1%} of the run's time is not training; all in all "
        f"{summary['overall_tokens_per_sec']:,.0f} tok/s: ratio {summary['overall_vs_bare']:.3f}\n"
        f"{summary['start_s']:.2f} s from the command to the end of its first step"
    )
    if args.json:
        report.write(args.json, report.about(hardware) | {"settings": args.settings} | summary)
    return 0


@dataclass(frozen=True)
class Run:
    """The measurements of one run of the command."""

    rates: list[float]  # tokens per second of each row
    tokens: int
    tokens_per_sec: float  # of the whole run, without evaluations and checkpoints
    elapsed_s: float  # of the whole run, with evaluations and checkpoints

    @property
    def share_not_training(self) -> float:
        """The share of the run's time that is not training."""
        return 1 - self.tokens / self.tokens_per_sec / self.elapsed_s


def summarise(
    *, bare: Sequence[float], runs: Sequence[Run], starts: Sequence[float]
) -> dict[str, Any]:
    """Medians over rows, runs, starts and turns of the bare step, together with the raw values."""
    tokens_per_sec = median(rate for run in runs for rate in run.rates)
    overall = median(run.tokens / run.elapsed_s for run in runs)
    return {
        "tokens_per_sec": tokens_per_sec,
        "bare_tokens_per_sec": median(bare),
        "ratio_vs_bare": tokens_per_sec / median(bare),
        "overall_tokens_per_sec": overall,  # with evaluations and checkpoints
        "overall_vs_bare": overall / median(bare),
        "share_not_training": median(run.share_not_training for run in runs),
        "start_s": median(starts),
        "rounds": {
            "bare": list(bare),
            "runs": [asdict(run) for run in runs],
            "start_s": list(starts),
        },
    }


def _run(typed: Sequence[str], folder: Path, *, seconds: float) -> Run:
    """Run the command for `seconds` of wall-clock time."""
    said = _start([*typed, f"trainer.max_time={seconds}s"]).communicate()[0]
    path = max((folder / "outputs").iterdir(), key=lambda path: path.name)
    if not (path / "summary.json").is_file():
        raise UserError(f"the command failed:\n{said}")
    summary = json.loads((path / "summary.json").read_text())
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    rates = [row["perf/tokens_per_sec"] for row in rows]
    return Run(rates, *(summary[key] for key in ("tokens", "tokens_per_sec", "elapsed_s")))


def _seconds_to_first_step(typed: Sequence[str], folder: Path) -> float:
    """Seconds from the start of the command until the row of its first step is on disk."""
    before = set((folder / "outputs").glob("*"))
    began = time.perf_counter()
    run = _start([*typed, "trainer.log_every=1", "trainer.max_steps=2", "trainer.eval_every=2"])
    while run.poll() is None:
        new = set((folder / "outputs").glob("*")) - before
        rows = [path / "metrics.jsonl" for path in new]
        if any(path.exists() and path.stat().st_size for path in rows):
            elapsed_s = time.perf_counter() - began
            run.communicate()
            return elapsed_s
        time.sleep(POLL_S)
    raise UserError(f"the command failed:\n{run.communicate()[0]}")


def _start(typed: Sequence[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tinygpt.train", *typed]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


if __name__ == "__main__":
    main()
