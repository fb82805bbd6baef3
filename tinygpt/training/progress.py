"""Progress of a run, read from its folder."""

import json
import math
from collections.abc import Sequence

from tinygpt.config import HORIZONS
from tinygpt.errors import UserError
from tinygpt.records.read import read_record
from tinygpt.training.cadence import sizes_of_run
from tinygpt.training.checkpoint import Checkpoints
from tinygpt.training.start import RunStart


def check_length(start: RunStart, *, typed: Sequence[str]) -> None:
    """Raise UserError if a resume is to end before the step or the time that the run has reached.

    Only for a length among the settings that were typed, or `until=`; nothing is written.
    """
    checkpoints = Checkpoints(start.path / "checkpoints")
    steps = checkpoints.steps()
    if not steps:
        return
    reached = steps[-1]
    if start.pause_at is not None and start.pause_at < reached:
        raise UserError(
            f"until={start.pause_at} is before step {reached}, which the run has reached; "
            f"type a later one, such as until={2 * reached}"
        )
    horizons = tuple(f"trainer.{name}=" for name in HORIZONS)
    lengths = [text for text in typed if text.startswith(horizons) and text[-5:] != "=null"]
    if not lengths:
        return
    trainer = start.cfg.trainer
    if trainer.max_time is not None:
        try:
            state = json.loads((checkpoints.path(reached) / "state.json").read_bytes())
            elapsed = float(state["elapsed_s"])
        except (OSError, ValueError, KeyError, TypeError):
            return  # a damaged checkpoint is told, or passed over, when it is loaded
        if float(trainer.max_time) < elapsed:
            raise UserError(
                f"{lengths[-1]} is shorter than the {elapsed:.1f} s that the run has trained; "
                f"type a longer one, such as trainer.max_time={math.ceil(2 * elapsed)}s"
            )
        return
    derived = read_record(start.path).get("derived") or {}
    if not {"steps_per_epoch", "flops_per_token"} <= derived.keys():
        return  # the run has not got so far as to record them
    sizes = sizes_of_run(
        trainer,
        steps_per_epoch=derived["steps_per_epoch"],
        flops_per_token=derived["flops_per_token"],
    )
    if trainer.grows and sizes is not None and sizes.n_tokens != derived.get("max_tokens"):
        raise UserError(
            f"{lengths[-1]} would move the steps at which updates grow, and the run has made steps "
            f"of trainer.first_tokens_per_step={trainer.first_tokens_per_step}; keep its length, "
            "or begin a new run"
        )
    length = None if sizes is None else sizes.n_steps
    if length is not None and length < reached:
        raise UserError(
            f"{lengths[-1]} is {length} steps, and the run has reached step {reached}; "
            f"type a longer one, such as trainer.max_steps={2 * reached}"
        )
