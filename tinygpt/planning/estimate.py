"""Measure what a run will take: memory and time of a few steps on random tokens."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_all_start_methods, get_context
from typing import Any, cast

from tinygpt.config import RunConfig
from tinygpt.errors import UserError
from tinygpt.training.trainer import Trainer
from tinygpt.training.trial import MARGIN, Sizes, alone, candidates, timed, trial

SECONDS = 8.0  # length of the timed steps
WARM_S = 1.0  # seconds of warm-up steps before them
ROW_BYTES = 330  # size of a row of metrics
_DRAWING = "matplotlib.backends.backend_agg"  # a run draws its curve


@dataclass(frozen=True)
class Measured:
    """Time and memory of a few steps."""

    step_s: float
    eval_s_per_token: float
    peak_bytes: int  # of the GPU; else of the process, torch and other imports included
    device: str


def measure(cfg: RunConfig, vocab_size: int, *, seconds: float) -> Measured:
    """Train some steps on random tokens in a new process, whose peak memory is theirs alone.

    Raises UserError if the process fails, for example for lack of memory.
    """
    context: Any = get_context("spawn")
    if "forkserver" in get_all_start_methods():  # the imports are done once for all sizes
        context = get_context("forkserver")
        components = [name for name in sys.modules if name.startswith("tinygpt.components.")]
        context.set_forkserver_preload([__name__, *components, _DRAWING])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure_and_tell, args=(cfg, vocab_size, seconds, theirs))
    process.start()
    theirs.close()
    try:
        return cast(Measured, ours.recv())
    except EOFError:
        process.join()
        code = process.exitcode
        size = cfg.trainer.micro_batch_size
        raise UserError(
            f"the trial of trainer.micro_batch_size={size} ended with exit code {code}; if memory "
            "ran out, use a smaller one"
        ) from None
    finally:
        process.join()


def _measure_and_tell(cfg: RunConfig, vocab_size: int, seconds: float, pipe: Any) -> None:
    from tinygpt import registry

    registry.import_all()
    pipe.send(_measure(cfg, vocab_size, seconds))


def _measure(cfg: RunConfig, vocab_size: int, seconds: float) -> Measured:
    import_module(_DRAWING)
    runtime = alone(cfg)
    with trial(cfg, runtime, vocab_size) as trainer:
        step_s = _mean_step(trainer, seconds=seconds)
        trainer.evaluate()
        began = time.perf_counter()
        trainer.evaluate()
        eval_s = (time.perf_counter() - began) / len(trainer.validation.tokens)
        on_device = runtime.peak_mem_bytes()
        peak = _peak_rss() if on_device is None else on_device
        return Measured(step_s, eval_s, peak, str(runtime.describe()["device_name"]))


def _peak_rss() -> int:
    """Peak resident memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _mean_step(trainer: Trainer, *, seconds: float) -> float:
    """Mean seconds per step, stalls of the machine included, as in a run."""
    warm = seconds * WARM_S / SECONDS
    while (once := timed(trainer, 1)) < warm:
        warm -= once
    return timed(trainer, max(1, round(seconds / once)))


def checkpoint_bytes(cfg: RunConfig, count: Sizes) -> int:
    """Size of one checkpoint: weights and, if they train, the optimizer's state and averages."""
    average = 0 if cfg.trainer.ema is None else 4
    return 4 * count.total + (cfg.optimizer.state_bytes + average) * count.trainable


def largest_that_fits(
    cfg: RunConfig, measured: Callable[[int], int], *, free: int
) -> tuple[int | None, int]:
    """The largest micro batch that fits, and bytes per sequence, from two measured sizes.

    None if not even one sequence fits.
    """
    small, large = measured(4), measured(16)
    each = max((large - small) // 12, 1)
    fitting = [s for s in candidates(cfg) if small + (s - 4) * each < MARGIN * free]
    return (max(fitting) if fitting else None), each
