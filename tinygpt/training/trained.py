"""A trained model with its tokenizer, loaded from a run folder."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tinygpt.components.models.parts.low_rank import merge
from tinygpt.config import DeviceConfig, RunConfig
from tinygpt.errors import UserError, check_choice
from tinygpt.hardware.runtime import Runtime
from tinygpt.interfaces import Tokenizer
from tinygpt.language_model import LanguageModel
from tinygpt.records.read import read_record
from tinygpt.records.saved_config import load_config
from tinygpt.training.building import build_model
from tinygpt.training.checkpoint import Checkpoints, load_model

CHECKPOINTS = ("best", "latest")  # the lowest val/bpb, or the newest


@dataclass(frozen=True)
class Trained:
    """What a run folder holds for writing and scoring text."""

    cfg: RunConfig
    model: LanguageModel  # in evaluation mode, on `device`, with adapters merged into its weights
    tokenizer: Tokenizer
    checkpoint: Path  # the folder that the weights are from
    runtime: Runtime

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.runtime.device


@dataclass(frozen=True)
class Stored:
    """A checkpoint of a run in main memory."""

    cfg: RunConfig
    model: LanguageModel  # with adapters merged into its weights
    tokenizer: Tokenizer
    checkpoint: Path


def load_weights(
    run: Path, *, checkpoint: str, ema: bool = False, warn: Callable[[str], None]
) -> Stored:
    """Load the weights and the tokenizer of a run; components must be registered.

    With `ema` the weights are the averaged ones, and the best checkpoint is the one with the lowest
    val/bpb_ema.
    Raises UserError for a damaged folder and for one without a checkpoint.
    """
    check_choice("checkpoint", checkpoint, CHECKPOINTS)
    cfg = load_config(run)
    checkpoints = Checkpoints(run / "checkpoints")
    saved = checkpoints.best(warn, ema=ema) if checkpoint == "best" else checkpoints.latest(warn)
    if saved is None:
        raise UserError(
            f"run={run} has no checkpoint to write with; go on training it with\n"
            f"  python -m tinygpt.train resume={run}"
        )
    tokenizer = cfg.tokenizer.load(run / "tokenizer")
    known = (read_record(run).get("data") or {}).get("tokenizer_fingerprint")
    if known not in (None, tokenizer.fingerprint()):
        raise UserError(
            f"{run / 'tokenizer'} is not the tokenizer that the run was trained with; restore it "
            f"by going on with the run:\n  python -m tinygpt.train resume={run}"
        )
    model = build_model(cfg, tokenizer.vocab_size)
    load_model(model, saved, ema=ema)
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        raise UserError(
            f"run={run}: the weights of {saved.name} are not finite, so they cannot write; "
            "train again with a lower optimizer.lr"
        )
    merge(model)
    return Stored(cfg, model, tokenizer, saved)


def load_trained(
    run: Path,
    *,
    checkpoint: str = "best",
    ema: bool = False,
    device: str = "auto",
    own_precision: bool = False,
    warn: Callable[[str], None],
) -> Trained:
    """Load the weights and the tokenizer of a run onto a device; components must be registered.

    `ema` is as in `load_weights`. With `own_precision` the runtime has the precision and
    kernels that the run trained with.
    Raises UserError for a damaged folder and for one without a checkpoint.
    """
    stored = load_weights(run, checkpoint=checkpoint, ema=ema, warn=warn)
    own = replace(stored.cfg.device, type=device, parallel="auto")
    runtime = Runtime(own if own_precision else DeviceConfig(type=device))
    runtime.place_alone(stored.model)
    stored.model.eval()
    return Trained(stored.cfg, stored.model, stored.tokenizer, stored.checkpoint, runtime)
