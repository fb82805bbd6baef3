"""Several loggers as one."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from tinygpt.interfaces import Logger, Metrics, RunInfo


class Fanout(Logger):
    """Forwards every call to each logger, in order."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self.loggers = list(loggers)

    def start(self, run: RunInfo) -> None:
        for logger in self.loggers:
            logger.start(run)

    def log(self, step: int, metrics: Metrics) -> None:
        for logger in self.loggers:
            logger.log(step, metrics)

    def samples(self, step: int, texts: Sequence[str]) -> None:
        for logger in self.loggers:
            logger.samples(step, texts)

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """Call finish on every logger, started or not; then re-raise the first error."""
        with ExitStack() as stack:
            for logger in reversed(self.loggers):  # in reverse order of their start
                stack.callback(logger.finish, status, summary)
