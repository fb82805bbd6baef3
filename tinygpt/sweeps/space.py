"""The search space of a sweep: the fields that have several values."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, ValueType

from tinygpt.config import SweepConfig, overrides
from tinygpt.config.nested import flatten
from tinygpt.errors import UserError


def with_axes(cfg: SweepConfig, typed: Sequence[str]) -> list[str]:
    """The axes of the sweep's YAML as overrides, below what was typed.

    A list is several values; a text is read as on the command line, such as "1e-3,3e-3".
    """
    axes = []
    for key, value in flatten(cfg.axes).items():
        if isinstance(value, list):
            axes.append(f"{key}={','.join(map(_as_value, value))}")
        else:
            axes.append(f"{key}={value if isinstance(value, str) else overrides.quoted(value)}")
    return overrides.layered(axes, typed)


def _as_value(value: Any) -> str:
    """One of several values; a word stays as it is, so that it may name a choice."""
    if isinstance(value, list):
        return f"[{','.join(map(_as_value, value))}]"
    if isinstance(value, str) and re.fullmatch(r"[\w./-]+", value):
        return value
    return overrides.quoted(value)


@dataclass(frozen=True)
class Dimension:
    """A field with a list of values, or with a range of numbers."""

    key: str
    choices: tuple[str, ...] = ()  # as typed; empty for a range
    low: float = 0.0
    high: float = 0.0
    log: bool = False  # sample uniformly in the logarithm
    whole: bool = False  # whole numbers, both ends included: typed as int(interval(1,4))

    def at(self, fraction: float) -> str:
        """The override for a place in [0, 1); a uniform place gives a uniform value."""
        if self.choices:
            return f"{self.key}={self.choices[int(fraction * len(self.choices))]}"
        low, high = self.low, self.high + self.whole
        if self.log:
            value = math.exp(math.log(low) + fraction * (math.log(high) - math.log(low)))
        else:
            value = low + fraction * (high - low)
        # four digits, so that the recorded value is the one that was used
        return f"{self.key}={int(value) if self.whole else float(f'{value:.4g}')}"


def split(space: Sequence[Override]) -> tuple[list[str], list[Dimension]]:
    """The overrides with one value, as typed, and a Dimension for each with several.

    Raises UserError for a pattern, an empty range or too many values.
    """
    fixed, dimensions = [], []
    for override in space:
        if override.is_sweep_override():
            dimensions.append(_dimension(override))
        else:
            fixed.append(str(override.input_line))
    return fixed, dimensions


def _dimension(override: Override) -> Dimension:
    key = override.get_key_element()
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        raise UserError(f"{override.input_line} is a pattern; type {key}=A,B,C")
    value = override.value()
    if not isinstance(value, IntervalSweep):
        return Dimension(key, tuple(overrides.listed_values(override)))
    low, high = value.start, value.end
    assert low is not None
    assert high is not None
    log = "log" in value.tags
    if low >= high or (log and low <= 0):
        rule = "must begin below its end" if low >= high else "is by ratios and must begin above 0"
        raise UserError(f"{override.input_line} {rule}")
    whole = isinstance(low, int) and isinstance(high, int)
    return Dimension(key, (), float(low), float(high), log, whole)
