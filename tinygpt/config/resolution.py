"""Convert a composed or saved config to a checked dataclass."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar, cast
from unicodedata import digit

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError
from omegaconf.resolvers import oc

from tinygpt import registry
from tinygpt.config.nested import flatten
from tinygpt.config.schema import DeviceConfig, TrainerConfig
from tinygpt.config.units import type_names, whole_number
from tinygpt.errors import UserError, as_typed, did_you_mean, masked, shortened

_TOO_LARGE = 10**30  # the limit of check_range; int() and str() still handle its digits
T = TypeVar("T")
_RAISED_BY_RESOLVER = "UserError raised while resolving interpolation: "


def resolve(raw: DictConfig | Mapping[str, Any], cls: type[T]) -> T:
    """Convert a composed or saved config to `cls`; raises UserError for a wrong value.

    Every key must be a field, even a key added with `+`.
    """
    try:
        if isinstance(raw, DictConfig) or "${" in str(raw):
            with environment_unread():
                raw = raw if isinstance(raw, DictConfig) else OmegaConf.create(dict(raw))
                plain = OmegaConf.to_container(raw, resolve=True)
        else:
            plain = deepcopy(dict(raw))  # OmegaConf would take a hundred times as long
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0].removeprefix(_RAISED_BY_RESOLVER)
        raise UserError(f"{error.full_key}: {reason}") from None
    assert isinstance(plain, dict)
    _check_no_secrets(plain)
    typed = plain.get("components")
    modules = [str(name) for name in typed] if isinstance(typed, list) else []
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]  # T is always a dataclass
    values: dict[str, Any] = {}
    scalars: dict[str, Any] = {}
    for key, value in plain.items():
        if key not in names:
            raise unknown_key(str(key), names)
        if key in registry.MANY:
            if not isinstance(value, Mapping):
                raise UserError(f"{key}={as_typed(value)} must hold components by name")
            values[key] = {n: _component(key, v, f"{key}.{n}", modules) for n, v in value.items()}
        elif key in (*registry.KINDS, *registry.SWEEP_KINDS):
            values[key] = _component(key, value, key, modules)
        elif key in ("trainer", "device"):
            values[key] = _typed(TrainerConfig if key == "trainer" else DeviceConfig, value, key)
        else:
            scalars[key] = value
    values |= _check_types(cls, scalars, "")
    if "components" in names:
        values["components"] = _components(values)
    for f in fields(cls):  # type: ignore[arg-type]
        if f.name not in values and f.default is NO_DEFAULT and f.default_factory is NO_DEFAULT:
            raise UserError(f"{f.name} is not chosen; type {f.name}=NAME")
    return cls(**values)


@contextmanager
def environment_unread() -> Iterator[None]:
    """Make `${oc.env:NAME}` an error, because configs are shared and the environment is private."""

    def refuse(name: str, *_: Any) -> None:
        raise UserError(
            f"${{oc.env:{name}}} would save a value of the environment in the config; type the "
            f'value itself, such as FIELD="${name}"'
        )

    OmegaConf.register_new_resolver("oc.env", refuse, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _check_no_secrets(content: Mapping[Any, Any]) -> None:
    """Raise UserError for a password or token in a URL, because configs are saved as plain text."""
    for path, value in flatten(content).items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and masked(item) != item:
                raise UserError(
                    f"{path}={item} has a password or token in it, and configs are saved as plain "
                    "text; leave it out (HF_TOKEN and WANDB_API_KEY are read from the environment)"
                )


def _components(values: Mapping[str, Any]) -> list[str]:
    """The modules in `components`, plus the modules of the user that define its components."""
    named = [name for name in values.get("components", []) if name != "__main__"]
    for kind in registry.KINDS:
        chosen = values.get(kind)
        for component in chosen.values() if isinstance(chosen, Mapping) else [chosen]:
            module = registry.module_of(type(component)) if component is not None else None
            if module and not any(f"{module}.".startswith(f"{name}.") for name in named):
                named.append(module)
    return named


def _component(kind: str, value: Any, path: str, modules: list[str]) -> Any:
    """The config of one component; `modules` is the run's `components` list."""
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise UserError(f"{path}={as_typed(value)} names no component; type {kind}=NAME")
    hint = registry.how_to_import(modules)
    if hint and value["name"] not in registry.classes(kind):
        raise UserError(f"no {kind} is registered as {value['name']!r}; {hint}")
    return _typed(registry.lookup(kind, value["name"]), value, path)


def _typed(cls: type, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        example = f"{path}.{fields(cls)[0].name}="
        raise UserError(f"{path}={as_typed(value)} must hold fields, such as {example}")
    return cls(**_check_types(cls, value, f"{path}."))


def _check_types(cls: type, values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Convert the values to the types of the dataclass's fields; raises UserError."""
    types = {f.name: f.type for f in fields(cls)}
    converted = {}
    for key, value in values.items():
        if key not in types:
            raise unknown_key(prefix + str(key), [prefix + name for name in types])
        if value == "???":
            raise UserError(f"{prefix}{key} is missing; type {prefix}{key}=...")
        converted[key] = convert(cls, key, value, field_name=prefix + key)
    return converted


def convert(cls: type, key: str, value: Any, *, field_name: str) -> Any:
    """Convert `value` to the type of the field `key`; raises UserError."""
    hint = next(f.type for f in fields(cls) if f.name == key)
    value = _with_whole_numbers(value, hint)
    if isinstance(value, int) and not -_TOO_LARGE < value < _TOO_LARGE:
        raise UserError(f"{field_name}={shortened(value)} must be below {_TOO_LARGE:g}")
    # int() and float() accept the digits and spaces of every script
    foreign = "str" not in str(hint) and isinstance(value, str) and not value.isascii()
    if foreign and (digits := "".join(str(digit(c, c)) for c in value)).isascii():
        typed = f"{field_name}={digits}"
        raise UserError(f"{field_name}={value} has other digits than 0 to 9; type {typed}")
    if value != "???" and type(value).__name__ in type_names(hint):
        return value  # OmegaConf would take a hundred times as long to return it unchanged
    try:
        if foreign:
            raise ValidationError
        node = _fields_of(cls)
        node[key] = escaped(value)
        converted = node[key]
    except OmegaConfBaseException:
        raise UserError(
            f"{field_name}={shortened(as_typed(value))} is of the wrong type: "
            f"the field takes {type_words(hint)}"
        ) from None
    is_list = OmegaConf.is_config(converted)
    return OmegaConf.to_container(converted, resolve=True) if is_list else converted


@cache
def _fields_of(cls: type) -> DictConfig:
    """A config with the typed fields of a class, to convert values in."""
    return cast(DictConfig, OmegaConf.structured(cls))


def _with_whole_numbers(value: Any, hint: Any) -> Any:
    """Convert 1e3 and "1e3" to 1000 if the field takes a whole number or a list of them."""
    names = type_names(hint)
    if isinstance(value, list) and "list[int]" in names:
        return [_with_whole_numbers(item, int) for item in value]
    if "int" not in names or "float" in names:
        return value
    whole = whole_number(value)
    return value if whole is None else whole


def escaped(value: Any) -> Any:
    """The value with every `${` in its texts escaped, so OmegaConf does not interpolate."""
    if isinstance(value, Mapping):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value)
    return value


def type_words(hint: Any) -> str:
    """Describe a type annotation in words for an error or --help."""
    words = {
        "int": "a whole number",
        "float": "a number",
        "str": "text",
        "bool": "true or false",
        "None": "null",
        "list[str]": "a list of texts, such as [a,b]",
        "list[int]": "a list of whole numbers, such as [1,2]",
    }
    return " or ".join(words.get(part, part) for part in type_names(hint))


def unknown_key(path: str, choices: Iterable[str]) -> UserError:
    """The error for an unknown field; `choices` are the full names of the fields that exist."""
    prefix, dot, leaf = path.rpartition(".")
    # compare only fields with the same prefix, if any: a long shared prefix makes all look similar
    beside = {c.rpartition(".")[2]: c for c in choices if c.rpartition(".")[0] == prefix}
    names = beside or dict.fromkeys(choices)
    hint = did_you_mean(leaf, beside, prefix + dot) if beside else did_you_mean(path, names)
    listed = ", ".join(sorted(beside.values() or names))
    return UserError(f"{path} is not a field{hint}\n  fields: {listed}")
