"""The groups of conf/, their choices, and the registered class behind each choice."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from tinygpt import registry
from tinygpt.config import files
from tinygpt.config.schema import DataConfig, DeviceConfig, RunConfig, TrainerConfig
from tinygpt.config.units import type_names

_PACKAGE = Path(__file__).resolve().parents[1]
CONF = next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir())
ALL_KINDS = (*registry.KINDS, *registry.SWEEP_KINDS)
OF_A_RUN = (*registry.KINDS, "trainer", "device")  # groups that every run has a choice of
GROUPS = (*OF_A_RUN, "experiment", *registry.SWEEP_KINDS, "sweep")


def groups(entry: str, config_dir: Path | None = None) -> dict[str, list[str]]:
    """The groups that a command takes, with the choices of each.

    This lists the folders, because Hydra would compose the whole config once for each group.
    """
    taken = {"train": (*OF_A_RUN, "experiment"), "sweep": (*registry.SWEEP_KINDS, "sweep")}
    return {name: _options(name, config_dir) for name in taken.get(entry, ("dataset", "tokenizer"))}


def _yamls(group: str, config_dir: Path | None) -> dict[str, Path]:
    """The YAML of each choice; of two with one name that of tinygpt, as in Hydra."""
    folders = [config_dir, CONF] if config_dir else [CONF]
    return {path.stem: path for folder in folders for path in (folder / group).glob("*.yaml")}


def _options(group: str, config_dir: Path | None) -> list[str]:
    return sorted({*_yamls(group, config_dir), *registry.without_yaml(group)})


def default_choices(entry: str) -> dict[str, list[str]]:
    """The default choices of each group."""
    chosen: dict[str, list[str]] = {}
    for item in files.read(CONF / f"{entry}.yaml")["defaults"]:
        if isinstance(item, dict):
            for group, choice in item.items():
                chosen[group] = choice if isinstance(choice, list) else [choice]
    return chosen


_PLAIN_GPT = "tiny"  # sets sizes only; fields that a file leaves out are as in GPT-2


def choice_of(kind: str, name: str, config_dir: Path | None = None) -> str:
    """A choice of the group whose YAML fills the class registered as `name`; else `name` itself.

    Prefers the choice called `name`, then the plainest of GPT's, then the first one.
    """
    preferred = [name, _PLAIN_GPT, *_options(kind, config_dir)]
    return next((c for c in preferred if class_of(kind, c, config_dir) == name), name)


def class_of(kind: str, choice: str, config_dir: Path | None = None) -> str | None:
    """The name of the class that a choice's YAML fills, directly or through another choice."""
    path = _yamls(kind, config_dir).get(choice)
    if path is None:
        return choice if choice in registry.without_yaml(kind) else None
    for item in files.read(path).get("defaults", []):
        base = str(item).partition("@")[0]
        if schema := re.fullmatch(rf"/?schema/{kind}/(\w+)", base):
            return schema[1]
        if base not in ("_self_", choice) and (found := class_of(kind, base, config_dir)):
            return found
    return None


def field_names(cls: type) -> list[str]:
    """Names of the fields of a config class."""
    return [f.name for f in fields(cls)]


def types_of(field: str) -> set[str]:
    """Names of the types that a field such as optimizer.lr takes; empty if it does not exist."""
    registry.import_all()
    group, _, leaf = field.rpartition(".")
    top = group.partition(".")[0]
    plain: dict[str, list[type]] = {
        "": [RunConfig, DataConfig],
        "trainer": [TrainerConfig],
        "device": [DeviceConfig],
    }
    classes = plain.get(top) or [*(registry.classes(top) if top in ALL_KINDS else {}).values()]
    hints: list[Any] = [f.type for cls in classes for f in fields(cls) if f.name == leaf]
    return {part for hint in hints for part in type_names(hint)}
