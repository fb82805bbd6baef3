"""Overrides for Hydra from the command line and config_file=: `key=value`, the last one wins."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
)
from hydra.errors import HydraException

from tinygpt import config, console, registry
from tinygpt.config import HORIZONS, DataConfig, PrepareConfig
from tinygpt.config.choices import (
    ALL_KINDS,
    GROUPS,
    OF_A_RUN,
    choice_of,
    field_names,
    groups,
    types_of,
)
from tinygpt.config.nested import flatten
from tinygpt.errors import UserError, as_typed, check_path, did_you_mean, not_a_choice, shortened

# fields of training only; they do not change the prepared data
OF_TRAINING = ("dataset.window", "dataset.mask_documents")
MAX_RUNS = 10_000  # in one sweep; each run is a folder with its config


def jobs(
    settings: Sequence[str],
    *,
    multirun: bool,
    entry: str = "train",
    config_dir: Path | None = None,
) -> list[list[str]]:
    """The overrides of each requested run; raises UserError.

    Settings from `config_file=` come first, so that typed ones override them. `prepare` and `data`
    skip a file's fields that do not concern data.
    """
    overrides = space(settings, entry=entry, config_dir=config_dir)
    swept = next((o for o in overrides if o.is_sweep_override()), None)
    if swept and not multirun:
        key = swept.key_or_group
        typed = next((t for t in reversed(settings) if _key(t) == key), str(swept.input_line))
        raise UserError(
            f"{typed} lists several values; for a run of each type -m before it"
            + _other_wish(key, typed.partition("=")[2])
        )
    return expand(overrides)


def _other_wish(key: str, value: str) -> str:
    """Advice for a value with a comma that was probably not meant as a sweep."""
    types = types_of(key)
    if key in registry.MANY or any(name.startswith("list[") for name in types):
        return f", for several at once type {key}=[{value}]"
    if types & {"int", "float"}:
        if "float" in types and "str" not in types and re.fullmatch(r"-?[0-9]+,[0-9]+", value):
            return f", for a decimal point type {key}={value.replace(',', '.')}"
        if re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+", value):
            return f", for one number type {key}={value.replace(',', '')}"
    if "str" in types and not types & {"int", "float"}:
        return f", for a text with a comma in it type {_in_a_shell(f'{key}={quoted(value)}')}"
    return ""


def space(
    settings: Sequence[str], *, entry: str = "train", config_dir: Path | None = None
) -> list[Override]:
    """The overrides from `config_file=`, then the typed ones, which win."""
    # drop Hydra's + for adding a field: all fields exist here, and Hydra's docs type +experiment=
    files, typed = split_off("config_file", [text.lstrip("+") for text in settings])
    if len(files) > 1:
        raise UserError("config_file= is typed twice; a run takes one file")
    _check_used(parse(typed), typed=True)
    lower = file_overrides(files[0], config_dir) if files else []
    _check_used(parse(lower), typed=False)
    if entry != "train":
        taken = field_names(DataConfig if entry == "data" else PrepareConfig)
        lower = [
            text
            for text in lower
            if _key(text).partition(".")[0] in taken and _key(text) not in OF_TRAINING
        ]
        for key in map(_key, typed):
            if key in OF_TRAINING:
                raise unchanging(entry, key)
    _say_what_is_left_out(lower, typed)
    found = parse(layered(lower, typed))
    return [_listed(override, entry, config_dir) for override in found]


def _say_what_is_left_out(file: Sequence[str], typed: Sequence[str]) -> None:
    """Warn of fields in a file that a typed choice replaces, if the file itself has no choice."""
    chosen = {_key(text): text for text in typed}
    in_file = {_key(text) for text in file}
    for text in file:
        key, group = _key(text), _key(text).partition(".")[0]
        if group in OF_A_RUN and group in chosen and group not in in_file and key not in chosen:
            console.warn(
                f"{text} of config_file= is left out, because {chosen[group]} replaces all that "
                f"the file says of {group}; to keep it type it too"
            )


def _listed(override: Override, entry: str, config_dir: Path | None) -> Override:
    """Expand `model=glob(gpt*)` to the matching choices; raises UserError if none match."""
    key, pattern = override.key_or_group, override.value()
    if not isinstance(pattern, Glob):
        return override
    registry.import_all()
    options = groups(entry, config_dir).get(key)
    if options is None:
        raise UserError(
            f"{override.input_line} is a pattern, and {key} has no choices to match it; "
            f"type {key}=A,B,C"
        )
    names = pattern.filter(options)
    if not names:
        raise not_a_choice(key, str(override.input_line).partition("=")[2], options)
    return parse([f"{key}={','.join(names)}"])[0]


def unchanging(entry: str, field: str) -> UserError:
    """The error for a field of training that `prepare` or `data` would ignore."""
    return UserError(
        f"{field} does not change the prepared data, so {entry} does not take it; "
        "use it with python -m tinygpt.train"
    )


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse each `key=value` with Hydra's parser; raises UserError.

    A value, or an element of a list or sweep, that Hydra's grammar does not allow, such as a path
    with an umlaut, is taken as plain text.
    """
    return [_parsed(_without_tilde(text)) for text in overrides]


@lru_cache(maxsize=10_000)
def _parsed(text: str) -> Override:
    parser = OverridesParser.create()
    key, _, value = text.partition("=")
    if not re.fullmatch(r"[\w-]+([./@][\w-]+)*", key) or key == text:
        raise UserError(f"{text!r} is not understood; settings are typed as key=value")
    try:
        readable = _readable(parser, value)
    except ValueError:  # Python's limit on the digits of an int
        shown = f"{key}={shortened(value)}"
        raise UserError(f"{shown} has too many digits; type 5M or 1e9") from None
    if readable is not None:
        with suppress(HydraException):  # such as for an element that ends in a backslash
            return parser.parse_overrides([f"{key}={readable}"])[0]
    raise UserError(f"{text!r} cannot be read; {_how_to_quote(key, value)}")


def _how_to_quote(key: str, value: str) -> str:
    """Advice for a value with unbalanced brackets, which depends on the type of its field."""
    if key in registry.MANY:
        return f"type {key}=NAME, {key}=[NAME,NAME] or {key}=[]"
    if key in GROUPS:
        return f"type {key}=NAME"
    types = types_of(key)
    if types and not any("str" in name for name in types):
        return f"type {key}=VALUE without brackets"
    is_list = any(name.startswith("list[") for name in types)
    inner = value.removeprefix("[").removesuffix("]")
    literal = f"{key}={quoted([inner] if is_list else value)}"
    return f"for a text with brackets or commas in it type\n  {_in_a_shell(literal)}"


def _without_tilde(text: str) -> str:
    """Translate Hydra's `~logger` (remove a choice) to `logger=[]`; raises UserError."""
    if not text.startswith("~"):
        return text
    name = text[1:].partition("=")[0]
    if name in registry.MANY and name == text[1:]:
        return f"{name}=[]"
    top = name.partition(".")[0]
    if top in registry.MANY:
        advice = f"list those that stay, or none: {top}=[]"
    elif name == "experiment":
        advice = "leave experiment= out, or type experiment=NAME"
    elif name in OF_A_RUN:
        advice = f"a run needs one, type {name}=NAME"
    else:
        advice = f"a field stays, type {text[1:]}=VALUE"
    raise UserError(f"{text} is not understood; {advice}")


def _readable(parser: OverridesParser, value: str, *, inside: bool = False) -> str | None:
    """The value in Hydra's grammar: elements that it cannot parse are quoted.

    None if brackets are unbalanced, or if a text that is not a list contains brackets or braces.
    """
    with suppress(HydraException):
        parser.parse_overrides([f"key={value}"])
        return value
    is_list = value[:1] == "[" and value[-1:] == "]"
    elements = _elements(value[1:-1] if is_list else value)
    if elements and (is_list or (len(elements) > 1 and not inside)):
        texts = [_readable(parser, element, inside=True) for element in elements]
        if None in texts:
            return None
        joined = ",".join(map(str, texts))
        return f"[{joined}]" if is_list else joined
    return quoted(value) if inside or not re.search(r"[][{},]", value) else None


# quotes count only around a whole element: the apostrophe in It's is plain text
_QUOTED = r"""(?<![^,\[])\s*(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")\s*(?=[,\]]|$)"""
_PARTS = re.compile(rf"{_QUOTED}|[][,]|[^][,]+")


def _elements(text: str) -> list[str] | None:
    """Split the text at commas outside quotes and brackets.

    None if brackets are unbalanced or an element is empty.
    """
    elements, depth = [""], 0
    for part in _PARTS.findall(text):
        depth += (part == "[") - (part == "]")
        if depth < 0:
            return None
        if part == "," and depth == 0:
            elements.append("")
        else:
            elements[-1] += part
    elements = [element.strip() for element in elements]
    return elements if depth == 0 and all(elements) else None


def _in_a_shell(text: str) -> str:
    return shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'


def _check_used(overrides: Sequence[Override], *, typed: bool) -> None:
    """Raise UserError for settings that Hydra accepts but nothing here uses."""
    for override in overrides:
        key = override.key_or_group
        if key.partition(".")[0].partition("/")[0] == "hydra" or override.package is not None:
            raise hydra_setting(str(override.input_line) if typed else f"{key} of config_file=")
        value = override.value() if key in registry.MANY else None
        chosen = list(map(str, value)) if isinstance(value, list) else []
        if len(set(chosen)) < len(chosen):
            once = ",".join(dict.fromkeys(chosen))
            raise UserError(f"{key}=[{','.join(chosen)}] lists a choice twice; type {key}=[{once}]")


def hydra_setting(what: str) -> UserError:
    """The error for one of Hydra's own settings, which have no effect here."""
    return UserError(
        f"{what} would be ignored: runs are not launched by Hydra; output_dir= says where they go, "
        "--config-dir where to look for choices, and -m with values such as seed=0,1,2 sweeps them"
    )


def expand(overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of each job of a sweep: all combinations of the comma-separated values."""
    swept = [override for override in overrides if override.is_sweep_override()]
    for override in swept:
        if not override.is_discrete_sweep():
            raise UserError(
                f"{override.input_line} is a rule for values, and a grid tries listed ones; "
                f"type {override.get_key_element()}=A,B,C, or search=random, or search=optuna"
            )
    check_size(math.prod(map(_number_of_values, swept)), " ".join(str(o.input_line) for o in swept))
    choices = [
        [f"{override.get_key_element()}={value}" for value in listed_values(override)]
        if override in swept
        else [str(override.input_line)]
        for override in overrides
    ]
    return [list(job) for job in product(*choices)]


def check_size(runs: int, typed: str) -> None:
    """Raise UserError if a sweep would have more than MAX_RUNS runs."""
    if runs > MAX_RUNS:
        raise UserError(
            f"{typed} makes {runs:,} runs, and a sweep has at most {MAX_RUNS:,}; type fewer values"
        )


def listed_values(override: Override) -> list[str]:
    """The values of a swept override, as typed; raises UserError if there are too many."""
    check_size(_number_of_values(override), str(override.input_line))
    return [str(value) for value in override.sweep_string_iterator()]


def _number_of_values(override: Override) -> int:
    """Count the values of a list or range without building them; raises UserError for zero."""
    sweep = override.value()
    if isinstance(sweep, RangeSweep):
        start, stop, step = (float(part or 0) for part in (sweep.start, sweep.stop, sweep.step))
        number = math.ceil((stop - start) / step) if step else 0
    else:
        assert isinstance(sweep, ChoiceSweep)
        number = len(sweep.list)
    if number < 1:
        raise UserError(f"{override.input_line} has no values; type {override.key_or_group}=A,B,C")
    return number


def quoted(value: Any) -> str:
    """Write a value in Hydra's override grammar (Hydra docs, "Extended override syntax")."""
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{quoted(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(quoted(item) for item in value) + "]"
    return as_typed(value)


def file_overrides(typed: str, config_dir: Path | None = None) -> list[str]:
    """Read the JSON or YAML file of `config_file=`, with nested or dotted keys, as overrides.

    A run's config.yaml works too.
    """
    check_path("config_file", typed)
    path = Path(typed).expanduser()
    if not path.is_file():
        siblings = [str(other) for other in path.parent.glob("*") if other.is_file()]
        hint = did_you_mean(str(path), siblings, "config_file=")
        raise UserError(f"config_file={typed} is not a file{hint}")
    return of_config(config.read(path), config_dir)


def of_config(content: Mapping[str, Any], config_dir: Path | None = None) -> list[str]:
    """The overrides that make a config again: nested or dotted keys, and the choice of each group.

    The `name` of a component becomes the choice whose YAML fills its class.
    """
    overrides: list[str] = []
    for key, value in content.items():
        if key in registry.MANY and isinstance(value, Mapping):
            overrides.append(f"{key}=[{','.join(map(str, value))}]")
        elif key in ALL_KINDS and isinstance(value, Mapping) and "name" in value:
            overrides.append(f"{key}={choice_of(key, value['name'], config_dir)}")
        for path, item in flatten({key: value}).items():
            if path not in (*OF_A_RUN, "experiment"):
                overrides.append(f"{path}={quoted(item)}")
            elif isinstance(item, list):
                overrides.append(f"{path}=[{','.join(map(str, item))}]")
            else:
                overrides.append(f"{path}={item}")
    return overrides


def layered(file: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Combine the overrides of a file with typed ones, which win.

    A typed choice replaces every setting of its group in the file. A run has one length, so a typed
    length (one of HORIZONS) turns off the file's, and either turns off an experiment's.
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


def split_off(key: str, settings: Sequence[str]) -> tuple[list[str], list[str]]:
    """The values that are typed for a field, and the settings of other fields."""
    values = [text.partition("=")[2] for text in settings if _key(text) == key]
    return values, [text for text in settings if _key(text) != key]
