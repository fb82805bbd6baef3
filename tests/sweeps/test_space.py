"""The search space of a sweep, from its settings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt.config.overrides import parse
from tinygpt.errors import UserError
from tinygpt.sweeps.space import Dimension, split


def dimension(text: str) -> Dimension:
    (found,) = split(parse([text]))[1]
    return found


def test_single_values_are_fixed_and_lists_and_ranges_are_dimensions() -> None:
    fixed, dimensions = split(parse(["model=tiny", "seed=0,1", "optimizer.lr=interval(0.1,0.5)"]))
    assert fixed == ["model=tiny"]
    assert dimensions == [
        Dimension("seed", ("0", "1")),
        Dimension("optimizer.lr", (), 0.1, 0.5),
    ]


def test_a_logarithmic_interval_is_even_in_ratios() -> None:
    lr = dimension("optimizer.lr=tag(log,interval(1e-4,1e-2))")
    assert [lr.at(place) for place in (0.0, 0.5)] == ["optimizer.lr=0.0001", "optimizer.lr=0.001"]


def test_an_interval_of_whole_numbers_gives_whole_numbers_with_both_ends() -> None:
    layers = dimension("model.n_layer=int(interval(1,4))")
    drawn = [layers.at(i / 100) for i in range(100)]
    assert set(drawn) == {f"model.n_layer={n}" for n in (1, 2, 3, 4)}


@pytest.mark.parametrize("text", ["seed=choice(3,5,7)", "seed=3,5,7", "seed=range(3,9,2)"])
def test_choices_and_ranges_are_their_values(text: str) -> None:
    assert dimension(text).choices == ("3", "5", "7")


@given(st.floats(0, 1, exclude_max=True))
def test_a_place_gives_a_value_within_the_ends(place: float) -> None:
    value = float(dimension("x=tag(log,interval(0.001,0.1))").at(place).partition("=")[2])
    assert 0.001 <= value <= 0.1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x=interval(2,1)", "must begin below its end"),
        ("x=tag(log,interval(0,1))", "must begin above 0"),
        ("model=glob(*)", "is a pattern"),
    ],
)
def test_what_is_no_set_of_values_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        split(parse([text]))
