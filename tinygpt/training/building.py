"""The model of a run: built, adapted at low rank and partly frozen, as the config says."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from tinygpt.components.models.parts.low_rank import LowRank, linear_layers, replace
from tinygpt.config import RunConfig
from tinygpt.errors import UserError, nearest
from tinygpt.language_model import LanguageModel

_LISTED = 12  # names that an error shows


def build_model(cfg: RunConfig, vocab_size: int) -> LanguageModel:
    """A new model as the run trains it, on the default device.

    Parameters that do not train have `requires_grad=False`. Raises UserError for a pattern that
    matches nothing, and if nothing is left to train.
    """
    model = cfg.model.build(vocab_size=vocab_size, seq_len=cfg.trainer.seq_len)
    _adapt(cfg, model)
    _freeze(cfg, model)
    return model


def _adapt(cfg: RunConfig, model: LanguageModel) -> None:
    """Freeze the whole model, and put adapters into the layers of trainer.lora_targets."""
    trainer = cfg.trainer
    if trainer.lora_rank is None:
        return
    model.requires_grad_(False)
    layers = dict(linear_layers(model))
    for name in _matching("trainer.lora_targets", trainer.lora_targets, layers, "linear layer"):
        replace(model, name, LowRank(layers[name], rank=trainer.lora_rank, alpha=trainer.alpha))


def _freeze(cfg: RunConfig, model: LanguageModel) -> None:
    parameters = dict(model.named_parameters())
    for name in _matching("trainer.freeze", cfg.trainer.freeze, parameters, "parameter"):
        parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError(
            f"trainer.freeze=[{','.join(cfg.trainer.freeze)}] freezes all {len(parameters)} "
            "parameters, and nothing is left to train; type fewer patterns"
        )


def _matching(
    field: str, patterns: Sequence[str], names: Iterable[str], what: str
) -> dict[str, None]:
    """The names that any pattern matches; raises UserError for a pattern that matches none.

    A pattern is as in a shell, and also matches everything below the name that it matches.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        matched = [n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")]
        if not matched:
            closest = nearest(pattern, names)
            hint = f"; did you mean {field}=[{closest}]?" if closest else ""
            listed = list(names)
            more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
            raise UserError(
                f"{field}: {pattern} matches no {what} of the model{hint}\n"
                f"  names: {', '.join(listed[:_LISTED])}{more}"
            )
        found |= dict.fromkeys(matched)
    return found


def trainable(model: LanguageModel) -> int:
    """The number of parameters that train."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
