"""Run a contestant in its own process, which sleeps between its turns."""

import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

_PATIENCE_S = 10
# exits when its parent process has exited
_LOOP = """
import os, sys, time
parent, period = os.getppid(), float(sys.argv[1])
while os.getppid() == parent:
    sum(range(100_000))
    if period and time.monotonic() % (2 * period) > period:
        time.sleep(period)
"""


@contextmanager
def busy(n: int, *, period: float = 0.0) -> Iterator[None]:
    """Keep n other processes computing during the block, to simulate a shared machine.

    With a period, they compute for that many seconds and then sleep for as many, all together.
    """
    command = [sys.executable, "-c", _LOOP, str(period)]
    loops = [subprocess.Popen(command) for _ in range(n)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


class Work(Protocol):
    """The work of a contestant's process."""

    def describe(self) -> dict[str, Any]:
        """The actual precision, threads and versions."""

    def run(self, steps: int) -> Any:
        """Run this many steps; returns measurements other than time."""

    def device_peak_mem_bytes(self) -> int | None:
        """Peak memory of the device; None if the device is the CPU."""


class Failed(Exception):
    """The process failed to answer a request; the text is one line."""


@dataclass(frozen=True)
class Timed:
    """One turn of a contestant."""

    steps: int
    seconds: float
    result: Any


class Process:
    """Builds the work in a new process, with its own allocator, caches, threads and memory."""

    def __init__(
        self,
        make_work: Callable[..., Work],
        spec: Any,
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (make_work, spec, theirs, log)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        with _environment(environment or {}):  # which the process inherits
            self._process.start()
        theirs.close()

    def describe(self) -> dict[str, Any]:
        """Wait until the work is built; returns its description."""
        described: dict[str, Any] = self._ask("describe")
        return described

    def run(self, steps: int) -> Timed:
        """Run the work for some steps; the caller keeps all other processes idle."""
        return Timed(steps, *self._ask("run", steps))

    def peak_mem_bytes(self) -> int:
        """Peak memory so far, without the memory of its imports."""
        peak: int = self._ask("peak_mem_bytes")
        return peak

    def close(self) -> None:
        """Close the connection, which ends the process; kill it if it does not exit."""
        self._connection.close()
        self._process.join(_PATIENCE_S)
        self._process.kill()
        self._process.join()

    def _ask(self, *question: Any) -> Any:
        try:
            self._connection.send(question)
            answer, error = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(_PATIENCE_S)
            raise Failed(f"died with exit code {self._process.exitcode}") from None
        if error:
            raise Failed(error)
        return answer


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(make_work: Callable[..., Work], spec: Any, asked: Connection, log: Path) -> None:
    """Main function of the process: build the work, then answer requests until the pipe closes."""
    with log.open("w") as file:  # keep output of libraries out of the parent's table
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    work: Work | None = None
    before = 0

    def imported() -> None:
        nonlocal before
        before = _peak_rss_bytes()

    while True:
        try:
            question, *arguments = asked.recv()
        except EOFError:
            return
        try:
            work = work or make_work(spec, imported)
            answer: Any = None
            if question == "describe":
                answer = work.describe()
            elif question == "run":
                began = time.perf_counter()
                result = work.run(*arguments)
                answer = (time.perf_counter() - began, result)
            elif question == "peak_mem_bytes":
                of_device = work.device_peak_mem_bytes()
                answer = _peak_rss_bytes() - before if of_device is None else of_device
            asked.send((answer, None))
        except Exception as error:
            traceback.print_exc()
            asked.send((None, " ".join(f"{type(error).__name__}: {error}".split())[:300]))


def _peak_rss_bytes() -> int:
    """Peak resident memory of this process."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would include the memory of the parent at the fork
        lines = status.read_text().splitlines()
        return 1024 * int(next(x.split()[1] for x in lines if x.startswith("VmHWM:")))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
