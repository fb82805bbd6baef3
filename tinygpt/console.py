"""What is said to the user: messages, warnings, errors and exit codes."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from tinygpt.errors import UserError


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
