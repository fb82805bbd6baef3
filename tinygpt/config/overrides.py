"""What was typed, and what a file says, as overrides for Hydra: `key=value`, last one wins."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from tinygpt import config, registry
from tinygpt.config import HORIZONS, DataConfig, PrepareConfig
from tinygpt.errors import UserError, nearest

_PACKAGE = Path(__file__).resolve().parents[1]
# how training reads the tokens, which are prepared alike
OF_TRAINING = ("dataset.window", "dataset.mask_documents")
CONF = next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir())


def jobs(settings: Sequence[str], *, multirun: bool, entry: str = "train") -> list[list[str]]:
    """The overrides of each run that was asked for; raises UserError.

    `config_file=` is read into overrides below what was typed; `prepare` and `data` leave out what
    is not about data.
    """
    overrides = space(settings, entry=entry)
    swept = next((o for o in overrides if o.is_sweep_override()), None)
    if swept and not multirun:
        key, _, value = str(swept.input_line).partition("=")
        wish = (
            f"for several at once type {key}=[{value}]"
            if key in registry.MANY
            else f"for a text with a comma in it type {_in_a_shell(f'{key}={quoted(value)}')}"
        )
        raise UserError(
            f"{swept.input_line} lists several values; for a run of each type -m before it, {wish}"
        )
    return expand(overrides)


def space(settings: Sequence[str], *, entry: str = "train") -> list[Override]:
    """What was typed, and under it what `config_file=` says, one override for each."""
    # Hydra's + adds a field, but here all are there; its documentation has +experiment=
    typed = [text.lstrip("+") for text in settings]
    files = [text.partition("=")[2] for text in typed if text.startswith("config_file=")]
    typed = [text for text in typed if not text.startswith("config_file=")]
    if len(files) > 1:
        raise UserError("config_file= is typed twice; a run takes one file")
    _check_typed(parse(typed))
    lower = file_overrides(files[0]) if files else []
    if entry != "train":
        taken = field_names(DataConfig if entry == "data" else PrepareConfig)
        lower = [
            text
            for text in lower
            if re.split("[.=]", text)[0] in taken and text.partition("=")[0] not in OF_TRAINING
        ]
        for text in typed:
            if text.partition("=")[0] in OF_TRAINING:
                raise unchanging(entry, text.partition("=")[0])
    return parse(layered(lower, typed))


def unchanging(entry: str, field: str) -> UserError:
    """The error for a field of training that `prepare` or `data` would ignore."""
    return UserError(
        f"{field} does not change the prepared data, so {entry} does not take it; "
        "use it with python -m tinygpt.train"
    )


def parse(overrides: Sequence[str]) -> list[Override]:
    """Hydra's reading of each `key=value`; raises UserError.

    A value that is outside of its grammar, such as a path with an umlaut, is a text as it stands.
    """
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        key, _, value = text.partition("=")
        if text.startswith("~"):
            raise UserError(f"{text} is not understood; a field stays, type {text[1:]}=VALUE")
        if not re.fullmatch(r"[\w-]+([./@][\w-]+)*", key) or key == text:
            raise UserError(f"{text!r} is not understood; settings are typed as key=value")
        try:
            parsed += parser.parse_overrides([text])
        except HydraException:
            literal = f"{key}={quoted(value)}"
            if re.search(r"[][{},]", value):
                raise UserError(
                    f"{text!r} cannot be read; for a text with brackets or commas in it type\n"
                    f"  {_in_a_shell(literal)}"
                ) from None
            parsed += parser.parse_overrides([literal])
    return parsed


def _in_a_shell(text: str) -> str:
    return shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'


def _check_typed(overrides: Sequence[Override]) -> None:
    """Raise UserError for what Hydra would take, but nobody here would look at."""
    for override in overrides:
        key = override.key_or_group
        if key.partition(".")[0].partition("/")[0] == "hydra" or override.package is not None:
            raise UserError(
                f"{override.input_line} would be ignored: runs are not launched by Hydra; "
                "output_dir= says where they go, --config-dir where to look for choices"
            )


def expand(overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of each job of a multirun: all combinations of the comma-separated values."""
    choices = []
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices.append([str(override.input_line)])
        elif override.is_discrete_sweep() and override.value_type != ValueType.GLOB_CHOICE_SWEEP:
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise UserError(
                f"{override.input_line} is a rule for values, and a grid tries listed ones; "
                f"type {key}=A,B,C, or search=random, or search=optuna"
            )
    return [list(job) for job in product(*choices)]


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


def file_overrides(typed: str) -> list[str]:
    """The JSON or YAML file of `config_file=`, nested or dotted, as overrides.

    A run's own config.yaml is such a file too: a component's `name` chooses it.
    """
    path = Path(typed).expanduser()
    if not path.is_file():
        siblings = [str(other) for other in path.parent.glob("*") if other.is_file()]
        match = nearest(str(path), siblings)
        hint = f"; did you mean config_file={match}?" if match else ""
        raise UserError(f"config_file={typed} is not a file{hint}")
    overrides: list[str] = []
    for key, value in config.read(path).items():
        if key in registry.MANY and isinstance(value, Mapping):
            overrides.append(f"{key}=[{','.join(map(str, value))}]")
        elif key in registry.KINDS and isinstance(value, Mapping) and "name" in value:
            overrides.append(f"{key}={choice_of(key, value['name'])}")
        overrides += _flat(key, value)
    return overrides


def choice_of(kind: str, name: str) -> str:
    """A choice of the group that is of the class registered as `name`; if in doubt, the name."""
    yamls = {path.stem: path.read_text() for path in sorted((CONF / kind).glob("*.yaml"))}
    preferred = [name, *default_choices("train").get(kind, []), *yamls]
    schema = f"/schema/{kind}/{name}@"
    return next((stem for stem in preferred if schema in yamls.get(stem, "")), name)


def default_choices(entry: str) -> dict[str, list[str]]:
    """What each group is when nothing is typed."""
    chosen: dict[str, list[str]] = {}
    for item in config.read(CONF / f"{entry}.yaml")["defaults"]:
        if isinstance(item, dict):
            for group, choice in item.items():
                chosen[group] = choice if isinstance(choice, list) else [choice]
    return chosen


def _flat(prefix: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for key, item in value.items() for text in _flat(f"{prefix}.{key}", item)]
    is_choice = prefix in (*registry.KINDS, "trainer", "device", "experiment")
    if is_choice and isinstance(value, list):
        return [f"{prefix}=[{','.join(map(str, value))}]"]
    return [f"{prefix}={value if is_choice else quoted(value)}"]


def layered(file: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Overrides of a file below those that the user typed.

    A typed choice replaces all that the file says of its group.  A run has one length, so a horizon
    that is typed turns off the file's, and that of either turns off an experiment's.
    """
    typed_keys = {_key(text) for text in typed}
    lower = [
        text
        for text in file
        if _key(text) not in typed_keys and _key(text).partition(".")[0] not in typed_keys
    ]
    horizons = [f"trainer.{name}" for name in HORIZONS]
    for layer in (typed, lower):
        wanted = [_key(text) for text in layer if _key(text) in horizons and text[-5:] != "=null"]
        if wanted:
            lower = [text for text in lower if _key(text) not in horizons or _key(text) in wanted]
            lower += [f"{name}=null" for name in horizons if name not in (*wanted, *typed_keys)]
            break
    return [*lower, *typed]


def _key(override: str) -> str:
    return override.lstrip("+").partition("=")[0]


def field_names(cls: type) -> list[str]:
    """The fields of a config class."""
    return [f.name for f in fields(cls)]
