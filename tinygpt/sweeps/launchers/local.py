"""Runs on this machine, each in a process with its own GPU or its own share of the cores."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinygpt.errors import UserError, check_range
from tinygpt.interfaces import Launcher, LauncherConfig
from tinygpt.registry import register
from tinygpt.sweeps.launchers.processes import THREAD_VARIABLES

_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


@register("launcher")
@dataclass
class LocalConfig(LauncherConfig):
    """`jobs` runs at once; null means one per GPU, or one per core without GPUs."""

    name: str = "local"
    jobs: int | None = None

    def __post_init__(self) -> None:
        check_range("launcher.jobs", self.jobs, low=1, high=1024)

    def build(self, *, folder: Path, devices: Collection[str]) -> Local:
        gpus = visible_gpus() if {"auto", "cuda"}.intersection(devices) else []
        if "cuda" in devices and not gpus:
            raise UserError("device=cuda: this machine shows no NVIDIA GPU; type device=cpu")
        return Local(self.jobs, gpus=gpus)


class Local(Launcher):
    """Gives each run a slot: one GPU, or an equal share of the cores."""

    def __init__(self, jobs: int | None, *, gpus: Sequence[str]) -> None:
        cores = _cores()
        self.slots = jobs or len(gpus) or len(cores)
        self.threads = None if gpus else max(1, len(cores) // self.slots)
        self._gpus, self._cores = gpus, cores
        self._slot_of: dict[Path, int] = {}
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}
        self._stopping = False

    def start(self, run: Path, command: Sequence[str]) -> None:
        slot = min(set(range(self.slots)) - set(self._slot_of.values()))
        with (run / "process.log").open("ab") as log:
            self._processes[run] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self._environment(slot),
                start_new_session=True,  # so that Ctrl-C reaches a run only through `stop`
                preexec_fn=self._at_start(slot),
            )
        self._slot_of[run] = slot

    def ended(self) -> dict[Path, str | None]:
        codes = {run: process.poll() for run, process in self._processes.items()}
        done = {run: code for run, code in codes.items() if code is not None}
        for run in done:
            del self._processes[run], self._slot_of[run]
        return {run: how_it_died(code) for run, code in done.items()}

    def stop(self) -> None:
        number = signal.SIGKILL if self._stopping else signal.SIGTERM
        self._stopping = True
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(number)

    def _environment(self, slot: int) -> dict[str, str]:
        if self._gpus:
            return {"CUDA_VISIBLE_DEVICES": self._gpus[slot % len(self._gpus)]}
        return dict.fromkeys(THREAD_VARIABLES, str(self.threads))

    def _at_start(self, slot: int) -> Callable[[], None]:
        """A function that the new process calls first: it sets its cores and its parent's death."""
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        share: set[int] = set()
        if self.threads is not None:
            first = slot * self.threads % len(self._cores)
            share = set(self._cores[first : first + self.threads])

        def begin() -> None:
            if libc is not None:  # if this process dies, the run saves and ends
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if share and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, share)

        return begin


def how_it_died(code: int) -> str | None:
    """The signal that ended a process, in words, from its exit code; None without a signal."""
    if code >= 0:
        return None
    name = signal.Signals(-code).name
    memory = "; was there too little memory? Type a lower launcher.jobs"
    return f"its process was ended by {name}{memory if name == 'SIGKILL' else ''}"


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name.strip() for name in allowed.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return found.stdout.split() if found.returncode == 0 else []


def _cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
