"""Searches: the configs that a sweep tries."""

from dataclasses import replace
from pathlib import Path

import pytest

from tinygpt.config.overrides import parse
from tinygpt.errors import UserError
from tinygpt.interfaces import Trial
from tinygpt.sweeps.searches.grid import GridConfig
from tinygpt.sweeps.searches.optuna import OptunaConfig
from tinygpt.sweeps.searches.random import RandomConfig

LR = "optimizer.lr=tag(log,interval(1e-4,1e-1))"


def value(overrides: list[str], key: str) -> float:
    return float(dict(text.split("=") for text in overrides)[key])


def test_a_grid_is_every_combination() -> None:
    grid = GridConfig().build(parse(["a=1,2", "b=3", "c=x,y"]), folder=Path())
    assert grid.planned() == [
        ["a=1", "b=3", "c=x"],
        ["a=1", "b=3", "c=y"],
        ["a=2", "b=3", "c=x"],
        ["a=2", "b=3", "c=y"],
    ]
    assert grid.suggest([]) is None


def test_a_grid_says_who_takes_a_range() -> None:
    with pytest.raises(UserError, match="search=random"):
        GridConfig().build(parse([LR]), folder=Path())


def test_draw_number_i_is_a_function_of_the_seed_and_i() -> None:
    space = parse([LR, "model=tiny,small"])
    few, many = (RandomConfig(trials=n).build(space, folder=Path()).planned() for n in (3, 8))
    assert few == many[:3]
    assert RandomConfig(trials=3, seed=1).build(space, folder=Path()).planned() != few
    assert len({tuple(job) for job in many}) == 8


def test_each_draw_is_tried_with_every_seed() -> None:
    jobs = RandomConfig(trials=2).build(parse([LR, "seed=0,1,2"]), folder=Path()).planned()
    assert [job[-1] for job in jobs] == ["seed=0", "seed=1", "seed=2"] * 2
    assert len({job[0] for job in jobs}) == 2


@pytest.mark.parametrize("config", [RandomConfig(), OptunaConfig()])
def test_nothing_to_search_is_an_error(config: RandomConfig | OptunaConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="type a field with several values"):
        config.build(parse(["model=tiny"]), folder=tmp_path)


def test_optuna_does_not_search_for_a_lucky_seed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seed is nothing to search for"):
        OptunaConfig().build(parse([LR, "seed=0,1"]), folder=tmp_path)


def optimise(folder: Path, trials: list[Trial], *, total: int, stop_after: int) -> list[Trial]:
    """Go on with a search for the learning rate 0.01, as a sweep would."""
    search = OptunaConfig(trials=total, startup=5).build(parse(["model=tiny", LR]), folder=folder)
    trials = list(trials)
    while len(trials) < stop_after:
        job = search.suggest(trials)
        if job is None:
            break
        assert job[0] == "model=tiny"
        loss = abs(value(job[1:], "optimizer.lr") - 0.01)
        trials.append(Trial(len(trials), tuple(job), "finished", 10, {10: loss}))
    return trials


def test_optuna_learns_from_the_runs_and_ends_after_its_trials(tmp_path: Path) -> None:
    trials = optimise(tmp_path, [], total=30, stop_after=99)
    assert len(trials) == 30
    early, late = (
        sorted(abs(value(list(t.overrides)[1:], "optimizer.lr") - 0.01) for t in part)
        for part in (trials[:10], trials[20:])
    )
    assert late[5] < early[5]


def test_optuna_suggests_the_same_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = optimise(tmp_path / "whole", [], total=12, stop_after=12)
    before = optimise(tmp_path / "killed", [], total=12, stop_after=7)
    # one more was proposed, and the kill came before its folder was there
    search = OptunaConfig(trials=12, startup=5).build(
        parse(["model=tiny", LR]), folder=tmp_path / "killed"
    )
    lost = search.suggest(before)
    after = optimise(tmp_path / "killed", before, total=12, stop_after=12)
    assert list(after[7].overrides) == lost
    assert [t.overrides for t in after] == [t.overrides for t in whole]


def test_optuna_hears_of_failed_and_stopped_runs_once(tmp_path: Path) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    trials = optimise(tmp_path, [], total=9, stop_after=3)
    trials[0] = replace(trials[0], status="failed", values={})
    trials[1] = replace(trials[1], status="stopped", values={4: 0.5})
    (tmp_path / "optuna.journal").unlink()
    search = OptunaConfig(trials=9, startup=5).build(parse(["model=tiny", LR]), folder=tmp_path)
    for count in range(4):  # asked again, they are the same
        search.suggest(trials[:count])
        search.suggest(trials[:count])  # a restart asks twice, and nobody is told twice
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "optuna.journal")))
    study = optuna.load_study(study_name="sweep", storage=storage)
    states = [t.state.name for t in study.trials]
    assert states == ["FAIL", "PRUNED", "COMPLETE", "RUNNING"]
    assert study.trials[1].intermediate_values == {4: 0.5}


@pytest.mark.parametrize("space", [["model=tiny,small", "seq=1,2,3"], ["n=int(interval(1,6))"]])
def test_optuna_tries_no_config_twice_and_ends_when_all_are_tried(
    space: list[str], tmp_path: Path
) -> None:
    search = OptunaConfig(trials=50, startup=2).build(parse(space), folder=tmp_path)
    trials: list[Trial] = []
    while (job := search.suggest(trials)) is not None:
        trials.append(Trial(len(trials), tuple(job), "finished", 10, {10: len(trials)}))
    assert len({trial.overrides for trial in trials}) == len(trials) == 6


@pytest.mark.parametrize("field", ["trials", "startup"])
def test_a_search_has_at_least_one_trial(field: str) -> None:
    with pytest.raises(UserError, match=f"search.{field}=0 must be at least 1"):
        OptunaConfig(**{field: 0})
