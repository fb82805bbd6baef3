"""Shows finished evaluations where the run logs: TensorBoard at once, W&B by `tinygpt.upload`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from tinygpt import console
from tinygpt.components.loggers.tensorboard import write_scalars
from tinygpt.errors import UserError
from tinygpt.records.evaluations import Result, as_metrics
from tinygpt.records.read import RunRecord


def mirror(run: RunRecord, results: Mapping[str, Result]) -> None:
    """Write new results to the run's TensorBoard files; says how to send them to W&B.

    Does nothing for a run without these loggers.  A failure is a warning: the run folder has all.
    """
    loggers = run.config.get("logger") or {}
    if "tensorboard" in loggers:
        try:
            for result in results.values():
                write_scalars(run.path, as_metrics(result), step=result.step)
        except (UserError, OSError) as error:
            console.warn(f"evaluations are not in TensorBoard: {error}")
    if "wandb" in loggers:
        command = f"python -m tinygpt.upload {shlex.quote(f'run={run.path}')}"
        console.say(f"to send these numbers to W&B type\n  {command}")
