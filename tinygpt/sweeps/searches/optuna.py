"""Values that Optuna proposes from the results of earlier trials (TPE).

Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization", section 4.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygpt.config.overrides import MAX_RUNS
from tinygpt.errors import UserError, check_range
from tinygpt.interfaces import Search, SearchConfig, Trial
from tinygpt.registry import register
from tinygpt.sweeps.space import Dimension, split

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

JOURNAL = "optuna.journal"


@register("search")
@dataclass
class OptunaConfig(SearchConfig):
    """The number of proposals; the first `startup` are random."""

    name: str = "optuna"
    trials: int = 20
    startup: int = 8
    seed: int = (
        0  # of the proposals; with several runs at once the order in which they end matters too
    )

    def __post_init__(self) -> None:
        check_range("search.trials", self.trials, low=1, high=MAX_RUNS)
        check_range("search.startup", self.startup, low=1)
        check_range("search.seed", self.seed, low=0)

    def build(self, space: Sequence[Override], *, folder: Path) -> OptunaSearch:
        return OptunaSearch(self, space, folder)


class OptunaSearch(Search):
    """Keeps its study in a journal in the sweep's folder, and reads results from the runs."""

    def __init__(self, cfg: OptunaConfig, space: Sequence[Override], folder: Path) -> None:
        try:
            import optuna
        except ImportError:
            raise UserError(
                'search=optuna needs Optuna; type pip install "tinygpt[optuna]"'
            ) from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.cfg = cfg
        self.folder = folder
        self.fixed, dimensions = split(space)
        if not dimensions:
            raise UserError(
                "search=optuna has nothing to search; type a field with several values, such as "
                "optimizer.lr='tag(log,interval(5e-3,5e-2))' or model=tiny,small"
            )
        if any(d.key == "seed" for d in dimensions):
            raise UserError(
                "seed is nothing to search for; type one seed=, and compare the best configs over "
                "seeds in a sweep of their own"
            )
        self.distributions = {d.key: _distribution(d) for d in dimensions}

    def suggest(self, trials: Sequence[Trial]) -> list[str] | None:
        from optuna.trial import TrialState

        if len(trials) >= self.cfg.trials:
            return None
        study = self._study(len(trials))
        runs = {tuple(_varied(t.overrides, self.distributions)): t for t in trials}
        for asked in study.trials:
            run = runs.get(tuple(self._overrides(asked.params)))
            if run is None and not asked.state.is_finished():  # killed before the run had a folder
                return [*self.fixed, *self._overrides(asked.params)]
            if run is not None:
                _tell(study, asked, run)
        proposal = study.ask(self.distributions)
        if tuple(self._overrides(proposal.params)) in runs:  # the run would repeat another
            study.tell(proposal, state=TrialState.FAIL)
            untried = self._untried(runs)
            if not untried:
                return None
            study.enqueue_trial(untried[self._seed(len(trials)) % len(untried)])
            proposal = study.ask(self.distributions)
        return [*self.fixed, *self._overrides(proposal.params)]

    def _untried(self, runs: Collection[tuple[str, ...]]) -> list[dict[str, Any]]:
        """The combinations that no run has; [] if a field has infinitely many values."""
        values = [_values(d) for d in self.distributions.values()]
        combinations = (dict(zip(self.distributions, v, strict=True)) for v in product(*values))
        return [params for params in combinations if tuple(self._overrides(params)) not in runs]

    def _study(self, number: int) -> Study:
        """The study in the journal, with a sampler for proposal `number`."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        sampler = optuna.samplers.TPESampler(
            n_startup_trials=self.cfg.startup, constant_liar=True, seed=self._seed(number)
        )
        storage = JournalStorage(JournalFileBackend(str(self.folder / JOURNAL)))
        return optuna.create_study(
            study_name="sweep", storage=storage, sampler=sampler, load_if_exists=True
        )

    def _seed(self, number: int) -> int:
        """The seed of the proposal after `number` trials."""
        return int(np.random.SeedSequence([self.cfg.seed, number]).generate_state(1)[0])

    def _overrides(self, params: dict[str, Any]) -> list[str]:
        return [f"{key}={_text(params[key])}" for key in self.distributions]


def _distribution(dimension: Dimension) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    d = dimension
    if d.choices:
        return CategoricalDistribution(d.choices)
    if d.whole:
        return IntDistribution(int(d.low), int(d.high), log=d.log)
    return FloatDistribution(d.low, d.high, log=d.log)


def _values(distribution: BaseDistribution) -> Sequence[Any]:
    """All values of a distribution; () if there are infinitely many."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1)
    return ()


def _tell(study: Study, asked: FrozenTrial, run: Trial) -> None:
    """Tell the study once how a run ended."""
    from optuna.trial import Trial as OptunaTrial
    from optuna.trial import TrialState

    if asked.state.is_finished() or run.status not in ("finished", "stopped", "failed"):
        return
    value = run.values[max(run.values)] if run.values else None
    if run.status == "failed" or value is None:
        study.tell(asked.number, state=TrialState.FAIL)
    elif run.status == "stopped":
        OptunaTrial(study, asked._trial_id).report(value, max(run.values))
        study.tell(asked.number, state=TrialState.PRUNED)
    else:
        study.tell(asked.number, value)


def _varied(overrides: Sequence[str], keys: Sequence[str] | dict[str, Any]) -> list[str]:
    """The overrides of these fields, in this order."""
    values = dict(text.partition("=")[::2] for text in overrides)
    return [f"{key}={values[key]}" for key in keys]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
