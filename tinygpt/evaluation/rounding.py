"""What weights in bf16 or int8 cost a run, in bits per byte of its validation text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from tinygpt.corpus.prepared import beginning
from tinygpt.evaluation import intervals
from tinygpt.files import write_atomically
from tinygpt.generation.likelihood import window_nats
from tinygpt.kernels import build
from tinygpt.records.read import read_record
from tinygpt.training.batches import eval_batches

if TYPE_CHECKING:
    from tinygpt.language_model import Decoder, LanguageModel
    from tinygpt.training.trained import Trained

FILE = "rounding.json"  # in a run folder: what was measured, by the weights' name
N_TOKENS = 2_048  # of the validation text


@dataclass(frozen=True)
class Rounding:
    """Bits per byte in fp32 and with rounded weights, on the same tokens."""

    weights: str  # bf16 or int8
    checkpoint: str  # name and checksum of what was rounded
    kernels: str  # hash of what computed
    tokens: int
    fp32_bpb: float
    bpb: float
    half_width: float  # of the 95 % interval of the difference

    def __str__(self) -> str:
        return (
            f"weights={self.weights}: {self.bpb:.4f} bits per byte, fp32 {self.fp32_bpb:.4f} "
            f"({self.bpb - self.fp32_bpb:+.4f} \u00b1 {self.half_width:.4f}), on the first "
            f"{self.tokens:,} tokens of the validation text"
        )


def rounding_of(
    trained: Trained, decoder: Decoder, *, weights: str, ema: bool = False
) -> Rounding | None:
    """Measure the decoder, which holds the weights rounded, against the model in fp32.

    The result is kept in the run folder, and read from there if the checkpoint and the kernels
    are the same.  None if the run's prepared tokens are gone.  Uses slot 0 of the decoder.
    """
    run = trained.checkpoint.parent.parent
    checkpoint = f"{trained.checkpoint.name} {_sha256(trained.checkpoint, ema=ema)}"
    kept = _read(run / FILE)
    known, kernels = kept.get(weights), build.source_hash()
    if known is not None and (known.checkpoint, known.kernels) == (checkpoint, kernels):
        return known
    data = read_record(run).get("data") or {}
    checksum = (data.get("checksums") or {}).get("validation")
    if not checksum or not data.get("prepared"):
        return None
    tokens = beginning(Path(data["prepared"]), "validation", N_TOKENS + 1, checksum=checksum)
    if tokens is None or len(tokens) < 2:
        return None
    tokenizer, seq_len = trained.tokenizer, trained.cfg.trainer.seq_len
    text = [token for token in tokens[1:] if token != tokenizer.eot_id]
    to_bits = 1 / math.log(2) / max(1, len(tokenizer.decode_bytes(text)))
    exact = _nats(trained.model, tokens, seq_len=seq_len)
    rounded = window_nats(decoder, tokens, seq_len=seq_len)
    difference = intervals.mean(rounded - exact, better="lower")
    half_width = difference.high - difference.value if difference.high is not None else 0.0
    found = Rounding(
        weights=weights,
        checkpoint=checkpoint,
        kernels=kernels,
        tokens=len(exact),
        fp32_bpb=float(exact.sum()) * to_bits,
        bpb=float(rounded.sum()) * to_bits,
        half_width=half_width * len(exact) * to_bits,
    )
    content = {name: asdict(of) for name, of in (kept | {weights: found}).items()}
    with suppress(OSError):  # a folder that cannot be written is measured again the next time
        write_atomically(run / FILE, json.dumps(content, indent=1) + "\n")
    return found


def _sha256(checkpoint: Path, *, ema: bool) -> str:
    sums = json.loads((checkpoint / "checksums.json").read_text(encoding="utf-8"))
    return str(sums["ema.safetensors" if ema else "model.safetensors"])


def _read(path: Path) -> dict[str, Rounding]:
    """Read earlier measurements by weight type; empty if the file is missing or damaged."""
    try:
        content = json.loads(path.read_bytes())
        found = {str(name): Rounding(**of) for name, of in content.items()}
        for rounding in found.values():
            str(rounding)  # raises ValueError or TypeError for values of other types
        return found
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _nats(model: LanguageModel, tokens: Sequence[int], *, seq_len: int) -> npt.NDArray[np.float64]:
    """As `window_nats`, by the model's own forward."""
    nats = []
    with torch.no_grad():
        for batch in eval_batches(np.array(tokens), seq_len=seq_len, batch_size=1):
            window = torch.from_numpy(batch)
            logits = model(window[:, :-1]).float()
            of_window = F.cross_entropy(logits[0], window[0, 1:], reduction="none")
            nats.append(of_window.double().numpy())
    return np.concatenate(nats)
