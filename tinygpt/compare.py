"""Compare runs: which settings differ, which run is best, and whether the gap exceeds noise."""

from collections.abc import Callable, Mapping, Sequence
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

Scaling law
  python -m tinygpt.compare outputs/SWEEP fit=scaling predict=2M,80M

  fit=scaling       fits loss = E + A / N^alpha + B / D^beta to runs of several sizes N (parameters
                    without embeddings) and lengths D (tokens), with bootstrap intervals and the
                    best size for a budget; of a size and length the best configuration counts
  predict=N,D       the loss of a run that you have not made; default: a run of the best size
                    with eight times the FLOPs of your largest
  metric=val/bpb    val/bpb or val/loss
  out=FILE.png      the picture, with .csv and .json next to it; default: scaling.png in the
                    sweep's folder
"""
AXES = ("tokens", "step", "time", "flops")
FITS = ("scaling",)
_FIELDS = ("baseline", "metric", "x", "out", "output_dir", "fit", "predict")


@console.command
def main(arguments: Sequence[str]) -> int:
    """The entry point; exits with 0 if the comparison was made."""
    if not arguments or {"-h", "--help"}.intersection(arguments):
        print(HELP, end="")
        return 0
    values, names = parse_settings(
        "compare", arguments, names=_FIELDS, repeatable=("predict",), is_word=_is_place
    )
    if not names:
        raise UserError("type which runs to compare, such as latest or outputs/SWEEP")
    if "fit" in values:
        return _fit(values, names)
    if "predict" in values:
        raise UserError(f"predict={values['predict'][0]} needs a law; type fit=scaling too")
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


def _fit(values: Mapping[str, Sequence[str]], names: Sequence[str]) -> int:
    """Fit a law to the runs, print it, and write the picture and the numbers."""
    check_choice("fit", values["fit"][0], FITS)
    for key in ("baseline", "x"):
        if key in values:
            raise UserError(f"{key}={values[key][0]} has no effect with fit=; leave it out")
    metric = values.get("metric", ["val/bpb"])[0]
    check_choice("metric", metric, ("val/bpb", "val/loss"))
    out = values.get("out")
    if out is not None and Path(out[0]).suffix != ".png":
        raise UserError(f"out={out[0]} must end in .png; type out={Path(out[0]).stem}.png")
    typed = [_size_and_length(text) for text in values.get("predict", ())]
    from tinygpt.comparison import scaling, scaling_runs
    from tinygpt.records import plots
    from tinygpt.records.find import find_runs, has_no_result
    from tinygpt.records.read import read_runs

    outputs = output_folder(values.get("output_dir", ()))
    paths = find_runs(names, output_dir=outputs, obstacle=has_no_result)
    selection = scaling_runs.select(read_runs(paths), metric=metric)
    found = scaling.fit(selection.points)
    predicted = typed or [found.best_for(scaling.LARGER * found.largest.flops)]
    picture = _page(out, paths, name="scaling.png")
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        plots.scaling(picture, **scaling_runs.drawing(selection, found, predicted))
        for suffix, text in (
            (".csv", scaling_runs.as_csv(selection, found)),
            (".json", scaling_runs.as_json(selection, found, predicted)),
        ):
            picture.with_suffix(suffix).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{picture} cannot be written ({error.strerror}); type out=FILE.png"
        ) from None
    print(visible(scaling_runs.table(selection, found, predicted)))
    print(visible(f"\nthe picture is {picture}, the numbers are in its .csv and .json"))
    return 0


def _size_and_length(text: str) -> tuple[float, float]:
    """N and D of `predict=N,D`; raises UserError."""
    from tinygpt.config.units import parse_count

    n, comma, d = text.partition(",")
    if not comma:
        raise UserError(
            f"predict={text} must be parameters and tokens; type predict=2M,80M for example"
        )
    return parse_count("predict", n), parse_count("predict", d)


def _is_place(text: str) -> bool:
    """Whether an argument names runs and is not a mistyped setting."""
    key, equals, _ = text.partition("=")
    return not equals or "/" in key or Path(text).exists()


def _page(
    typed: Sequence[str] | None, paths: Sequence[Path], *, name: str = "comparison.html"
) -> Path:
    """The path of the page: as typed, else in the sweep of all runs, else in this folder."""
    if typed is not None:
        return Path(typed[0]).expanduser()
    parents = {path.parent for path in paths}
    (parent,) = parents if len(parents) == 1 else (Path(),)
    return (parent if (parent / "sweep.yaml").exists() else Path()) / name


if __name__ == "__main__":
    main()
