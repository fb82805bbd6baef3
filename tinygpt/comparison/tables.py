"""A comparison as text: tables on a terminal, Markdown, CSV and JSON."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from tinygpt.comparison.repeats import Objective, protocol, settings
from tinygpt.comparison.statistics import METRICS, Comparison, Configuration, Estimate, Table
from tinygpt.errors import as_typed, visible
from tinygpt.records.read import RunRecord

if TYPE_CHECKING:
    from rich.table import Table as RichTable

RIVALS = 3  # configurations inside the noise that the conclusion names
LEFT_OUT = 10  # left-out runs that are listed on a terminal
NEVER_CUT = 3  # columns from the left that a narrow terminal shows too
WIDTH = 240  # characters of a table that does not go to a terminal


def show(comparison: Comparison) -> None:
    """Print the tables, their notes and conclusions, and the runs that are not ranked."""
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)

    def say(text: str) -> None:
        console.print(visible(text), markup=False)

    say(introduction(comparison))
    for table in comparison.tables:
        say(f"\n{table.protocol}")
        shown, hidden = _fitting(comparison, table, console.width)
        console.print(_rich(shown))
        if hidden:
            say(f"not shown, as the terminal is narrow: {', '.join(hidden)}; see the .md or .csv")
        for note in table.notes:
            say(f"note: {note}")
        say(conclusion(table))
    if comparison.left_out:
        say("\nleft out:")
        for left in comparison.left_out[:LEFT_OUT]:
            say(f"  {left.reason}")
        if len(comparison.left_out) > LEFT_OUT:
            say(f"  and {len(comparison.left_out) - LEFT_OUT} more; all are in the .md and .json")
    if comparison.unranked:
        say("\nnot ranked:")
        for line in unranked(comparison.unranked, comparison.objective):
            say(f"  {line}")


def introduction(comparison: Comparison) -> str:
    """How many runs count, what differs between them, and how many are left out."""
    seeds = {run.flat.get("seed") for run in comparison.runs}
    keys = ", ".join(comparison.keys) or "nothing but the seed"
    runs, seed = len(comparison.runs), "seed" if len(seeds) == 1 else "seeds"
    words = f"{runs} run{'s' * (runs > 1)}, {len(seeds)} {seed}; they differ in {keys}"
    if comparison.left_out:
        left = len(comparison.left_out)
        words += (
            f"\n{left} more {'are' if left > 1 else 'is'} left out: a copy of a run, or a repeat "
            "with the same configuration, seed and numbers, counts once"
        )
    if len(comparison.tables) > 1:
        words += (
            "\nthey were not measured on the same text, so there are "
            f"{len(comparison.tables)} tables that do not compare with each other"
        )
    return words


def conclusion(table: Table) -> str:
    """The result in a sentence."""
    best, lowest, name = table.configurations[0], table.objective.best, table.objective.name
    if len(table.configurations) == 1:
        return f"one configuration, {name} {interval(best.metrics[name])}"
    if len(best.by_seed) < 2:
        return f"{lowest}: {best.label}; with one seed that may be noise, so add seed=0,1,2"
    rivals = [group for group in table.configurations[1:] if group.words == "inside the noise"]
    if table.baseline is best and rivals:
        names = "; ".join(group.label for group in rivals[:RIVALS])
        more = f"; and {len(rivals) - RIVALS} more" if len(rivals) > RIVALS else ""
        return f"{lowest}: {best.label}; not to be told from it by these seeds: {names}{more}"
    if table.baseline is best and all(group.words == "worse" for group in table.configurations[1:]):
        return f"best: {best.label}; each other configuration is worse beyond the noise"
    return f"{lowest}: {best.label}"


def unranked(runs: list[RunRecord], objective: Objective) -> Iterator[str]:
    """A line for each run without a result, with the reason."""
    for run in runs:
        error = run.error or (f"no {objective.name}" if run.status == "finished" else "")
        reason = f": {error}".partition("\n")[0] if error else ""
        yield f"run {run.label} {run.status}{reason}"


def interval(value: Estimate, digits: int = 4) -> str:
    """A mean with its 95 % interval."""
    number = f"{value.mean:.3e}" if value.mean >= 1e9 else f"{value.mean:,.{digits}f}"
    if value.half_width is None or value.half_width == 0:
        return number
    return f"{number} ± {value.half_width:,.{digits}f}"


def cells(group: Configuration, comparison: Comparison, table: Table) -> list[str]:
    """A configuration's row of texts, under `headings`."""
    metrics = [
        interval(group.metrics[name], digits) if name in group.metrics else ""
        for name, (_, digits) in table.columns.items()
    ]
    return [
        str(group.rank),
        *([group.name] if _named(table) else []),
        metrics[0],
        "" if group.difference is None else f"{group.difference:+.4f}",
        "" if group.p_value is None else f"{group.p_value:.2g}",
        group.words,
        *(as_typed(group.values[key]) for key in comparison.keys),
        str(len(group.by_seed)),
        *metrics[1:],
    ]


def headings(comparison: Comparison, table: Table) -> list[str]:
    """The texts above the columns of `cells`."""
    names = [heading for heading, _ in table.columns.values()]
    return [
        "rank",
        *(["name"] if _named(table) else []),
        names[0],
        "difference",
        "p",
        "",
        *short_names(comparison.keys),
        "seeds",
        *names[1:],
    ]


def _named(table: Table) -> bool:
    return any(group.name for group in table.configurations)


def short_names(keys: Sequence[str]) -> list[str]:
    """The last parts of dotted keys; the whole key where two end alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return [key if last.count(name) > 1 else name for key, name in zip(keys, last, strict=True)]


def _fitting(comparison: Comparison, table: Table, width: int) -> tuple[list[list[str]], list[str]]:
    """The rows of a terminal's table under their headings, and the columns that do not fit it.

    Fields that differ only from configurations of another table are left out.
    """
    head = [visible(name) for name in headings(comparison, table)]
    rows = [[visible(c) for c in cells(group, comparison, table)] for group in table.configurations]
    first = head.index("") + 1
    fields = range(first, first + len(comparison.keys))
    columns = [
        column
        for i, column in enumerate(zip(head, *rows, strict=True))
        if i not in fields or len(rows) == 1 or len(set(column[1:])) > 1
    ]
    ends = accumulate(max(map(len, column)) + 2 for column in columns)  # with space on both sides
    fitting = max(NEVER_CUT, sum(end <= width for end in ends))
    shown = [list(row) for row in zip(*columns[:fitting], strict=True)]
    return shown, [column[0] for column in columns[fitting:]]


def _rich(rows: Sequence[Sequence[str]]) -> "RichTable":
    from rich.markup import escape
    from rich.table import Table as RichTable

    rich = RichTable(box=None, header_style="bold")
    for name in rows[0]:
        rich.add_column(escape(name), justify="left" if name in ("", "name") else "right")
    for row in rows[1:]:
        rich.add_row(*map(escape, row), style="dim" if "worse" in row else None)
    return rich


def markdown(comparison: Comparison) -> str:
    """The comparison as Markdown."""
    parts = [introduction(comparison)]
    for table in comparison.tables:
        head = headings(comparison, table)
        lines = [head, ["---"] * len(head)]
        lines += [cells(group, comparison, table) for group in table.configurations]
        rows = "\n".join(
            "| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines
        )
        notes = [f"Note: {note}." for note in table.notes]
        parts += [f"Measured on {table.protocol}:", rows, *notes, f"{conclusion(table)}."]
    if comparison.left_out:
        lines_out = "\n".join(f"- {left.reason}" for left in comparison.left_out)
        parts.append(f"Left out:\n\n{lines_out}")
    if comparison.unranked:
        lines_out = "\n".join(
            f"- {line}" for line in unranked(comparison.unranked, comparison.objective)
        )
        parts.append(f"Not ranked:\n\n{lines_out}")
    return visible("\n\n".join(parts)) + "\n"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def as_csv(comparison: Comparison) -> str:
    """A line for each run that counts, finished or not: its settings that differ, its numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = list(dict.fromkeys([comparison.objective.name, *METRICS]))
    heads = ["run", "status", "name", "tags", *comparison.keys, "seed", *metrics, "protocol"]
    writer.writerow([*heads, "error"])
    for run in comparison.runs:
        values = [as_typed(settings(run).get(key)) for key in comparison.keys]
        label = [run.flat.get("name") or "", " ".join(run.flat.get("tags") or ())]
        numbers = ["" if (n := run.metric(name)) is None else repr(n) for name in metrics]
        pinned = protocol(run, comparison.objective)
        seed = run.flat.get("seed")
        told = [run.id, run.status, *label, *values, seed, *numbers, pinned, run.error or ""]
        writer.writerow(told)
    return text.getvalue()


def as_json(comparison: Comparison) -> str:
    """The comparison as JSON."""
    return json.dumps(to_dict(comparison), indent=2, ensure_ascii=False) + "\n"


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """A comparison in plain values."""
    return {
        "keys": comparison.keys,
        "metric": comparison.objective.name,
        "tables": [
            {
                "protocol": table.protocol,
                "notes": table.notes,
                "conclusion": conclusion(table),
                "configurations": [_configuration(group) for group in table.configurations],
            }
            for table in comparison.tables
        ],
        "unranked": [
            {"run": run.id, "status": run.status, "error": run.error} for run in comparison.unranked
        ],
        "left_out": [
            {"run": left.run.id, "folder": str(left.run.path), "counted": str(left.counted.path)}
            for left in comparison.left_out
        ],
    }


def _configuration(group: Configuration) -> dict[str, Any]:
    return {
        "rank": group.rank,
        "values": group.values,
        "label": group.label,
        "seeds": len(group.by_seed),
        "runs": [run.id for run in group.runs],
        "metrics": {
            name: {"mean": e.mean, "half_width_95": e.half_width, "values": list(e.values)}
            for name, e in group.metrics.items()
        },
        "difference": group.difference,
        "p_value": group.p_value,
        "words": group.words,
    }
