"""A run's process on a cluster machine."""

import os
import signal
import subprocess
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from tinygpt.errors import UserError

POLL_S = 0.5
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_command(command: Sequence[str], log: Path, *, cwd: Path, threads: int | None) -> int:
    """Run the command with its output in the log; returns its exit code, negative for a signal.

    SIGINT, SIGTERM, SIGUSR2 (which SLURM sends before a job's time is over) and the end of the
    parent process become a SIGTERM for the command, which is then waited for, so that it can save.
    """
    parent = os.getppid()
    limits = {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | limits,
        )

    def pass_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(signal.SIGTERM)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    before = {n: signal.signal(n, pass_on) for n in numbers}
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(POLL_S)
            if os.getppid() != parent:
                parent = os.getppid()
                process.send_signal(signal.SIGTERM)
    except KeyboardInterrupt:  # how Ray cancels a task
        process.send_signal(signal.SIGTERM)
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_gpus(gpus: int, devices: Collection[str]) -> None:
    """Raise UserError if runs need a GPU and none is requested, or the reverse."""
    if "cuda" in devices and not gpus:
        raise UserError("device=cuda needs a GPU for each run; type launcher.gpus=1")
    if gpus and set(devices) == {"cpu"}:
        raise UserError(f"launcher.gpus={gpus} would lie idle with device=cpu; type device=cuda")
