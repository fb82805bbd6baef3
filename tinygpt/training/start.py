"""A run's start: what the main rank decides before the first step, and sends to all ranks."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinygpt import config
from tinygpt.config import RunConfig
from tinygpt.config.resolution import escaped


@dataclass(frozen=True)
class RunStart:
    """One start of a run, for the first time or to resume it; equal on all ranks.

    `compiled` and `micro_batch_size` are what `auto` came to when the run began. They are used only
    where the config still says `auto`; None: not decided yet.
    """

    cfg: RunConfig
    path: Path  # the run folder
    resumed: bool = False
    changed: bool = False  # the resume has other settings than the run had before
    pause_at: int | None = None  # evaluate, save and end for now after this step
    compiled: bool | None = None
    micro_batch_size: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON that `from_json` reads on another rank."""
        return asdict(self) | {"path": str(self.path)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "RunStart":
        """The start that `to_json` wrote; the components must be registered."""
        cfg = config.resolve(escaped(content["cfg"]), RunConfig)
        return cls(**content | {"cfg": cfg, "path": Path(content["path"])})
