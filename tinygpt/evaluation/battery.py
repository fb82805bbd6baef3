"""Runs suites on a run and keeps what they find."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

import tinygpt
from tinygpt import console
from tinygpt.evaluation.subject import Subject
from tinygpt.interfaces import EvaluationConfig
from tinygpt.records import evaluations
from tinygpt.records.evaluations import Result


def evaluate(
    subject: Subject, suites: Sequence[EvaluationConfig], *, folder: Path, again: bool
) -> dict[str, Result]:
    """Run each suite and write its result to the folder at once; returns them by suite.

    A suite that these weights have a result of, with the same protocol, is not run unless `again`.
    """
    found: dict[str, Result] = {}
    checkpoint, weights = subject.trained.checkpoint.name, subject.weights_sha256()
    for config in suites:
        protocol = evaluations.protocol_of(config, subject.pinned.checksum)
        known = evaluations.read(folder / f"{config.name}.json")
        same = known and (known.weights_sha256, known.protocol) == (weights, protocol)
        if known and same and not again:
            console.say(f"{config.name}: measured before, in {folder / config.name}.json")
            found[config.name] = known
            continue
        console.say(f"{config.name}: measuring {subject.run}, {checkpoint}")
        began = time.perf_counter()
        findings = config.run(subject)
        result = Result(
            suite=config.name,
            protocol=protocol,
            checkpoint=checkpoint,
            numbers=dict(findings.numbers),
            examples=dict(findings.examples or {}),
            notes=list(findings.notes),
            seconds=round(time.perf_counter() - began, 3),
            made_by={
                "tinygpt": tinygpt.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                **subject.trained.runtime.describe(),
            },
            weights_sha256=weights,
        )
        evaluations.write(folder, result)
        found[config.name] = result
    return found


def table(found: Mapping[str, Mapping[str, Result]]) -> list[str]:
    """Lines of text: a row for each number, a column for each run."""
    runs = list(found)
    names: dict[tuple[str, str], None] = {}
    for of_run in found.values():
        for suite, result in of_run.items():
            names |= dict.fromkeys((suite, name) for name in result.numbers)
    rows = [["", *runs]]
    for suite, name in names:
        cells = []
        for run in runs:
            of_suite = found[run].get(suite)
            number = of_suite.numbers.get(name) if of_suite else None
            cells.append(number.in_words() if number else "")
        rows.append([f"{suite}/{name}", *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
