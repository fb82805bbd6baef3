"""Read a run's config and check that it was not edited since the run was trained."""

import shlex
from pathlib import Path
from typing import Any

from tinygpt import config
from tinygpt.config import RunConfig
from tinygpt.config.nested import flatten
from tinygpt.config.resolution import escaped
from tinygpt.errors import UserError, as_typed
from tinygpt.records.read import read_record

SHOWN = 3  # differing fields that the error lists


def load_config(path: Path) -> RunConfig:
    """The config of a run folder; its components must be registered already.

    Raises UserError if config.yaml cannot be read or differs from the copy in run.json.
    """
    try:
        record = read_record(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    content = config.read(path / "config.yaml")
    if missing := [name for name in record.get("config") or {} if name not in content]:
        raise UserError(
            f"{path / 'config.yaml'} is damaged: it has no {', '.join(missing[:SHOWN])}; "
            "restore it (run.json has the same settings under config)"
        )
    in_yaml = _resolved(path / "config.yaml", content)
    if record.get("config") is None:  # a run of an earlier version
        return in_yaml
    written = escaped(record["config"])
    # most often both files hold the same settings, which then are checked once
    in_json = in_yaml if written == content else _resolved(path / "run.json", written)
    known = [in_json]
    if before := record.get("config_before"):  # killed between writing the two files
        known.append(_resolved(path / "run.json", escaped(before)))
    if in_yaml not in known:
        raise UserError(_difference(path / "config.yaml", in_yaml, in_json))
    return in_json


def _resolved(file: Path, content: dict[str, Any]) -> RunConfig:
    try:
        return config.resolve(content, RunConfig)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def _difference(file: Path, edited: RunConfig, recorded: RunConfig) -> str:
    now, before = (flatten(config.to_dict(cfg)) for cfg in (edited, recorded))
    names = [name for name in before if now.get(name, ...) != before[name]]
    names += [name for name in now if name not in before]
    told = ", ".join(
        f"{name} is {as_typed(now.get(name))} there and was {as_typed(before.get(name))}"
        for name in names[:SHOWN]
    )
    more = f" and {len(names) - SHOWN} more fields" if len(names) > SHOWN else ""
    again = shlex.quote(f"config_file={file}")
    return (
        f"{file} was edited after the run began: {told}{more}; undo that, "
        f"or train a new run with it:\n  python -m tinygpt.train {again}"
    )
