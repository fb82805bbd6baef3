"""Turn overrides into checked configs: Hydra composes them, our classes check them."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tinygpt import config, registry
from tinygpt.config import DataConfig, PrepareConfig, RunConfig, SweepConfig, mistakes
from tinygpt.config.choices import CONF, groups
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


for _name, _cls in CONFIG_CLASSES.items():
    ConfigStore.instance().store(
        group="schema", name="run" if _name == "train" else _name, node=_cls, package="_global_"
    )
# Hydra's own config without its choices of loggers and launchers, which nothing here uses: half
# of the files that Hydra would read for a run
_HYDRA = ConfigNode(
    name="config.yaml",
    node=OmegaConf.structured(HydraConf(defaults=[])),
    group="hydra",
    package=None,
    provider="hydra",
)


def compose(entry: str, overrides: Sequence[str], *, config_dir: Path | None = None) -> Any:
    """The checked config of one job, an instance of CONFIG_CLASSES[entry]."""
    return compose_all(entry, [list(overrides)], config_dir=config_dir)[0]


def compose_all(
    entry: str, jobs: Sequence[Sequence[str]], *, config_dir: Path | None = None
) -> list[Any]:
    """The checked config of each job; raises UserError for the first mistake in any of them."""
    registry.import_all()
    stored = ConfigStore.instance().repo["hydra"]
    whole, stored["config.yaml"] = stored["config.yaml"], _HYDRA
    try:
        with (
            initialize_config_dir(str(CONF), job_name="tinygpt", **VERSION_BASE),
            environment_unread(),
        ):
            choices = groups(entry, config_dir)
            files = _files(config_dir)
            _check_no_hydra_block(files)
            where = quoted(f"file://{config_dir}") if config_dir else ""
            known = (files, registry.all_classes())
            return [_compose(entry, parse(job), choices, where, known) for job in jobs]
    finally:
        stored["config.yaml"] = whole  # a program that uses Hydra itself finds it as it was


_Files = tuple[tuple[Path, int], ...]  # each file with the time of its last change


def _files(config_dir: Path | None) -> _Files:
    """The YAMLs that choices come from."""
    folders = [CONF, config_dir] if config_dir else [CONF]
    paths = (path for folder in folders for path in sorted(folder.rglob("*.yaml")))
    return tuple((path, path.stat().st_mtime_ns) for path in paths)


@lru_cache(maxsize=1)
def _check_no_hydra_block(files: _Files) -> None:
    """Raise UserError for a YAML with a `hydra:` block, which Hydra would drop here."""
    for path, _ in files:
        # parse only files that contain the word; few do
        if "hydra" in path.read_text(encoding="utf-8") and "hydra" in config.read(path):
            raise hydra_setting(f"the hydra: block of {path}")


@lru_cache(maxsize=256)
def _chosen(entry: str, choices: tuple[str, ...], where: str, known: object) -> DictConfig:
    """What Hydra composes of the choices alone, which takes most of the time; do not change it.

    `known` is all that it depends on besides: the files and the registered classes.
    """
    return hydra.compose(entry, overrides=[*choices, f"hydra.searchpath=[{where}]"])


def _compose(
    entry: str,
    overrides: Sequence[Override],
    choices: Mapping[str, list[str]],
    where: str,
    known: object,
) -> Any:
    """Let Hydra compose the choices, set the values, and check everything."""
    chosen = [o for o in overrides if o.key_or_group in choices]
    values = [o for o in overrides if o.key_or_group not in choices]
    modules = next((o.value() for o in values if o.key_or_group == "components"), None)
    for override in chosen:
        mistakes.check_choice(override, choices[override.key_or_group], modules)
    try:
        raw = deepcopy(_chosen(entry, tuple(str(o.input_line) for o in chosen), where, known))
        # last first: typed settings come after a file's, and the first mistake is the one named
        found = [mistakes.checked(entry, raw, o, choices) for o in reversed(values)]
        for override, value in zip(values, reversed(found), strict=True):
            OmegaConf.update(raw, override.key_or_group, value)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UserError(mistakes.in_a_line(error)) from None
    return config.resolve(raw, CONFIG_CLASSES[entry])
