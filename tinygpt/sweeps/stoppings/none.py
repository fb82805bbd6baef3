"""No early stopping: every run goes to its end."""

from __future__ import annotations

from dataclasses import dataclass

from tinygpt.interfaces import StoppingConfig
from tinygpt.registry import register


@register("stopping")
@dataclass
class NoneConfig(StoppingConfig):
    """No fields."""

    name: str = "none"

    def build(self) -> None:
        return None
