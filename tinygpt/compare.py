"""Compare runs: what differs, which is best, and whether that is more than noise."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tinygpt import console
from tinygpt.cli.arguments import unknown_flag
from tinygpt.errors import UserError, check_choice, nearest

HELP = """\
python -m tinygpt.compare RUNS ... [baseline=RUN] [x=tokens|step|time|flops] [out=FILE.html]

Compares runs: of each configuration the mean over its seeds with a 95 % interval, its rank, and
whether its difference to the baseline is more than noise (Welch's t-test, corrected by Holm).
RUNS are run folders, sweeps, folders of runs, patterns such as 'outputs/2026-11-*', or latest.

  python -m tinygpt.compare latest
  python -m tinygpt.compare outputs/SWEEP
  python -m tinygpt.compare outputs/SWEEP outputs/RUN baseline=outputs/RUN

  baseline=RUN      the configuration to which the others are compared; else the best
  x=tokens          what the curves of the page are drawn over
  out=FILE.html     the page; .md, .csv and .json are written beside it; else into the sweep
  output_dir=DIR    where runs are looked for, if they are not in outputs
"""
AXES = ("tokens", "step", "time", "flops")
_FIELDS = ("baseline", "x", "out", "output_dir")


@dataclass
class _Arguments:
    runs: list[str] = field(default_factory=list)
    baseline: str | None = None
    x: str = "tokens"
    out: str | None = None
    output_dir: str = "outputs"


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; exits with 0 if there was something to compare."""
    typed = sys.argv[1:] if arguments is None else arguments
    raise SystemExit(console.guarded(lambda: _main(typed)))


def _main(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"}.intersection(arguments):
        print(HELP, end="")
        return 0
    args = _parse(arguments)
    from tinygpt.comparison import report, tables
    from tinygpt.comparison.statistics import compare
    from tinygpt.records.read import find_runs, read_runs

    outputs = Path(args.output_dir)
    paths = find_runs(args.runs, output_dir=outputs)
    measure = find_runs([args.baseline], output_dir=outputs)[0] if args.baseline else None
    if measure is not None and measure not in paths:
        paths.append(measure)
    runs = read_runs(paths)
    baseline = runs[paths.index(measure)] if measure else None
    comparison = compare(runs, baseline=baseline)
    tables.show(comparison)
    page = _page(args.out, paths)
    texts: dict[str, Callable[[], str]] = {
        ".html": lambda: report.page(comparison, x=args.x, title=page.parent.name or "comparison"),
        ".md": lambda: tables.markdown(comparison),
        ".csv": lambda: tables.as_csv(comparison),
        ".json": lambda: tables.as_json(comparison),
    }
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            page.with_suffix(suffix).write_text(text(), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{page} cannot be written ({error.strerror}); type out=FILE.html"
        ) from None
    print(f"\nthe curves are in {page}, the numbers in its .md, .csv and .json")
    return 0


def _parse(arguments: Sequence[str]) -> _Arguments:
    args = _Arguments()
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            raise unknown_flag("compare", argument, arguments, flags=("--help",), peers_names={})
        if equals and key in _FIELDS:
            setattr(args, key, value)
        elif equals and "/" not in key and not Path(argument).exists():
            match = nearest(key, _FIELDS)
            hint = f"; did you mean {match}=?" if match else ""
            raise UserError(f"{key} is not a field{hint}\n  fields: {', '.join(_FIELDS)}")
        else:
            args.runs.append(argument)
    if not args.runs:
        raise UserError("type which runs to compare, such as latest or outputs/SWEEP")
    check_choice("x", args.x, AXES)
    if args.out is not None and Path(args.out).suffix != ".html":
        raise UserError(f"out={args.out} must end in .html; type out={Path(args.out).stem}.html")
    return args


def _page(typed: str | None, paths: Sequence[Path]) -> Path:
    """Where the page goes: as typed, or into the sweep that all runs are of, or here."""
    if typed is not None:
        return Path(typed).expanduser()
    parents = {path.parent for path in paths}
    (parent,) = parents if len(parents) == 1 else (Path(),)
    return (parent if (parent / "sweep.yaml").exists() else Path()) / "comparison.html"


if __name__ == "__main__":
    main()
