"""How long a run is, and when it evaluates, logs and saves."""

import math

from tinygpt.config import TrainerConfig
from tinygpt.config.step_sizes import StepSizes
from tinygpt.training.state import TrainState
from tinygpt.training.validation import Validation

# defaults where the config does not say how often
EVAL_SHARE = 1 / 80  # share of the run's time for evaluations
EVAL_COST = 1 / 2  # time to evaluate a token, as a share of training on it
EVALS = (2, 20)  # fewest evaluations of a run with a known number of steps, and most of any run
# a short run evaluates up to CURVE times, enough for a curve, for at most CURVE_SHARE of its time
CURVE, CURVE_SHARE = 5, 1 / 10
ROWS, ROW_S = 500, 10.0  # rows of a run; most seconds between rows if the clock ends it
SAVE_SHARE = 1 / 100  # share of the run's time for checkpoints, in a background thread
SAVE_EVERY_S = (60.0, 600.0)  # fewest and most seconds between checkpoints


class Cadence:
    """Says when the run ends, evaluates, logs and saves: by its step or by its clock."""

    def __init__(
        self,
        cfg: TrainerConfig,
        state: TrainState,
        *,
        validation: Validation,
        sizes: StepSizes | None,
    ) -> None:
        """`sizes` are all updates of the run, None if a clock ends it."""
        self.cfg = cfg
        self.state = state
        self.validation = validation
        self.sizes = sizes
        self.max_steps = None if sizes is None else sizes.n_steps
        self.max_time_s = None if cfg.max_time is None else float(cfg.max_time)
        self.eval_every, self.log_every = self._eval_every(), self._log_every()
        # seconds at which these happened last; equal on all ranks
        self.evaluated_s = self.logged_s = self.saved_s = state.elapsed_s
        self.save_takes_s = 0.0

    def _eval_every(self) -> int | None:
        """Steps between evaluations; None if the clock decides."""
        if self.cfg.eval_every is not None or self.sizes is None:
            return self.cfg.eval_every
        times = affordable_evals(run=self.sizes.n_tokens, each=EVAL_COST * self.eval_tokens)
        return math.ceil(self.sizes.n_steps / max(int(times), EVALS[0]))

    @property
    def eval_tokens(self) -> int:
        """Tokens that an evaluation predicts; averaged weights predict all of them again."""
        return len(self.validation.tokens) * (1 if self.cfg.ema is None else 2)

    def _log_every(self) -> int | None:
        """Steps between rows; None if the clock decides."""
        if self.cfg.log_every is not None or self.max_steps is None:
            return self.cfg.log_every
        return math.ceil(self.max_steps / ROWS)

    def progress(self) -> float:
        """Fraction of the run's tokens at the middle of the next update, or of its time."""
        if self.sizes is not None and self.cfg.grows:
            middle = self.state.tokens + self.step_tokens / 2
            return middle / self.sizes.n_tokens
        if self.max_steps is not None:
            return (self.state.step + 0.5) / self.max_steps
        assert self.max_time_s is not None
        return min(self.state.elapsed_s / self.max_time_s, 1.0)

    @property
    def step_tokens(self) -> int:
        """Tokens of the next update, of all ranks."""
        return self.cfg.tokens_per_step if self.sizes is None else self.sizes.size(self.state.step)

    def tokens_of(self, first: int, end: int) -> int:
        """Tokens of the updates `first` to `end` - 1."""
        if self.sizes is None:
            return (end - first) * self.cfg.tokens_per_step
        return self.sizes.before(end) - self.sizes.before(first)

    def done(self) -> bool:
        """Whether the last step has been made."""
        if self.state.stop_reason is not None:
            return True
        if self.max_steps is not None:
            return self.state.step >= self.max_steps
        assert self.max_time_s is not None
        return self.state.elapsed_s >= self.max_time_s

    def due(self, every: int | None) -> bool:
        """Whether `every` divides the number of steps; always true at the last step."""
        return self.done() or (every is not None and self.state.step % every == 0)

    def eval_due(self) -> bool:
        """Whether an evaluation is due: by steps, or by the clock."""
        if self.eval_every is not None or self.done():
            return self.due(self.eval_every)
        assert self.max_time_s is not None
        step_s_per_token = self.state.elapsed_s / self.state.tokens
        takes_s = EVAL_COST * step_s_per_token * self.eval_tokens
        portion_s = self.max_time_s / affordable_evals(run=self.max_time_s, each=takes_s)
        left_s = self.max_time_s - self.state.elapsed_s  # one more evaluation follows at the end
        return self.state.elapsed_s - self.evaluated_s >= portion_s and left_s >= portion_s / 2

    def row_due(self) -> bool:
        """Whether a row is due: by steps, or by the clock."""
        if self.log_every is not None:
            return self.due(self.log_every)
        assert self.max_time_s is not None
        return self.state.elapsed_s - self.logged_s >= min(self.max_time_s / ROWS, ROW_S)

    def save_due(self) -> bool:
        """Whether a checkpoint is due: by steps, or by the clock; results do not depend on it."""
        if self.cfg.save_every is not None:
            return self.due(self.cfg.save_every)
        least, most = SAVE_EVERY_S
        portion_s = min(max(self.save_takes_s / SAVE_SHARE, least), most)
        return self.done() or self.state.elapsed_s - self.saved_s > portion_s


def sizes_of_run(
    cfg: TrainerConfig, *, steps_per_epoch: float, flops_per_token: int
) -> StepSizes | None:
    """All updates of a run; None when the clock ends it.

    `steps_per_epoch` counts updates of `tokens_per_step` tokens.
    """
    if cfg.max_epochs is not None:
        return cfg.step_sizes(full_steps=cfg.max_epochs * steps_per_epoch)
    if cfg.max_flops is not None:
        return cfg.step_sizes(full_steps=cfg.max_flops / (flops_per_token * cfg.tokens_per_step))
    return cfg.planned_sizes


def affordable_evals(*, run: float, each: float) -> float:
    """How many evaluations a run affords where the config does not say how often; not rounded.

    `run` and `each` are what the run and one evaluation take, in the same unit.
    """
    few = min(CURVE, CURVE_SHARE * run / each)
    return min(max(EVAL_SHARE * run / each, few), EVALS[1])
