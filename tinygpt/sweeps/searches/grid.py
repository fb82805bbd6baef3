"""Grid search: every combination of the listed values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinygpt.config.overrides import expand
from tinygpt.interfaces import Search, SearchConfig
from tinygpt.registry import register

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


@register("search")
@dataclass
class GridConfig(SearchConfig):
    """No fields; the last list varies fastest."""

    name: str = "grid"

    def build(self, space: Sequence[Override], *, folder: Path) -> Grid:
        return Grid(space)


class Grid(Search):
    """All trials are known from the start."""

    def __init__(self, space: Sequence[Override]) -> None:
        self._jobs = expand(space)

    def planned(self) -> list[list[str]]:
        return self._jobs
