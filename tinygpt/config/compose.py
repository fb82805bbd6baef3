"""Turn overrides into checked configs: Hydra composes them, our classes check them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tinygpt import config, registry
from tinygpt.config import DataConfig, PrepareConfig, RunConfig, SweepConfig, mistakes
from tinygpt.config.choices import CONF, field_names, groups
from tinygpt.config.overrides import hydra_setting, parse, quoted
from tinygpt.config.resolution import environment_unread
from tinygpt.errors import UserError

CONFIG_CLASSES = {
    "train": RunConfig,
    "prepare": PrepareConfig,
    "data": DataConfig,
    "sweep": SweepConfig,
}
# Hydra 1.4 deprecates version_base; 1.3 changes the working directory without it
VERSION_BASE = {} if hydra.__version__ >= "1.4" else {"version_base": "1.3"}


def publish() -> None:
    """Register every component and the root schemas with Hydra."""
    registry.import_all()
    for name, cls in CONFIG_CLASSES.items():
        ConfigStore.instance().store(
            group="schema", name="run" if name == "train" else name, node=cls, package="_global_"
        )


@contextmanager
def hydra_conf() -> Iterator[None]:
    """Initialize Hydra with our conf folder and the registered components."""
    publish()
    with initialize_config_dir(str(CONF), job_name="tinygpt", **VERSION_BASE):
        yield


def compose(entry: str, overrides: Sequence[str], *, config_dir: Path | None = None) -> Any:
    """The checked config of one job, an instance of CONFIG_CLASSES[entry]."""
    return compose_all(entry, [list(overrides)], config_dir=config_dir)[0]


def compose_all(
    entry: str, jobs: Sequence[Sequence[str]], *, config_dir: Path | None = None
) -> list[Any]:
    """The checked config of each job; raises UserError for the first mistake in any of them."""
    where = quoted(f"file://{config_dir}") if config_dir else ""
    with hydra_conf(), environment_unread():
        choices = groups(entry, config_dir)
        _check_no_hydra_block(config_dir)
        return [_compose(entry, job, choices, [f"hydra.searchpath=[{where}]"]) for job in jobs]


def _check_no_hydra_block(config_dir: Path | None) -> None:
    """Raise UserError for a YAML with a `hydra:` block, which Hydra would drop here."""
    for folder in (CONF, config_dir) if config_dir else (CONF,):
        for path in sorted(folder.glob("*/*.yaml")):
            # parse only files that contain the word; few do
            if "hydra" in path.read_text(encoding="utf-8") and "hydra" in config.read(path):
                raise hydra_setting(f"the hydra: block of {path}")


def _compose(
    entry: str, overrides: Sequence[str], choices: Mapping[str, list[str]], search: list[str]
) -> Any:
    parsed = parse(overrides)
    chosen = [override for override in parsed if override.key_or_group in choices]
    for override in chosen:
        modules = next((o.value() for o in parsed if o.key_or_group == "components"), None)
        mistakes.check_choice(override, choices[override.key_or_group], modules)
    try:
        raw = hydra.compose(entry, overrides=[*overrides, *search])
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        try:
            base = hydra.compose(entry, overrides=[*(str(o.input_line) for o in chosen), *search])
        except (HydraException, OmegaConfBaseException, YAMLError) as broken:
            raise UserError(mistakes.in_a_line(broken)) from None
        values = [override for override in parsed if override not in chosen]
        try:
            again = [_converted(base, o) if o in values else str(o.input_line) for o in parsed]
            raw = hydra.compose(entry, overrides=[*again, *search])
        except (HydraException, OmegaConfBaseException):
            # last first: typed settings come after a file's
            found = (mistakes.mistake_of(entry, base, o, choices) for o in reversed(values))
            raise next(filter(None, found), UserError(mistakes.in_a_line(error))) from None
    for override in parsed:  # int() accepts the digits of every script
        key, value = override.key_or_group, override.value()
        if not isinstance(value, str) or value.isascii() or "${" in value:
            continue
        if isinstance(number := OmegaConf.select(raw, key), int | float):
            raise UserError(f"{key}={value} has other digits than 0 to 9; type {key}={number}")
    return config.resolve(raw, CONFIG_CLASSES[entry])


def _converted(base: DictConfig, override: Override) -> str:
    """Convert an override to its field's type, such as 1e3 to 1000, which Hydra itself refuses.

    `base` is the config composed without values. A value that does not fit stays as typed.
    """
    path, typed = override.key_or_group, str(override.input_line)
    group, _, leaf = path.rpartition(".")
    parent = OmegaConf.select(base, group) if group else base
    cls = OmegaConf.get_type(parent) if isinstance(parent, DictConfig) else None
    if cls is None or not is_dataclass(cls) or "${" in typed or leaf not in field_names(cls):
        return typed
    try:
        return f"{path}={quoted(config.convert(cls, leaf, override.value(), field_name=path))}"
    except UserError:
        return typed
