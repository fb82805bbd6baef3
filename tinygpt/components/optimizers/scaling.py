"""Learning rates and initial weights as functions of the model's width."""

from __future__ import annotations

from dataclasses import dataclass

from tinygpt.errors import UserError, check_choice, check_range
from tinygpt.interfaces import OptimizerConfig

SCALINGS = ("none", "mup")
BASE_WIDTH = 64  # of model=nano


@dataclass
class ScaledOptimizerConfig(OptimizerConfig):
    """An optimizer whose rates may follow the width; see docs/optimizers.md."""

    # none, or mup: rates and initial weights follow the width, so that one lr serves all widths
    scaling: str = "none"
    base_width: int | None = None  # the width at which mup changes nothing; null is 64

    def check_scaling(self) -> None:
        """Raise UserError for an unknown scaling, or a base width that would be ignored."""
        check_choice("optimizer.scaling", self.scaling, SCALINGS)
        if self.base_width is not None:
            check_range("optimizer.base_width", self.base_width, low=1, high=1_000_000)
            if self.scaling == "none":
                raise UserError(
                    f"optimizer.base_width={self.base_width} has no effect with "
                    "optimizer.scaling=none; type optimizer.scaling=mup"
                )
