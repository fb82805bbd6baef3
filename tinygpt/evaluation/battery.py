"""Runs suites on a run and keeps what they find."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import tinygpt
from tinygpt import console
from tinygpt.errors import UserError
from tinygpt.evaluation.subject import Subject
from tinygpt.interfaces import EvaluationConfig, Finding
from tinygpt.records import evaluations
from tinygpt.records.evaluations import Result


@dataclass
class Measured:
    """The results of a run by suite, and why other suites have none."""

    results: dict[str, Result] = field(default_factory=dict)
    errors: dict[str, UserError] = field(default_factory=dict)
    new: dict[str, Result] = field(default_factory=dict)  # those that were not measured before


def evaluate(
    subject: Subject, suites: Sequence[EvaluationConfig], *, folder: Path, again: bool
) -> Measured:
    """Run each suite and write its result to the folder at once.

    A suite that these weights have a result of, with the same protocol, is not run unless `again`.
    A suite that cannot measure this run keeps no other from it.
    """
    found = Measured()
    checkpoint, weights = subject.trained.checkpoint.name, subject.weights_sha256()
    for config in suites:
        packages = _versions(config.optional)
        protocol = evaluations.protocol_of(config, config.texts(subject))
        known = evaluations.read(folder / f"{config.name}.json")
        same = known and (known.weights_sha256, known.protocol) == (weights, protocol)
        if known and same and not again and packages.items() <= known.made_by.items():
            console.say(f"{config.name}: measured before, in {folder / config.name}.json")
            marked = _marked(config, known.numbers)
            if marked != known.numbers:  # the suite had other headlines then
                known = replace(known, numbers=marked)
                evaluations.write(folder, known)
            found.results[config.name] = known
            continue
        console.say(f"{config.name}: measuring {subject.run}, {checkpoint}")
        began = time.perf_counter()
        try:
            findings = config.run(subject)
        except UserError as error:
            found.errors[config.name] = error
            continue
        result = Result(
            suite=config.name,
            protocol=protocol,
            checkpoint=checkpoint,
            numbers=_marked(config, findings.numbers),
            examples=dict(findings.examples or {}),
            notes=list(findings.notes),
            seconds=round(time.perf_counter() - began, 3),
            made_by={
                "tinygpt": tinygpt.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                **packages,
                **subject.trained.runtime.describe(),
            },
            weights_sha256=weights,
        )
        evaluations.write(folder, result)
        found.results[config.name] = found.new[config.name] = result
    return found


def _marked(config: EvaluationConfig, numbers: Mapping[str, Finding]) -> dict[str, Finding]:
    """The numbers, with the suite's headlines marked."""
    return {name: replace(n, headline=name in config.headlines) for name, n in numbers.items()}


def _versions(packages: Sequence[str]) -> dict[str, Any]:
    """The version of each package; None if it is not installed."""
    found: dict[str, Any] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def table(found: Mapping[str, Mapping[str, Result]]) -> list[str]:
    """Lines of text: a row for each number, a column for each run; * marks headlines."""
    runs = list(found)
    names: dict[tuple[str, str], bool] = {}  # whether it is a headline
    for of_run in found.values():
        for suite, result in of_run.items():
            for name, number in result.numbers.items():
                names[suite, name] = number.headline or names.get((suite, name), False)
    rows = [["", *runs]]
    for (suite, name), is_headline in names.items():
        cells = []
        for run in runs:
            of_suite = found[run].get(suite)
            known = of_suite.numbers.get(name) if of_suite else None
            cells.append(known.in_words() if known else "")
        rows.append([f"{'* ' if is_headline else '  '}{suite}/{name}", *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    if any(names.values()):
        lines.append("* better models have better ones; the other numbers describe a model")
    return lines
