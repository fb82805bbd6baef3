"""Random search; often better than a grid if only a few fields matter.

Bergstra and Bengio 2012, "Random Search for Hyper-Parameter Optimization".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinygpt.config.overrides import MAX_RUNS, check_size
from tinygpt.errors import UserError, check_range
from tinygpt.interfaces import Search, SearchConfig
from tinygpt.registry import register
from tinygpt.sweeps.space import split

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


@register("search")
@dataclass
class RandomConfig(SearchConfig):
    """The number of draws; each is tried with every listed seed=."""

    name: str = "random"
    trials: int = 20
    seed: int = 0  # of the draws; draw number i depends only on this seed and i

    def __post_init__(self) -> None:
        check_range("search.trials", self.trials, low=1, high=MAX_RUNS)
        check_range("search.seed", self.seed, low=0)

    def build(self, space: Sequence[Override], *, folder: Path) -> Random:
        return Random(self, space)


class Random(Search):
    """All trials are known from the start."""

    def __init__(self, cfg: RandomConfig, space: Sequence[Override]) -> None:
        self.cfg = cfg
        self.fixed, dimensions = split(space)
        self.seeds = [d for d in dimensions if d.key == "seed" and d.choices]
        self.dimensions = [d for d in dimensions if d not in self.seeds]
        if not self.dimensions:
            raise UserError(
                "search=random has nothing to draw; type a field with several values, such as "
                "optimizer.lr='tag(log,interval(5e-3,5e-2))' or model=tiny,small"
            )

    def planned(self) -> list[list[str]]:
        seeds = [[f"{d.key}={choice}" for choice in d.choices] for d in self.seeds]
        number_of_runs = self.cfg.trials * math.prod(map(len, seeds))
        check_size(number_of_runs, f"search.trials={self.cfg.trials} with every seed")
        return [
            [*self.fixed, *self._draw(number), *combination]
            for number in range(self.cfg.trials)
            for combination in product(*seeds)
        ]

    def _draw(self, number: int) -> list[str]:
        places = np.random.default_rng([self.cfg.seed, number]).random(len(self.dimensions))
        return [d.at(float(p)) for d, p in zip(self.dimensions, places, strict=True)]
