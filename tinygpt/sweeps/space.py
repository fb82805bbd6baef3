"""What a sweep searches: the values of each field that was typed with more than one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import IntervalSweep, Override, ValueType

from tinygpt.errors import UserError


@dataclass(frozen=True)
class Dimension:
    """A field with listed values, or with a range of numbers."""

    key: str
    choices: tuple[str, ...] = ()  # as typed; empty for a range
    low: float = 0.0
    high: float = 0.0
    log: bool = False  # whether equal ratios are equally likely
    whole: bool = False  # typed as int(interval(1,4)): whole numbers, both ends included

    def at(self, fraction: float) -> str:
        """The override for a place in [0, 1): evenly spread places give evenly spread values."""
        if self.choices:
            return f"{self.key}={self.choices[int(fraction * len(self.choices))]}"
        low, high = self.low, self.high + self.whole
        if self.log:
            value = math.exp(math.log(low) + fraction * (math.log(high) - math.log(low)))
        else:
            value = low + fraction * (high - low)
        # four digits: what is recorded is what was tried
        return f"{self.key}={int(value) if self.whole else float(f'{value:.4g}')}"


def split(space: Sequence[Override]) -> tuple[list[str], list[Dimension]]:
    """The overrides with one value as typed, and the dimensions of those with more.

    Raises UserError for what is no set of values.
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
        return Dimension(key, tuple(map(str, override.sweep_string_iterator())))
    low, high = value.start, value.end
    assert low is not None
    assert high is not None
    log = "log" in value.tags
    if low >= high or (log and low <= 0):
        rule = "must begin below its end" if low >= high else "is by ratios and must begin above 0"
        raise UserError(f"{override.input_line} {rule}")
    whole = isinstance(low, int) and isinstance(high, int)
    return Dimension(key, (), float(low), float(high), log, whole)
