"""Recount a run in a process of its own: `python -m tinygpt.speedruns.recount RUN [MODULE ...]`.

It prints as JSON what the rules of a speedrun need: the loss of the last checkpoint over the whole
validation split, computed by PyTorch in fp32, and the text that the run's tokens spell.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tinygpt import console, registry
from tinygpt.config import DeviceConfig, RunConfig
from tinygpt.corpus.overlap import count_shared_ngrams
from tinygpt.corpus.prepared import Prepared, prepare
from tinygpt.hardware.runtime import Runtime
from tinygpt.interfaces import Split
from tinygpt.records.saved_config import load_config
from tinygpt.training.losses import ModelLoss, bits_per_byte, mean_nats
from tinygpt.training.trained import load_weights
from tinygpt.training.validation import Validation

BATCH_TOKENS = 4096  # of a forward


@dataclass(frozen=True)
class Recount:
    """The facts about a finished run that its rules are checked with."""

    bits_per_byte: float  # of the last checkpoint, over the whole validation split
    train_sha256: str  # of the texts that the train tokens spell, as `Track` defines it
    validation_sha256: str
    characters: int  # of the validation split
    utf8_bytes: int  # of the validation split
    copies: int  # validation documents that are in train too
    shared_ngrams: float  # share of validation's distinct runs of 13 words that are in train
    foreign: list[str]  # modules outside tinygpt that define the run's components


class _Text:
    """Iterates over the documents of a split, and measures them on the way."""

    def __init__(self, prepared: Prepared, split: Split) -> None:
        self._prepared, self._split = prepared, split
        self._sha256 = hashlib.sha256()
        self.characters = self.utf8_bytes = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._prepared.documents(self._split):
            data = text.encode("utf-8", "surrogatepass")
            self._sha256.update(data + b"\0")
            self.characters += len(text)
            self.utf8_bytes += len(data)
            yield text

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


def recount(run: Path) -> Recount:
    """Measure a run; components must be registered. Raises UserError for a damaged folder."""
    averaged = load_config(run).trainer.ema is not None
    stored = load_weights(run, checkpoint="latest", ema=averaged, warn=console.warn)
    cfg = stored.cfg
    prepared = prepare(cfg, lambda message: None)
    train, validation = _Text(prepared, "train"), _Text(prepared, "validation")
    shared, distinct = count_shared_ngrams(train, validation)
    runtime = Runtime(DeviceConfig(type=cfg.device.type, precision="fp32", kernels="torch"))
    runtime.place_alone(stored.model)
    stored.model.eval()
    nats, loss = 0.0, ModelLoss(stored.model)
    masked_eot = prepared.tokenizer.eot_id if cfg.dataset.mask_documents else None
    seq_len = cfg.trainer.seq_len
    with torch.no_grad():
        whole = Validation(prepared, max_bytes=None, window=cfg.dataset.window)
        for batch in whole.batches(seq_len=seq_len, batch_size=max(1, BATCH_TOKENS // seq_len)):
            tokens = runtime.to_device(torch.from_numpy(batch))
            mean = mean_nats(loss, tokens, runtime, masked_eot=masked_eot)
            nats += mean.item() * tokens[:, 1:].numel()
    return Recount(
        bits_per_byte=bits_per_byte(nats, validation.utf8_bytes),
        train_sha256=train.sha256,
        validation_sha256=validation.sha256,
        characters=validation.characters,
        utf8_bytes=validation.utf8_bytes,
        copies=prepared.overlap.validation_in_train,
        shared_ngrams=shared / max(1, distinct),
        foreign=_foreign(cfg),
    )


def _foreign(cfg: RunConfig) -> list[str]:
    parts = (cfg.dataset, cfg.tokenizer, cfg.model, cfg.optimizer, cfg.schedule)
    modules = {type(part).__module__ for part in parts}
    return sorted(name for name in modules if name.partition(".")[0] != "tinygpt")


def main(arguments: Sequence[str]) -> None:
    """Print the facts about a run as JSON."""
    run, *modules = arguments
    registry.import_all()
    registry.import_components(modules)
    print(json.dumps(asdict(recount(Path(run)))))


if __name__ == "__main__":
    console.guarded(lambda: main(sys.argv[1:]))
