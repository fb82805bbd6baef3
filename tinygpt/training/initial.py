"""The weights that a run begins with where `init_from=` names some.  V vocabulary, C d_model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinygpt import console
from tinygpt.components.models.parts.low_rank import LowRank
from tinygpt.config import RunConfig
from tinygpt.errors import UserError
from tinygpt.hardware.parallel import handed_out
from tinygpt.hardware.ranks import Ranks
from tinygpt.interchange.reading.find import find_source
from tinygpt.interchange.reading.source import Source, Weights
from tinygpt.interchange.reading.vocabulary import NEW, rows
from tinygpt.interfaces import Tokenizer
from tinygpt.language_model import LanguageModel
from tinygpt.records.folder import RunFolder
from tinygpt.training.checkpoint import model_tensors
from tinygpt.training.trained import load_weights

_OF_TOKENS = ("token_embedding.weight", "head.weight")  # (V, C) each
_OF_POSITIONS = "position_embedding.weight"


def begin_with(
    cfg: RunConfig,
    model: LanguageModel,
    tokenizer: Tokenizer,
    *,
    folder: RunFolder | None,
    ranks: Ranks,
) -> None:
    """Copy the weights of `cfg.init_from` into the model, and record where they are from.

    The main rank, which alone has the folder, reads them and sends them to the others. Raises
    UserError for weights that do not fit, and for other weights than the run began with before.
    """
    targets = _targets(model)
    tensors: dict[str, Tensor] = {}
    if folder is not None:
        tensors = _read(cfg, tokenizer, folder)
        _check_fit(cfg, tensors, targets)
    ranks.from_main(lambda: None)  # the others wait, and learn if the main rank has failed
    with torch.no_grad():
        for name, target in targets.items():
            value = tensors[name] if folder else torch.empty(target.shape)
            target.copy_(handed_out(value.to(target.dtype), target, ranks))


def _targets(model: LanguageModel) -> dict[str, Tensor]:
    """The tensors to fill, by their names in a model without adapters."""
    adapted = [name for name, module in model.named_modules() if isinstance(module, LowRank)]
    renamed = {f"{name}.base": f"{name}.weight" for name in adapted}
    of_adapters = {f"{name}.{part}" for name in adapted for part in ("up", "down")}
    own = model_tensors(model)
    return {renamed.get(name, name): own[name] for name in own if name not in of_adapters}


def _read(cfg: RunConfig, tokenizer: Tokenizer, folder: RunFolder) -> dict[str, Tensor]:
    """The weights with a row for each id and position of the run; records their origin."""
    source = find_source(str(cfg.init_from), output_dir=Path(cfg.output_dir).expanduser())
    weights, of_step = _weights(source, tokenizer)
    origin: dict[str, Any] = {
        "path": str(source.path),
        "kind": source.kind,
        "sha256": weights.sha256(),
        **of_step,
    }
    before = folder.run.get("init_from")
    if before is not None and before["sha256"] != origin["sha256"]:
        raise UserError(
            f"init_from={source.path} has other weights than the run began with; restore them, or "
            "train a new run"
        )
    folder.write_run(init_from=origin)
    console.say(
        f"beginning with {source.path} ({source.kind}, sha256 {origin['sha256'][:12]}"
        + (f", step {of_step['step']:,})" if of_step else ")")
    )
    came_along = source.tokenizer is not None and (
        cfg.tokenizer.identity == source.tokenizer.identity
    )
    chosen = rows(source, tokenizer, came_along=came_along)
    tensors = {
        name: _with_rows(tensor, chosen) if name in _OF_TOKENS else tensor
        for name, tensor in weights.tensors.items()
    }
    if new := chosen.count(NEW):
        console.say(f"{new} tokens that the source lacks begin as the mean of its embeddings")
    if unused := source.vocab_size - len({*chosen} - {NEW}):
        console.say(f"{unused} rows of the source's vocabulary are not used")
    _fit_positions(cfg, source, tensors)
    return tensors


def _weights(source: Source, tokenizer: Tokenizer) -> tuple[Weights, dict[str, int]]:
    """The weights as they are, and of a run the step of its checkpoint."""
    if source.read is not None:
        return source.read(), {}
    stored = load_weights(source.path, checkpoint="best", warn=console.warn)
    if stored.tokenizer.fingerprint() != tokenizer.fingerprint():
        raise UserError(
            f"init_from={source.path} was trained with another tokenizer; leave tokenizer= out: it "
            "comes from init_from"
        )
    step = int(stored.checkpoint.name.removeprefix("step-"))
    file = stored.checkpoint / "model.safetensors"
    return Weights(dict(model_tensors(stored.model)), [file]), {"step": step}


def _with_rows(tensor: Tensor, chosen: list[int]) -> Tensor:
    """The chosen rows; a new one is the mean of all, which changes the others' logits least.

    Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models".
    """
    mean = tensor.mean(0, keepdim=True)
    return torch.cat((tensor, mean))[torch.tensor(chosen)]  # NEW is -1, the last one


def _fit_positions(cfg: RunConfig, source: Source, tensors: dict[str, Tensor]) -> None:
    seq_len = cfg.trainer.seq_len
    if _OF_POSITIONS in tensors:
        tensors[_OF_POSITIONS] = tensors[_OF_POSITIONS][:seq_len]
    elif seq_len > source.seq_len:
        console.say(
            f"trainer.seq_len={seq_len} is more than the {source.seq_len} tokens that the source "
            "saw at once: it has to learn the positions beyond"
        )


def _check_fit(
    cfg: RunConfig, tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> None:
    where = f"init_from={cfg.init_from}"
    for name in sorted(tensors.keys() ^ targets.keys()):
        raise UserError(f"{where} is of another model: it differs in {name}")
    for name, tensor in tensors.items():
        if tensor.shape != targets[name].shape:
            raise UserError(
                f"{where} is of another model: {name} is {tuple(tensor.shape)} there and "
                f"{tuple(targets[name].shape)} here"
            )
        if not tensor.isfinite().all():
            raise UserError(f"{where}: {name} has values that are not finite; use other weights")
