"""A comparison as tables: on a terminal, and as Markdown, CSV and JSON."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tinygpt.comparison.statistics import METRICS, Comparison, Configuration, Estimate, Table, shown
from tinygpt.records.read import RunRecord

if TYPE_CHECKING:
    from rich.table import Table as RichTable

RIVALS = 3  # that are named
WIDTH = 240  # of tables that do not go to a terminal


def show(comparison: Comparison) -> None:
    """Print all of it."""
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(introduction(comparison), markup=False)
    for table in comparison.tables:
        console.print(f"\n{table.protocol}", markup=False)
        console.print(_rich(comparison, table))
        for note in table.notes:
            console.print(f"note: {note}", markup=False)
        console.print(conclusion(table), markup=False)
    if comparison.unranked:
        console.print("\nnot ranked:", markup=False)
        for line in unranked(comparison.unranked):
            console.print(f"  {line}", markup=False)


def introduction(comparison: Comparison) -> str:
    """How many runs, and what differs between them."""
    seeds = {run.flat.get("seed") for run in comparison.runs}
    keys = ", ".join(comparison.keys) or "nothing but the seed"
    runs, seed = len(comparison.runs), "seed" if len(seeds) == 1 else "seeds"
    words = f"{runs} run{'s' * (runs > 1)}, {len(seeds)} {seed}; they differ in {keys}"
    if len(comparison.tables) > 1:
        words += (
            "\nthey were not measured on the same text, so there are "
            f"{len(comparison.tables)} tables that do not compare with each other"
        )
    return words


def conclusion(table: Table) -> str:
    """The result in a sentence."""
    best = table.configurations[0]
    if len(table.configurations) == 1:
        return f"one configuration, val/bpb {interval(best.metrics['val/bpb'])}"
    if len(best.runs) < 2:
        return f"lowest: {best.label}; with one seed that may be noise, so add seed=0,1,2"
    rivals = [group for group in table.configurations[1:] if group.words == "inside the noise"]
    if table.baseline is best and rivals:
        names = "; ".join(group.label for group in rivals[:RIVALS])
        more = f"; and {len(rivals) - RIVALS} more" if len(rivals) > RIVALS else ""
        return f"lowest: {best.label}; not to be told from it by these seeds: {names}{more}"
    if table.baseline is best and all(group.words == "worse" for group in table.configurations[1:]):
        return f"best: {best.label}; each other configuration is worse beyond the noise"
    return f"lowest: {best.label}"


def unranked(runs: list[RunRecord]) -> Iterator[str]:
    """A line for each run that has nothing to rank, and why."""
    for run in runs:
        reason = f": {run.error}".partition("\n")[0] if run.error else ""
        yield f"run {run.label} {run.status}{reason}"


def interval(value: Estimate, digits: int = 4) -> str:
    """A mean with its 95 % interval."""
    number = f"{value.mean:.3e}" if value.mean >= 1e9 else f"{value.mean:,.{digits}f}"
    if value.half_width is None or value.half_width == 0:
        return number
    return f"{number} ± {value.half_width:,.{digits}f}"


def _columns(table: Table) -> list[str]:
    """The metrics that some configuration has."""
    return [name for name in METRICS if any(name in g.metrics for g in table.configurations)]


def cells(group: Configuration, comparison: Comparison, table: Table) -> list[str]:
    """A configuration's row of texts, under `headings`."""
    metrics = [
        interval(group.metrics[name], METRICS[name][1]) if name in group.metrics else ""
        for name in _columns(table)
    ]
    return [
        str(group.rank),
        *(shown(group.values[key]) for key in comparison.keys),
        str(len(group.runs)),
        metrics[0],
        "" if group.difference is None else f"{group.difference:+.4f}",
        "" if group.p_value is None else f"{group.p_value:.2g}",
        group.words,
        *metrics[1:],
    ]


def headings(comparison: Comparison, table: Table) -> list[str]:
    """Over the cells."""
    names = [METRICS[name][0] for name in _columns(table)]
    return [
        "rank",
        *short_names(comparison.keys),
        "seeds",
        names[0],
        "difference",
        "p",
        "",
        *names[1:],
    ]


def short_names(keys: Sequence[str]) -> list[str]:
    """The last words of dotted keys, where they are enough to tell them apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return [key if last.count(name) > 1 else name for key, name in zip(keys, last, strict=True)]


def _rich(comparison: Comparison, table: Table) -> "RichTable":
    from rich.markup import escape
    from rich.table import Table as RichTable

    rich = RichTable(box=None, header_style="bold")
    for name in headings(comparison, table):
        rich.add_column(escape(name), justify="left" if name == "" else "right")
    for group in table.configurations:
        style = "dim" if group.words == "worse" else None
        rich.add_row(*map(escape, cells(group, comparison, table)), style=style)
    return rich


def markdown(comparison: Comparison) -> str:
    """All of it for a README."""
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
    if comparison.unranked:
        left = "\n".join(f"- {line}" for line in unranked(comparison.unranked))
        parts.append(f"Not ranked:\n\n{left}")
    return "\n\n".join(parts) + "\n"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def as_csv(comparison: Comparison) -> str:
    """A line for each run, finished or not: what differs, its seed, how it ended, its numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "status", *comparison.keys, "seed", *METRICS, "protocol", "error"])
    from tinygpt.comparison.statistics import protocol

    for run in comparison.runs:
        values = [shown(run.flat.get(key)) for key in comparison.keys]
        numbers = ["" if (n := run.metric(name)) is None else repr(n) for name in METRICS]
        pinned = protocol(run)
        seed = run.flat.get("seed")
        writer.writerow([run.id, run.status, *values, seed, *numbers, pinned, run.error or ""])
    return text.getvalue()


def as_json(comparison: Comparison) -> str:
    """All of it for programs."""
    return json.dumps(to_dict(comparison), indent=2, ensure_ascii=False) + "\n"


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """A comparison in plain values."""
    return {
        "keys": comparison.keys,
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
    }


def _configuration(group: Configuration) -> dict[str, Any]:
    return {
        "rank": group.rank,
        "values": group.values,
        "label": group.label,
        "runs": [run.id for run in group.runs],
        "metrics": {
            name: {"mean": e.mean, "half_width_95": e.half_width, "values": list(e.values)}
            for name, e in group.metrics.items()
        },
        "difference": group.difference,
        "p_value": group.p_value,
        "words": group.words,
    }
