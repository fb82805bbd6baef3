"""Trial steps on random tokens: their speed, and the fastest micro batch that fits in memory."""

import gc
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch

from tinygpt.config import RunConfig
from tinygpt.errors import UserError
from tinygpt.hardware.parallel import STATE_BYTES_PER_PARAMETER
from tinygpt.hardware.runtime import Runtime
from tinygpt.interfaces import SPLITS, Logger, Split
from tinygpt.language_model import LanguageModel, activation_bytes, shapes_only
from tinygpt.training.averaging import average_of
from tinygpt.training.building import build_model, trainable
from tinygpt.training.checkpoint import Checkpoints
from tinygpt.training.state import TrainState
from tinygpt.training.trainer import Trainer

BRIEFLY = 0.3  # seconds of a trial that needs only the memory, or compares two speeds
TRIES = 7  # parts that a trial is timed in; their median counts
MARGIN = 0.9  # share of the free memory that may be used
LARGEST = 256  # largest micro batch that is tried


@dataclass(frozen=True)
class Sizes:
    """Numbers that follow from the config alone."""

    vocab_size: int
    embedding: int  # parameters of tokens and positions
    other: int
    trainable: int  # of both, those that train
    flops_per_token: int

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.other


def sizes(cfg: RunConfig, vocab_size: int) -> Sizes:
    """Count the parameters without allocating them."""
    model = _without_memory(cfg, vocab_size)
    roles = model.roles()
    counts = {name: p.numel() for name, p in model.named_parameters()}
    embedding = sum(n for name, n in counts.items() if roles[name] == "embedding")
    other = sum(counts.values()) - embedding
    return Sizes(vocab_size, embedding, other, trainable(model), model.flops_per_token())


def _without_memory(cfg: RunConfig, vocab_size: int) -> LanguageModel:
    """The model on the meta device: its shapes alone."""
    with shapes_only():
        return build_model(cfg, vocab_size)


@dataclass(frozen=True)
class _Vocabulary:
    vocab_size: int
    eot_id: int = 0


@dataclass(frozen=True)
class _Split:
    floor_bpb: float | None = None


class RandomTokens:
    """Random tokens in memory, which a trainer reads as it reads prepared ones."""

    def __init__(self, cfg: RunConfig, vocab_size: int) -> None:
        self.tokenizer = _Vocabulary(vocab_size)
        self.splits: Mapping[Split, _Split] = dict.fromkeys(SPLITS, _Split())
        self._tokens = np.random.default_rng(0).integers(
            vocab_size,
            size=max(8 * cfg.trainer.tokens_per_step, 1 << 16),
            dtype=np.uint16 if vocab_size <= 1 << 16 else np.uint32,
        )
        self._evaluated = min(len(self._tokens), 16 * cfg.trainer.seq_len)

    def tokens(self, split: Split) -> npt.NDArray[np.generic]:
        """Token ids, the same for both splits: (tokens,)."""
        return self._tokens

    def document_ends(self, split: Split) -> npt.NDArray[np.int64]:
        """One document, as long as what is evaluated, with a byte: (1, 2)."""
        return np.array([[self._evaluated, 1]])

    def text_checksum(self, split: Split, documents: int) -> str:
        """Empty: there is no text."""
        return ""


def alone(cfg: RunConfig) -> Runtime:
    """The device of a run for this process alone: other ranks wait, and exchange nothing.

    It compiles only if device.compile=always, because a trial is too short to gain from it.
    """
    compiles = "always" if cfg.device.compile == "always" else "never"
    return Runtime(replace(cfg.device, parallel="auto", compile=compiles))


@contextmanager
def trial(cfg: RunConfig, runtime: Runtime, vocab_size: int) -> Iterator[Trainer]:
    """A trainer that is put together as for a run, on random tokens."""
    length = replace(
        cfg.trainer,
        max_tokens=None,
        max_epochs=None,
        max_time=None,
        max_flops=None,
        max_steps=1_000_000,
        first_tokens_per_step=None,  # what is timed are steps of the full size
        tokens_warmup_ratio=None,
    )
    cfg = replace(cfg, trainer=length)
    model = build_model(cfg, vocab_size)
    runtime.place(model)
    state = TrainState(model, cfg.optimizer.build(model), runtime.scaler())
    if cfg.trainer.ema is not None:
        state.ema = average_of(model)
    try:
        with TemporaryDirectory(prefix="tinygpt-plan-") as folder:
            yield Trainer(
                cfg,
                state,
                runtime=runtime,
                prepared=RandomTokens(cfg, vocab_size),
                logger=Logger(),
                callbacks={},
                checkpoints=Checkpoints(Path(folder)),
            )
    finally:
        gc.collect()  # a trainer and its callables refer to each other


def median_step(trainer: Trainer, *, seconds: float) -> float:
    """Seconds per step: the median over TRIES parts of equally many steps."""
    for _ in range(3):
        timed(trainer, 1)
    once = timed(trainer, 1)
    steps = max(1, round(seconds / TRIES / once))
    return sorted(timed(trainer, steps) for _ in range(TRIES))[TRIES // 2]


def timed(trainer: Trainer, steps: int) -> float:
    """Mean seconds per step over this many steps."""
    began = time.perf_counter()
    for _ in range(steps):
        trainer.train_step()
    trainer.since_last_row()  # waits for the device
    return (time.perf_counter() - began) / steps


def candidates(cfg: RunConfig, ranks: int = 1) -> Iterator[int]:
    """The powers of two that divide a step's sequences on each rank."""
    sequences = cfg.trainer.sequences_per_step // ranks
    size = 1
    while size <= min(LARGEST, sequences):
        if sequences % size == 0:
            yield size
        size *= 2


def with_micro_batch(cfg: RunConfig, size: int) -> RunConfig:
    """The config with a micro batch of this size, in a step of one such micro batch."""
    trainer = replace(
        cfg.trainer,
        micro_batch_size=size,
        tokens_per_step=size * cfg.trainer.seq_len,
        first_tokens_per_step=None,
        tokens_warmup_ratio=None,
    )
    return replace(cfg, trainer=trainer)


def micro_batch_size(cfg: RunConfig, vocab_size: int, *, ranks: int = 1) -> int:
    """The fastest micro batch of those that fit, timed here and now by this process alone.

    Raises UserError if none fits.
    """
    runtime = alone(cfg)
    best, fastest = None, math.inf
    for size in candidates(cfg, ranks):
        if runtime.device.type == "cpu" and not _fits_main_memory(cfg, vocab_size, size, ranks):
            break
        try:
            with trial(with_micro_batch(cfg, size), runtime, vocab_size) as trainer:
                each = median_step(trainer, seconds=BRIEFLY) / size
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if each < fastest * 0.98:  # a larger one has to be worth its memory
            best, fastest = size, each
        elif each > 1.2 * fastest:
            break
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()  # the run reports its own peak
    if best is None:
        raise UserError("not even trainer.micro_batch_size=1 fits; choose a smaller model")
    return best


def _fits_main_memory(cfg: RunConfig, vocab_size: int, size: int, ranks: int) -> bool:
    free = free_memory()  # shared by the ranks, which may all be on this machine
    return free is None or ranks * memory_estimate(cfg, vocab_size, size) < MARGIN * free


def free_memory() -> int | None:
    """Bytes of main memory that are available; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None


def check_memory(cfg: RunConfig, *, ranks: int) -> None:
    """Raise UserError if not even the weights, or the tokens of a step, fit the free main memory.

    This counts what every model and optimizer needs, so what passes may still be too large: weights
    of 4 bytes, their gradients on a CPU, and 8 bytes for each token of a step. The vocabulary is
    not known yet and counts as one token.
    """
    free = free_memory()
    if free is None:
        return
    count = sizes(cfg, vocab_size=1)
    n_params = count.total
    needed = 4 * n_params + (0 if cfg.device.type == "cuda" else 4 * count.trainable)
    if needed > free:
        raise UserError(
            f"the model has {n_params:,} parameters or more, which need {needed / 1e9:,.0f} GB; "
            f"{free / 1e9:,.0f} GB of memory are free; use a smaller model.d_model, model.n_layer "
            "or trainer.seq_len"
        )
    step = 8 * cfg.trainer.tokens_per_step // ranks
    if step > free:
        raise UserError(
            f"trainer.tokens_per_step={cfg.trainer.tokens_per_step} needs {step / 1e9:,.1f} GB for "
            f"the tokens of a step, and {free / 1e9:,.1f} GB of memory are free; use a smaller one"
        )


def memory_estimate(cfg: RunConfig, vocab_size: int, size: int) -> int:
    """About how many bytes training takes on its device, from the config alone.

    Each parameter takes 16 bytes: the weight, its gradient and the two moments of AdamW, in fp32
    (Rajbhandari et al. 2020, "ZeRO", arXiv 1910.02054, section 3.1, counts the same for mixed
    precision); one that does not train takes 4. On top comes what autograd keeps between the
    forward and the backward of a micro batch of `size` sequences, logits included, counted on meta
    tensors. Temporary memory of single operations, and of torch itself, is left out: model=tiny in
    fp32 with 4,096 tokens in its vocabulary took 21 MB for each sequence of 256, where this counts
    16.
    """
    model = _without_memory(cfg, vocab_size)
    n_parameters, n_trainable = sum(p.numel() for p in model.parameters()), trainable(model)
    with torch.device("meta"):
        if cfg.device.precision in ("bf16", "fp16"):
            model.bfloat16()
        model.use_kernels(cfg.device.type == "cpu" and cfg.device.kernels != "torch")
        tokens = torch.zeros(size, cfg.trainer.seq_len, dtype=torch.int64)
        kept = activation_bytes(model, lambda: model.loss(tokens, tokens))
    average = 0 if cfg.trainer.ema is None else 4
    frozen = 4 * (n_parameters - n_trainable)
    return (STATE_BYTES_PER_PARAMETER + average) * n_trainable + frozen + kept
