"""Configurations compared over seeds, with intervals, ranks and tests.

Only runs that were measured on the same text are ranked together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from tinygpt.comparison.repeats import (
    LeftOut,
    Objective,
    averaged_notes,
    differing_keys,
    evaluation_notes,
    has_result,
    objective_of,
    protocol,
    settings,
    without_repeats,
)
from tinygpt.errors import UserError, as_typed
from tinygpt.records.read import RunRecord

METRICS = {  # name in a summary -> its heading, and digits behind the point
    "val/bpb": ("val/bpb", 4),
    "val/bpb_ema": ("val/bpb ema", 4),
    "val/loss": ("val/loss", 4),
    "tokens": ("tokens", 0),
    "tokens_per_sec": ("tokens/s", 0),
    "elapsed_s": ("time, s", 0),
    "n_params": ("parameters", 0),
    "flops": ("FLOPs", 0),
}
LEVEL = 0.05  # a difference is called one if its corrected p-value is below


@dataclass(frozen=True)
class Estimate:
    """The mean over seeds; `half_width` of its 95 % interval by Student's t, None for one seed."""

    mean: float
    half_width: float | None
    values: tuple[float, ...]


@dataclass
class Configuration:
    """Runs that differ only in the seed."""

    values: dict[str, Any]  # of the keys that differ
    runs: list[RunRecord]
    metrics: dict[str, Estimate] = field(default_factory=dict)
    rank: int = 0
    difference: float | None = None  # of the objective from the baseline's
    p_value: float | None = None  # Welch's, corrected for the number of comparisons (Holm)
    words: str = ""  # the verdict on the difference

    @property
    def name(self) -> str:
        """The `name=` of its runs, if they have one."""
        return ", ".join(dict.fromkeys(str(n) for run in self.runs if (n := run.flat.get("name"))))

    @property
    def label(self) -> str:
        """Its name and the values that differ from other configurations."""
        values = " ".join(f"{key}={as_typed(value)}" for key, value in self.values.items())
        return ": ".join(filter(None, [self.name, values])) or "all runs"

    @property
    def by_seed(self) -> dict[Any, list[RunRecord]]:
        """The runs of each seed: more than one where equal settings gave other numbers."""
        found: dict[Any, list[RunRecord]] = {}
        for run in self.runs:
            found.setdefault(run.flat.get("seed"), []).append(run)
        return found

    def estimate(self, metric: str) -> Estimate | None:
        """A metric over seeds, one value for each seed; None if no run has the metric."""
        known = [
            [value for run in runs if (value := run.metric(metric)) is not None]
            for runs in self.by_seed.values()
        ]
        values = [mean(of_seed) for of_seed in known if of_seed]
        return estimate(values) if values else None


@dataclass
class Table:
    """Configurations that may be ranked together: all were measured on the same text."""

    protocol: str
    configurations: list[Configuration]  # the best first
    baseline: Configuration | None
    notes: list[str]
    objective: Objective

    @property
    def columns(self) -> dict[str, tuple[str, int]]:
        """The metrics that at least one configuration has, the objective first, as METRICS."""
        known = {self.objective.name: (self.objective.name, 4)} | METRICS
        found = {name for group in self.configurations for name in group.metrics}
        return {name: about for name, about in known.items() if name in found}


@dataclass
class Comparison:
    """The runs that count, and how they compare."""

    runs: list[RunRecord]
    keys: list[str]  # that differ between runs
    tables: list[Table]
    unranked: list[RunRecord]  # without a result, such as runs that failed
    left_out: list[LeftOut]  # copies and repeats of the runs that count
    objective: Objective


def compare(
    runs: Sequence[RunRecord], *, baseline: RunRecord | None = None, metric: str = "val/bpb"
) -> Comparison:
    """Group runs by configuration and rank what is comparable.

    Raises UserError if the baseline has no result, or no run has the metric.
    """
    objective = objective_of(runs, metric)
    keys = differing_keys(runs)
    counted, left_out = without_repeats(runs, keys, objective)
    ranked = [run for run in counted if has_result(run, objective)]
    if baseline is not None:
        folder = baseline.path.resolve()
        same = {each.run.path.resolve(): each.counted for each in left_out}
        baseline = same.get(folder, baseline)
        folder = baseline.path.resolve()
        baseline = next((run for run in ranked if run.path.resolve() == folder), baseline)
        if baseline not in ranked:
            raise UserError(f"baseline={baseline.path} has not finished, so it is no measure")
    by_protocol: dict[str, list[RunRecord]] = {}
    for run in ranked:
        by_protocol.setdefault(protocol(run, objective), []).append(run)
    tables = [_table(name, group, keys, baseline, objective) for name, group in by_protocol.items()]
    unranked = [run for run in counted if run not in ranked]
    return Comparison(counted, keys, tables, unranked, left_out, objective)


def _table(
    name: str,
    runs: Sequence[RunRecord],
    keys: Sequence[str],
    baseline: RunRecord | None,
    objective: Objective,
) -> Table:
    groups: dict[str, Configuration] = {}
    for run in runs:
        values = {key: settings(run).get(key) for key in keys}
        found = groups.setdefault(repr(values), Configuration(values, []))
        found.runs.append(run)
    for group in groups.values():
        estimates = {name: group.estimate(name) for name in (objective.name, *METRICS)}
        group.metrics = {metric: e for metric, e in estimates.items() if e is not None}
    sign = 1 if objective.lower_is_better else -1
    ordered = sorted(groups.values(), key=lambda group: sign * group.metrics[objective.name].mean)
    for rank, group in enumerate(ordered, start=1):
        group.rank = rank
    measure = next((g for g in ordered if baseline in g.runs), None) if baseline else ordered[0]
    if measure is not None:
        _test(ordered, measure, objective)
    notes = _notes(ordered)
    if objective.name not in METRICS:
        notes += evaluation_notes([run for group in ordered for run in group.runs], objective)
    for group in ordered:
        notes += averaged_notes(group.label, group.by_seed, objective)
    return Table(name, ordered, measure, notes, objective)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval of independent values, by Student's t with n - 1 degrees."""
    if len(values) < 2:
        return Estimate(mean(values), None, tuple(values))
    import numpy as np
    from scipy import stats

    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half_width = float(stats.t.ppf(0.975, len(values) - 1)) * spread
    return Estimate(mean(values), half_width, tuple(values))


def _test(ordered: Sequence[Configuration], baseline: Configuration, objective: Objective) -> None:
    """Fill in differences to the baseline, p-values and words."""
    name = objective.name
    reference = baseline.metrics[name]
    others = [group for group in ordered if group is not baseline]
    raw = {id(g): welch(g.metrics[name].values, reference.values) for g in others}
    tested = [group for group in others if raw[id(group)] is not None]
    corrected = holm([raw[id(group)] or 0.0 for group in tested])
    for group, p in zip(tested, corrected, strict=True):
        group.p_value = p
    baseline.words = "baseline"
    for group in others:
        difference = group.metrics[name].mean - reference.mean
        group.difference = difference
        badness = difference if objective.lower_is_better else -difference
        group.words = _words(badness, group.p_value, len(group.by_seed), len(baseline.by_seed))


def _words(badness: float, p: float | None, seeds: int, baseline_seeds: int) -> str:
    if seeds < 2 or baseline_seeds < 2:
        return "one seed: no statement"
    if p is None:
        return "no spread between seeds: no statement"
    if p >= LEVEL:
        return "inside the noise"
    return "better" if badness < 0 else "worse"


def welch(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p-value of Welch's t-test (Welch 1947); None without two values, or spread."""
    if len(a) < 2 or len(b) < 2 or (len(set(a)) == 1 and len(set(b)) == 1):
        return None
    from scipy import stats

    return float(stats.ttest_ind(a, b, equal_var=False).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected so that the chance of any false alarm is bounded (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def _notes(groups: Sequence[Configuration]) -> list[str]:
    """What a reader of the table must know."""
    notes = []
    runs = [run for group in groups for run in group.runs]
    lengths = sorted({int(run.metric("tokens") or 0) for run in runs})
    flops = sorted({run.metric("flops") or 0.0 for run in runs})
    same_compute = flops[0] > 0 and flops[-1] / flops[0] < 1.02
    if len(lengths) > 1 and not same_compute:
        notes.append(
            f"runs differ in length, from {lengths[0]:,} to {lengths[-1]:,} tokens: the rank says "
            "what was reached, not which is better for the same effort"
        )
    elif len(lengths) > 1:
        notes.append(f"equal compute, {flops[-1]:.3g} FLOPs, and so different numbers of tokens")
    commits = {(run.run.get("git") or {}).get("commit") for run in runs}
    if len(commits) > 1:
        notes.append("runs were made by different commits of the source code")
    hardware = {str((run.derived.get("hardware") or {}).get("device_name")) for run in runs}
    if len(hardware) > 1:
        notes.append(f"speeds are from different hardware: {', '.join(sorted(hardware))}")
    return notes


def importance(table: Table, keys: Sequence[str]) -> dict[str, float]:
    """Per key the share of the objective's variance that its values explain alone (eta squared).

    The correlation ratio of a one-way analysis of variance, less what chance would explain
    (epsilon squared, Kelley 1935). Numbers with more than six values are cut into thirds.
    {} for fewer than eight values, one for each configuration and seed.
    """
    pairs = [
        (group.values, value)
        for group in table.configurations
        for value in group.metrics[table.objective.name].values
    ]
    if len(pairs) < 8:
        return {}
    middle = mean(value for _, value in pairs)
    total = sum((value - middle) ** 2 for _, value in pairs)
    shares = {}
    for key in keys:
        groups: dict[str, list[float]] = {}
        levels = _levels([values[key] for values, _ in pairs])
        for name, (_, value) in zip(levels, pairs, strict=True):
            groups.setdefault(name, []).append(value)
        n, k = len(pairs), len(groups)
        if k < 2 or k >= n or not total:
            continue
        between = sum(len(g) * (mean(g) - middle) ** 2 for g in groups.values())
        inside = (total - between) / (n - k)
        shares[key] = max(0.0, (between - (k - 1) * inside) / total)
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _levels(values: Sequence[Any]) -> list[str]:
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) < len(values) or len(set(numbers)) <= 6:
        return [repr(value) for value in values]
    ranks = {value: place for place, value in enumerate(sorted(set(numbers)))}
    return [str(3 * ranks[value] // len(ranks)) for value in values]
