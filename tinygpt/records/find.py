"""Find run folders from what a user types: paths, names, patterns, or `latest`.

`latest` has one meaning in every command: among the runs that the command can use, the run that
started last. A damaged folder is skipped with a warning that names it.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tinygpt import console
from tinygpt.errors import UserError, did_you_mean, nearest
from tinygpt.records.read import RunRecord, read_runs

Obstacle = Callable[[RunRecord], str | None]  # returns why a command cannot use a run, or None


def has_no_checkpoint(run: RunRecord) -> str | None:
    """Why the run cannot generate text, or None if it can."""
    saved = any((run.path / "checkpoints").glob("step-*"))
    return None if saved else f"it is {run.status} and has no checkpoint"


def has_no_result(run: RunRecord) -> str | None:
    """Why the run cannot be compared, or None if it can."""
    return None if run.summary else f"it is {run.status} and has no summary"


def latest(
    output_dir: Path, *, obstacle: Obstacle = lambda run: None, warn: Callable[[str], None]
) -> RunRecord | None:
    """The usable run that started last, in a sweep or not; None if there is none.

    A run that has not started counts from the creation of its folder. `warn` names each skipped run
    that is newer than the result, and each damaged folder.
    """
    runs = read_runs(sorted(_folders(output_dir)))
    for run in runs:
        if run.damage:
            warn(f"{run.path} is damaged and left out: {run.damage}")
    intact = [run for run in runs if not run.damage]
    for run in sorted(intact, key=_moment, reverse=True):
        reason = obstacle(run)
        if reason is None:
            return run
        warn(f"{run.path} is newer and left out: {reason}")
    return None


def _moment(run: RunRecord) -> tuple[str, Path]:
    """Sort key: when the run started or its folder was created (UTC, ISO format), then its path."""
    return run.started_at or run.run.get("created_at") or "", run.path


def find_run(
    text: str, *, field: str, output_dir: Path, obstacle: Obstacle = lambda run: None
) -> Path:
    """The run folder that `field=text` names; `obstacle` excludes runs from "latest".

    Raises UserError, which suggests the most similar name, if there is no such run.
    """
    if text == "latest":
        found = latest(output_dir, obstacle=obstacle, warn=console.warn)
        if found is None:
            if next(_folders(output_dir), None):
                raise UserError(f"{field}=latest: no run in {output_dir} can be used")
            raise UserError(f"{field}=latest: there is no run in {output_dir}; train one first")
        return found.path
    path = Path(text).expanduser()
    if not path.exists() and (output_dir / text).exists():
        path = output_dir / text
    if (path / "run.json").is_file():
        return path
    inside = sorted(child.parent for child in path.glob("*/run.json"))
    if inside:
        raise UserError(f"{field}={text} holds several runs; choose one: {field}={inside[-1]}")
    typed = path.relative_to(output_dir) if path.is_relative_to(output_dir) else path
    runs = [child.parent.relative_to(output_dir) for child in output_dir.glob("**/run.json")]
    match = nearest(str(typed), map(str, runs))
    hint = f"did you mean {field}={output_dir / match}?" if match else "latest is the newest run"
    raise UserError(f"{field}={text} is not the folder of a run (it has no run.json); {hint}")


def find_runs(
    patterns: Sequence[str], *, output_dir: Path, obstacle: Obstacle = lambda run: None
) -> list[Path]:
    """The run folders that the patterns name: runs, sweeps, folders of both, globs, or `latest`.

    `latest` is the newest usable run, or all runs of its sweep if it is in one. Raises UserError
    for a pattern that matches no run.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        if pattern == "latest":
            matches = _latest_with_its_sweep(output_dir, obstacle)
        else:
            matches = sorted(_matches(pattern, output_dir), key=_natural)
        if not matches:
            known = [str(run.parent) for run in output_dir.glob("**/run.json")]
            known += [str(sweep.parent) for sweep in output_dir.glob("*/sweep.yaml")]
            hint = did_you_mean(pattern, known) or f"; runs are in {output_dir}/"
            raise UserError(f"{pattern} holds no run{hint}")
        found |= dict.fromkeys(matches)
    return list(found)


def _latest_with_its_sweep(output_dir: Path, obstacle: Obstacle) -> list[Path]:
    run = latest(output_dir, obstacle=obstacle, warn=console.warn)
    if run is None:
        return []
    if run.path.parent == output_dir:
        return [run.path]
    inside = [child.parent for child in run.path.parent.glob("[0-9]*/run.json")]
    return sorted(inside, key=_natural)


def _folders(output_dir: Path) -> Iterator[Path]:
    """Every run folder in `output_dir`, including those in sweeps."""
    for pattern in ("*/run.json", "*/[0-9]*/run.json"):
        yield from (found.parent for found in output_dir.glob(pattern))


def _matches(pattern: str, output_dir: Path) -> Iterator[Path]:
    path = Path(pattern).expanduser()
    if not path.exists() and (output_dir / pattern).exists():
        path = output_dir / pattern
    if any(character in pattern for character in "*?["):
        anchor = Path(path.anchor) if path.is_absolute() else Path()
        places = list(anchor.glob(str(path.relative_to(path.anchor))))
    else:
        places = [path]
    for place in places:
        if (place / "run.json").exists():
            yield place
        else:
            yield from _folders(place)


def _natural(path: Path) -> tuple[str, int, str]:
    """Sort key that puts run 10 of a sweep after run 9."""
    number = int(path.name) if path.name.isdecimal() else -1
    return (str(path.parent), number, path.name)
