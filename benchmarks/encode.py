"""Measure MB/s from a parquet file of texts to a file of token ids, for tinygpt and others.

    python -m benchmarks.encode --data PARQUET_OR_FOLDER --vocab-size 8192 --rounds 5 --json OUT

benchmarks/README.md describes what is measured and how.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.encoders import ENCODINGS, OURS, Job, make, missing, train_peers
from benchmarks.processes import Failed, Process
from tinygpt import console
from tinygpt.components.tokenizers.bpe import BPEConfig
from tinygpt.corpus.encoding import cores
from tinygpt.errors import UserError
from tinygpt.interfaces import utf8_length

MAX_VOCAB_SIZE = 1 << 16  # ids are 16 bits wide
PACKAGES = ("tiktoken", "rustbpe", "sentencepiece", "tokenizers", "datasets", "pyarrow", "numpy")


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; exits with 0 only if every encoding ran."""
    raise SystemExit(console.guarded(lambda: _main(arguments)))


def _main(arguments: Sequence[str] | None) -> int:
    args = _parser().parse_args(arguments)
    peers = [name for name in args.peers.split(",") if name]
    if unknown := sorted(set(peers).difference(ENCODINGS)):
        raise UserError(f"--peers {unknown[0]} is none of {', '.join(ENCODINGS)}")
    if args.rounds < 1 or args.copies < 1:
        raise UserError("--rounds and --copies must be above 0")
    if args.vocab_size > MAX_VOCAB_SIZE:
        raise UserError(f"--vocab-size {args.vocab_size} is above {MAX_VOCAB_SIZE}")
    if args.json and not args.json.parent.is_dir():
        raise UserError(f"--json {args.json}: there is no folder {args.json.parent}; make it first")
    names = [OURS, *(name for name in peers if name != OURS)]
    skipped = {name: ", ".join(missing(name)) for name in names if missing(name)}
    names = [name for name in names if name not in skipped]
    with tempfile.TemporaryDirectory(prefix="tinygpt-benchmark-") as name:
        folder = Path(name)
        job = Job(OURS, folder / "texts.parquet", folder / "trained", args.vocab_size, cores())
        corpus = _write_corpus(args.data, job, copies=args.copies)
        corpus |= _train(job, with_peers=any("tokenizers" in ENCODINGS[n].packages for n in names))
        rounds, failed = measure(job, names, rounds=args.rounds, logs=folder)
    contents = report.about(_hardware()) | {
        "vocab_size": args.vocab_size,
        **corpus,
        **summarise(rounds, utf8_bytes=corpus["utf8_bytes"]),
        "skipped": skipped,
        "failed": failed,
    }
    print_summary(contents)
    if args.json:
        report.write(args.json, contents)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encode",
        description="Measure MB/s from a parquet file of texts to a file of token ids.",
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="a .parquet with a column text, or a folder")
    add("--copies", type=int, default=1, help="repeat the texts this many times (default: 1)")
    add("--vocab-size", type=int, default=8192)
    add("--rounds", type=int, default=5)
    add("--peers", default=",".join(list(ENCODINGS)[1:]), help="others to run (default: all)")
    add("--json", type=Path, metavar="OUT", help="write all figures, including each round's")
    return parser


def _write_corpus(data: Path, job: Job, *, copies: int) -> dict[str, Any]:
    """Write the parquet file that every encoding reads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(data.rglob("*.parquet")) if data.is_dir() else [data]
    if not files or not files[0].is_file():
        raise UserError(f"--data {data} is no .parquet file and no folder of them")
    tables = [pq.read_table(file, columns=["text"]) for file in files]
    table = pa.concat_tables(tables * copies)
    pq.write_table(table, job.parquet, compression="zstd", row_group_size=10_000)
    texts = table["text"].to_pylist()
    return {
        "copies": copies,
        "documents": len(texts),
        "utf8_bytes": sum(map(utf8_length, texts)),
    }


def _train(job: Job, *, with_peers: bool) -> dict[str, Any]:
    """Train the tokenizers; only tinygpt's is timed, and its time is reported separately."""
    texts = [text for batch in job.texts() for text in batch]
    job.trained.mkdir()
    began = time.perf_counter()
    BPEConfig(vocab_size=job.vocab_size).train(iter(texts)).save(job.trained)
    train_s = time.perf_counter() - began
    if with_peers:
        train_peers(texts, job)
    return {"train_s": train_s}


def measure(
    job: Job, names: Sequence[str], *, rounds: int, logs: Path
) -> tuple[dict[str, list[dict[str, float]]], dict[str, str]]:
    """Run the rounds in a rotating order; returns figures by name, and errors by name."""
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    processes = {
        name: Process(make, replace(job, name=name), log=logs / f"{name}.log") for name in names
    }
    try:
        for number in range(rounds + 1):  # the first one warms up
            first = number % len(names)
            for name in (*names[first:], *names[:first]):
                if name in failed:
                    continue
                try:
                    figures = processes[name].run(1).result
                except Failed as error:
                    failed[name] = str(error)
                    continue
                if number:
                    measured[name].append(figures)
    finally:
        for process in processes.values():
            process.close()
    return {name: figures for name, figures in measured.items() if name not in failed}, failed


def summarise(
    measured: Mapping[str, Sequence[Mapping[str, float]]], *, utf8_bytes: int
) -> dict[str, Any]:
    """Medians over the rounds, and the raw rounds; ratios are ratios of medians."""

    def rate(seconds: float) -> float:
        return utf8_bytes / 1e6 / seconds

    middle = {name: median(turn["seconds"] for turn in turns) for name, turns in measured.items()}
    return {
        "encodings": {
            name: {
                "mb_per_s": rate(middle[name]),
                "best_mb_per_s": rate(min(turn["seconds"] for turn in turns)),
                "ours_is_faster": middle[name] / middle[OURS] if OURS in middle else None,
                "tokens": turns[0]["tokens"],
                "bytes_per_token": utf8_bytes / turns[0]["tokens"],
                "rounds": list(turns),
            }
            for name, turns in measured.items()
        },
        "ours": {
            part: median(turn[part] for turn in measured[OURS])
            for part in ("reading_s", "encoding_s", "writing_s", "whole_s")
        }
        if OURS in measured
        else {},
    }


def print_summary(contents: Mapping[str, Any]) -> None:
    """Print the table, and the time of each part of tinygpt's work."""
    versions = ", ".join(f"{name} {number}" for name, number in contents["versions"].items())
    copies = f", each {contents['copies']} times" if contents["copies"] > 1 else ""
    print(
        f"{contents['date']}  commit {contents['commit']}  {contents['cpu']}, "
        f"{contents['cores']} cores  {versions}\n"
        f"{contents['documents']:,} texts{copies}, {contents['utf8_bytes'] / 1e6:.1f} MB; "
        f"vocabulary {contents['vocab_size']:,}, which tinygpt learned in "
        f"{contents['train_s']:.2f} s, not counted below"
    )
    table = Table("")
    for column in ("MB/s", "best", "tinygpt is faster", "tokens", "bytes per token"):
        table.add_column(column, justify="right")
    for name, row in contents["encodings"].items():
        ratio = row["ours_is_faster"]
        table.add_row(
            name,
            f"{row['mb_per_s']:.1f}",
            f"{row['best_mb_per_s']:.1f}",
            "" if ratio is None else f"{ratio:.2f} x",
            f"{row['tokens']:,}",
            f"{row['bytes_per_token']:.3f}",
        )
    for name, packages in contents["skipped"].items():
        table.add_row(name, f"skipped: no {packages}; pip install it")
    for name, error in contents["failed"].items():
        table.add_row(name, f"[red]{error}")
    Console().print(table)
    if ours := contents["ours"]:
        megabytes = contents["utf8_bytes"] / 1e6
        parts = ", ".join(
            f"{part} {ours[f'{part}_s']:.3f} s ({megabytes / ours[f'{part}_s']:.0f} MB/s)"
            for part in ("reading", "encoding", "writing")
        )
        print(f"tinygpt by itself, in one process: {parts}")
        print(f"all of prepare, with its checks of the splits: {ours['whole_s']:.3f} s", flush=True)


def _hardware() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"cpu": _cpu(), "cores": cores(), "load": os.getloadavg()[0], "versions": versions}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or sys.platform


if __name__ == "__main__":
    main()
