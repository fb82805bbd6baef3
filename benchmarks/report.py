"""Compute medians, ratios and MFU from the times of the rounds; write the JSON and the table."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.shapes import Shape
from tinygpt.files import write_atomically


@dataclass(frozen=True)
class Measured:
    """All turns of one contestant at one shape."""

    precision: str  # the actual precision, fp32 or bf16
    steps: Sequence[int]  # of each round
    seconds: Sequence[float]  # of each round
    peaks: Sequence[float]  # FLOP/s of the fastest matrix product of each round
    peak_mem_bytes: int
    details: Mapping[str, Any]

    def rates(self, tokens_per_step: int) -> list[float]:
        """Tokens per second of each round."""
        return [
            steps * tokens_per_step / s for steps, s in zip(self.steps, self.seconds, strict=True)
        ]


def summarise(
    shape: Shape,
    measured: Mapping[str, Measured],
    *,
    products: Sequence[Mapping[str, float]],
    ours: str,
    shipped: str,
) -> dict[str, Any]:
    """The results of one shape; `products` holds the FLOP/s of matrix products in each round.

    Ratios are ratios of medians. The peak is the fastest product of all rounds in any precision;
    figures "by round" use each round's own peak. A ratio to a contestant that did not run is None.
    """
    peak = max(rate for round_ in products for rate in round_.values())
    rates = {name: m.rates(shape.tokens_per_step) for name, m in measured.items()}
    medians = {name: median(values) for name, values in rates.items()}
    peers = {name: rate for name, rate in medians.items() if not name.startswith("tinygpt ")}
    best_peer = max(peers, key=lambda name: peers[name], default=None)

    def ratio(to: str | None) -> float | None:
        return medians[ours] / medians[to] if to in medians and ours in medians else None

    def contestant(name: str) -> dict[str, Any]:
        m = measured[name]
        flops = m.details.get("flops_per_token", shape.flops_per_token)
        return {
            **m.details,
            "precision": m.precision,
            "tokens_per_sec": medians[name],
            "best_tokens_per_sec": max(rates[name]),
            "mfu": mfu(flops, medians[name], peak_flops=peak),
            "mfu_by_round": median(
                mfu(flops, rate, peak_flops=of_round)
                for rate, of_round in zip(rates[name], m.peaks, strict=True)
            ),
            "best_mfu": mfu(flops, max(rates[name]), peak_flops=peak),
            "flops_by_round": [flops * rate for rate in rates[name]],
            "peak_mem_bytes": m.peak_mem_bytes,
            "rounds": [
                {"steps": steps, "seconds": seconds}
                for steps, seconds in zip(m.steps, m.seconds, strict=True)
            ],
        }

    contestants = {name: contestant(name) for name in measured}
    for row in contestants.values():
        row["flops_vs_ours"] = _paired(row, contestants.get(ours))
    us = contestants.get(ours, {})
    same_mode = contestants.get(f"nanogpt {us.get('precision')}")
    return {
        "shape": asdict(shape),
        "flops_per_token": shape.flops_per_token,
        "peak_flops": peak,
        "ours": ours,
        "shipped": shipped,
        "best_peer": best_peer,
        "tokens_per_sec": us.get("tokens_per_sec"),
        "ratio_vs_shipped": ratio(shipped),
        "ratio_vs_best": ratio(best_peer),
        "mfu": us.get("mfu"),
        "mfu_by_round": us.get("mfu_by_round"),
        "peak_mem_bytes": us.get("peak_mem_bytes"),
        "peak_mem_vs_same_mode": (
            us["peak_mem_bytes"] / same_mode["peak_mem_bytes"] if us and same_mode else None
        ),
        "contestants": contestants,
        "products": list(products),
    }


def _paired(row: Mapping[str, Any], ours: Mapping[str, Any] | None) -> float | None:
    """FLOP/s relative to those of `ours` in the same round, median over rounds; None without it."""
    if ours is None:
        return None
    theirs: list[float] = row["flops_by_round"]
    of_ours: list[float] = ours["flops_by_round"]
    return median(a / b for a, b in zip(theirs, of_ours, strict=True))


def mfu(flops_per_token: float, tokens_per_sec: float, *, peak_flops: float) -> float:
    """Model FLOPs utilization: the model's FLOP/s as a share of the peak."""
    return tokens_per_sec * flops_per_token / peak_flops


def about(hardware: Mapping[str, Any]) -> dict[str, Any]:
    """The date, commit and hardware of the measurement."""
    root = Path(__file__).parent.parent
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(root),
        **hardware,
    }


def commit(folder: Path) -> str | None:
    """The commit of a checkout, with `+` if files were changed; None if it is not a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + "+" * bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None


def print_shape(name: str, summary: Mapping[str, Any]) -> None:
    """Print the table of one shape."""
    shape = Shape(**summary["shape"])
    print(
        f"\n({name}) {shape.n_layer} layers, {shape.n_head} heads, {shape.d_model} wide, "
        f"{shape.seq_len} tokens, {shape.sequences} sequences, vocabulary {shape.vocab_size:,}; "
        f"matmul peak {summary['peak_flops'] / 1e9:,.0f} GFLOP/s"
    )
    table = Table("", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("tok/s", "best", "x shipped", "FLOP/s", "MFU", "by round", "peak MB"):
        table.add_column(column, justify="right")
    shipped = summary["contestants"].get(summary["shipped"])
    for contestant, row in summary["contestants"].items():
        ratio = row["tokens_per_sec"] / shipped["tokens_per_sec"] if shipped else None
        relative = row["flops_vs_ours"]
        table.add_row(
            contestant,
            f"{row['tokens_per_sec']:,.0f}",
            f"{row['best_tokens_per_sec']:,.0f}",
            "" if ratio is None else f"{ratio:.2f}",
            "" if relative is None else f"{relative:.2f}",
            f"{row['mfu']:.1%}",
            f"{row['mfu_by_round']:.1%}",
            f"{row['peak_mem_bytes'] / 1e6:,.0f}",
        )
    Console().print(table)
    for contestant, error in summary["failed"].items():
        print(f"{contestant} failed: {error}")
    comparisons = {
        f"x {summary['shipped']} (as shipped)": summary["ratio_vs_shipped"],
        f"x {summary['best_peer']} (best)": summary["ratio_vs_best"],
        "x the memory of nanogpt in the same precision": summary["peak_mem_vs_same_mode"],
    }
    known = [f"{ratio:.2f} {what}" for what, ratio in comparisons.items() if ratio is not None]
    if known:
        print(f"{summary['ours']}: {', '.join(known)}", flush=True)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the JSON atomically: a reader sees the old file or the new one."""
    write_atomically(path, json.dumps(content, indent=1) + "\n")
