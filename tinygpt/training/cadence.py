"""How long a run is, and when it evaluates, logs and saves."""

import math

from tinygpt.config import TrainerConfig
from tinygpt.training.state import TrainState
from tinygpt.training.validation import Validation

# where the config leaves open how often things happen
EVAL_SHARE = 1 / 80  # of the run's time for evaluations
EVAL_COST = 1 / 2  # of what it costs to train on a token
EVALS = (2, 20)  # at least and at most so many of them
ROWS, ROW_S = 500, 10.0  # rows of a run; at most so long between them if the clock ends it
SAVE_SHARE = 1 / 100  # of the run's time for checkpoints, by a thread beside the training
SAVE_EVERY_S = (60.0, 600.0)  # at least and at most so long between them


class Cadence:
    """Which of the things that a trainer does are due, by its step or by its clock."""

    def __init__(
        self,
        cfg: TrainerConfig,
        state: TrainState,
        *,
        validation: Validation,
        max_steps: int | None,
    ) -> None:
        self.cfg = cfg
        self.state = state
        self.validation = validation
        self.max_steps = max_steps
        self.max_time_s = None if cfg.max_time is None else float(cfg.max_time)
        self.eval_every, self.log_every = self._eval_every(), self._log_every()
        self.stop_reason: str | None = None  # why it ended before its horizon
        # when these happened last; what happens by the clock of all ranks changes no result
        self.evaluated_s = self.logged_s = self.saved_s = state.elapsed_s
        self.save_takes_s = 0.0

    def _eval_every(self) -> int | None:
        """Steps between evaluations; None if they are by the clock."""
        if self.cfg.eval_every is not None or self.max_steps is None:
            return self.cfg.eval_every
        trained = self.max_steps * self.cfg.tokens_per_step
        times = affordable_evals(trained=trained, evaluated=len(self.validation.tokens))
        return math.ceil(self.max_steps / times)

    def _log_every(self) -> int | None:
        """Steps between rows; None if the clock says when."""
        if self.cfg.log_every is not None or self.max_steps is None:
            return self.cfg.log_every
        return math.ceil(self.max_steps / ROWS)

    def progress(self) -> float:
        """Fraction of the run at the middle of the next update."""
        if self.max_steps is not None:
            return (self.state.step + 0.5) / self.max_steps
        assert self.max_time_s is not None
        return min(self.state.elapsed_s / self.max_time_s, 1.0)

    def done(self) -> bool:
        """Whether the last step has been made."""
        if self.stop_reason is not None:
            return True
        if self.max_steps is not None:
            return self.state.step >= self.max_steps
        assert self.max_time_s is not None
        return self.state.elapsed_s >= self.max_time_s

    def due(self, every: int | None) -> bool:
        """Whether something that happens every so many steps happens now; true at the last step."""
        return self.done() or (every is not None and self.state.step % every == 0)

    def eval_due(self) -> bool:
        """Whether an evaluation is due: by steps, or as often as the clock affords."""
        if self.eval_every is not None or self.done():
            return self.due(self.eval_every)
        assert self.max_time_s is not None
        step_s_per_token = self.state.elapsed_s / self.state.tokens
        takes_s = EVAL_COST * step_s_per_token * len(self.validation.tokens)
        portion_s = max(self.max_time_s / EVALS[1], takes_s / EVAL_SHARE)
        left_s = self.max_time_s - self.state.elapsed_s  # there is one more at the end
        return self.state.elapsed_s - self.evaluated_s >= portion_s and left_s >= portion_s / 2

    def row_due(self) -> bool:
        """Whether a row is due: by steps, or by the clock."""
        if self.log_every is not None:
            return self.due(self.log_every)
        assert self.max_time_s is not None
        return self.state.elapsed_s - self.logged_s >= min(self.max_time_s / ROWS, ROW_S)

    def save_due(self) -> bool:
        """Whether a checkpoint is due: by steps, or by the clock, which changes no result."""
        if self.cfg.save_every is not None:
            return self.due(self.cfg.save_every)
        least, most = SAVE_EVERY_S
        portion_s = min(max(self.save_takes_s / SAVE_SHARE, least), most)
        return self.done() or self.state.elapsed_s - self.saved_s > portion_s


def length_in_steps(
    cfg: TrainerConfig, *, steps_per_epoch: float, flops_per_token: int
) -> int | None:
    """The length of a run in steps; None when the clock ends it."""
    if cfg.max_epochs is not None:
        return max(1, round(cfg.max_epochs * steps_per_epoch))
    if cfg.max_flops is not None:
        return max(1, round(cfg.max_flops / (flops_per_token * cfg.tokens_per_step)))
    return cfg.planned_steps


def affordable_evals(*, trained: int, evaluated: int) -> int:
    """How often a run of `trained` tokens evaluates, if nobody says."""
    least, most = EVALS
    return min(max(int(EVAL_SHARE * trained / (EVAL_COST * evaluated)), least), most)
