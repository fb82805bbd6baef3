"""Stopping rules: the runs of a sweep that continue."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt.errors import UserError
from tinygpt.interfaces import Stopping, Trial
from tinygpt.sweeps.stoppings.asha import AshaConfig
from tinygpt.sweeps.stoppings.halving import HalvingConfig
from tinygpt.sweeps.stoppings.median import MedianConfig
from tinygpt.sweeps.stoppings.none import NoneConfig


def trial(number: int, status: str, **values: float) -> Trial:
    steps = {int(name.removeprefix("at_")): value for name, value in values.items()}
    return Trial(number, (), status, 90, steps)


def test_rungs_grow_by_the_reduction_and_fall_on_evaluations() -> None:
    rule = AshaConfig(reduction=3, first_rung=1 / 9).build()
    assert rule.rungs(900, every=1) == [100, 300]
    assert rule.rungs(900, every=40) == [80, 320]  # 2.5 evaluations round to 2
    assert rule.rungs(8, every=1) == [1, 3]
    assert MedianConfig(looks=4).build().rungs(100, every=10) == [20, 40, 60, 80]


def test_a_run_is_never_paused_at_its_end() -> None:
    assert AshaConfig(first_rung=0.5, reduction=2).build().rungs(10, every=20) == [5]


def test_asha_promotes_the_best_of_those_that_have_come_as_far() -> None:
    rule = AshaConfig(reduction=3).build()
    two = [trial(0, "paused", at_10=1.0), trial(1, "paused", at_10=2.0)]
    assert rule.promoted(two, all_known=False) == []  # a third of two is nobody
    three = [*two, trial(2, "paused", at_10=0.5)]
    assert rule.promoted(three, all_known=False) == [2]
    gone_on = [*two, trial(2, "running", at_10=0.5)]
    assert rule.promoted(gone_on, all_known=False) == []  # its place is taken


def test_asha_looks_at_the_highest_rung_first() -> None:
    rule = AshaConfig(reduction=2).build()
    trials = [
        trial(0, "paused", at_10=1.0, at_30=0.9),
        trial(1, "paused", at_10=1.1, at_30=1.0),
        trial(2, "paused", at_10=0.5),
        trial(3, "paused", at_10=3.0),
    ]
    assert rule.promoted(trials, all_known=False) == [0, 2]


def test_the_best_trial_continues_and_the_others_stop_with_their_places() -> None:
    rule = AshaConfig(reduction=3).build()
    trials = [trial(0, "paused", at_10=1.0), trial(1, "paused", at_10=2.0)]
    assert rule.dropped(trials, all_known=True) == {}  # not while one may still go on
    assert rule.promoted(trials, all_known=True) == [0]
    ended = [trial(0, "finished", at_10=1.0, at_90=0.5), trials[1]]
    assert rule.dropped(ended, all_known=False) == {}
    assert rule.dropped(ended, all_known=True) == {1: "place 2 of 2 at step 10, with 2.0000"}


def test_halving_waits_for_all_and_then_decides_for_all() -> None:
    rule = HalvingConfig(reduction=2).build()
    trials = [trial(n, "paused", at_10=float(n)) for n in range(4)]
    late = [*trials[:3], trial(3, "running")]
    assert rule.promoted(late, all_known=True) == []
    assert rule.promoted(trials, all_known=False) == []  # more may come
    assert rule.promoted(trials, all_known=True) == [0, 1]
    assert set(rule.dropped(trials, all_known=True)) == {2, 3}
    on_its_way = [trial(0, "running", at_10=0.0), *trials[1:]]
    assert rule.promoted(on_its_way, all_known=True) == [1]  # it need not wait for the first


def test_the_median_rule_compares_with_means_of_the_others_so_far() -> None:
    rule = MedianConfig(least=3).build()
    others = [trial(n, "finished", at_10=4.0, at_20=2.0, at_30=0.0) for n in range(3)]  # 3 by 20
    good, bad = (trial(3, "paused", at_10=v, at_20=v) for v in (2.9, 3.1))
    assert rule.promoted([*others, good], all_known=False) == [3]
    assert rule.dropped([*others, good], all_known=False) == {}
    assert rule.promoted([*others, bad], all_known=False) == []
    assert (
        "is worse than 3.0000, the median of 3 others"
        in rule.dropped([*others, bad], all_known=False)[3]
    )
    assert rule.promoted([*others[:2], bad], all_known=False) == [3]  # too few to judge by


def test_none_lets_every_run_go_to_its_end() -> None:
    assert NoneConfig().build() is None


def simulate(rule: Stopping, finals: Sequence[float], slots: int) -> tuple[list[Trial], int]:
    """Run a sweep whose runs' losses are `final + (90 - step)`; the trials and the steps taken."""
    rungs = [*rule.rungs(90, every=1), 90]
    trials = [trial(n, "queued") for n in range(len(finals))]
    taken, guard = 0, 0
    running: list[int] = []
    while True:
        guard += 1
        assert guard < 1000, "the sweep does not end"
        while len(running) < slots:
            known = not any(t.status == "queued" for t in trials)
            for number, reason in rule.dropped(trials, all_known=known).items():
                assert trials[number].status == "paused"
                assert reason
                trials[number] = replace(trials[number], status="stopped")
            best = rule.promoted(trials, all_known=known)
            queued = [t.number for t in trials if t.status == "queued"]
            chosen = next(iter([*best, *queued]), None)
            if chosen is None:
                break
            trials[chosen] = replace(trials[chosen], status="running")
            running.append(chosen)
        if not running:
            return trials, taken
        number = running.pop(0)
        now = trials[number]
        behind = max(now.values, default=0)
        step = next(rung for rung in rungs if rung > behind)
        taken += step - behind
        values = {**now.values, step: finals[number] + 90 - step}
        status = "finished" if step == 90 else "paused"
        trials[number] = replace(now, status=status, values=values)


@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=20, unique=True),
    st.integers(1, 5),
    st.sampled_from([AshaConfig(), HalvingConfig(), MedianConfig(), AshaConfig(reduction=2)]),
)
def test_a_sweep_ends_with_the_best_run_finished_and_no_run_forgotten(
    finals: list[int], slots: int, config: AshaConfig
) -> None:
    trials, taken = simulate(config.build(), finals, slots)
    assert {t.status for t in trials} <= {"finished", "stopped"}
    assert trials[finals.index(min(finals))].status == "finished"
    assert taken <= 90 * len(finals)


def test_sixteen_runs_cost_less_than_half_of_a_grid() -> None:
    finals = [float((7 * n) % 16) for n in range(16)]
    for config in (AshaConfig(), HalvingConfig()):
        _, taken = simulate(config.build(), finals, 2)
        assert taken < 0.5 * 16 * 90


@pytest.mark.parametrize(
    ("config", "fields", "words"),
    [
        (AshaConfig, {"reduction": 1}, "stopping.reduction=1 must be at least 2"),
        (AshaConfig, {"first_rung": 1.0}, "stopping.first_rung=1.0 must be .*below 1"),
        (MedianConfig, {"looks": 0}, "stopping.looks=0 must be at least 1"),
    ],
)
def test_a_field_that_breaks_a_rule_is_named(config: type, fields: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        config(**fields)
