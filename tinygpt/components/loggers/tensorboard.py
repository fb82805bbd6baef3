"""TensorBoard event files in the run folder: `tensorboard --logdir outputs` shows every run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygpt.errors import UserError
from tinygpt.interfaces import Logger, LoggerConfig, Metrics, RunInfo
from tinygpt.registry import register

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"  # in a run folder
FLUSH_S = 5  # a killed run loses the rows of this time


@register("logger")
@dataclass
class TensorBoardConfig(LoggerConfig):
    """No settings: the files are in the folder `tensorboard` of the run."""

    name: str = "tensorboard"

    def build(self) -> Logger:
        _check_installed()
        return TensorBoardLogger()


def _check_installed() -> None:
    if find_spec("tensorboard") is None:
        raise UserError(
            "logger=tensorboard needs a library that is not installed; type\n"
            '  pip install "tinygpt[tensorboard]"'
        )


def write_scalars(folder: Path, numbers: Mapping[str, float], *, step: int) -> None:
    """Add numbers to the files of a run that is over; raises UserError without TensorBoard."""
    _check_installed()
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(log_dir=str(folder / FOLDER), filename_suffix=".evaluation") as writer:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)


class TensorBoardLogger(Logger):
    """Scalars per row, samples and the config as text."""

    def __init__(self) -> None:
        self._writer: SummaryWriter | None = None

    def start(self, run: RunInfo) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(
            log_dir=str(run.folder / FOLDER),
            # TensorBoard then hides the rows that were logged after the checkpoint
            purge_step=None if run.resumed_at is None else run.resumed_at + 1,
            flush_secs=FLUSH_S,
        )
        known = {**run.derived, **run.config}
        self._text("config", json.dumps(known, indent=2, default=str), run.resumed_at or 0)

    def log(self, step: int, metrics: Metrics) -> None:
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)

    def samples(self, step: int, texts: Sequence[str]) -> None:
        for number, text in enumerate(texts):
            self._text(f"samples/{number}", text, step)

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _text(self, name: str, text: str, step: int) -> None:
        """Indented by four: shown as it is, not as Markdown."""
        if self._writer is not None:
            self._writer.add_text(name, "\n".join("    " + x for x in text.split("\n")), step)
