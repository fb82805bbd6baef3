"""A few real steps on random tokens: how fast they are, and which micro batch fits."""

import gc
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from tinygpt.config import RunConfig
from tinygpt.errors import UserError
from tinygpt.interfaces import Split

if TYPE_CHECKING:
    from tinygpt.hardware.runtime import Runtime

BRIEFLY = 0.3  # where only the memory matters, or the larger of two speeds
TRIES = 7  # portions of them, of which the median counts
MARGIN = 0.9  # of the memory that is free is used
LARGEST = 256  # micro batch that is tried


@dataclass(frozen=True)
class Sizes:
    """What follows from the config alone."""

    vocab_size: int
    embedding: int  # parameters of tokens and positions
    other: int
    flops_per_token: int

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.other


def sizes(cfg: RunConfig, vocab_size: int) -> Sizes:
    """Count the parameters, without any memory for them."""
    import torch

    with torch.device("meta"):
        model = cfg.model.build(vocab_size=vocab_size, seq_len=cfg.trainer.seq_len)
    roles = model.roles()
    counts = {name: p.numel() for name, p in model.named_parameters()}
    embedding = sum(n for name, n in counts.items() if roles[name] == "embedding")
    other = sum(counts.values()) - embedding
    return Sizes(vocab_size, embedding, other, model.flops_per_token())


class _Noise:
    """Random tokens in the place of prepared ones."""

    def __init__(self, cfg: RunConfig, vocab_size: int) -> None:
        import numpy as np

        self._tokens = np.random.default_rng(0).integers(
            vocab_size, size=max(8 * cfg.trainer.tokens_per_step, 1 << 16), dtype=np.uint16
        )
        self._evaluated = min(len(self._tokens), 16 * cfg.trainer.seq_len)
        self.tokenizer = self
        self.vocab_size, self.eot_id = vocab_size, 0
        self.splits = {"validation": self}
        self.floor_bpb = None

    def tokens(self, split: Split) -> Any:
        """Token ids: (tokens,)."""
        return self._tokens

    def document_ends(self, split: Split) -> Any:
        """One document, which is as long as what is evaluated."""
        import numpy as np

        return np.array([[self._evaluated, 1]])

    def text_checksum(self, split: Split, documents: int) -> str:
        """There is no text."""
        return ""


def alone(cfg: RunConfig) -> "Runtime":
    """The device of a run for this process alone: other ranks wait, and exchange nothing.

    It compiles only if device.compile=always, because a trial is too short to gain from it.
    """
    from tinygpt.hardware.runtime import Runtime

    compiles = "always" if cfg.device.compile == "always" else "never"
    return Runtime(replace(cfg.device, parallel="auto", compile=compiles))


class Trial:
    """The context of a trainer that is put together as for a run, on random tokens."""

    def __init__(self, cfg: RunConfig, runtime: Any, vocab_size: int) -> None:
        self.cfg, self.runtime, self.vocab_size = cfg, runtime, vocab_size

    def __enter__(self) -> Any:
        from tinygpt.interfaces import Logger
        from tinygpt.training.checkpoint import Checkpoints
        from tinygpt.training.state import TrainState
        from tinygpt.training.trainer import Trainer

        horizon = {"max_tokens": None, "max_epochs": None, "max_time": None, "max_flops": None}
        trainer_cfg = replace(self.cfg.trainer, **cast(Any, horizon), max_steps=1_000_000)
        cfg = replace(self.cfg, trainer=trainer_cfg)
        model = cfg.model.build(vocab_size=self.vocab_size, seq_len=cfg.trainer.seq_len)
        self.runtime.place_alone(model)
        state = TrainState(model, cfg.optimizer.build(model), self.runtime.scaler())
        self._folder = TemporaryDirectory(prefix="tinygpt-plan-")
        return Trainer(
            cfg,
            state,
            runtime=self.runtime,
            prepared=cast(Any, _Noise(cfg, self.vocab_size)),
            logger=Logger(),
            callbacks={},
            checkpoints=Checkpoints(Path(self._folder.name)),
        )

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()
        gc.collect()


def median_step(trainer: Any, *, seconds: float) -> float:
    """Seconds of a step: the median over portions of equal numbers of steps."""
    for _ in range(3):
        timed(trainer, 1)
    once = timed(trainer, 1)
    steps = max(1, round(seconds / TRIES / once))
    return sorted(timed(trainer, steps) for _ in range(TRIES))[TRIES // 2]


def timed(trainer: Any, steps: int) -> float:
    """Mean seconds of a step over so many steps."""
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
        cfg.trainer, micro_batch_size=size, tokens_per_step=size * cfg.trainer.seq_len
    )
    return replace(cfg, trainer=trainer)


def micro_batch_size(cfg: RunConfig, vocab_size: int, *, ranks: int = 1) -> int:
    """The fastest micro batch of those that fit, timed here and now by this process alone.

    Raises UserError if none fits.
    """
    import torch

    runtime = alone(cfg)
    best, fastest = None, math.inf
    for size in candidates(cfg, ranks):
        if runtime.device.type == "cpu" and not _fits_main_memory(cfg, vocab_size, size):
            break
        try:
            with Trial(with_micro_batch(cfg, size), runtime, vocab_size) as trainer:
                each = median_step(trainer, seconds=BRIEFLY) / size
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if each < fastest * 0.98:  # a larger one has to be worth its memory
            best, fastest = size, each
        elif each > 1.2 * fastest:
            break
    if best is None:
        raise UserError("not even trainer.micro_batch_size=1 fits; type a smaller model")
    return best


def _fits_main_memory(cfg: RunConfig, vocab_size: int, size: int) -> bool:
    free = free_memory()
    return free is None or memory_by_formula(cfg, sizes(cfg, vocab_size), size) < MARGIN * free


def free_memory() -> int | None:
    """Bytes of main memory that nobody uses, where the system says."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None


def memory_by_formula(cfg: RunConfig, count: Sizes, size: int) -> int:
    """About how many bytes training takes on its device.

    Weights, gradients and Adam's moments in 4 bytes each, and per token and layer 34 numbers of
    d_model in 2 bytes that the backward needs (Korthikanti et al. 2022, "Reducing Activation
    Recomputation in Large Transformer Models", section 4.1, without attention matrices), which is
    the 34 s b h bytes there; twice that where they are in 4 bytes.
    """
    d_model = int(getattr(cfg.model, "d_model", 0))
    n_layer = int(getattr(cfg.model, "n_layer", 0))
    wide = 2 if cfg.device.precision == "fp32" else 1
    per_token = 34 * d_model * n_layer * wide
    return 16 * count.total + size * cfg.trainer.seq_len * per_token
