"""Say what a run, or a sweep, will take before it is begun."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinygpt import console
from tinygpt.cli.arguments import parse_arguments
from tinygpt.config import RunConfig, compose, overrides
from tinygpt.errors import UserError
from tinygpt.sweeps import scheduler
from tinygpt.sweeps.space import with_axes

if TYPE_CHECKING:
    from tinygpt.planning.estimate import Measured
    from tinygpt.training.trial import Sizes

HELP = """\
python -m tinygpt.plan [-m] [GROUP=CHOICE ...] [FIELD=VALUE ...]

Says what `python -m tinygpt.train` with the same words will take: parameters, work, memory, disk,
the largest micro batch that fits, and time, from a few real steps on this machine.

  python -m tinygpt.plan model=small tokenizer=bpe trainer.max_tokens=300M
  python -m tinygpt.plan -m model=tiny,small optimizer.lr=1e-3,3e-3 seed=0,1,2
"""
GB = 1e9


@dataclass
class _Plan:
    """What one run takes."""

    cfg: RunConfig
    count: "Sizes"
    steps: int | None
    assumption: str
    measured: "Measured | None"

    @property
    def seconds(self) -> float | None:
        """In the training loop: steps and evaluations."""
        cfg = self.cfg.trainer
        if cfg.max_time is not None:
            return float(cfg.max_time)
        if self.measured is None or self.steps is None:
            return None
        return self.steps * self.measured.step_s + self.evaluations * self.eval_tokens * (
            self.measured.eval_s_per_token
        )

    @property
    def eval_tokens(self) -> int:
        """About how many tokens an evaluation is of; 0 if it is of all there are, unknown here."""
        if self.cfg.trainer.eval_bytes is None:
            return 0
        each = {"char": 1.0, "byte": 1.0}.get(self.cfg.tokenizer.name, 4.0)
        return round(float(self.cfg.trainer.eval_bytes) / each)

    @property
    def evaluations(self) -> int:
        """How many there are."""
        from tinygpt.training import cadence

        if self.steps is None:
            assert self.measured, "without a trial nobody asks"
            takes_s = self.eval_tokens * self.measured.eval_s_per_token
            affordable = int(cadence.EVAL_SHARE * float(self.cfg.trainer.max_time or 0) / takes_s)
            return min(max(affordable, 1), cadence.EVALS[1])
        if self.cfg.trainer.eval_every is not None:
            return -(-self.steps // self.cfg.trainer.eval_every)
        trained = self.steps * self.cfg.trainer.tokens_per_step
        return cadence.affordable_evals(trained=trained, evaluated=max(self.eval_tokens, 1))


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point."""
    typed = sys.argv[1:] if arguments is None else arguments
    raise SystemExit(console.guarded(lambda: _main(typed)))


def _main(arguments: Sequence[str]) -> int:
    console.printing_the_result()
    args = parse_arguments("plan", arguments)
    if args.help:
        print(HELP, end="")
        return 0
    of_runs = [text for text in args.settings if not scheduler.is_about_sweeps(text)]
    own = [text for text in args.settings if scheduler.is_about_sweeps(text)]
    if own and not args.multirun:
        raise UserError(f"{own[0]} is about several runs; type -m before it")
    if not args.multirun:
        (job,) = overrides.jobs(of_runs, multirun=False, config_dir=args.config_dir)
        plan = _plan(compose.compose("train", job, config_dir=args.config_dir))
        _show(plan)
        return 0
    return _plan_sweep(own, of_runs, args.config_dir)


def _plan_sweep(own: list[str], of_runs: list[str], config_dir: Path | None) -> int:
    from tinygpt.planning import estimate

    cfg = compose.compose("sweep", own, config_dir=config_dir)
    search = cfg.search.build(
        overrides.space(with_axes(cfg, of_runs), config_dir=config_dir), folder=Path()
    )
    jobs = search.planned()
    if not jobs:
        raise UserError(
            f"search={cfg.search.name} chooses its configs on the way; plan one of them, without -m"
        )
    configs = compose.compose_all("train", jobs, config_dir=config_dir)
    launcher = cfg.launcher.build(folder=Path(), devices={c.device.type for c in configs})
    plans: dict[str, _Plan] = {}
    total_s, disk = 0.0, 0
    for job, run_cfg in zip(jobs, configs, strict=True):
        frozen = scheduler.frozen(job, run_cfg, launcher).cfg
        # what neither speed nor size depends on
        key = repr((frozen.model, frozen.tokenizer, frozen.trainer, frozen.device))
        if key not in plans:
            plans[key] = _plan(frozen)
        plan = plans[key]
        if plan.seconds is None:
            raise UserError("the time of these runs cannot be predicted here; plan one without -m")
        total_s += plan.seconds + START_S
        disk += _disk(plan) + estimate.checkpoint_bytes(plan.count)
    for plan in plans.values():
        _show(plan)
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
    return 0


START_S = 6.0  # of a process until its first step


def _plan(cfg: RunConfig) -> _Plan:
    from tinygpt.planning import estimate
    from tinygpt.training import trial

    vocab_size, assumption = _vocab_size(cfg)
    count = trial.sizes(cfg, vocab_size)
    steps = cfg.trainer.planned_steps
    if cfg.trainer.max_flops is not None:
        steps = max(
            1, round(cfg.trainer.max_flops / (count.flops_per_token * cfg.trainer.tokens_per_step))
        )
    measured = None
    if _is_here(cfg):
        cfg_as_run = _with_size(cfg, vocab_size)
        measured = estimate.measure(cfg_as_run, vocab_size, seconds=estimate.SECONDS)
    return _Plan(cfg, count, steps, assumption, measured)


def _with_size(cfg: RunConfig, vocab_size: int) -> RunConfig:
    """The config as it will train: micro_batch_size=auto is measured."""
    from dataclasses import replace

    from tinygpt.training import trial

    if isinstance(cfg.trainer.micro_batch_size, int):
        return cfg
    size = trial.micro_batch_size(cfg, vocab_size)
    return replace(cfg, trainer=replace(cfg.trainer, micro_batch_size=size))


def _is_here(cfg: RunConfig) -> bool:
    """Whether this machine has the device."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return available.get(cfg.device.type, True)


def _vocab_size(cfg: RunConfig) -> tuple[int, str]:
    """The size of the vocabulary, and what was assumed for it."""
    size = getattr(cfg.tokenizer, "vocab_size", None)
    if isinstance(size, int):
        return size, ""
    if cfg.tokenizer.name == "byte":
        return 257, ""
    if cfg.tokenizer.name == "char":
        return 100, "100 different characters are assumed, as English text has"
    return 50_257, "a vocabulary of 50,257 is assumed, that of GPT-2"


def _disk(plan: _Plan) -> int:
    """Bytes that the run folder will have where the newest checkpoints have the best one."""
    from tinygpt.planning import estimate
    from tinygpt.training import cadence

    rows = min(plan.steps or 1000, cadence.ROWS) * estimate.ROW_BYTES
    kept = plan.cfg.trainer.keep_checkpoints
    return kept * estimate.checkpoint_bytes(plan.count) + rows


def _show(plan: _Plan, *, memory_of_others: bool = True) -> None:
    """All of a plan, a line each."""
    from tinygpt.planning import estimate
    from tinygpt.training import trial

    cfg, count, trainer = plan.cfg, plan.count, plan.cfg.trainer
    tokens = plan.steps * trainer.tokens_per_step if plan.steps else None
    print(
        f"parameters  {count.total:,}: {count.embedding:,} embedding (vocabulary "
        f"{count.vocab_size:,}), {count.other:,} other"
    )
    if plan.assumption:
        print(f"            {plan.assumption}")
    if tokens:
        print(f"tokens      {tokens:,} in {plan.steps:,} steps of {trainer.tokens_per_step:,}")
        print(
            f"work        {tokens * count.flops_per_token:.3g} FLOPs, "
            f"{count.flops_per_token / 1e6:,.1f} million a token"
        )
    one = estimate.checkpoint_bytes(count)
    print(
        f"disk        {_disk(plan) / GB:.3f} GB; {(_disk(plan) + one) / GB:.3f} GB where the best "
        "checkpoint is not the newest"
    )
    if plan.measured is None:
        size = int(trainer.micro_batch_size) if trainer.micro_batch_size != "auto" else 1
        memory = trial.memory_by_formula(cfg, count, size)
        print(f"memory      about {memory / GB:.2f} GB on {cfg.device.type}, by formula")
        print(f"time        cannot be predicted here: this machine has no {cfg.device.type} device")
        return
    measured = plan.measured
    print(f"memory      {measured.peak_bytes / GB:.2f} GB at its peak, torch included")
    free = trial.free_memory()
    if memory_of_others and free is not None and cfg.device.type != "cuda":

        def peak(size: int) -> int:
            return estimate.measure(
                trial.with_micro_batch(cfg, size), count.vocab_size, seconds=trial.BRIEFLY
            ).peak_bytes

        largest, each = estimate.largest_that_fits(cfg, peak, free=free)
        print(
            f"            {each / 1e6:,.1f} MB per sequence of a micro batch; the largest that "
            f"fits {free / GB:.1f} GB: trainer.micro_batch_size={largest}"
        )
    speed = trainer.tokens_per_step / measured.step_s
    print(f"speed       {speed:,.0f} tokens/s, {1000 * measured.step_s:,.1f} ms a step")
    if plan.seconds is not None:
        evaluations = f"{plan.evaluations} evaluations included"
        if not plan.eval_tokens:
            evaluations = "without evaluations, which are of all the validation text there is"
        print(f"time        {_duration(plan.seconds)} on {measured.device}, {evaluations}")


def _duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    main()
