"""Read and write configs as YAML and JSON files."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinygpt.config.resolution import escaped, resolve
from tinygpt.config.schema import RunConfig
from tinygpt.errors import UserError
from tinygpt.files import write_atomically


def to_dict(cfg: Any) -> dict[str, Any]:
    """The config as plain dicts, lists and numbers, as in config.yaml."""
    return asdict(cfg)


def to_yaml(cfg: Any) -> str:
    """The config as YAML text for `read` and `config_file=`."""
    # ASCII only: an unescaped U+0085 would be read back as a space
    text: str = yaml.safe_dump(escaped(to_dict(cfg)), sort_keys=False)
    return text


def save(cfg: RunConfig, path: Path) -> None:
    """Write the config atomically: a reader sees the old file or the new one."""
    write_atomically(path, to_yaml(cfg))


def load(path: Path) -> RunConfig:
    """Read and check a config that `save` wrote; raises UserError."""
    return resolve(read(path), RunConfig)


def read(path: Path) -> dict[str, Any]:
    """Read a JSON or YAML file as a mapping; raises UserError."""
    if not path.is_file():
        raise UserError(f"{path} is not a file")
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8-sig"))  # PowerShell adds a BOM
        else:
            content = OmegaConf.to_container(OmegaConf.load(path))
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be a config") from None
    except (ValueError, yaml.YAMLError, OSError, OmegaConfBaseException) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise UserError(
            f"{path} is not {kind} that can be read: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping of fields, such as 'seed: 1'")
    return {str(key): value for key, value in content.items()}
