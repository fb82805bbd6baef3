"""The fields of a run, a sweep and prepared data, with their rules."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinygpt.config.step_sizes import StepSizes
from tinygpt.config.units import parse_count, parse_duration
from tinygpt.errors import UserError, check_choice, check_path, check_range, visible
from tinygpt.interfaces import (
    CallbackConfig,
    DatasetConfig,
    LauncherConfig,
    LoggerConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    SearchConfig,
    StoppingConfig,
    TokenizerConfig,
)

# fields that do not change a run's results: locations of files, and labels
NOT_IDENTITY = ("output_dir", "cache_dir", "workers", "components", "name", "tags", "notes")
MAX_NAME = 128  # characters of a name
MAX_TAG = 64  # characters of a tag; W&B's own limit
# upper limits of TrainerConfig's integers: beyond any real use, and within int64
_LARGEST = {
    **{"seq_len": 1 << 24, "tokens_per_step": 1 << 40},
    **dict.fromkeys(("max_steps", "keep_checkpoints"), 10**15),
    **dict.fromkeys(("eval_every", "log_every", "save_every"), 10**15),
}
_MOST_THREADS = 1024  # OpenMP crashes with many more
HORIZONS = ("max_tokens", "max_steps", "max_epochs", "max_flops", "max_time")
DEFAULT_MAX_TOKENS = 10_000_000
WARMUP_RATIO = 0.25  # of the run's tokens, if trainer.tokens_warmup_ratio does not say


@dataclass
class TrainerConfig:
    """The length of a run, its batch sizes, and how often it evaluates, logs and saves."""

    seq_len: int = 256  # tokens the model sees at once, T
    # sequences per forward; affects memory and speed, results agree up to rounding; auto measures
    # at the start and uses the fastest that fits
    micro_batch_size: int | str = 16
    tokens_per_step: int = 4096  # tokens per optimizer update; larger is smoother and slower
    # begin with smaller updates, which double up to tokens_per_step; null: all are equal
    first_tokens_per_step: int | None = None
    # share of the run's tokens until updates have their full size; null is 0.25
    tokens_warmup_ratio: float | None = None
    # length of the run in tokens, such as 5M; set at most one max_ field; without one: 10M tokens
    max_tokens: int | float | str | None = None
    max_steps: int | None = None  # length in optimizer updates
    max_epochs: float | None = None  # length in passes over the train split
    max_flops: float | None = None  # length in training FLOPs, such as 1e15
    # length in wall-clock time, such as 15m; the result then depends on speed
    max_time: int | float | str | None = None
    grad_clip: float = 1.0  # largest gradient norm; 0 turns clipping off
    # also average the weights: each update counts this much of the one after it, such as 0.999;
    # larger averages over more updates, about 1 / (1 - ema) of them; null: no average
    ema: float | None = None
    # steps between evaluations; null: 5 to 20 evaluations if cheap, fewer if they cost much time
    eval_every: int | None = None
    # validation text per evaluation, in bytes of whole documents; null: all of it
    eval_bytes: int | float | str | None = 100_000
    log_every: int | None = None  # steps between rows of metrics; null: 500 rows in a run
    # steps between checkpoints; null: every minute, less often for large models; the best stays too
    save_every: int | None = None
    keep_checkpoints: int = 1  # newest checkpoints to keep, besides the best
    # names of parameters that do not train, such as [token_embedding,blocks.0.*]
    freeze: list[str] = field(default_factory=list)
    # train low-rank updates of matrices (LoRA) and nothing else; null trains all weights
    lora_rank: int | None = None
    lora_alpha: float | None = None  # strength of the updates; null is twice the rank
    # linear layers with such updates
    lora_targets: list[str] = field(default_factory=lambda: ["blocks.*"])

    def __post_init__(self) -> None:
        set_horizons = [name for name in HORIZONS if getattr(self, name) is not None]
        if len(set_horizons) > 1:
            values = " and ".join(f"trainer.{name}={getattr(self, name)}" for name in set_horizons)
            raise UserError(
                f"{values} are both set, but a run has one length; "
                f"turn one off with trainer.{set_horizons[0]}=null"
            )
        if self.max_tokens is not None:
            self.max_tokens = parse_count("trainer.max_tokens", self.max_tokens)
        if self.max_time is not None:
            self.max_time = parse_duration("trainer.max_time", self.max_time)
        if self.eval_bytes is not None:
            self.eval_bytes = parse_count("trainer.eval_bytes", self.eval_bytes)
        check_range("trainer.max_flops", self.max_flops, low=1)
        check_range("trainer.max_epochs", self.max_epochs, above=0, high=1e9)
        if not isinstance(self.micro_batch_size, str):
            check_range("trainer.micro_batch_size", self.micro_batch_size, low=1)
        elif self.micro_batch_size != "auto":
            raise UserError(
                f"trainer.micro_batch_size={self.micro_batch_size} must be a whole number, or auto"
            )
        for name, high in _LARGEST.items():
            check_range(f"trainer.{name}", getattr(self, name), low=1, high=high)
        check_range("trainer.grad_clip", self.grad_clip, low=0)
        check_range("trainer.ema", self.ema, above=0, below=1)
        self._check_lora()
        self._check_growth()
        self.grad_accum()

    def _check_lora(self) -> None:
        if self.lora_rank is not None:
            check_range("trainer.lora_rank", self.lora_rank, low=1, high=10_000)
            check_range("trainer.lora_alpha", self.lora_alpha, above=0)
            if not self.lora_targets:
                raise UserError(
                    "trainer.lora_targets=[] leaves nothing to train; type names of linear layers, "
                    "such as trainer.lora_targets=[blocks.*]"
                )
            return
        for name, default in (("lora_alpha", None), ("lora_targets", ["blocks.*"])):
            value = getattr(self, name)
            if value != default:
                shown = f"[{','.join(value)}]" if isinstance(value, list) else f"{value:g}"
                raise UserError(
                    f"trainer.{name}={shown} has no effect without trainer.lora_rank; type "
                    "trainer.lora_rank=8 too"
                )

    def _check_growth(self) -> None:
        first, full = self.first_tokens_per_step, self.tokens_per_step
        ratio = self.tokens_warmup_ratio
        check_range("trainer.tokens_warmup_ratio", ratio, above=0, high=1)
        if first is None:
            if ratio is not None:
                raise UserError(
                    f"trainer.tokens_warmup_ratio={ratio:g} has no effect without "
                    f"trainer.first_tokens_per_step; type a size of the first updates too"
                )
            return
        sizes = [full >> k for k in range(1, 21) if full % (self.seq_len << k) == 0]
        if first not in sizes:
            advice = f"one of {', '.join(map(str, sizes))}"
            if not sizes:
                advice = (
                    f"a trainer.tokens_per_step of {2 * self.seq_len} or another multiple of that"
                )
            raise UserError(
                f"trainer.first_tokens_per_step={first} must be trainer.tokens_per_step={full} "
                f"halved some times, in whole sequences of trainer.seq_len={self.seq_len}; "
                f"use {advice}"
            )
        if self.max_time is not None:
            raise UserError(
                f"trainer.first_tokens_per_step={first} needs the run's length in tokens, which "
                "trainer.max_time does not give; use trainer.max_tokens instead"
            )

    @property
    def grows(self) -> bool:
        """Whether updates become larger in the course of the run."""
        return self.first_tokens_per_step is not None

    def step_sizes(self, *, full_steps: float | None = None, steps: int | None = None) -> StepSizes:
        """The updates of a run, whose length is as for `StepSizes.of_run`."""
        ratio = WARMUP_RATIO if self.tokens_warmup_ratio is None else self.tokens_warmup_ratio
        first, full = self.first_tokens_per_step, self.tokens_per_step
        return StepSizes.of_run(
            full=full, first=first, warmup_ratio=ratio, full_steps=full_steps, steps=steps
        )

    @property
    def alpha(self) -> float:
        """LoRA's alpha: updates are multiplied by alpha / rank."""
        assert self.lora_rank is not None
        return 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha

    def grad_accum(self, *, ranks: int = 1) -> int:
        """Forwards per optimizer update on each rank; raises UserError if not a whole number.

        micro_batch_size=auto counts as 1.
        """
        size = 1 if isinstance(self.micro_batch_size, str) else self.micro_batch_size
        factors = {"micro_batch_size": size, "seq_len": self.seq_len}
        if ranks > 1:
            factors["ranks"] = ranks
        portion = math.prod(factors.values())
        if self.tokens_per_step % portion == 0:
            first = self.first_tokens_per_step
            if first is not None and first % (self.seq_len * ranks):
                raise UserError(
                    f"trainer.first_tokens_per_step={first} leaves {first // self.seq_len} "
                    f"sequences for {ranks} ranks; use a multiple of seq_len * ranks = "
                    f"{self.seq_len} * {ranks} = {self.seq_len * ranks}"
                )
            return self.tokens_per_step // portion
        below = self.tokens_per_step // portion * portion
        choices = [str(n) for n in (below, below + portion) if n]
        # the largest size that divides evenly, among 1 to 1,024 and all sequences at once
        own, rest = divmod(self.tokens_per_step, self.seq_len * ranks)  # sequences on each rank
        fitting = [n for n in (*range(1, 1025), own) if n < size and own % n == 0] if own else []
        smaller = max(fitting, default=None) if not rest else None
        same = f"; trainer.micro_batch_size={smaller} changes nothing else"
        raise UserError(
            f"trainer.tokens_per_step={self.tokens_per_step} is not a multiple of "
            f"{' * '.join(factors)} = {' * '.join(map(str, factors.values()))} = {portion}; "
            f"nearest {'are' if len(choices) > 1 else 'is'} {' and '.join(choices)}"
            f"{same if smaller and ranks > 1 else ''}"
        )

    @property
    def planned_sizes(self) -> StepSizes | None:
        """The updates of the run; None if its length depends on data, model or wall clock."""
        if any((self.max_epochs, self.max_flops, self.max_time)):
            return None
        if self.max_steps is not None:
            return self.step_sizes(steps=self.max_steps)
        tokens = int(self.max_tokens or DEFAULT_MAX_TOKENS)
        return self.step_sizes(full_steps=tokens / self.tokens_per_step)

    @property
    def planned_steps(self) -> int | None:
        """The length of the run in steps; None if it depends on data, model or wall clock."""
        sizes = self.planned_sizes
        return None if sizes is None else sizes.n_steps

    @property
    def sequences_per_step(self) -> int:
        """Sequences per optimizer update."""
        return self.tokens_per_step // self.seq_len


@dataclass
class DeviceConfig:
    """Hardware, precision, compilation and parallelism."""

    type: str = "auto"  # auto, cpu, cuda or mps; auto takes cuda, then mps, then cpu
    precision: str = "auto"  # auto, fp32, bf16 or fp16; auto: bf16 where hardware has it
    compile: str = "auto"  # auto, always or never; auto: only if the run is long enough to gain
    # auto, fused or torch; auto: fused C kernels on a CPU with gcc, else torch; affects rounding
    kernels: str = "auto"
    # auto, ddp (copy the model to each rank) or fsdp (shard it); auto: ddp if the model fits
    parallel: str = "auto"
    threads: int | None = None  # CPU threads; null: torch chooses; affects rounding

    def __post_init__(self) -> None:
        check_choice("device.type", self.type, ("auto", "cpu", "cuda", "mps"))
        check_choice("device.precision", self.precision, ("auto", "fp32", "bf16", "fp16"))
        check_choice("device.compile", self.compile, ("auto", "always", "never"))
        check_choice("device.kernels", self.kernels, ("auto", "fused", "torch"))
        check_choice("device.parallel", self.parallel, ("auto", "ddp", "fsdp"))
        check_range("device.threads", self.threads, low=1, high=_MOST_THREADS)


@dataclass(kw_only=True)
class PrepareConfig:
    """The fields that determine the prepared tokens, and where to keep them."""

    dataset: DatasetConfig
    tokenizer: TokenizerConfig
    cache_dir: str = "~/.cache/tinygpt"  # prepared tokens, shared by all runs
    workers: int | None = None  # encoding processes; null: one per core; 1: no extra process
    # your own modules that register components, such as [my_rmsprop]; imported only if typed
    components: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_choice("dataset.window", self.dataset.window, ("packed", "document"))
        self.dataset = self.dataset.settled(
            tokens=self._tokens_trained_on(),
            bytes_per_token=self.tokenizer.most_bytes_per_token,
        )
        check_range("workers", self.workers, low=1, high=_MOST_THREADS)
        check_path("cache_dir", self.cache_dir)

    def _tokens_trained_on(self) -> int | None:
        """Tokens of the run that the text is for; here those of a run with the default length."""
        return DEFAULT_MAX_TOKENS


@dataclass(kw_only=True)
class DataConfig(PrepareConfig):
    """The settings of `python -m tinygpt.data`."""

    # vocabulary sizes to compare; [] compares none
    candidates: list[int] = field(default_factory=lambda: [512, 1024, 2048, 4096, 8192])
    out: str | None = None  # the picture, a .png; null: next to the prepared tokens

    def __post_init__(self) -> None:
        super().__post_init__()
        for size in self.candidates:
            check_range("candidates", size, low=258, high=1_000_000)  # end of text, newline, bytes
        if self.out is not None and Path(self.out).suffix != ".png":
            raise UserError(f"out={self.out} must end in .png; type out={Path(self.out).stem}.png")


@dataclass(kw_only=True)
class RunConfig(PrepareConfig):
    """Everything that determines a run; config.yaml in its folder loads back to an equal config."""

    model: ModelConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    logger: dict[str, LoggerConfig] = field(default_factory=dict)
    callback: dict[str, CallbackConfig] = field(default_factory=dict)
    # begin with trained weights: a run, or another tool's file or folder; the model and its
    # tokenizer come from there, see docs/finetuning.md
    init_from: str | None = None
    seed: int = 0  # of weights, data order and dropout; does not change the dataset
    output_dir: str = "outputs"  # the folder for run folders
    name: str | None = None  # your name for the run, shown with its id
    tags: list[str] = field(default_factory=list)  # such as [baseline,paper]; `runs tags=paper`
    notes: str | None = None  # free text, kept in the run folder

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("seed", self.seed, low=0, high=2**64 - 1)
        check_path("output_dir", self.output_dir)
        if self.init_from is not None:
            check_path("init_from", self.init_from)
        elif self.trainer.lora_rank is not None:
            raise UserError(
                f"trainer.lora_rank={self.trainer.lora_rank} adapts trained weights, and this run "
                "begins with random ones; type init_from=RUN too"
            )
        if self.name is not None:
            _check_line("name", self.name, longest=MAX_NAME)
        for tag in self.tags:
            _check_line("tags", tag, longest=MAX_TAG)
        if len(set(self.tags)) < len(self.tags):
            raise UserError(f"tags=[{','.join(self.tags)}] has a tag twice; type each once")
        if self.dataset.mask_documents and not self.model.masks_documents:
            raise UserError(
                f"dataset.mask_documents=true needs a model that can keep documents apart, and "
                f"{self.model.name} cannot; type dataset.mask_documents=false"
            )
        if self.optimizer.averages:
            self._check_averaged_once()
        if self.init_from is not None and getattr(self.optimizer, "scaling", "none") != "none":
            raise UserError(
                "optimizer.scaling=mup scales random initial weights, and with init_from they are "
                "others; type optimizer.scaling=none"
            )

    def _check_averaged_once(self) -> None:
        """Raise UserError for what would average averaged weights, or decay the rate as well."""
        if self.trainer.ema is not None:
            raise UserError(
                f"trainer.ema={self.trainer.ema:g} would average the weights that "
                f"optimizer={self.optimizer.name} averages already; type trainer.ema=null"
            )
        if self.schedule.multiplier(1.0) < 1:
            raise UserError(
                f"schedule={self.schedule.name} decays the learning rate, and "
                f"optimizer={self.optimizer.name} averages weights instead; type schedule=constant"
            )

    def _tokens_trained_on(self) -> int | None:
        sizes = self.trainer.planned_sizes
        return None if sizes is None else sizes.n_tokens


def _check_line(field_name: str, text: str, *, longest: int) -> None:
    """Raise UserError unless the text is one line of 1 to `longest` characters."""
    if not 1 <= len(text.strip()) <= longest or len(text.splitlines()) > 1:
        raise UserError(
            f"{field_name}: {visible(text)[:longest]!r} must be one line of 1 to {longest} "
            f"characters; type {field_name}={'[A,B]' if field_name == 'tags' else 'TEXT'}"
        )


OBJECTIVES = ("val/bpb", "val/loss", "train/loss", "val/bpb_ema", "val/loss_ema")


@dataclass(kw_only=True)
class SweepConfig:
    """How to run a sweep: search, stopping rule and launcher. No run's own result depends on it."""

    search: SearchConfig
    stopping: StoppingConfig
    launcher: LauncherConfig
    # the metric that searches and stopping rules compare; lower is better
    objective: str = "val/bpb"
    retry_failed: bool = False  # when a sweep continues, run its failed runs again
    # the swept values in a conf/sweep/NAME.yaml, such as optimizer.lr: [1e-3, 3e-3]
    axes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("objective", self.objective, OBJECTIVES)
