"""Evaluate: measure what trained models can do, offline, with intervals."""

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygpt import console, registry
from tinygpt.cli.arguments import field_values, import_components, output_folder, parse_settings
from tinygpt.cli.help import field_lines
from tinygpt.errors import UserError, check_choice, visible
from tinygpt.hardware.loading import importing_torch
from tinygpt.interfaces import EvaluationConfig

if TYPE_CHECKING:
    from tinygpt.records.evaluations import Result

_HELP = """\
python -m tinygpt.evaluate run=outputs/RUN [run=...] [suite=NAME,NAME|all] [SUITE.FIELD=VALUE ...]

Measures what a trained model can do. The results go to RUN/evaluation/SUITE.json; compare them
with `python -m tinygpt.compare RUNS metric=choices/mean`.

  python -m tinygpt.evaluate run=latest
  python -m tinygpt.evaluate run=outputs/A run=outputs/B suite=choices choices.items=500

  run=latest          a run folder, a sweep or a pattern; type run= several times for more
  suite=all           suites, separated by commas; all is every one that needs no server and no task
  checkpoint=best     best has the lowest val/bpb; latest is the newest
  device=auto         auto, cpu, cuda or mps
  out=FOLDER          where the results go, as FOLDER/RUN/SUITE.json; default: the run folder
  again=false         true measures again what this checkpoint has results of
  output_dir=outputs  the folder with your runs
  components=[...]    your own modules that define suites or the run's components

Exit code: 0 if everything was measured, 1 if a suite or a run could not be, 2 if nothing could.
"""
_OPTIONS = (*("run", "suite", "checkpoint", "device", "out", "again", "output_dir", "components"),)


@console.command
def main(arguments: Sequence[str]) -> int:
    """The entry point."""
    console.printing_the_result()
    registry.import_all()
    import_components(arguments)
    classes: dict[str, type[EvaluationConfig]] = registry.classes("evaluation")
    if {"-h", "--help"}.intersection(arguments):
        print(_HELP + "\n".join(_suite_lines(classes)))
        return 0
    console.log_to_console()
    names = [f"{name}.{f.name}" for name, cls in classes.items() for f in fields(cls)]
    names = [name for name in names if not name.endswith(".name")]
    typed, _ = parse_settings("evaluate", arguments, names=[*_OPTIONS, *names], repeatable=["run"])
    suites = _suites(typed, classes)
    again = typed.get("again", ["false"])[0]
    check_choice("again", again, ("true", "false"))
    checkpoint, device = typed.get("checkpoint", ["best"])[0], typed.get("device", ["auto"])[0]
    check_choice("checkpoint", checkpoint, ("best", "latest"))
    check_choice("device", device, ("auto", "cpu", "cuda", "mps"))
    for suite in suites:
        suite.check()
    outputs = output_folder(typed.get("output_dir", ()))
    chosen = [run for text in typed.get("run", ["latest"]) for run in _runs(text, outputs)]
    runs = list({run.resolve(): run for run in chosen}.values())
    with importing_torch():  # once the runs are found
        from tinygpt.evaluation import battery
        from tinygpt.evaluation.mirrors import mirror
        from tinygpt.evaluation.subject import Subject
    from tinygpt.records.evaluations import FOLDER

    found: dict[str, dict[str, Result]] = {}
    errors: dict[str, None] = {}
    for run, name in zip(runs, _names_of(runs), strict=True):
        prefix = f"{run}: " if len(runs) > 1 else ""
        out = Path(typed["out"][0]).expanduser() / name if "out" in typed else None
        try:
            subject = Subject(
                run, checkpoint=checkpoint, device=device, say=console.say, warn=console.warn
            )
            measured = battery.evaluate(
                subject, suites, folder=out or run / FOLDER, again=again == "true"
            )
        except UserError as error:
            errors[f"{prefix}{error}"] = None
            continue
        except KeyboardInterrupt:
            print("finished suites are kept; to go on type the command again", file=sys.stderr)
            raise
        errors |= dict.fromkeys(f"{prefix}{error}" for error in measured.errors.values())
        if measured.results:
            found[name] = measured.results
        if measured.new and out is None:
            mirror(subject.record, measured.new)
    if not found:
        raise UserError("\n".join(errors))
    print()
    for line in battery.table(found):
        print(visible(line))
    notes = [note for of_run in found.values() for one in of_run.values() for note in one.notes]
    for note in dict.fromkeys(notes):
        print(visible(f"note: {note}"))
    for text in errors:
        print(visible(f"error: {text}"), file=sys.stderr)
    return 1 if errors else 0


def _runs(text: str, outputs: Path) -> list[Path]:
    """The run that `run=text` names, or the runs of a sweep, folder or pattern with checkpoints."""
    from tinygpt.records.find import find_run, find_runs, has_no_checkpoint
    from tinygpt.records.read import read_runs

    places = [Path(text).expanduser(), outputs / text]
    several = [place for place in places if any(place.glob("*/run.json"))]
    if text == "latest" or not (several or set("*?[") & set(text)):
        return [find_run(text, field="run", output_dir=outputs, obstacle=has_no_checkpoint)]
    found = []
    for run in read_runs(find_runs([text], output_dir=outputs)):
        if reason := has_no_checkpoint(run):
            console.warn(f"{run.path} is left out: {reason}")
        else:
            found.append(run.path)
    if not found:
        raise UserError(f"run={text} holds no run with a checkpoint")
    return found


def _names_of(runs: Sequence[Path]) -> list[str]:
    """The name of each run's folder, after as many of its parents as make the names different."""
    places = [run.resolve().parts for run in runs]
    n = 1
    while len({parts[-n:] for parts in places}) < len(places):
        n += 1
    return ["/".join(parts[-n:]) for parts in places]


def _suites(
    typed: dict[str, list[str]], classes: dict[str, type[EvaluationConfig]]
) -> list[EvaluationConfig]:
    """The configs of the suites to run; raises UserError for a setting of a suite left out."""
    chosen = typed.get("suite", ["all"])[0].split(",")
    for name in chosen:
        check_choice("suite", name, (*classes, "all"))
    if "all" in chosen:
        chosen = [name for name, cls in classes.items() if cls.in_all]
    values: dict[str, dict[str, Any]] = {name: {} for name in chosen}
    for key, (text,) in ((key, value) for key, value in typed.items() if "." in key):
        suite, _, name = key.partition(".")
        if suite not in values:
            raise UserError(f"{key}={text} has no effect without suite={suite}; add it to suite=")
        values[suite] |= field_values(classes[suite], {name: text}, prefix=f"{suite}.")
    return [classes[name](**values[name]) for name in dict.fromkeys(chosen)]


def _suite_lines(classes: dict[str, type[EvaluationConfig]]) -> list[str]:
    """For each suite what it measures, and its fields with their defaults."""
    lines = ["", "Suites"]
    for name, cls in classes.items():
        lines.append(f"  {name:<12} {(cls.__doc__ or '').splitlines()[0]}")
        lines += field_lines("    ", f"{name}.", cls)
    return lines


if __name__ == "__main__":
    main()
