"""Measure how fast models write: tokens per second, and time to the first token after a prompt.

    python -m benchmarks.sample --transformers --llamacpp --nanogpt PATH --llama2c PATH --json OUT

Each writer has its own process and sleeps while another one runs. benchmarks/README.md describes
what is measured and how.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.processes import Failed, Process
from benchmarks.samplers import Task, Writer, make
from benchmarks.shapes import Shape, parse
from tinygpt import console
from tinygpt.errors import UserError

WEIGHTS = ("fp32", "bf16", "int8")
# tasks that take nanoGPT, which has no cache, too long
MOST_SEQUENCES = {"nanogpt": 1, "llama2.c": 1}


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; exits with 0 only if every writer ran."""
    raise SystemExit(console.guarded(lambda: _main(arguments)))


def _main(arguments: Sequence[str] | None) -> int:
    args = _parser().parse_args(arguments)
    shape = parse(args.shape)
    if args.prompt >= shape.seq_len:
        raise UserError(f"--prompt must be below the shape's {shape.seq_len} tokens")
    for path, file in ((args.nanogpt, "model.py"), (args.llama2c, "run.c")):
        if path and not (path / file).is_file():
            raise UserError(f"{path} has no {file}; clone the project to there first")
    if args.json and not args.json.parent.is_dir():
        raise UserError(f"--json {args.json}: there is no folder {args.json.parent}; make it first")
    if args.new is not None and not 2 <= args.new < shape.seq_len:
        raise UserError(f"--new must be 2 to {shape.seq_len - 1}, to fit the shape's window")
    new = args.new or shape.seq_len - 1
    tasks = [Task(n, 1, new) for n in args.sequences] + [Task(1, args.prompt, 1)]
    writers = _writers(args, shape, tasks)
    contents: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tinygpt-benchmark-") as folder:
        for measured in measure(writers, rounds=args.rounds, logs=args.logs or Path(folder)):
            hardware = measured.about["memory fp32"]
            contents = report.about(hardware) | {
                "nanogpt_commit": args.nanogpt and report.commit(args.nanogpt),
                "llama2c_commit": args.llama2c and report.commit(args.llama2c),
                "rounds": len(measured.memory),
                **summarise(shape, measured),
                "failed": measured.failed,
            }
            if args.json:
                report.write(args.json, contents)
    print_tables(args.shape, contents)
    return 1 if contents["failed"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sample",
        description="Measure how fast models write tokens, tinygpt's and other projects'.",
    )
    add = parser.add_argument
    add("--nanogpt", type=Path, metavar="PATH", help="a checkout of nanoGPT, if it should run")
    add("--llama2c", type=Path, metavar="PATH", help="a checkout of llama2.c, if it should run")
    add("--transformers", action="store_true", help="also run GPT2LMHeadModel")
    add("--llamacpp", action="store_true", help="also run llama.cpp, by the package xllamacpp")
    add("--shape", default="c", help="as in benchmarks.train (default: c)")
    add("--ours", default="fp32,bf16,int8", metavar="WEIGHTS", help="weights (default: all)")
    add(
        "--sequences",
        type=lambda text: [int(number) for number in text.split(",")],
        default=[1, 8, 16],
        help="written at once (default: 1,8,16)",
    )
    add("--new", type=int, metavar="N", help="tokens of each sequence (default: the whole window)")
    add("--prompt", type=int, default=200, help="tokens before the first one (default: 200)")
    add("--rounds", type=int, default=3)
    add("--json", type=Path, metavar="OUT", help="write all figures, including each round's")
    add("--logs", type=Path, metavar="FOLDER", help="keep the output of the writers")
    return parser


def _writers(args: argparse.Namespace, shape: Shape, tasks: Sequence[Task]) -> list[Writer]:
    ours = args.ours.split(",")
    if unknown := set(ours) - set(WEIGHTS):
        raise UserError(f"--ours {','.join(unknown)}: weights are {', '.join(WEIGHTS)}")
    named: list[tuple[str, str, Path | None]] = [("tinygpt", weights, None) for weights in ours]
    if args.transformers:
        named.append(("transformers", "fp32", None))
    if args.llamacpp:
        named.append(("llama.cpp", "fp32", None))
    if args.llama2c:
        named.append(("llama2.c", "fp32", args.llama2c))
    if args.nanogpt:
        named.append(("nanogpt", "fp32", args.nanogpt))
    return [
        Writer(project, weights, shape, _possible(project, tasks), source)
        for project, weights, source in named
    ]


def _possible(project: str, tasks: Sequence[Task]) -> tuple[Task, ...]:
    most = MOST_SEQUENCES.get(project, 1 << 30)
    no_prompt = project == "llama2.c"  # its prompts are texts
    return tuple(t for t in tasks if t.sequences <= most and not (no_prompt and t.prompt > 1))


@dataclass
class Measured:
    """What is known after a round."""

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # by task, writer
    memory: list[float] = field(default_factory=list)  # bytes per second, of each round
    about: dict[str, dict[str, Any]] = field(default_factory=dict)  # what writers say of themselves
    failed: dict[str, str] = field(default_factory=dict)
    products: list[float] = field(default_factory=list)  # FLOP per second, of each round


def measure(writers: Sequence[Writer], *, rounds: int, logs: Path) -> Iterator[Measured]:
    """Yield all that was measured after each round."""
    logs.mkdir(parents=True, exist_ok=True)
    memory = Writer("memory", "fp32", writers[0].shape)
    processes: dict[str, Process] = {}
    result = Measured()
    try:
        for writer in (memory, *writers):
            _note(f"{writer.name}: warming up")
            log = logs / f"{writer.name.replace(' ', '-')}.log"
            process = processes[writer.name] = Process(make, writer, log=log)
            try:
                result.about[writer.name] = process.describe()
                process.run(len(writer.tasks) - 1)  # the last task is the shortest
            except Failed as error:
                result.failed[writer.name] = str(error)
        if memory.name in result.failed:
            raise UserError(f"nothing can be measured: {result.failed[memory.name]}")
        for number in range(rounds):
            _note(f"round {number + 1} of {rounds}")
            result.memory.append(processes[memory.name].run(0).result)
            result.products.append(processes[memory.name].run(1).result)
            first = number % len(writers)
            for writer in [*writers[first:], *writers[:first]]:
                if writer.name not in result.failed:
                    try:
                        _take_turn(writer, processes[writer.name], result)
                    except Failed as error:
                        result.failed[writer.name] = str(error)
            yield result
    finally:
        for process in processes.values():
            process.close()
        _note("")


def _take_turn(writer: Writer, process: Process, result: Measured) -> None:
    for i, task in enumerate(writer.tasks):
        seconds = process.run(i).result
        result.seconds.setdefault(task.name, {}).setdefault(writer.name, []).append(seconds)


def summarise(shape: Shape, measured: Measured) -> dict[str, Any]:
    """Medians, and the share of what memory allows: every step reads all weights and the cache.

    The cache holds half of the new tokens on average. Weights that stay in a CPU's cache from one
    step to the next are not read from memory, so that a share may be above 1.
    """
    tasks: dict[str, Any] = {}
    bandwidth = median(measured.memory)
    for name, by_writer in measured.seconds.items():
        rows = tasks[name] = {}
        for writer, taken in by_writer.items():
            rows[writer] = {"seconds": median(taken), "rounds": list(taken)}
            if name.startswith("first"):
                if measured.products:
                    flops = prompt_flops(shape, int(name.split()[-1]))
                    rate = flops / median(taken)
                    rows[writer]["share_of_products"] = rate / median(measured.products)
                continue
            sequences, steps = int(name.split()[0]), int(name.split()[-1])
            about = measured.about[writer]
            cached = sequences * shape.n_layer * (steps + 1) * shape.d_model
            read = about["weight_bytes"] + cached * about["cached_bytes"]
            rows[writer] |= {
                "tokens_per_sec": sequences * steps / median(taken),
                "best_tokens_per_sec": sequences * steps / min(taken),
                "share_of_memory": read * steps / median(taken) / bandwidth,
            }
    return {
        "shape": asdict(shape),
        "memory_bytes_per_sec": bandwidth,
        "memory_rounds": list(measured.memory),
        "products_flop_per_sec": median(measured.products) if measured.products else None,
        "tasks": tasks,
    }


def prompt_flops(shape: Shape, tokens: int) -> int:
    """To read a prompt: the layers for every token, causal attention, logits of the last one."""
    of_logits = shape.vocab_size * shape.d_model
    of_layers = (shape.n_matmul - of_logits) * tokens
    of_attention = shape.n_layer * shape.d_model * tokens**2
    return 2 * (of_layers + of_attention + of_logits)


def print_tables(shape: str, contents: Mapping[str, Any]) -> None:
    """A table for each task, with ratios to every other project."""
    print(
        f"{contents['date']}  commit {contents['commit']}  {contents['device_name']}, "
        f"{contents['threads']} threads  torch {contents['torch']}  shape {shape}  "
        f"memory {contents['memory_bytes_per_sec'] / 1e9:.1f} GB/s  "
        f"products {contents['products_flop_per_sec'] / 1e9:.0f} GFLOP/s"
    )
    for name, rows in contents["tasks"].items():
        peers = [writer for writer in rows if not writer.startswith("tinygpt ")]
        table = Table("", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title=name)
        is_first = name.startswith("first")
        for column in ("ms", "of products") if is_first else ("tok/s", "best", "of memory"):
            table.add_column(column, justify="right")
        for peer in peers:
            table.add_column(f"x {peer.split()[0]}", justify="right")
        for writer, row in rows.items():
            if is_first:
                figures = [f"{1000 * row['seconds']:.1f}", f"{row['share_of_products']:.0%}"]
            else:
                figures = [f"{row['tokens_per_sec']:,.0f}", f"{row['best_tokens_per_sec']:,.0f}"]
                figures.append(f"{row['share_of_memory']:.0%}")
            ratios = [f"{rows[peer]['seconds'] / row['seconds']:.2f}" for peer in peers]
            table.add_row(writer, *figures, *ratios)
        Console().print(table)
    for writer, error in contents["failed"].items():
        print(f"{writer} failed: {error}")


def _note(text: str) -> None:
    """Show progress on one line of the terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
