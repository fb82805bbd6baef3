"""Entry points: from the command line to a checked config and a function that does the work."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from tinygpt.errors import UserError, nearest

COMMANDS = {
    "train": "train a model; prepares its data if need be",
    "prepare": "make a dataset's tokens ready, once for all runs",
    "data": "look at a dataset and its tokens; choose a vocabulary",
    "sample": "write text with a trained model",
    "plan": "what a run or a sweep will take: memory, disk and time",
    "compare": "rank runs and sweeps, with intervals over seeds; draw their curves",
    "runs": "list, find and delete runs",
    "upload": "send finished runs to W&B from their folders",
}


def main() -> None:
    """The console script: `tinygpt train model=small` is `python -m tinygpt.train model=small`."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        lines = [f"  tinygpt {name:<8} {what}" for name, what in COMMANDS.items()]
        print("tinygpt: a lab bench for small language models\n")
        print("\n".join(lines))
        print("\n`tinygpt COMMAND --help` says what a command takes.")
    elif command in COMMANDS:
        import_module(f"tinygpt.{command}").main(arguments)
    else:
        match = nearest(command, COMMANDS)
        hint = f"; did you mean tinygpt {match}?" if match else ""
        fail(f"{command} is not a command{hint}\n  commands: {', '.join(COMMANDS)}")


def fail(message: object, *, code: int = 2) -> NoReturn:
    """Say what is wrong and leave; 2 is a mistake in what was typed, 1 a run that failed."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


def say(message: str) -> None:
    """One line for the user, also in the train.log of the run at hand."""
    logging.getLogger("tinygpt").info(message)


def warn(message: str) -> None:
    """A line for the user that something is not as it should be."""
    logging.getLogger("tinygpt").warning(message)


def print_help(entry: str) -> int:
    """What the entry point takes; the exit code."""
    from tinygpt import help

    print(help.text(entry))
    return 0


def print_config(cfg: Any) -> int:
    """A resolved config, as its run folder would hold it; the exit code."""
    from tinygpt import config

    print(config.to_yaml(cfg), end="")
    return 0


def log_error(message: str, *, traceback: bool = False) -> None:
    """A run failed; the traceback is for what is our mistake and not the user's."""
    logging.getLogger("tinygpt").error(f"error: {message}", exc_info=traceback)


def log_to_console() -> None:
    """Show what `say` and `warn` say."""
    logger = logging.getLogger("tinygpt")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not any(isinstance(handler, _Console) for handler in logger.handlers):
        logger.addHandler(_Console())


class _Console(logging.Handler):
    """Prints to standard output, and warnings and errors to standard error, as they are now.

    While there is a progress bar, that is above it.
    """

    def emit(self, record: logging.LogRecord) -> None:
        mark = "warning: " if record.levelno == logging.WARNING else ""
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        print(mark + self.format(record), file=stream)


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
        from tinygpt.mistakes import PEERS_NAMES

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


def guarded(work: Callable[[], Any]) -> Any:
    """Run an entry point: a user's mistake is one line, not a traceback."""
    try:
        return work()
    except UserError as error:
        fail(error)
    except KeyboardInterrupt:
        fail("interrupted", code=130)
    except BrokenPipeError:  # `... | head` has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  # what is left goes nowhere
        raise SystemExit(141) from None
