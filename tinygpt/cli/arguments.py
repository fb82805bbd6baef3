"""The command line of an entry point: flags and `key=value` settings."""

import argparse
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import tinygpt
from tinygpt import console, registry
from tinygpt.errors import UserError

_FLAGS_OF_HYDRA = {
    **dict.fromkeys(
        ("--config-name", "-cn"),
        "type config_file=FILE for settings from a file, experiment=NAME for a bundle of them",
    ),
    **dict.fromkeys(("--config-path", "-cp"), "type --config-dir FOLDER to add choices"),
    **dict.fromkeys(("--package", "-p"), "type -c job for the whole config"),
    **dict.fromkeys(("--run", "-r"), "leave it out: without -m there is one run"),
    **dict.fromkeys(
        ("--info", "-i", "--hydra-help", "--shell-completion", "-sc"),
        "type --help for the choices and fields, -c job for the config of a run",
    ),
    "--experimental-rerun": "type config_file=outputs/RUN/config.yaml to make a run again",
}


def print_version() -> NoReturn:
    """Print tinygpt's version and exit."""
    print(f"tinygpt {tinygpt.__version__}")
    raise SystemExit(0)


def print_help(entry: str) -> int:
    """Print the help of an entry point; returns the exit code."""
    from tinygpt.cli import help

    console.printing_the_result()
    print(help.text(entry))
    return 0


def print_config(cfg: Any) -> int:
    """Print a resolved config as a run folder's config.yaml has it; returns the exit code."""
    from tinygpt import config

    console.printing_the_result()
    print(config.to_yaml(cfg), end="")
    return 0


def parse_arguments(entry: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Split flags from `key=value` settings; raises UserError for an unknown flag."""
    if "--version" in arguments:
        print_version()
    for argument in arguments:
        if advice := _FLAGS_OF_HYDRA.get(argument.partition("=")[0]):
            raise UserError(f"{argument} is a flag of Hydra that is not here; {advice}")
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=lambda folder: Path(folder).expanduser())
    parser.add_argument("--cfg", "-c")
    parser.add_argument("--resolve", action="store_true")  # Hydra's; always on here
    parser.add_argument("settings", nargs="*")
    try:
        known, unknown = parser.parse_known_intermixed_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from None
    if unknown:
        from tinygpt.config.mistakes import NOT_FIELDS, PEERS_NAMES

        if said := NOT_FIELDS.get(unknown[0].lstrip("-").partition("=")[0].replace("-", "_")):
            raise UserError(said)
        flags = ("--help", "--multirun", "--config-dir", "--cfg")
        raise unknown_flag(entry, unknown[0], arguments, flags=flags, peers_names=PEERS_NAMES)
    if known.cfg not in (None, "job"):
        raise UserError(f"--cfg {known.cfg} is not there; type --cfg job for the config of a run")
    if known.resolve and not known.cfg:
        raise UserError("--resolve is about the config that is printed; type --cfg job with it")
    if known.cfg and known.multirun:
        raise UserError("-c job prints the config of one run; type it without -m")
    import_components(known.settings)
    if known.config_dir and not known.config_dir.is_dir():
        raise UserError(f"--config-dir {known.config_dir} is not a folder")
    return known


def parse_settings(
    entry: str,
    arguments: Sequence[str],
    *,
    names: Collection[str],
    repeatable: Collection[str] = (),
    may_be_empty: Collection[str] = (),
    is_word: Callable[[str], bool] = lambda argument: False,
    peers_names: Mapping[str, str] = MappingProxyType({}),
) -> tuple[dict[str, list[str]], list[str]]:
    """Parse a command without config groups: returns its `key=value` settings and other words.

    Everything after the first `=` is the value, including commas and quotes. Each setting maps to
    a list of values; only settings in `repeatable` may have more than one. `is_word` accepts
    arguments that are not settings, such as a folder. Raises UserError for the first bad argument.
    """
    if "--version" in arguments:
        print_version()
    values: dict[str, list[str]] = {}
    words: list[str] = []
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if argument.startswith("-"):
            raise unknown_flag(
                entry, argument, arguments, flags=("--help",), peers_names=peers_names
            )
        if not equals or key not in names:
            if not is_word(argument):
                raise _not_a_setting(argument, names, repeatable, peers_names)
            words.append(argument)
            continue
        if not text and key not in may_be_empty:
            raise UserError(f"{key}= has no value; type {key}=VALUE, or leave it out")
        if key in values and key not in repeatable:
            raise UserError(f"{key} is typed twice: {values[key][0]} and {text}")
        values.setdefault(key, []).append(text)
    return values, words


def _not_a_setting(
    argument: str,
    names: Collection[str],
    repeatable: Collection[str],
    peers_names: Mapping[str, str],
) -> UserError:
    from tinygpt.config import unknown_key

    key, equals, _ = argument.partition("=")
    if not equals:
        hint = f"type run={argument}" if "run" in repeatable else "settings are typed as key=value"
        return UserError(f"{argument!r} is not understood; {hint}")
    if key in peers_names:
        return UserError(f"{key} is not a field of tinygpt; here it is {peers_names[key]}=")
    return unknown_key(key, names)


def output_folder(typed: Sequence[str]) -> Path:
    """The folder of `output_dir=`, default outputs; raises UserError if a typed one is missing."""
    folder = Path(*typed[-1:] or ["outputs"]).expanduser()
    if typed and not folder.is_dir():
        raise UserError(
            f"output_dir={typed[-1]} is not a folder; type the one that holds your runs"
        )
    return folder


def import_components(settings: Sequence[str]) -> None:
    """Import the modules that `components=[...]` names; raises UserError."""
    for text in settings:
        if text.lstrip("+").startswith("components="):
            registry.import_components(listed(text.partition("=")[2]))


def listed(text: str) -> list[str]:
    """The names in `[a,b]` or `a`."""
    names = text.strip().removeprefix("[").removesuffix("]").split(",")
    return [name.strip() for name in names if name.strip()]


def field_values(cls: type, typed: Mapping[str, str], *, prefix: str = "") -> dict[str, Any]:
    """Convert typed values to the types of a config class's fields; raises UserError."""
    from tinygpt.config import convert
    from tinygpt.config.units import type_names

    types = {f.name: f.type for f in fields(cls)}
    values: dict[str, Any] = {}
    for name, text in typed.items():
        value: Any = None if text in ("null", "None") else text
        if value is not None and "list[str]" in type_names(types[name]):
            value = listed(text)
        values[name] = convert(cls, name, value, field_name=f"{prefix}{name}")
    return values


def unknown_flag(
    entry: str,
    flag: str,
    arguments: Sequence[str],
    *,
    flags: Sequence[str],
    peers_names: Mapping[str, str],
) -> UserError:
    """The error for an unknown flag: a typo of one in `flags`, or a field typed with dashes."""
    name, _, value = flag.lstrip("-").partition("=")
    match = get_close_matches(flag, flags, n=1, cutoff=0.8)
    following = arguments[arguments.index(flag) + 1 :] if flag in arguments else []
    if not value and following and not following[0].startswith("-") and "=" not in following[0]:
        value = following[0]
    name = name.replace("-", "_")
    typed = shlex.quote(f"{peers_names.get(name, name)}={value or 'VALUE'}")
    hint = f"did you mean {match[0]}?" if match else f"settings are typed without dashes: {typed}"
    return UserError(
        f"{flag} is not a flag; {hint}\n  python -m tinygpt.{entry} --help lists what there is"
    )
