"""A contestant in a process of its own, which sleeps until it is told to run."""

import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

_PATIENCE_S = 10
# ends by itself when its parent has ended
_LOOP = """
import os
parent = os.getppid()
while os.getppid() == parent:
    sum(range(100_000))
"""


@contextmanager
def busy(n: int) -> Iterator[None]:
    """Keep n processes computing meanwhile: a machine that others use too."""
    loops = [subprocess.Popen([sys.executable, "-c", _LOOP]) for _ in range(n)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


class Work(Protocol):
    """What the process does when it is told to."""

    def describe(self) -> dict[str, Any]:
        """What it turned out to be: precision, threads, versions."""

    def run(self, steps: int) -> Any:
        """So many steps; what was measured besides the time."""

    def device_peak_mem_bytes(self) -> int | None:
        """Most memory of the device; None where that is the memory of the process."""


class Failed(Exception):
    """The process could not do what it was told; the text is one line."""


@dataclass(frozen=True)
class Timed:
    """One turn of a contestant."""

    steps: int
    seconds: float
    result: Any


class Process:
    """Builds its work where nobody else is: allocator, caches, threads and memory are its own."""

    def __init__(self, make_work: Callable[..., Work], spec: Any, *, log: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (make_work, spec, theirs, log)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def describe(self) -> dict[str, Any]:
        """Wait until it is built; what it says of itself."""
        described: dict[str, Any] = self._ask("describe")
        return described

    def run(self, steps: int) -> Timed:
        """Let it run while everybody else waits."""
        return Timed(steps, *self._ask("run", steps))

    def peak_mem_bytes(self) -> int:
        """Most memory so far, beyond what its imports had taken."""
        peak: int = self._ask("peak_mem_bytes")
        return peak

    def close(self) -> None:
        """End it; it leaves by itself when nobody can ask it any more."""
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


def _serve(make_work: Callable[..., Work], spec: Any, asked: Connection, log: Path) -> None:
    """The life of the process: build, then answer until it is killed."""
    with log.open("w") as file:  # libraries talk; the table is the parent's
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
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent held when it forked
        lines = status.read_text().splitlines()
        return 1024 * int(next(x.split()[1] for x in lines if x.startswith("VmHWM:")))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
