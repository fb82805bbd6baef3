"""The runs that a scaling law is fitted to, what to know about them, and the text of the fit."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean
from typing import Any

from tinygpt import registry
from tinygpt.comparison import scaling
from tinygpt.comparison.repeats import (
    Objective,
    differing_keys,
    has_result,
    protocol,
    settings,
    without_repeats,
)
from tinygpt.comparison.scaling import Fit, Interval, Point
from tinygpt.errors import UserError
from tinygpt.records.read import RunRecord
from tinygpt.records.saved_config import load_config

METRICS = ("val/bpb", "val/loss")
# fields in which runs of one law may differ: they make the size, the length or the rate
_OF_A_LAW = (
    *("model", "trainer.max_", "trainer.eval_", "optimizer.lr", "optimizer.adamw_lr"),
    *("trainer.micro_batch_size", "dataset.limit_bytes"),
)


@dataclass
class Selection:
    """The runs of a law, each with its point, and notes on what was left out."""

    metric: str
    protocol: str
    runs: list[RunRecord]
    points: list[Point]
    notes: list[str] = field(default_factory=list)

    @property
    def floor(self) -> float | None:
        """The entropy of the validation text in bits per byte, if the dataset knows it."""
        known = {run.summary.get("floor_bpb") for run in self.runs}
        (floor,) = known if len(known) == 1 else (None,)
        return floor if self.metric == "val/bpb" else None


def select(runs: Sequence[RunRecord], *, metric: str) -> Selection:
    """The finished runs, of each size and length the best configuration.

    Raises UserError if runs were measured on different text, or are too few.
    """
    objective = Objective(metric)
    keys = differing_keys(runs)
    counted, left_out = without_repeats(runs, keys, objective)
    finished = [run for run in counted if has_result(run, objective)]
    whole = [run for run in finished if not run.summary.get("stop_reason")]
    notes = [
        f"{len(gone)} run{'s' * (len(gone) != 1)} left out: {why}"
        for gone, why in (
            (left_out, "copies and repeats"),
            ([run for run in counted if run not in finished], "not finished"),
            ([run for run in finished if run not in whole], "stopped before their length"),
        )
        if gone
    ]
    protocols = sorted({protocol(run, objective) for run in whole})
    if len(protocols) > 1:
        raise UserError(
            "fit=scaling needs runs that were measured on one text, and these are of "
            f"{len(protocols)}: {'; '.join(protocols)}; type the runs of one of them"
        )
    registry.import_all()  # the components of the runs' configs
    sizes: dict[str, int] = {}
    cells: dict[tuple[int, float], dict[str, list[RunRecord]]] = {}
    for run in whole:
        size = _size(run, sizes)
        values = repr([settings(run).get(key) for key in keys])
        tokens = _number(run, "tokens")
        cells.setdefault((size, tokens), {}).setdefault(values, []).append(run)
    selected: list[RunRecord] = []
    points: list[Point] = []
    several = 0
    for (size, tokens), groups in sorted(cells.items()):
        best = min(groups.values(), key=lambda group: mean(_number(run, metric) for run in group))
        several += len(groups) > 1
        selected += best
        points += [Point(size, tokens, _number(run, metric), _number(run, "flops")) for run in best]
    if several:
        notes.append(
            f"{several} pairs of size and length have several configurations; the one with the "
            f"lowest mean counts"
        )
    notes += _notes(selected, keys)
    scaling.check_enough(points)
    return Selection(metric, protocols[0], selected, points, notes)


def _number(run: RunRecord, name: str) -> float:
    value = run.metric(name)
    assert value is not None, name  # finished runs have it
    return value


def _size(run: RunRecord, known: dict[str, int]) -> int:
    """Parameters without embeddings and output matrix; `known` spares equal models the count."""
    from tinygpt.language_model import Role, shapes_only

    for name in ("vocab_size", "flops_per_token"):
        if not run.derived.get(name):
            raise UserError(f"{run.path / 'run.json'} does not say {name}; leave this run out")
    vocab_size = run.derived["vocab_size"]
    registry.import_components(run.config.get("components") or [])
    cfg = load_config(run.path)
    key = repr((cfg.model, vocab_size, cfg.trainer.seq_len))
    if key not in known:
        with shapes_only():
            model = cfg.model.build(vocab_size=vocab_size, seq_len=cfg.trainer.seq_len)
        roles = model.roles()
        known[key] = sum(
            parameter.numel()
            for name, parameter in model.named_parameters()
            if roles[name] not in (Role.EMBEDDING, Role.HEAD)
        )
    return known[key]


def _notes(runs: Sequence[RunRecord], keys: Sequence[str]) -> list[str]:
    notes = []
    other = [key for key in keys if not key.startswith(_OF_A_LAW)]
    other = [key for key in other if len({repr(settings(run).get(key)) for run in runs}) > 1]
    if other:
        notes.append(f"the runs also differ in {', '.join(other)}, which the law does not know")
    if more := sum((run.metric("epochs") or 0) > 1 for run in runs):
        notes.append(
            f"{more} runs read their data more than once; the law counts each token as a new one"
        )
    return notes


def table(selection: Selection, found: Fit, predicted: Sequence[tuple[float, float]]) -> str:
    """The fit as text: the law, its constants, the best size for a budget, and predictions."""
    points = selection.points
    sizes, lengths = sorted({p.n for p in points}), sorted({p.d for p in points})
    lines = [
        f"{len(points)} runs of {len(sizes)} sizes, {sizes[0]:,.0f} to {sizes[-1]:,.0f} parameters "
        f"without embeddings, and {len(lengths)} lengths, {lengths[0]:,.0f} to {lengths[-1]:,.0f} "
        "tokens",
        selection.protocol,
        *(f"note: {note}" for note in selection.notes),
        "",
        f"{selection.metric} = E + A / N^alpha + B / D^beta, 95 % intervals of "
        f"{len(found.samples)} bootstrap samples",
    ]
    for name in ("E", "A", "alpha", "B", "beta"):
        each = found.interval(name)
        lines.append(f"  {name:5} {interval(each)}")
    lines.append(f"largest error of the fit: {100 * max(abs(found.errors)):.1f} %")
    if (floor := selection.floor) is not None:
        inside = floor in found.interval("E")
        lines.append(
            f"the entropy of the text is {floor:.4f}: E's interval "
            f"{'holds' if inside else 'does not hold'} it"
        )
    exponent = found.interval("size_exponent")
    lines += ["", f"best size for C = 6 N D: N ~ C^a with a = {interval(exponent)} by the law"]
    groups = scaling.budgets(points)
    for budget in groups:
        best = f"best size {budget.best:,.0f}" if budget.best else "no minimum between its sizes"
        lines.append(f"  budget {budget.flops:.3g} FLOPs, {len(budget.points)} runs: {best}")
    if (by_budgets := scaling.budget_exponent(groups)) is not None:
        lines.append(f"  a = {interval(by_budgets)} by the minima of the budgets")
    lines.append("")
    for n, d in predicted:
        lines.append(f"predicted for N={n:,.0f} and D={d:,.0f}: {interval(found.predict(n, d))}")
    return "\n".join(lines)


def drawing(
    selection: Selection, found: Fit, predicted: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """The arguments of `plots.scaling`."""
    return {
        "metric": selection.metric,
        "points": [(p.n, p.d, p.loss) for p in selection.points],
        "law": found.law.loss,
        "budgets": [
            (budget.flops, [(p.n, p.loss) for p in budget.points], budget.curve, budget.best)
            for budget in scaling.budgets(selection.points)
        ],
        "predicted": [
            (n, d, each.value, each.low, each.high)
            for n, d in predicted
            for each in (found.predict(n, d),)
        ],
        "floor": selection.floor,
    }


def interval(found: Interval) -> str:
    """A value and its 95 % interval, to four digits."""
    return f"{found.value:.4g} ({found.low:.4g} to {found.high:.4g})"


def as_csv(selection: Selection, found: Fit) -> str:
    """A line for each run: size, length, FLOPs, loss, and what the law says."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "seed", "n", "d", "flops", selection.metric, "law"])
    for run, point in zip(selection.runs, selection.points, strict=True):
        said = float(found.law.loss(point.n, point.d))
        row = [point.n, f"{point.d:.0f}", point.flops, repr(point.loss), f"{said:.6f}"]
        writer.writerow([run.id, run.flat.get("seed"), *row])
    return text.getvalue()


def as_json(selection: Selection, found: Fit, predicted: Sequence[tuple[float, float]]) -> str:
    """The fit in plain values."""
    groups = scaling.budgets(selection.points)
    by_budgets = scaling.budget_exponent(groups)
    content: dict[str, Any] = {
        "metric": selection.metric,
        "protocol": selection.protocol,
        "n": "parameters without embeddings and output matrix",
        "runs": [run.id for run in selection.runs],
        "notes": selection.notes,
        "law": asdict(found.law),
        "intervals": {
            name: asdict(found.interval(name))
            for name in ("E", "A", "alpha", "B", "beta", "size_exponent")
        },
        "floor": selection.floor,
        "budgets": [
            {"flops": budget.flops, "runs": len(budget.points), "best_n": budget.best}
            for budget in groups
        ],
        "size_exponent_by_budgets": asdict(by_budgets) if by_budgets else None,
        "predictions": [{"n": n, "d": d, **asdict(found.predict(n, d))} for n, d in predicted],
    }
    return json.dumps(content, indent=2) + "\n"
