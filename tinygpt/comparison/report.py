"""A comparison as one HTML page that needs no network and no server."""

import html
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tinygpt.comparison.curves import CURVES, THINNING, Curve
from tinygpt.comparison.repeats import settings
from tinygpt.comparison.statistics import Comparison, importance
from tinygpt.comparison.tables import cells, conclusion, headings, introduction
from tinygpt.errors import as_typed
from tinygpt.records.read import RunRecord

PARTS = Path(__file__).parent / "report_page"
SAMPLE_CHARACTERS = 6000
EVALUATED = 20  # runs whose evaluations are shown, each as a column
_COSTS = (
    "val/bpb",
    "val/bpb_ema",
    "val/loss",
    "tokens",
    "elapsed_s",
    "n_params",
    "flops",
    "tokens_per_sec",
)


def page(comparison: Comparison, *, x: str, title: str) -> str:
    """The page as HTML; `x` is the first x axis of the curves: tokens, step, time or flops."""
    from plotly.offline import get_plotlyjs

    parts = {
        "title": html.escape(title),
        "css": (PARTS / "page.css").read_text(encoding="utf-8"),
        "js": _script(),
        "plotly": get_plotlyjs(),
        "data": as_script(content(comparison, x=x)),
    }
    text = (PARTS / "page.html").read_text(encoding="utf-8")
    before, *rest = text.split("{{")
    return before + "".join(
        parts[name] + after for name, _, after in (part.partition("}}") for part in rest)
    )


def _script() -> str:
    """The page's own JavaScript as one classic script: a page of one file has nothing to import."""
    shared, own = ((PARTS / name).read_text(encoding="utf-8") for name in ("shared.js", "page.js"))
    return '"use strict";\n' + re.sub(r"^export ", "", shared, flags=re.MULTILINE) + own


def as_script(value: Any) -> str:
    """JSON that is safe inside a script element, whatever texts it holds."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def content(
    comparison: Comparison, *, x: str, curves: Callable[[RunRecord], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The page's data in plain values; `curves` gives those of a run, by metric."""
    runs = comparison.runs
    number = {id(run): index for index, run in enumerate(runs)}
    best = [number[id(g.runs[0])] for table in comparison.tables for g in table.configurations]
    first, second = [*best, 0, len(runs) - 1][:2]
    shares = importance(comparison.tables[0], comparison.keys) if comparison.tables else {}
    return {
        "introduction": introduction(comparison),
        "keys": comparison.keys,
        "x": x,
        "metrics": CURVES,
        "first": first,
        "second": second,
        "thinned": THINNING,
        "importance": shares,
        "tables": [
            {
                "protocol": table.protocol,
                "headings": headings(comparison, table),
                "rows": [cells(group, comparison, table) for group in table.configurations],
                "notes": table.notes,
                "conclusion": conclusion(table),
            }
            for table in comparison.tables
        ],
        "evaluations": _evaluations(runs[:EVALUATED]),
        "runs": [_run(run, comparison.keys, (curves or _curves)(run)) for run in runs],
    }


def _evaluations(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """For each suite and protocol a table of the numbers that have a better direction."""
    protocols = {
        (suite, result.protocol_id) for run in runs for suite, result in run.evaluations.items()
    }
    tables = []
    for suite, protocol_id in sorted(protocols):
        found = [
            (run, result)
            for run in runs
            if (result := run.evaluations.get(suite)) and result.protocol_id == protocol_id
        ]
        names = {  # and whether it is a headline
            name: n.headline
            for _, result in found
            for name, n in result.numbers.items()
            if n.better
        }
        rows = [
            [
                f"* {name}" if is_headline else name,
                *(n.in_words() if (n := r.numbers.get(name)) else "" for _, r in found),
            ]
            for name, is_headline in sorted(names.items(), key=lambda each: not each[1])
        ]
        marked = "; better models have better numbers with *" if any(names.values()) else ""
        title = f"{suite}, protocol {protocol_id}{marked}"
        tables.append(
            {"title": title, "headings": ["", *(r.label for r, _ in found)], "rows": rows}
        )
    return tables


def _run(run: RunRecord, keys: Sequence[str], curves: dict[str, Any]) -> dict[str, Any]:
    metrics = {name: run.metric(name) for name in _COSTS}
    differing = {key: settings(run).get(key) for key in keys}
    return {
        "label": run.label,
        "words": " ".join(f"{key}={as_typed(value)}" for key, value in differing.items()),
        "status": run.status,
        "error": run.error,
        "warnings": warnings(run),
        "config": {key: _plain(value) for key, value in {**run.flat, **differing}.items()},
        "metrics": {name: value for name, value in metrics.items() if value is not None},
        "tokens_per_step": run.flat.get("trainer.tokens_per_step", 0),
        "flops_per_token": run.derived.get("flops_per_token"),
        "curves": curves,
        "sample": run.samples()[:SAMPLE_CHARACTERS],
    }


def warnings(run: RunRecord) -> list[str]:
    """The warnings in the run's train.log, each once."""
    try:
        text = (run.path / "train.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = [line.partition(" WARNING ")[2] for line in text.splitlines() if " WARNING " in line]
    return list(dict.fromkeys(found))


def _curves(run: RunRecord) -> dict[str, Any]:
    found = {}
    for name in CURVES:
        curve = Curve(name)
        curve.read(run.path / "metrics.jsonl")
        if points := curve.points():
            found[name] = points
    return found


def _plain(value: Any) -> Any:
    """A config value that JSON in a page can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
