"""What a run, or a sweep, will take, as lines of text."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tinygpt.config import RunConfig, compose, overrides
from tinygpt.config.step_sizes import StepSizes
from tinygpt.errors import UserError
from tinygpt.interchange import starting
from tinygpt.planning import estimate
from tinygpt.planning.estimate import Measured
from tinygpt.sweeps import scheduler
from tinygpt.sweeps.space import with_axes
from tinygpt.training import cadence, trial
from tinygpt.training.trial import Sizes

GB = 1e9
START_S = 6.0  # of a process until its first step


@dataclass
class Plan:
    """What one run takes."""

    cfg: RunConfig
    count: Sizes
    sizes: StepSizes | None  # all updates; None if their number is not known
    assumption: str
    measured: Measured | None

    @property
    def steps(self) -> int | None:
        """The length of the run in steps, if it is known."""
        return None if self.sizes is None else self.sizes.n_steps

    @property
    def seconds(self) -> float | None:
        """Time of all steps and evaluations; None if it cannot be predicted."""
        cfg = self.cfg.trainer
        if cfg.max_time is not None:
            return float(cfg.max_time)
        if self.measured is None or self.sizes is None:
            return None
        full_steps = self.sizes.n_tokens / cfg.tokens_per_step
        return full_steps * self.measured.step_s + self.evaluations * self.eval_tokens * (
            self.measured.eval_s_per_token
        )

    @property
    def eval_tokens(self) -> int:
        """About how many tokens one evaluation has; 0 if it takes all of them, unknown here."""
        if self.cfg.trainer.eval_bytes is None:
            return 0
        each = {"char": 1.0, "byte": 1.0}.get(self.cfg.tokenizer.name, 4.0)
        return round(float(self.cfg.trainer.eval_bytes) / each)

    @property
    def evaluations(self) -> int:
        """Number of evaluations."""
        tokens = max(self.eval_tokens, 1)
        if self.steps is None or self.sizes is None:
            assert self.measured, "seconds is None without a trial"
            times = cadence.affordable_evals(
                run=float(self.cfg.trainer.max_time or 0),
                each=tokens * self.measured.eval_s_per_token,
            )
            return max(int(times), 1)
        if self.cfg.trainer.eval_every is not None:
            return -(-self.steps // self.cfg.trainer.eval_every)
        trained = self.sizes.n_tokens
        passes = 1 if self.cfg.trainer.ema is None else 2
        times = cadence.affordable_evals(run=trained, each=cadence.EVAL_COST * tokens * passes)
        return max(int(times), cadence.EVALS[0])


def plan_sweep(own: list[str], of_runs: list[str], config_dir: Path | None) -> None:
    """Print what each kind of run of a sweep takes, and then all runs together.

    `own` are the settings of the sweep, `of_runs` those of its runs. Raises UserError for a search
    that chooses its configs while it goes, and where time cannot be predicted.
    """
    cfg = compose.compose("sweep", own, config_dir=config_dir)
    search = cfg.search.build(
        overrides.space(with_axes(cfg, of_runs), config_dir=config_dir), folder=Path()
    )
    jobs = search.planned()
    if not jobs:
        raise UserError(
            f"search={cfg.search.name} chooses its configs on the way; plan one of them, without -m"
        )
    configs = starting.compose_runs(jobs, config_dir=config_dir)
    launcher = cfg.launcher.build(folder=Path(), devices={c.device.type for c in configs})
    plans: dict[str, Plan] = {}
    total_s, disk = 0.0, 0
    for job, run_cfg in zip(jobs, configs, strict=True):
        frozen = scheduler.frozen(job, run_cfg, launcher).cfg
        # what neither speed nor size depends on
        key = repr((frozen.model, frozen.tokenizer, frozen.trainer, frozen.device))
        if key not in plans:
            plans[key] = plan(frozen)
        kind = plans[key]
        if kind.seconds is None:
            raise UserError("the time of these runs cannot be predicted here; plan one without -m")
        total_s += kind.seconds + START_S
        disk += _disk(kind) + estimate.checkpoint_bytes(kind.cfg, kind.count)
    for kind in plans.values():
        show(kind)
        print()
    print(
        f"{len(jobs)} runs, {launcher.slots} at once on {launcher.threads or 'GPU'} threads each:"
    )
    print(f"  time   about {_duration(total_s / min(launcher.slots, len(jobs)))}")
    print(f"  disk   up to {disk / GB:.2f} GB")
    if launcher.slots > 1:
        print("  note   steps were timed one run at a time; runs at once share memory and caches")
    if cfg.stopping.build() is not None:
        print(f"  note   stopping={cfg.stopping.name} ends most of them early; this is all of them")


def plan(cfg: RunConfig) -> Plan:
    """What a run takes; measured in a trial if this machine has the device."""
    vocab_size, assumption = _vocab_size(cfg)
    count = trial.sizes(cfg, vocab_size)
    sizes = cfg.trainer.planned_sizes
    if cfg.trainer.max_flops is not None:
        of_step = count.flops_per_token * cfg.trainer.tokens_per_step
        sizes = cfg.trainer.step_sizes(full_steps=cfg.trainer.max_flops / of_step)
    measured = None
    if _is_here(cfg):
        cfg_as_run = _with_size(cfg, vocab_size)
        measured = estimate.measure(cfg_as_run, vocab_size, seconds=estimate.SECONDS)
    return Plan(cfg, count, sizes, assumption, measured)


def _with_size(cfg: RunConfig, vocab_size: int) -> RunConfig:
    """The config as it will train: micro_batch_size=auto is measured."""
    if isinstance(cfg.trainer.micro_batch_size, int):
        return cfg
    size = trial.micro_batch_size(cfg, vocab_size)
    return replace(cfg, trainer=replace(cfg.trainer, micro_batch_size=size))


def _is_here(cfg: RunConfig) -> bool:
    """Whether this machine has the device."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return available.get(cfg.device.type, True)


def _vocab_size(cfg: RunConfig) -> tuple[int, str]:
    """The size of the vocabulary, and the assumption that it needs, if any."""
    if getattr(cfg.tokenizer, "path", None) is not None:  # nothing is learned
        return cfg.tokenizer.train(iter(())).vocab_size, ""
    size = getattr(cfg.tokenizer, "vocab_size", None)
    if isinstance(size, int):
        return size, ""
    most = getattr(cfg.tokenizer, "max_vocab_size", None)
    if size == "auto" and isinstance(most, int):
        return most, f"a vocabulary of {most:,} is assumed, the largest that auto chooses"
    if cfg.tokenizer.name == "byte":
        return 257, ""
    if cfg.tokenizer.name == "char":
        return 100, "100 different characters are assumed, as English text has"
    return 50_257, "a vocabulary of 50,257 is assumed, that of GPT-2"


def _disk(plan: Plan) -> int:
    """Bytes of the run folder if the best checkpoint is one of the newest."""
    rows = min(plan.steps or 1000, cadence.ROWS) * estimate.ROW_BYTES
    kept = plan.cfg.trainer.keep_checkpoints
    return kept * estimate.checkpoint_bytes(plan.cfg, plan.count) + rows


def show(plan: Plan) -> None:
    """Print a plan, a line for each quantity."""
    cfg, count, trainer = plan.cfg, plan.count, plan.cfg.trainer
    print(
        f"parameters  {count.total:,}: {count.embedding:,} embedding (vocabulary "
        f"{count.vocab_size:,}), {count.other:,} other"
    )
    if count.trainable < count.total:
        print(f"            {count.trainable:,} of them train")
    if plan.assumption:
        print(f"            {plan.assumption}")
    if plan.sizes:
        tokens, size_of_step = plan.sizes.n_tokens, f"{trainer.tokens_per_step:,}"
        if trainer.grows:
            size_of_step = f"{trainer.first_tokens_per_step:,}, growing to {size_of_step}"
        print(f"tokens      {tokens:,} in {plan.steps:,} steps of {size_of_step}")
        print(
            f"work        {tokens * count.flops_per_token:.3g} FLOPs, "
            f"{count.flops_per_token / 1e6:,.1f} million a token"
        )
    if amount := cfg.dataset.amount():
        print(f"text        {amount.removeprefix('training text: ')}")
    one = estimate.checkpoint_bytes(cfg, count)
    print(
        f"disk        {_disk(plan) / GB:.3f} GB; {(_disk(plan) + one) / GB:.3f} GB if the best "
        "checkpoint is not the newest"
    )
    if plan.measured is None:
        size = int(trainer.micro_batch_size) if trainer.micro_batch_size != "auto" else 1
        memory = trial.memory_estimate(cfg, count.vocab_size, size)
        print(f"memory      about {memory / GB:.2f} GB on {cfg.device.type}, by formula")
        print(f"time        cannot be predicted here: this machine has no {cfg.device.type} device")
        return
    measured = plan.measured
    print(f"memory      {measured.peak_bytes / GB:.2f} GB at its peak, torch included")
    free = trial.free_memory()
    if free is not None and cfg.device.type != "cuda":

        def peak(size: int) -> int:
            return estimate.measure(
                trial.with_micro_batch(cfg, size), count.vocab_size, seconds=trial.BRIEFLY
            ).peak_bytes

        largest, one_sequence = estimate.largest_that_fits(cfg, peak, free=free)
        fits = f"trainer.micro_batch_size={largest} is the largest that fits"
        print(
            f"            {one_sequence / 1e6:,.1f} MB for each sequence of a micro batch; of "
            f"{free / GB:.1f} GB free, {fits if largest else 'not even one sequence fits'}"
        )
    speed = trainer.tokens_per_step / measured.step_s
    print(f"speed       {speed:,.0f} tokens/s, {1000 * measured.step_s:,.1f} ms a step")
    if plan.seconds is not None:
        evaluations = f"{plan.evaluations} evaluations included"
        if not plan.eval_tokens:
            evaluations = "without evaluations, which are of all the validation text there is"
        print(f"time        {_duration(plan.seconds)} on {measured.device}, {evaluations}")


def _duration(seconds: float) -> str:
    """Seconds in a unit that is easy to read."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
