"""From what a user typed to checked configs: Hydra composes, each mistake gets one clear error."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinygpt import config, registry
from tinygpt.config import HORIZONS, PrepareConfig, RunConfig
from tinygpt.errors import UserError, nearest, not_a_choice

_PACKAGE = Path(__file__).resolve().parent
CONF = next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir())
CONFIG_CLASSES = {"train": RunConfig, "prepare": PrepareConfig}
# Hydra 1.4 deprecates version_base; 1.3 changes the working directory without it
VERSION_BASE = {} if hydra.__version__ >= "1.4" else {"version_base": "1.3"}
# what a user of another trainer types first
PEERS_NAMES = {
    "encoding_type": "tokenizer",
    "data_percentage": "dataset.fraction",
    "block_size": "trainer.seq_len",
    "context_length": "trainer.seq_len",
    "batch_size": "trainer.micro_batch_size",
    "gradient_accumulation_steps": "trainer.tokens_per_step",
    "max_iters": "trainer.max_steps",
    "epochs": "trainer.max_epochs",
    "learning_rate": "optimizer.lr",
    "n_embd": "model.d_model",
    "out_dir": "output_dir",
    "init_from": "resume",
}


def publish() -> None:
    """Register every component, and the root schemas, with Hydra."""
    registry.import_all()
    for name, cls in CONFIG_CLASSES.items():
        ConfigStore.instance().store(
            group="schema", name="run" if name == "train" else name, node=cls, package="_global_"
        )


def parse(overrides: Sequence[str]) -> list[Override]:
    """Hydra's reading of each override; raises UserError for one that is no `key=value`."""
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        if "=" not in text and not text.startswith("~"):
            raise UserError(f"{text!r} is not understood; settings are typed as key=value")
        try:
            parsed += parser.parse_overrides([text])
        except HydraException:
            key, _, value = text.partition("=")
            raise UserError(
                f"{text!r} cannot be read; put quotes around the value: \"{key}='{value}'\""
            ) from None
    return parsed


def jobs(settings: Sequence[str], *, multirun: bool) -> list[list[str]]:
    """The overrides of each run that was asked for; raises UserError.

    `config_file=` is read into overrides below what was typed.
    """
    # with + too, as the documentation of Hydra adds an experiment
    typed = [re.sub(r"^\+(?=experiment=)", "", text) for text in settings]
    files = [text.partition("=")[2] for text in typed if text.startswith("config_file=")]
    typed = [text for text in typed if not text.startswith("config_file=")]
    if len(files) > 1:
        raise UserError("config_file= is typed twice; a run takes one file")
    lower = file_overrides(Path(files[0]).expanduser()) if files else []
    overrides = parse(layered(lower, typed))
    swept = next((o for o in overrides if o.is_sweep_override()), None)
    if swept and not multirun:
        raise UserError(
            f"{swept.input_line} lists several values; for a run of each type -m before it, for a "
            f"value with a comma in it type \"{swept.get_key_element()}='...'\""
        )
    return expand(overrides)


def expand(overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of each job of a multirun: all combinations of the comma-separated values."""
    choices = []
    for override in overrides:
        if not override.is_sweep_override():
            choices.append([str(override.input_line)])
        elif override.is_discrete_sweep():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise UserError(
                f"{override.input_line} is a range to search, and -m tries listed values; "
                f"type {override.get_key_element()}=A,B,C"
            )
    return [list(job) for job in product(*choices)]


@contextmanager
def hydra_conf() -> Iterator[None]:
    """Hydra's compose API over our conf folder and the registered components."""
    publish()
    with initialize_config_dir(str(CONF), job_name="tinygpt", **VERSION_BASE):
        yield


def compose(entry: str, overrides: Sequence[str], *, config_dir: Path | None = None) -> Any:
    """The checked config of one job: a RunConfig for "train", a PrepareConfig for "prepare"."""
    return compose_all(entry, [list(overrides)], config_dir=config_dir)[0]


def compose_all(
    entry: str, jobs: Sequence[Sequence[str]], *, config_dir: Path | None = None
) -> list[Any]:
    """The checked config of each job; raises UserError for the first mistake in any of them."""
    search = [f"hydra.searchpath=[{quoted('file://' + str(config_dir))}]"] if config_dir else []
    with hydra_conf():
        return [_compose(entry, [*job, *search]) for job in jobs]


def groups(entry: str) -> dict[str, list[str]]:
    """The groups that an entry point takes, and the choices of each; within `hydra_conf`."""
    loader = GlobalHydra.instance().config_loader()
    names = [*registry.KINDS, "trainer", "device", "experiment"]
    if entry == "prepare":
        names = [name for name in names if name in PrepareConfig.__annotations__]
    return {name: loader.get_group_options(name) for name in names}


def default_choices(entry: str) -> dict[str, list[str]]:
    """What each group is when nothing is typed."""
    chosen: dict[str, list[str]] = {}
    for item in config.read(CONF / f"{entry}.yaml")["defaults"]:
        if isinstance(item, dict):
            for group, choice in item.items():
                chosen[group] = choice if isinstance(choice, list) else [choice]
    return chosen


def _compose(entry: str, overrides: Sequence[str]) -> Any:
    try:
        raw = hydra.compose(entry, overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise _diagnose(entry, overrides, error) from None
    return config.resolve(raw, CONFIG_CLASSES[entry])


def _diagnose(entry: str, overrides: Sequence[str], error: Exception) -> UserError:
    """Find the override that Hydra stumbled over, and say it in the user's words."""
    choices = groups(entry)
    parsed = parse(overrides)
    chosen = [o for o in parsed if o.key_or_group in choices]
    for override in chosen:
        group, value = override.key_or_group, override.value()
        options = choices[group]
        for name in value if isinstance(value, list) else [value]:
            if name is not None and str(name) not in options:
                return not_a_choice(group, name, options)
    try:
        base = hydra.compose(entry, overrides=[str(o.input_line) for o in chosen])
    except (HydraException, OmegaConfBaseException) as broken:
        return UserError(_first_line(broken))
    for override in parsed:
        if override in chosen or override.key_or_group.startswith("hydra."):
            continue
        mistake = _mistake(entry, base, override, set(choices))
        if mistake:
            return mistake
    return UserError(_first_line(error))


def _mistake(
    entry: str, base: DictConfig, override: Override, groups: set[str]
) -> UserError | None:
    """What is wrong with one value override, given the composed rest."""
    path = override.key_or_group
    node: Any = base
    parts = path.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, DictConfig) or part not in node:
            siblings = [str(key) for key in node] if isinstance(node, DictConfig) else []
            prefix = ".".join(parts[:depth])
            return _unknown(entry, path, prefix, siblings, base, groups)
        parent, node = node, node[part] if not OmegaConf.is_missing(node, part) else None
    cls = OmegaConf.get_type(parent)
    if isinstance(cls, type) and hasattr(cls, "__dataclass_fields__"):
        try:
            config.convert(cls, parts[-1], override.value(), field_name=path)
        except UserError as mistake:
            return mistake
    return None


def _unknown(
    entry: str,
    path: str,
    prefix: str,
    siblings: list[str],
    base: DictConfig,
    groups: set[str],
) -> UserError:
    known = PEERS_NAMES.get(path)
    if not prefix and known:
        return UserError(f"{path} is not a field of tinygpt; here it is {known}=")
    if not prefix and entry == "prepare" and path.split(".")[0] in RunConfig.__annotations__:
        return UserError(
            f"{path} does not change the prepared data, so prepare does not take it; "
            "use it with python -m tinygpt.train"
        )
    if prefix:
        return config.unknown_key(path, [f"{prefix}.{name}" for name in siblings])
    everything = dict.fromkeys([*siblings, *groups])
    leaves = {leaf.rsplit(".", 1)[-1]: leaf for leaf in dotted_keys(base)}
    match = leaves.get(path) or nearest(path, everything) or leaves.get(nearest(path, leaves) or "")
    hint = f"; did you mean {match}?" if match else ""
    return UserError(f"{path} is not a field{hint}\n  top level: {', '.join(sorted(everything))}")


def dotted_keys(node: Any, prefix: str = "") -> list[str]:
    """The full names of all leaves, such as trainer.max_steps."""
    if not isinstance(node, DictConfig):
        return [prefix]
    keys: list[str] = []
    for key in node:
        path = f"{prefix}.{key!s}" if prefix else str(key)
        missing = OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, str(key))
        keys += [path] if missing else dotted_keys(node[key], path)
    return keys


def _first_line(error: BaseException) -> str:
    """The root of a chain of wrapped errors, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0]


# Files of settings, and settings that replace each other


def quoted(value: Any) -> str:
    """A value in Hydra's override grammar (Hydra docs, "Extended override syntax")."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{quoted(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(quoted(item) for item in value) + "]"
    # only backslashes before a quote or the end need doubling
    text = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), str(value))
    return f"'{text}'"


def file_overrides(path: Path) -> list[str]:
    """A JSON or YAML file of settings, nested or dotted, as overrides.

    A run's own config.yaml is such a file too: a component's `name` chooses it.
    """
    overrides: list[str] = []
    for key, value in config.read(path).items():
        if key in registry.MANY and isinstance(value, Mapping):
            overrides.append(f"{key}={quoted(list(value))}")
        elif key in registry.KINDS and isinstance(value, Mapping):
            name = value.get("name")
            if name and any((CONF / key).glob(f"{name}.yaml")):
                overrides.append(f"{key}={name}")
        overrides += _flat(key, value)
    return overrides


def _flat(prefix: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for key, item in value.items() for text in _flat(f"{prefix}.{key}", item)]
    is_choice = prefix in (*registry.KINDS, "trainer", "device", "experiment")
    if is_choice and isinstance(value, list):
        return [f"{prefix}=[{','.join(map(str, value))}]"]
    return [f"{prefix}={value if is_choice else quoted(value)}"]


def layered(file: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Overrides of a file below those that the user typed.

    A run has one length, so a horizon typed by the user turns the file's and the preset's off.
    """
    typed_keys = {override.key_or_group for override in parse(typed)}
    lower = [text for text in file if text.partition("=")[0] not in typed_keys]
    horizons = [f"trainer.{name}" for name in HORIZONS]
    if typed_keys.intersection(horizons):
        lower = [text for text in lower if text.partition("=")[0] not in horizons]
        lower += [f"{name}=null" for name in horizons if name not in typed_keys]
    return [*lower, *typed]
