"""Every schedule equals values computed by hand at its turning points."""

import math
from itertools import pairwise

import pytest

from tinygpt.components.schedules.constant import ConstantConfig
from tinygpt.components.schedules.cosine import CosineConfig
from tinygpt.components.schedules.linear import LinearConfig
from tinygpt.components.schedules.wsd import WSDConfig
from tinygpt.errors import UserError
from tinygpt.interfaces import ScheduleConfig

ALL = [ConstantConfig, CosineConfig, LinearConfig, WSDConfig]


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        (
            ConstantConfig(warmup_ratio=0.2),
            {0.0: 0.0, 0.05: 0.25, 0.2: 1.0, 0.6: 1.0, 1.0: 1.0},
        ),
        (
            LinearConfig(warmup_ratio=0.2, min_lr_ratio=0.5),
            {0.0: 0.0, 0.05: 0.25, 0.2: 1.0, 0.4: 0.875, 0.6: 0.75, 1.0: 0.5},
        ),
        (
            CosineConfig(warmup_ratio=0.2, min_lr_ratio=0.1),
            {
                **{0.0: 0.0, 0.05: 0.25, 0.2: 1.0, 0.6: 0.55, 1.0: 0.1},
                0.4: 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2,
            },
        ),
        (
            WSDConfig(warmup_ratio=0.2, decay_ratio=0.4, min_lr_ratio=0.1),
            {0.0: 0.0, 0.05: 0.25, 0.2: 1.0, 0.4: 1.0, 0.6: 1.0, 0.7: 0.1 + 0.9 * 0.5, 1.0: 0.1},
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_multipliers_are_those_worked_out_by_hand(
    schedule: ScheduleConfig, points: dict[float, float]
) -> None:
    for progress, expected in points.items():
        assert schedule.multiplier(progress) == pytest.approx(expected, abs=1e-12), progress


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.05, 0.5])
def test_a_schedule_rises_to_the_peak_and_never_again_without_a_jump(
    cls: type, warmup_ratio: float
) -> None:
    schedule = cls(warmup_ratio=warmup_ratio)
    grid = [i / 10_000 for i in range(10_001)]
    values = [schedule.multiplier(progress) for progress in grid]
    assert all(0 <= value <= 1 for value in values)
    assert schedule.multiplier(warmup_ratio) == 1.0
    after = [v for v, progress in zip(values, grid, strict=True) if progress >= warmup_ratio]
    assert after == sorted(after, reverse=True)
    # 1 - sqrt falls fastest at its start: by sqrt(1 / 2000) in the first of the decay's 2000 parts
    assert max(abs(a - b) for a, b in pairwise(values)) < 0.0224


@pytest.mark.parametrize(
    ("cls", "end"), [(LinearConfig, 0.0), (CosineConfig, 0.1), (WSDConfig, 0.0)]
)
def test_the_defaults_end_where_they_say(cls: type, end: float) -> None:
    assert cls().multiplier(1.0) == pytest.approx(end)


@pytest.mark.parametrize("cls", ALL)
def test_a_warmup_that_leaves_nothing_is_refused(cls: type) -> None:
    with pytest.raises(UserError, match=r"schedule\.warmup_ratio=1\.0 must be"):
        cls(warmup_ratio=1.0)
    with pytest.raises(UserError, match=r"schedule\.warmup_ratio=-0\.1 must be"):
        cls(warmup_ratio=-0.1)


@pytest.mark.parametrize("cls", [CosineConfig, LinearConfig, WSDConfig])
def test_an_end_above_the_peak_is_refused(cls: type) -> None:
    with pytest.raises(UserError, match=r"schedule\.min_lr_ratio=1\.5 must be at most 1"):
        cls(min_lr_ratio=1.5)


def test_a_warmup_and_a_decay_longer_than_the_run_are_refused_with_the_longest_that_fit() -> None:
    with pytest.raises(UserError, match=r"the largest is schedule\.decay_ratio=0\.7"):
        WSDConfig(warmup_ratio=0.3, decay_ratio=0.8)
    fits = WSDConfig(warmup_ratio=0.3, decay_ratio=0.7)
    assert fits.multiplier(0.3) == 1.0
    assert fits.multiplier(0.3 + 0.7 / 4) == pytest.approx(0.5)


def test_no_decay_at_all_is_the_constant_schedule() -> None:
    assert WSDConfig(decay_ratio=0.0).multiplier(1.0) == 1.0
