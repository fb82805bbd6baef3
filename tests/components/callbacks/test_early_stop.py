import json
import math
from types import SimpleNamespace
from typing import Any

import pytest

from tinygpt.components.callbacks.early_stop import EarlyStopConfig
from tinygpt.errors import UserError

NO_CONTEXT: Any = None  # the callback uses nothing of it


def watch(values: list[float], state: Any = None, **fields: Any) -> tuple[int, str] | None:
    """Number of the evaluation that ended the run, and the reason; None if none did."""
    state = state or SimpleNamespace(callbacks={})
    callback = EarlyStopConfig(**fields).build(NO_CONTEXT)
    for i, value in enumerate(values, 1):
        if reason := callback.on_eval(state, {"val/loss": 9.9, "val/bpb": value}):
            return i, reason
    return None


def test_it_stops_after_as_many_evaluations_without_improvement_as_patience() -> None:
    assert watch([3, 2, 2.5, 2.4, 2.0], patience=3) == (
        5,
        "val/bpb=2.0000 has not improved on 2.0000 by more than 0.0 in 3 evaluations",
    )


def test_an_improvement_starts_the_wait_again() -> None:
    assert watch([3, 3.1, 3.1, 2.9, 3, 3, 2.8, 3, 3], patience=3) is None


def test_improvements_within_min_delta_do_not_count() -> None:
    values = [3.0, 2.95, 2.9, 2.85]  # every one within 0.2 of the first
    assert watch(values, patience=3, min_delta=0.2) is not None
    assert watch([*values[:3], 2.79], patience=3, min_delta=0.2) is None


def test_a_value_that_is_no_number_is_no_improvement() -> None:
    assert watch([math.nan, math.nan, 2.0, math.nan], patience=3) is None
    assert watch([math.nan] * 3, patience=3) is not None


def test_the_memory_survives_a_resume_as_json() -> None:
    state = SimpleNamespace(callbacks={})
    assert watch([2.0, 2.1], state, patience=3) is None
    resumed = SimpleNamespace(callbacks=json.loads(json.dumps(state.callbacks, allow_nan=False)))
    assert watch([2.1, 2.1], resumed, patience=3) is not None


def test_a_metric_that_is_not_measured_is_an_error_that_lists_those_that_are() -> None:
    with pytest.raises(UserError, match=r"early_stop\.metric=val/bbp(.|\n)*val/bpb, val/loss"):
        watch([1.0], metric="val/bbp")


@pytest.mark.parametrize(("field", "value"), [("patience", 0), ("min_delta", -0.1)])
def test_values_out_of_range_are_refused_as_typed(field: str, value: Any) -> None:
    with pytest.raises(
        UserError, match=rf"^callback\.early_stop\.{field}={value} must be at least"
    ):
        EarlyStopConfig(**{field: value})
