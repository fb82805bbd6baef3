"""Everything a command prints: messages, warnings, errors, and its exit code.

A command must not lose its work because nobody can read what it prints. If standard output or
standard error fails (closed pipe, closed terminal, full disk), what follows is dropped and the
command goes on. A command whose result is the printed text calls `printing_the_result`; it then
ends with an error.
"""

import errno
import io
import json
import logging
import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

from tinygpt import signals
from tinygpt.errors import UserError, masked, visible

# what the machine refuses, and no fault of this program
_REFUSED = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}


class ResultNotPrinted(Exception):
    """Standard output failed in a command whose result is the printed text."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output cannot be written: {error.strerror}")
        self.reader_left = error.errno == errno.EPIPE  # as in `... | head`


def fail(message: object, *, code: int = 2) -> NoReturn:
    """Print an error and exit: code 2 for a mistake in what was typed, 1 for a run that failed."""
    print(f"error: {visible(str(message))}", file=sys.stderr)
    _tell_torchrun(str(message))
    raise SystemExit(code)


def say(message: str) -> None:
    """Print a line, and write it to the train.log of the current run."""
    logging.getLogger("tinygpt").info(message)


def warn(message: str) -> None:
    """Print a warning, and write it to the train.log of the current run."""
    logging.getLogger("tinygpt").warning(message)


def log_error(message: str, *, traceback: bool = False) -> None:
    """Print why a run failed, with a traceback only for a fault of this program."""
    logging.getLogger("tinygpt").error(f"error: {message}", exc_info=traceback)
    _tell_torchrun(message)


def _tell_torchrun(message: str) -> None:
    """Have torchrun repeat the error at the end of its own report of 40 lines."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        info = {"timestamp": str(int(time.time()))}
        report = {"message": {"message": visible(message), "extraInfo": info}}
        with suppress(OSError):
            Path(path).write_text(json.dumps(report), encoding="utf-8")


def log_to_console() -> None:
    """Print from now on what is passed to `say`, `warn` and `log_error`."""
    logger = logging.getLogger("tinygpt")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not any(isinstance(handler, _Console) for handler in logger.handlers):
        logger.addHandler(_Console())


class _Console(logging.Handler):
    """Prints messages to standard output, and warnings and errors to standard error.

    The streams are looked up for each message: a progress bar replaces them while it is shown, and
    prints above itself.
    """

    def emit(self, record: logging.LogRecord) -> None:
        mark = "warning: " if record.levelno == logging.WARNING else ""
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        print(mark + visible(masked(self.format(record))), file=stream)


class LogFile(logging.FileHandler):
    """A log file that says once if it cannot be written, as on a full disk, and is then silent."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._failed = False

    def format(self, record: logging.LogRecord) -> str:
        return visible(masked(super().format(record)))

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._failed:
            self._failed = True  # first, because the warning comes here too
            error = sys.exc_info()[1]
            warn(f"{self.baseFilename} cannot be written: {getattr(error, 'strerror', error)}")

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # what is left in the buffer could not be written either
            self._failed = True


def command(run: Callable[[Sequence[str]], int | None]) -> Callable[..., None]:
    """Decorator: make a function of a command line its entry point.

    The entry point takes the arguments, by default those of the process, prints an error in one
    line, and exits with the number that `run` returns.
    """

    @wraps(run)
    def main(arguments: Sequence[str] | None = None) -> None:
        code = guarded(lambda: run(sys.argv[1:] if arguments is None else arguments))
        if code is not None:
            raise SystemExit(code)

    return main


def guarded(work: Callable[[], Any]) -> Any:
    """Run a command: return what `work` returns, or print its error in one line and exit.

    SIGTERM and SIGHUP raise KeyboardInterrupt in `work`, as Ctrl-C does.
    """
    protect_streams()
    try:
        Path.cwd()
    except FileNotFoundError:
        fail("the current folder has been removed; cd to one that exists")
    try:
        with signals.handled(signals.interrupt):
            result = work()
        sys.stdout.flush()
        return result
    except UserError as error:
        fail(error)
    except KeyboardInterrupt as error:
        name = str(error) or "SIGINT"
        fail(
            "interrupted" if name == "SIGINT" else f"interrupted by {name}",
            code=signals.exit_code(name),
        )
    except ResultNotPrinted as error:
        if error.reader_left:
            raise SystemExit(signals.exit_code("SIGPIPE")) from None
        fail(error, code=1)
    except (OSError, MemoryError) as error:
        if text := refusal(error):
            fail(text, code=1)
        raise
    finally:
        _Stream.required = False


def refusal(error: Exception) -> str | None:
    """The error in one line if this machine is the reason, such as a full disk; None if not."""
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}"
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    return None


def printing_the_result() -> None:
    """Fail from now on if standard output fails: what is printed is the result of the command."""
    _Stream.required = True


def protect_streams() -> None:
    """Keep a failing or missing standard stream from ending the command.

    A missing one (`>&-`) is opened on the null device; otherwise the next file opened would take
    its number, and whatever is printed would go into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for number, name, errors in ((1, "stdout", "replace"), (2, "stderr", "backslashreplace")):
        stream = getattr(sys, name)
        is_protected = isinstance(getattr(getattr(stream, "buffer", None), "raw", None), _Stream)
        if stream is not getattr(sys, f"__{name}__") or is_protected:
            continue  # a test or a notebook has put its own stream there
        with suppress(OSError, AttributeError):
            stream.flush()
        protected = io.TextIOWrapper(
            io.BufferedWriter(_Stream(number)),
            encoding=stream.encoding if stream else "utf-8",
            errors=errors,
            line_buffering=True,  # so that `| tee` shows each line when it is printed
        )
        setattr(sys, name, protected)


class _Stream(io.FileIO):
    """Standard output or error, which after its first error leads to the null device."""

    required = False  # whether an error of standard output ends the command

    def __init__(self, number: int) -> None:
        super().__init__(number, "wb", closefd=False)

    def write(self, data: Any) -> int:
        try:
            while (written := super().write(data)) is None:  # a non-blocking pipe is full
                select.select([], [self], [])
            return written
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            if self.required and self.fileno() == 1:
                raise ResultNotPrinted(error) from None
            return len(data)
