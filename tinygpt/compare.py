"""Compare runs: which settings differ, which run is best, and whether the gap exceeds noise."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tinygpt import console
from tinygpt.cli.arguments import output_folder, parse_settings
from tinygpt.errors import UserError, check_choice, visible

HELP = """\
python -m tinygpt.compare RUNS ... [metric=NAME] [baseline=RUN] [x=AXIS] [out=FILE.html]

Compares runs. For each configuration: the mean over seeds with a 95 % confidence interval, the
rank, and whether the difference from the baseline exceeds noise (Welch's t-test, Holm correction).
RUNS are run folders, sweeps, folders of runs, patterns such as 'outputs/2026-11-*', or latest.

  python -m tinygpt.compare latest
  python -m tinygpt.compare outputs/SWEEP
  python -m tinygpt.compare outputs/SWEEP outputs/RUN baseline=outputs/RUN

  metric=val/bpb    what to rank by: val/bpb, val/loss, or a number of tinygpt.evaluate, such as
                    choices/mean; runs that were measured in another way are in another table
  baseline=RUN      the configuration to compare the others with; default: the best
  x=tokens          the horizontal axis of the page's curves: tokens, step, time or flops
  out=FILE.html     the page, with .md, .csv and .json next to it; default: in the sweep's folder
  output_dir=DIR    the folder with your runs; default: outputs
"""
AXES = ("tokens", "step", "time", "flops")
_FIELDS = ("baseline", "metric", "x", "out", "output_dir")


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; exits with 0 if the comparison was made."""
    typed = sys.argv[1:] if arguments is None else arguments
    raise SystemExit(console.guarded(lambda: _main(typed)))


def _main(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"}.intersection(arguments):
        print(HELP, end="")
        return 0
    values, names = parse_settings("compare", arguments, names=_FIELDS, is_word=_is_place)
    if not names:
        raise UserError("type which runs to compare, such as latest or outputs/SWEEP")
    x = values.get("x", ["tokens"])[0]
    check_choice("x", x, AXES)
    out, base = values.get("out"), values.get("baseline")
    if out is not None and Path(out[0]).suffix != ".html":
        raise UserError(f"out={out[0]} must end in .html; type out={Path(out[0]).stem}.html")
    from tinygpt.comparison import report, tables
    from tinygpt.comparison.statistics import compare
    from tinygpt.records.find import find_runs, has_no_result
    from tinygpt.records.read import read_runs

    outputs = output_folder(values.get("output_dir", ()))
    paths = find_runs(names, output_dir=outputs, obstacle=has_no_result)
    measure = find_runs(base, output_dir=outputs)[0] if base else None
    if measure is not None and measure not in paths:
        paths.append(measure)
    runs = read_runs(paths)
    baseline = runs[paths.index(measure)] if measure else None
    metric = values.get("metric", ["val/bpb"])[0]
    comparison = compare(runs, baseline=baseline, metric=metric)
    page = _page(out, paths)
    texts: dict[str, Callable[[], str]] = {
        ".html": lambda: report.page(comparison, x=x, title=page.parent.name or "comparison"),
        ".md": lambda: tables.markdown(comparison),
        ".csv": lambda: tables.as_csv(comparison),
        ".json": lambda: tables.as_json(comparison),
    }
    try:  # before printing, so `compare | head` writes its page too
        page.parent.mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            page.with_suffix(suffix).write_text(text(), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(
            f"{page} cannot be written ({error.strerror}); type out=FILE.html"
        ) from None
    tables.show(comparison)
    print(visible(f"\nthe curves are in {page}, the numbers in its .md, .csv and .json"))
    return 0


def _is_place(text: str) -> bool:
    """Whether an argument names runs and is not a mistyped setting."""
    key, equals, _ = text.partition("=")
    return not equals or "/" in key or Path(text).exists()


def _page(typed: Sequence[str] | None, paths: Sequence[Path]) -> Path:
    """The path of the page: as typed, else in the sweep of all runs, else in this folder."""
    if typed is not None:
        return Path(typed[0]).expanduser()
    parents = {path.parent for path in paths}
    (parent,) = parents if len(parents) == 1 else (Path(),)
    return (parent if (parent / "sweep.yaml").exists() else Path()) / "comparison.html"


if __name__ == "__main__":
    main()
