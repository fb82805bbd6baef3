"""How CPU threads wait for each other: spinning, or sleeping while other processes use the cores.

PyTorch and our kernels share one OpenMP library, libgomp. Its threads meet at a barrier after each
operation. A thread that arrives early spins for up to some milliseconds, because most waits are
shorter than the time to wake up a sleeping thread. While another process needs the cores, spinning
threads take them from the thread that everybody waits for, and training becomes several times
slower. libgomp has a rule against that: while it counts more threads than CPUs, its threads sleep
after about 100 turns instead of 300,000 (`do_spin` in its config/linux/wait.h, GCC 4.4 to 15).

A monitor measures how long the threads of this process wait for a core. While that is long, it
adds idle OpenMP threads, so that the rule applies.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from tinygpt import console

INTERVAL_S = 0.1  # between two measurements
SLEEPING_INTERVAL_S = 0.5  # the same while threads sleep: each one disturbs, and nothing is urgent
FIND_THREADS_S = 1.0
MAX_COST = 0.001  # of one core, for the monitor; with many threads it measures less often
# time in which a thread is ready to run and has no core, in seconds per second for all threads; one
# busy process on two cores causes 0.7 while threads spin and 0.5 while they sleep
CONTENDED = 0.3  # above it, spinning costs more than sleeping
CALM = 0.15
CALM_S = 1.0  # spin again after so long below CALM
MAX_CALM_S = 30.0  # CALM_S doubles up to this, each time that spinning soon fails
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # users choose by them how threads wait

_BUSY = "other work uses the cores of this run"
_SLEEP = "its threads now sleep instead of spin while they wait for each other"
_CANNOT_SLEEP = (
    "its threads cannot adapt, because the system allows no more threads (ulimit -u); if it is "
    "slow, start it with the environment variable OMP_WAIT_POLICY=passive"
)


@contextmanager
def adapted_to_load() -> Iterator[None]:
    """Context in which OpenMP threads sleep instead of spin while other processes use the cores.

    Results do not change. It does nothing with one thread, with another OpenMP library than
    libgomp, without Linux's scheduler statistics, or if one of VARIABLES is set.
    """
    gomp = libgomp()
    is_chosen = any(name in os.environ for name in VARIABLES)
    if gomp is None or is_chosen or torch.get_num_threads() == 1:
        yield
        return
    monitor = Monitor(IdleThreads(gomp))
    monitor.start()
    try:
        yield
    finally:
        monitor.stop()


def libgomp() -> ctypes.CDLL | None:
    """The OpenMP library that PyTorch and our kernels call; None if it is not libgomp on Linux."""
    if sys.platform != "linux" or not Path("/proc/self/schedstat").exists():
        return None
    # torch loads its OpenMP library for all libraries of the process
    loaded = ctypes.CDLL(None)
    if not hasattr(loaded, "GOMP_parallel"):
        return None
    # LLVM's and Intel's libraries offer libgomp's functions too
    return None if hasattr(loaded, "__kmpc_fork_call") else loaded


class IdleThreads:
    """Idle OpenMP threads, one more than there are CPUs, which libgomp counts while they exist."""

    def __init__(self, gomp: ctypes.CDLL) -> None:
        self._gomp = gomp
        self._n = gomp.omp_get_num_procs() + 1
        self._no_longer = threading.Event()
        self._owner: threading.Thread | None = None

    @property
    def exist(self) -> bool:
        """Whether they were started and not ended."""
        return self._owner is not None

    def start(self) -> bool:
        """Start them; returns False if the system has a limit that does not allow it."""
        if not _can_start(self._n):  # libgomp would end the process
            return False
        self._no_longer.clear()
        self._owner = threading.Thread(target=self._own, daemon=True)
        self._owner.start()
        return True

    def end(self) -> None:
        """End them; does nothing if they do not exist."""
        if self._owner is not None:
            self._no_longer.set()
            self._owner.join()
            self._owner = None

    def _own(self) -> None:
        # n threads call free(NULL); those that GOMP_parallel starts for that wait for the next
        # parallel region of this thread, and end with this thread
        n_threads, flags = ctypes.c_uint(self._n), ctypes.c_uint(0)
        self._gomp.GOMP_parallel(self._gomp.free, None, n_threads, flags)
        self._no_longer.wait()


def _can_start(n: int) -> bool:
    over = threading.Event()
    started = []
    try:
        for _ in range(n):
            thread = threading.Thread(target=over.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        return False
    finally:
        over.set()
        for thread in started:
            thread.join()
    return True


class Monitor:
    """A thread that decides from the delays of this process's threads how they wait."""

    def __init__(self, idle: IdleThreads) -> None:
        self._idle = idle
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="waiting", daemon=True)

    def start(self) -> None:
        """Start to measure."""
        self._thread.start()

    def stop(self) -> None:
        """Stop measuring, and let threads spin."""
        self._ends.set()
        self._thread.join()
        self._idle.end()

    def _run(self) -> None:
        delays = Delays()
        try:
            self._watch(delays)
        finally:
            delays.close()

    def _watch(self, delays: Delays) -> None:
        policy, interval, sleeps = Policy(), 0.0, False
        measured_at = threads_found_at = -math.inf
        while not self._ends.wait(interval):
            began = time.thread_time()
            now = time.monotonic()
            if now - threads_found_at >= FIND_THREADS_S:
                delays.find_threads()
                threads_found_at = now
            delayed = delays.since_last_time_s() / (now - measured_at)
            measured_at = now
            sleeps = policy.decide(delayed, now=now)
            if sleeps and not self._idle.exist:
                if not self._idle.start():
                    console.warn(f"{_BUSY}; {_CANNOT_SLEEP}")
                    return
                if policy.n_contended == 1:
                    console.say(f"{_BUSY}: {_SLEEP}")
            elif not sleeps:
                self._idle.end()
            cost_s = time.thread_time() - began
            interval = max(SLEEPING_INTERVAL_S if sleeps else INTERVAL_S, cost_s / MAX_COST)


class Policy:
    """When threads sleep: during contention, and for a while after it."""

    def __init__(self) -> None:
        self.n_contended = 0  # times that contention began
        self._sleeps = False
        self._calm_s = CALM_S
        self._calm_since: float | None = None
        self._spins_since = -math.inf

    def decide(self, delayed: float, *, now: float) -> bool:
        """Whether to sleep from now on, given the threads' delay in seconds per second."""
        if not self._sleeps:
            if delayed > CONTENDED:
                failed_soon = now - self._spins_since < self._calm_s
                self._calm_s = min(2 * self._calm_s, MAX_CALM_S) if failed_soon else CALM_S
                self._sleeps, self._calm_since = True, None
                self.n_contended += 1
        elif delayed > CALM:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since >= self._calm_s:
            self._sleeps, self._spins_since = False, now
        return self._sleeps


class Delays:
    """For how long the threads of this process have been ready to run without a core."""

    # reading a file in Python releases the lock of the interpreter, and then waits for a core to
    # get it back, which the training would have to wait for; PyDLL's functions keep it
    _pread = ctypes.PyDLL(None).pread if sys.platform == "linux" else None

    def __init__(self) -> None:
        self._files: dict[str, int] = {}  # descriptor of each thread's statistics
        self._before: dict[str, int] = {}
        self._buffer = ctypes.create_string_buffer(128)

    def find_threads(self) -> None:
        """Look for new threads; those that have ended are forgotten."""
        found = set(os.listdir("/proc/self/task"))  # noqa: PTH208  # names, not paths
        for thread in self._files.keys() - found:
            os.close(self._files.pop(thread))
        for thread in found - self._files.keys():
            with suppress(OSError):  # it has ended
                self._files[thread] = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY)

    def since_last_time_s(self) -> float:
        """Seconds of delay since the last call, the sum over all threads known to both calls."""
        after = {}
        for thread, file in self._files.items():
            assert self._pread is not None
            length = self._pread(file, self._buffer, len(self._buffer), ctypes.c_int64(0))
            if length > 0:  # else it has ended
                after[thread] = int(self._buffer.raw[:length].split()[1])
        before, self._before = self._before, after
        return sum(after[thread] - before[thread] for thread in after.keys() & before) / 1e9

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()
