"""Filter, sort, list, show and delete runs."""

import operator
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygpt.config.presets import short_name
from tinygpt.errors import UserError, as_typed, did_you_mean, visible
from tinygpt.records import evaluations
from tinygpt.records.hints import sample_command
from tinygpt.records.read import RunRecord

if TYPE_CHECKING:
    from rich.table import Table

UNFINISHED = ("queued", "paused", "interrupted", "dead")
WIDTH = 240  # characters in a line of a table that is not on a terminal
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_SPARKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Filter:
    """A condition on runs: a field, a comparison, and a value."""

    field: str
    compare: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Filter | None":
        """Parse a condition such as val/bpb<1.2; None if the text is not a condition."""
        match = re.fullmatch(r"([\w./]+?)(<=|>=|<|>|=)(.*)", text)
        return cls(*match.groups()) if match else None

    def passes(self, run: RunRecord) -> bool:
        """Whether the run meets the condition; raises UserError if < or > is used on text."""
        value = value_of(run, self.field)
        if self.field == "status" and self.value == "unfinished":
            return run.status in UNFINISHED
        if isinstance(value, list) and self.compare == "=":  # tags=paper matches any of the tags
            return self.value in map(as_typed, value) or self.value == _list_as_typed(value)
        if value is None:
            return self.compare == "=" and self.value == "null" and self.field in run.flat
        try:
            return _OPERATORS[self.compare](float(value), float(self.value))
        except (TypeError, ValueError):
            if self.compare != "=":
                raise UserError(
                    f"{self.field}{self.compare}{self.value}: {self.field} of run {run.label} is "
                    f"{value}, which is no number; type {self.field}={value}"
                ) from None
            return as_typed(value) == self.value


def choose(
    runs: Sequence[RunRecord], filters: Sequence[Filter], *, sort: str | None
) -> list[RunRecord]:
    """The runs that pass every filter, newest first or sorted by a field (-FIELD: descending).

    Raises UserError for a field that no run has.
    """
    for wanted in filters:
        _check_field(wanted.field, runs)
    chosen = [run for run in runs if all(wanted.passes(run) for wanted in filters)]
    if sort is None:
        return sorted(chosen, key=lambda run: run.started_at, reverse=True)
    name = sort.removeprefix("-")
    _check_field(name, runs)
    known = [run for run in chosen if value_of(run, name) is not None]
    words = any(not isinstance(value_of(run, name), (int, float)) for run in known)
    known.sort(
        key=lambda run: str(value_of(run, name)) if words else value_of(run, name),
        reverse=sort.startswith("-"),
    )
    return [*known, *(run for run in chosen if run not in known)]


def value_of(run: RunRecord, name: str) -> Any:
    """The value of a run's field as named on the command line; None if it has none."""
    if name == "status":
        return run.status
    if name == "sweep":
        return run.group or ""
    if name == "id":
        return run.id
    number = run.metric(name)
    if number is not None:
        return number
    if name in run.flat:
        return run.flat[name]
    return run.flat.get(f"{name}.name")  # model=gpt, optimizer=adamw


def _check_field(name: str, runs: Sequence[RunRecord]) -> None:
    """Raise UserError, which suggests the most similar field, if no run has the field."""
    if not runs or any(name in run.flat or value_of(run, name) is not None for run in runs):
        return
    known = {"status", "sweep", "id", *(key for run in runs for key in (*run.flat, *run.summary))}
    raise UserError(f"{name} is no field of these runs{did_you_mean(name, known)}")


def _list_as_typed(value: Sequence[Any]) -> str:
    return f"[{','.join(map(as_typed, value))}]"


def show_list(runs: Sequence[RunRecord], *, limit: int | None, total: int) -> None:
    """Print a table of at most `limit` runs, and commands to resume the unfinished ones."""
    from rich.console import Console

    listed = runs[:limit]
    width = None if sys.stdout.isatty() else WIDTH
    Console(highlight=False, width=width).print(_table(listed))
    left = len(runs) - len(listed)
    more = f"; {left} more: show=all" if left else ""
    print(f"{len(runs)} of {total} runs{more}")
    waiting = [run for run in listed if run.status in UNFINISHED]
    if waiting:
        print("go on with")
        for sweep in sorted({run.path.parent for run in waiting if run.group}):
            print(visible(f"  python -m tinygpt.train -m {shlex.quote(f'sweep={sweep}')}"))
        for run in waiting:
            if not run.group:
                print(visible(f"  {_resume(run)}"))


def _table(runs: Sequence[RunRecord]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    titles = {name: name for name in ("name", "tags") if any(run.flat.get(name) for run in runs)}
    table = Table(box=None, header_style="bold")
    for name in (
        *("run", *titles, "status", "model", "tokenizer"),
        *("tokens", "val/bpb", "tokens/s", "time, s"),
    ):
        left = name in ("run", *titles, "status", "model")
        table.add_column(name, justify="left" if left else "right")
    table.add_column("why")
    for run in runs:
        own = {"name": run.flat.get("name") or "", "tags": ",".join(run.flat.get("tags") or ())}
        texts = [
            str(run.path),
            *(own[title] for title in titles),
            run.status,
            short_name(run.config.get("model") or {}),
            str(run.flat.get("tokenizer.name", "")),
            *_numbers(run),
            (run.error or "").partition("\n")[0],
        ]
        table.add_row(*(escape(visible(text)) for text in texts))
    return table


def _numbers(run: RunRecord) -> Iterator[str]:
    """The table cells for a run's numbers."""
    for name, digits in (("tokens", 0), ("val/bpb", 4), ("tokens_per_sec", 0), ("elapsed_s", 0)):
        value = run.metric(name)
        yield "" if value is None else f"{value:,.{digits}f}"


def _resume(run: RunRecord) -> str:
    return f"python -m tinygpt.train {shlex.quote(f'resume={run.path}')}"


def show_run(run: RunRecord) -> None:
    """Print everything about one run."""
    print(visible("\n".join(_lines(run))))


def _lines(run: RunRecord) -> Iterator[str]:
    yield f"{run.id}: {run.status}{f', {run.error}' if run.error else ''}"
    facts = dict(_facts(run))
    width = max(map(len, facts))
    yield from (f"  {name:<{width}}  {value}" for name, value in facts.items())
    for result in run.evaluations.values():
        if reason := evaluations.outdated(run.path, result):
            yield f"  note: {reason}"
    yield "  config:"
    for key, value in run.flat.items():
        yield f"    {key}={_list_as_typed(value) if isinstance(value, list) else as_typed(value)}"
    if run.status in UNFINISHED:
        yield f"go on with\n  {_resume(run)}"
    elif run.status == "finished":
        yield f"write with it\n  {sample_command(run.path, run.run)}"


def _facts(run: RunRecord) -> Iterator[tuple[str, str]]:
    """Names and values: what the run is, its results, and its headlines in evaluations."""
    yield "folder", str(run.path)
    for name in ("name", "notes"):
        if run.flat.get(name):
            yield name, str(run.flat[name])
    if run.flat.get("tags"):
        yield "tags", ", ".join(run.flat["tags"])
    yield "model", short_name(run.config.get("model") or {})
    for name in ("command", "started_at", "ended_at"):
        if run.run.get(name):
            yield name, str(run.run[name])
    if git := run.run.get("git"):
        yield "commit", git["commit"][:10] + ", with changes: git.diff" * bool(git["dirty"])
    for name in ("val/bpb", "val/loss", "tokens", "tokens_per_sec", "elapsed_s", "n_params"):
        if (value := run.metric(name)) is not None:
            yield name, f"{value:,.4f}".rstrip("0").rstrip(".")
    losses = [row["train/loss"] for row in run.rows if "train/loss" in row]
    if losses:
        yield "train/loss", f"{losses[0]:.3f} {sparkline(losses)} {losses[-1]:.3f}"
    for suite, result in run.evaluations.items():
        for name, number in result.numbers.items():
            if number.better is not None:
                yield f"{suite}/{name}", number.in_words()


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Draw the values as at most `width` text bars; a value that is not finite leaves a gap."""
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


def delete(runs: Sequence[RunRecord], *, sure: bool) -> None:
    """Delete the runs' folders; asks for confirmation unless `sure`.

    Raises UserError, before deleting anything, if a run is running or there is no terminal to ask.
    """
    for run in runs:
        if run.status == "running":
            raise UserError(f"{run.path} is running; stop it first")
        if run.path.is_symlink():
            raise UserError(
                f"{run.path} is a symbolic link; remove it by hand, or type the folder it leads to"
            )
    if not runs:
        print("nothing to delete")
        return
    size = 0
    for run in runs:
        used = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
        size += used
        print(visible(f"  {run.path} ({run.status}, {used / 1e6:,.1f} MB)"))
    question = f"delete {'this run' if len(runs) == 1 else f'these {len(runs)} runs'}"
    if not sure:
        if not sys.stdin.isatty():
            raise UserError(f"{question}? This is not a terminal; type yes=true to confirm")
        if input(f"{question}, {size / 1e6:,.1f} MB? Type yes: ").strip() != "yes":
            print("nothing was deleted")
            return
    for run in runs:
        _remove(run.path)
    print(f"deleted {len(runs)} run{'s' * (len(runs) > 1)}, {size / 1e6:,.1f} MB")


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be deleted whole: {error.filename}: {error.strerror}"
        ) from None
