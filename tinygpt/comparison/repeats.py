"""Which runs count: one value for each configuration, seed and validation text.

A run that is counted twice makes an interval too narrow, so copies and exact repeats are left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tinygpt.config import NOT_IDENTITY
from tinygpt.config.presets import preset_of
from tinygpt.errors import UserError, as_typed, nearest
from tinygpt.records import evaluations
from tinygpt.records.read import RunRecord

# fields that do not make another configuration
IGNORED = (
    *(*NOT_IDENTITY, "seed", "logger", "callback.sample"),
    *("trainer.log_every", "trainer.save_every", "trainer.keep_checkpoints"),
)
_RESULTS = ("val/bpb", "val/loss", "tokens")  # numbers that repeat to the bit; times never do
# of what made an evaluation: changes the last bits at most
_NO_MATTER = ("python", "device_name", "kernels", "threads", "cpu_count", "platform")
_HARDWARE = ("device_name", "device", "precision", "threads", "kernels")


@dataclass(frozen=True)
class Objective:
    """The number that runs are ranked by."""

    name: str = "val/bpb"  # of the last evaluation in training
    lower_is_better: bool = True

    @property
    def best(self) -> str:
        """The word for the best value."""
        return "lowest" if self.lower_is_better else "highest"


def objective_of(runs: Sequence[RunRecord], name: str) -> Objective:
    """The objective of this name, such as val/bpb or choices/mean.

    Raises UserError if no run has it, or if neither more nor less of it is better.
    """
    if name in ("val/bpb", "val/loss"):
        return Objective(name)
    suite, _, number = name.partition("/")
    found = [run.evaluations[suite] for run in runs if suite in run.evaluations]
    known = {key for result in found for key in result.numbers}
    numbers = [result.numbers[number] for result in found if number in result.numbers]
    if not numbers:
        if known:
            match = nearest(number, known)
            hint = f"did you mean metric={suite}/{match}?" if match else ""
            hint = hint or f"it has {', '.join(sorted(known))}"
        else:
            hint = (
                f"measure it with\n  python -m tinygpt.evaluate run=RUN suite={suite}"
                if number
                else "use val/bpb, val/loss, or a number of tinygpt.evaluate such as choices/mean"
            )
        raise UserError(f"metric={name}: no run has this number; {hint}")
    if numbers[0].better is None:
        raise UserError(
            f"metric={name} has no better direction, so it cannot rank runs; "
            "it is in RUN/evaluation/ and on the terminal of tinygpt.evaluate"
        )
    return Objective(name, numbers[0].better == "lower")


@dataclass(frozen=True)
class LeftOut:
    """A run that is not counted, and the counted run with the same numbers."""

    run: RunRecord
    counted: RunRecord

    @property
    def reason(self) -> str:
        """Whether it is a copy of the other's folder, or the same run made again."""
        verb = "is a copy of" if self.run.id == self.counted.id else "repeats"
        return f"{self.run.path} {verb} {self.counted.path}"


def settings(run: RunRecord) -> dict[str, Any]:
    """The run's config with dotted keys, without the number of threads that a launcher chose.

    Threads change the last bits only. Threads that the user typed stay, to be compared.
    `model` is the preset of the model, or None.
    """
    found = {**run.flat, "model": preset_of(run.config.get("model") or {})}
    return found | {"device.threads": None} if run.run.get("threads_by_launcher") else found


def differing_keys(runs: Sequence[RunRecord]) -> list[str]:
    """The dotted keys of the config that do not have one value in all runs.

    Some runs lack a key, such as one of a component that they did not choose. Such a key differs
    only if it does among the runs that have it.  The fields of the model are one key, `model`, if
    several differ and every model is a preset.
    """
    flats = [settings(run) for run in runs]
    names = dict.fromkeys(key for flat in flats for key in flat if key != "model")
    keys = [
        key
        for key in names
        if not any(key == name or key.startswith(f"{name}.") for name in IGNORED)
        and len({repr(flat[key]) for flat in flats if key in flat}) > 1
    ]
    of_model = [key for key in keys if key.startswith("model.")]
    if len(of_model) < 2 or not all(flat["model"] for flat in flats):
        return keys
    return ["model" if key == of_model[0] else key for key in keys if key not in of_model[1:]]


def protocol(run: RunRecord, objective: Objective) -> str:
    """What the run was measured on, and how; only runs with equal protocols are compared."""
    suite, _, name = objective.name.partition("/")
    if result := run.evaluations.get(suite):
        settings = " ".join(f"{k}={as_typed(v)}" for k, v in result.protocol["settings"].items())
        parts = [f"text {str(text)[:8]}"] if (text := result.protocol.get("text_sha256")) else []
        parts.append(f"protocol {result.protocol_id}")
        number = result.numbers.get(name)
        if number and number.of_tokens:
            fingerprint = (run.run.get("data") or {}).get("tokenizer_fingerprint")
            parts.append(f"tokenizer {str(fingerprint)[:8]}")
        return f"suite {result.suite} ({', '.join(parts)}): {settings}"
    pinned = run.derived.get("validation")
    if not pinned:
        return "validation text that was not recorded"
    return (
        f"{pinned['documents']:,} validation documents, {pinned['utf8_bytes']:,} bytes "
        f"(text {pinned['text_sha256'][:8]})"
    )


def evaluation_notes(runs: Sequence[RunRecord], objective: Objective) -> Iterator[str]:
    """What a reader must know of the evaluations that these runs are ranked by."""
    suite, _, name = objective.name.partition("/")
    results = [run.evaluations[suite] for run in runs if suite in run.evaluations]
    if not any(result.numbers[name].headline for result in results if name in result.numbers):
        yield (
            f"{objective.name} is no headline: it describes a model, and a better model need not "
            "have a better one"
        )
    for run in runs:
        result = run.evaluations.get(suite)
        if result and (reason := evaluations.outdated(run.path, result)):
            yield f"run {run.label}: {reason}"
    for key in dict.fromkeys(key for result in results for key in result.made_by):
        if key in _NO_MATTER:
            continue
        values = dict.fromkeys(str(result.made_by.get(key)) for result in results)
        if len(values) > 1:
            yield f"measured with different {key}: {', '.join(values)}"


def has_result(run: RunRecord, objective: Objective) -> bool:
    """Whether the run has finished with an objective, so that it can be ranked."""
    return run.status == "finished" and run.metric(objective.name) is not None


def without_repeats(
    runs: Sequence[RunRecord], keys: Sequence[str], objective: Objective
) -> tuple[list[RunRecord], list[LeftOut]]:
    """The runs that count, and those that repeat one of them.

    Two runs are the same if their folder is the same (also by a symbolic link), or if
    configuration, seed, protocol and numbers are equal. Runs without results are the same only if
    they have the same id.
    """
    counted: dict[Any, RunRecord] = {}
    folders: set[Any] = set()
    left_out = []
    for run in runs:
        folder = run.path.resolve()
        if folder in folders:
            continue
        folders.add(folder)
        flat = settings(run)
        names = (objective.name, *_RESULTS)
        own = [run.metric(name) for name in names] if has_result(run, objective) else [run.id]
        values = [flat.get(key) for key in keys]
        identity = repr((values, flat.get("seed"), protocol(run, objective), run.status, own))
        first = counted.setdefault(identity, run)
        if first is not run:
            left_out.append(LeftOut(run, first))
    return list(counted.values()), left_out


def averaged_notes(
    label: str, by_seed: dict[Any, list[RunRecord]], objective: Objective
) -> Iterator[str]:
    """A note for each seed with several results: they count as one value, their mean."""
    for seed, runs in by_seed.items():
        if len(runs) < 2:
            continue
        values = sorted(run.metric(objective.name) or 0.0 for run in runs)
        cause = "; ".join(_causes(runs)) or "for a reason that is not recorded"
        yield (
            f"{len(runs)} runs of {label} with seed={seed} count as one value, their mean: "
            f"{', '.join(str(run.path) for run in runs)}; {objective.name} is from "
            f"{values[0]:.6g} to {values[-1]:.6g} ({cause})"
        )


def _causes(runs: Sequence[RunRecord]) -> Iterator[str]:
    """What may explain that runs of one configuration and seed differ."""
    hardware = [run.derived.get("hardware") or {} for run in runs]
    for name in _HARDWARE:
        values = dict.fromkeys(str(found.get(name)) for found in hardware)
        if len(values) > 1:
            yield f"{name}: {', '.join(values)}"
    if len({(run.run.get("git") or {}).get("commit") for run in runs}) > 1:
        yield "other commits"
    if any(run.flat.get("trainer.max_time") is not None for run in runs):
        yield "the clock ended them"
    if any(run.run.get("resumed") for run in runs):
        yield "some were resumed"
