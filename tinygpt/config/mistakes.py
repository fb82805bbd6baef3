"""Turn Hydra's errors into a UserError that names the wrong override and the reason."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, cast

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError
from yaml import YAMLError

from tinygpt import config, registry
from tinygpt.config import RunConfig
from tinygpt.config.choices import ALL_KINDS, choice_of, field_names
from tinygpt.config.nested import flatten
from tinygpt.config.overrides import unchanging
from tinygpt.errors import UserError, nearest, not_a_choice

# names of fields in other trainers, and ours
PEERS_NAMES = {
    "encoding_type": "tokenizer",
    "data_percentage": "dataset.fraction",
    "block_size": "trainer.seq_len",
    "context_length": "trainer.seq_len",
    "batch_size": "trainer.micro_batch_size",
    "gradient_accumulation_steps": "trainer.tokens_per_step",
    "trainer.eval_tokens": "trainer.eval_bytes",
    "max_iters": "trainer.max_steps",
    "epochs": "trainer.max_epochs",
    "learning_rate": "optimizer.lr",
    "n_embd": "model.d_model",
    "out_dir": "output_dir",
}
# names that other trainers have and that are not fields here
NOT_FIELDS = {
    "until": "until=STEP pauses a run that goes on; type resume=RUN with it",
}


def check_choice(override: Override, options: Sequence[str], modules: Any = None) -> None:
    """Raise UserError unless the override names one option, or several if the group allows it.

    `modules` is the value of the run's components=.
    """
    group, value = override.key_or_group, override.value()
    many = group in registry.MANY
    for name in value if many and isinstance(value, list) else [value]:
        if not isinstance(name, str) or name not in options:
            typed = name if isinstance(name, str) else str(override.input_line).partition("=")[2]
            hint = f"\n  several are typed as {group}=[A,B], none as {group}=[]" if many else ""
            if isinstance(modules, list) and (needed := registry.how_to_import(map(str, modules))):
                hint += f"\n  {needed}"
            if group == "experiment" and isinstance(name, list):
                hint = (
                    "\n  a run takes one experiment; settings of another can come from "
                    "config_file=FILE"
                )
            raise UserError(f"{not_a_choice(group, typed, options)}{hint}")


def checked(
    entry: str, base: DictConfig, override: Override, choices: Mapping[str, list[str]]
) -> Any:
    """The value of an override, of its field's type; raises UserError. `base` has no values yet.

    A value with an interpolation is returned as it was typed.
    """
    path = override.key_or_group
    node: Any = base
    parts = path.split(".")
    for depth, part in enumerate(parts):
        # not `in node`, which is false for a key whose value is missing, such as dataset.path
        if not isinstance(node, DictConfig) or part not in node.keys():  # noqa: SIM118
            raise _unknown(entry, base, node, ".".join(parts[:depth]), path, choices)
        parent, node = node, node[part] if not OmegaConf.is_missing(node, part) else None
    cls = OmegaConf.get_type(parent)
    if is_dataclass(cls) and "${" not in str(override.input_line):
        return config.convert(cls, parts[-1], override.value(), field_name=path)
    return override.value()


def _unknown(
    entry: str,
    base: DictConfig,
    node: Any,
    prefix: str,
    path: str,
    choices: Mapping[str, list[str]],
) -> UserError:
    """The error for a path that does not exist; its part `prefix` exists and leads to `node`."""
    if path in PEERS_NAMES:
        return UserError(f"{path} is not a field of tinygpt; here it is {PEERS_NAMES[path]}=")
    if path in NOT_FIELDS:
        return UserError(NOT_FIELDS[path])
    part, leaf = path.removeprefix(f"{prefix}.").partition(".")[0], path.rpartition(".")[2]
    if not prefix:
        return _unknown_at_the_top(entry, base, path, choices)
    if not isinstance(node, DictConfig):
        return UserError(f"{path} is not a field: {prefix} is a single value, type {prefix}=VALUE")
    if prefix in registry.MANY:
        if part not in choices[prefix]:
            return not_a_choice(prefix, part, choices[prefix])
        together = ",".join([*(str(key) for key in node), part])
        typed = f"{prefix}=[{together}]" if node else f"{prefix}={part}"
        return UserError(f"{path}: {prefix} {part} is not chosen; type {typed} too")
    error = config.unknown_key(path, [f"{prefix}.{name!s}" for name in node])
    others = _components_with(prefix, leaf)
    return UserError(f"{error}\n  it belongs to {', '.join(others)}") if others else error


def _components_with(kind: str, field: str) -> list[str]:
    """What to type for the components of a kind that have a field."""
    classes = registry.classes(kind) if kind in ALL_KINDS else {}
    return [
        f"{kind}={choice_of(kind, name)}"
        for name, cls in classes.items()
        if field in field_names(cls)
    ]


def _unknown_at_the_top(
    entry: str, base: DictConfig, path: str, choices: Mapping[str, list[str]]
) -> UserError:
    top = path.partition(".")[0]
    if entry != "train" and top in (*field_names(RunConfig), "experiment"):
        return unchanging(entry, path)
    everything = sorted({*(str(key) for key in base), *choices})
    fields = cast(dict[str, Any], OmegaConf.to_container(base))
    leaves = {leaf.rpartition(".")[2]: leaf for leaf in flatten(fields)}
    match = leaves.get(path) or nearest(top, everything) or leaves.get(nearest(path, leaves) or "")
    hint = f"; did you mean {match}?" if match else ""
    return UserError(f"{path} is not a field{hint}\n  top level: {', '.join(everything)}")


def in_a_line(error: Exception) -> str:
    """A Hydra error as one line, without its chain of causes; names the YAML at fault."""
    if isinstance(error, YAMLError):
        return " ".join(str(error).split())
    if refused := re.search(r"UserError raised while resolving interpolation: (.*)", str(error)):
        return refused[1]
    composing = r"In '((\w+).*?)': \w+ raised while composing config:\n(.*)"
    if in_file := re.match(composing, str(error)):
        file, group, reason = in_file.groups()
        key = re.search(r"full_key: (\S+)", str(error))
        path = key[1] if key else ""
        if f"Key '{group}' not in" in reason:  # such as sweep/mine.yaml, whose fields are top-level
            return f"{file}.yaml: its first line must be\n  # @package _global_"
        if f"not in '{group.title()}Config'" in reason:
            hint = f"begin with\n  defaults: [/schema/{group}/NAME@_here_, _self_]"
            return f"{file}.yaml: {reason}; {hint}"
        kind, _, field = path.partition(".")
        owners = _components_with(kind, field) if reason.startswith("Key ") else []
        if owners:
            return (
                f"{file}.yaml sets {path}, a field of {', '.join(owners)}; type {owners[0]}, or "
                "copy the file to a folder of your own (--config-dir) and take that line out"
            )
        named = f"{path}: " if reason.startswith("Value ") else ""
        return f"{file}.yaml: {named}{reason}"
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, GrammarParseError):
        return "a text has a ${ in it that begins no interpolation; type \\${ for the characters"
    return str(cause).strip().splitlines()[0]
