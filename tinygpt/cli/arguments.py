"""The command line of an entry point: flags and `key=value` settings."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tinygpt import console
from tinygpt.errors import UserError


def print_help(entry: str) -> int:
    """What the entry point takes; the exit code."""
    from tinygpt.cli import help

    console.printing_the_result()
    print(help.text(entry))
    return 0


def print_config(cfg: Any) -> int:
    """A resolved config, as its run folder would hold it; the exit code."""
    from tinygpt import config

    console.printing_the_result()
    print(config.to_yaml(cfg), end="")
    return 0


def parse_arguments(entry: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Split flags from `key=value` settings; raises UserError for a flag that does not exist."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--cfg", "-c", choices=["job"])
    parser.add_argument("settings", nargs="*")
    try:
        known, unknown = parser.parse_known_intermixed_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from None
    if unknown:
        from tinygpt.config.mistakes import PEERS_NAMES

        flags = ("--help", "--multirun", "--config-dir", "--cfg")
        raise unknown_flag(entry, unknown[0], arguments, flags=flags, peers_names=PEERS_NAMES)
    if known.cfg and known.multirun:
        raise UserError("-c job prints the config of one run; type it without -m")
    if known.config_dir and not known.config_dir.is_dir():
        raise UserError(f"--config-dir {known.config_dir} is not a folder")
    return known


def unknown_flag(
    entry: str,
    flag: str,
    arguments: Sequence[str],
    *,
    flags: Sequence[str],
    peers_names: Mapping[str, str],
) -> UserError:
    """The error for a flag that is none of `flags`: a slip, or a field with dashes before it."""
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
