"""List, find, show and delete runs."""

import operator
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygpt import console
from tinygpt.cli.arguments import unknown_flag
from tinygpt.errors import UserError, nearest

if TYPE_CHECKING:
    from tinygpt.records.read import RunRecord

HELP = """\
python -m tinygpt.runs [RUNS ...] [FIELD=VALUE | FIELD<NUMBER | FIELD>NUMBER ...] [sort=FIELD]

Lists runs, the newest first. RUNS are run folders, sweeps, patterns, or latest; without any, all
that are in outputs.

  python -m tinygpt.runs                                   # the newest 30
  python -m tinygpt.runs status=failed
  python -m tinygpt.runs model.n_layer=4 'val/bpb<1.2' sort=val/bpb
  python -m tinygpt.runs status=unfinished                 # and what to type to go on
  python -m tinygpt.runs outputs/RUN                       # all of one run
  python -m tinygpt.runs status=failed delete=true         # asks first; yes=true does not

FIELD is status, sweep, tokens, val/bpb, val/loss, n_params, elapsed_s or any field of the config;
status=unfinished is all that can go on: queued, paused, interrupted, dead.

  sort=FIELD        smallest first; sort=-FIELD largest first
  show=30           how many; show=all
  delete=true       delete what is listed
  output_dir=DIR    where runs are looked for, if they are not in outputs
"""
UNFINISHED = ("queued", "paused", "interrupted", "dead")
_OPTIONS = ("sort", "show", "delete", "yes", "output_dir")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_SPARKS = "▁▂▃▄▅▆▇█"


@dataclass
class _Filter:
    """`field`, how it is compared, and with what."""

    field: str
    compare: str
    value: str


@dataclass
class _Arguments:
    places: list[str] = field(default_factory=list)
    filters: list[_Filter] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; exits with 0 if it did what was asked."""
    typed = sys.argv[1:] if arguments is None else arguments
    raise SystemExit(console.guarded(lambda: _main(typed)))


def _main(arguments: Sequence[str]) -> int:
    console.printing_the_result()
    if {"-h", "--help"}.intersection(arguments):
        print(HELP, end="")
        return 0
    args = _parse(arguments)
    from tinygpt.records.read import find_runs, read_runs

    outputs = Path(args.options.get("output_dir", "outputs"))
    places = args.places or [str(outputs)]
    if not args.places and not outputs.is_dir():
        raise UserError(f"there is no folder {outputs}; train a run, or type output_dir=FOLDER")
    runs = read_runs(find_runs(places, output_dir=outputs))
    if len(runs) == 1 and not args.filters and args.places and "delete" not in args.options:
        return _show(runs[0])
    chosen = [run for run in runs if all(_passes(run, wanted) for wanted in args.filters)]
    for wanted in args.filters:
        if not any(_value(run, wanted.field) is not None for run in runs):
            raise _unknown(wanted.field, runs)
    chosen = _sorted(chosen, args.options.get("sort"), runs)
    if args.options.get("delete") == "true":
        return _delete(chosen, sure=args.options.get("yes") == "true")
    _list(chosen, shown=_count(args.options.get("show", "30")), total=len(runs))
    return 0


def _parse(arguments: Sequence[str]) -> _Arguments:
    args = _Arguments()
    for argument in arguments:
        if argument.startswith("-"):
            raise unknown_flag("runs", argument, arguments, flags=("--help",), peers_names={})
        if Path(argument).exists():
            args.places.append(argument)
            continue
        match = re.fullmatch(r"([\w./]+?)(<=|>=|<|>|=)(.*)", argument)
        if not match:
            args.places.append(argument)
        elif match[1] in _OPTIONS and match[2] == "=":
            args.options[match[1]] = match[3]
        else:
            args.filters.append(_Filter(*match.groups()))
    for name in ("delete", "yes"):
        if args.options.get(name, "false") not in ("true", "false"):
            raise UserError(f"{name}={args.options[name]} must be true or false")
    if "yes" in args.options and "delete" not in args.options:
        raise UserError("yes= answers a question that only delete=true asks")
    if args.options.get("delete") == "true" and not (args.places or args.filters):
        raise UserError("delete=true would delete every run; type which, such as status=failed")
    return args


def _count(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or not int(text):
        raise UserError(f"show={text} must be a whole number, or all")
    return int(text)


def _value(run: "RunRecord", name: str) -> Any:
    """What a run has under a name that may be typed."""
    if name == "status":
        return run.status
    if name == "sweep":
        return run.group or ""
    number = run.metric(name)
    if number is not None:
        return number
    if name in run.flat:
        return run.flat[name]
    return run.flat.get(f"{name}.name")  # model=gpt, optimizer=adamw


def _passes(run: "RunRecord", wanted: _Filter) -> bool:
    value = _value(run, wanted.field)
    if wanted.field == "status" and wanted.value == "unfinished":
        return run.status in UNFINISHED
    if value is None:
        return wanted.compare == "=" and wanted.value == "null" and wanted.field in run.flat
    compare = _OPERATORS[wanted.compare]
    try:
        return compare(float(value), float(wanted.value))
    except (TypeError, ValueError):
        if wanted.compare != "=":
            raise UserError(
                f"{wanted.field}{wanted.compare}{wanted.value}: {wanted.field} of run {run.label} "
                f"is {value}, which is no number; type {wanted.field}={value}"
            ) from None
        from tinygpt.errors import as_typed

        return as_typed(value) == wanted.value


def _unknown(name: str, runs: Sequence["RunRecord"]) -> UserError:
    known = {"status", "sweep", *(key for run in runs for key in (*run.flat, *run.summary))}
    match = nearest(name, known)
    hint = f"; did you mean {match}?" if match else ""
    return UserError(f"{name} is no field of these runs{hint}")


def _sorted(
    chosen: Sequence["RunRecord"], typed: str | None, runs: Sequence["RunRecord"]
) -> list["RunRecord"]:
    if typed is None:
        return sorted(chosen, key=lambda run: run.started_at, reverse=True)
    name = typed.removeprefix("-")
    if not any(_value(run, name) is not None for run in runs):
        raise _unknown(name, runs)
    known = [run for run in chosen if _value(run, name) is not None]
    words = any(isinstance(_value(run, name), str) for run in known)
    known.sort(
        key=lambda run: str(_value(run, name)) if words else _value(run, name),
        reverse=typed.startswith("-"),
    )
    return [*known, *(run for run in chosen if run not in known)]


def _list(runs: Sequence["RunRecord"], *, shown: int | None, total: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in ("run", "status", "model", "tokenizer", "tokens", "val/bpb", "tokens/s", "time, s"):
        table.add_column(name, justify="left" if name in ("run", "status", "model") else "right")
    table.add_column("why")
    for run in runs[:shown]:
        model = "-".join(str(run.flat.get(f"model.{k}", "?")) for k in ("n_layer", "d_model"))
        numbers = [
            f"{value:,.{digits}f}" if (value := run.metric(name)) is not None else ""
            for name, digits in (
                ("tokens", 0),
                ("val/bpb", 4),
                ("tokens_per_sec", 0),
                ("elapsed_s", 0),
            )
        ]
        table.add_row(
            escape(str(run.path)),
            run.status,
            model,
            str(run.flat.get("tokenizer.name", "")),
            *numbers,
            escape((run.error or "").partition("\n")[0]),
        )
    width = None if sys.stdout.isatty() else 240
    Console(highlight=False, width=width).print(table)
    left = len(runs) - len(runs[:shown])
    more = f"; {left} more: show=all" if left else ""
    print(f"{len(runs)} of {total} runs{more}")
    waiting = [run for run in runs[:shown] if run.status in UNFINISHED]
    if waiting:
        print("go on with")
        sweeps = {run.path.parent for run in waiting if run.group}
        for sweep in sorted(sweeps):
            print(f"  python -m tinygpt.train -m {shlex.quote(f'sweep={sweep}')}")
        for run in waiting:
            if not run.group:
                print(f"  {_resume(run)}")


def _resume(run: "RunRecord") -> str:
    return f"python -m tinygpt.train {shlex.quote(f'resume={run.path}')}"


def _show(run: "RunRecord") -> int:
    """All of one run."""
    from tinygpt.comparison.statistics import shown

    print(f"{run.id}: {run.status}{f', {run.error}' if run.error else ''}")
    print(f"  folder   {run.path}")
    for name in ("command", "started_at", "ended_at"):
        if run.run.get(name):
            print(f"  {name:<8} {run.run[name]}")
    git = run.run.get("git") or {}
    if git:
        print(
            f"  commit   {git['commit'][:10]}{', with changes: git.diff' if git['dirty'] else ''}"
        )
    for name in ("val/bpb", "val/loss", "tokens", "tokens_per_sec", "elapsed_s", "n_params"):
        if (value := run.metric(name)) is not None:
            print(f"  {name:<14} {value:,.4f}".rstrip("0").rstrip("."))
    losses = [row["train/loss"] for row in run.rows if "train/loss" in row]
    if losses:
        print(f"  train/loss     {losses[0]:.3f} {sparkline(losses)} {losses[-1]:.3f}")
    print("  config:")
    for key, value in run.flat.items():
        print(f"    {key}={shown(value)}")
    if run.status in UNFINISHED:
        print(f"go on with\n  {_resume(run)}")
    elif run.status == "finished":
        place = shlex.quote(f"run={run.path}")
        print(f'write with it\n  python -m tinygpt.sample {place} prompt="Once upon a time"')
    return 0


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The values as bars of text, at most `width` of them; gaps for what is not finite."""
    from math import isfinite

    step = max(len(values) / width, 1)
    chosen = [values[int(i * step)] for i in range(min(width, len(values)))]
    finite = [value for value in chosen if isfinite(value)]
    if not finite:
        return ""
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    return "".join(
        _SPARKS[int((value - low) / span * (len(_SPARKS) - 1))] if isfinite(value) else " "
        for value in chosen
    )


def _delete(runs: Sequence["RunRecord"], *, sure: bool) -> int:
    busy = [run for run in runs if run.status == "running"]
    if busy:
        raise UserError(f"{busy[0].path} is running; stop it first")
    if not runs:
        print("nothing to delete")
        return 0
    size = 0
    for run in runs:
        used = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
        size += used
        print(f"  {run.path} ({run.status}, {used / 1e6:,.1f} MB)")
    question = f"delete {'this run' if len(runs) == 1 else f'these {len(runs)} runs'}"
    if not sure:
        if not sys.stdin.isatty():
            raise UserError(f"{question}? Nobody is there to answer; type yes=true")
        if input(f"{question}, {size / 1e6:,.1f} MB? Type yes: ").strip() != "yes":
            print("nothing was deleted")
            return 0
    for run in runs:
        shutil.rmtree(run.path)
    print(f"deleted {len(runs)} runs, {size / 1e6:,.1f} MB")
    return 0


if __name__ == "__main__":
    main()
