"""Processes of a speedrun: each is measured from before it starts until it has ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import tinygpt
from tinygpt.errors import UserError
from tinygpt.registry import ENVIRONMENT

_LINES = 5  # of a failed process's output that are repeated


@dataclass(frozen=True)
class Measured:
    """What a process took."""

    code: int  # exit code; negative for a signal
    wall_s: float  # from before the process is created until it has ended
    peak_rss_bytes: int  # of the process itself


def environment(folders: Sequence[Path] = ()) -> dict[str, str]:
    """The environment of a child: it imports this tinygpt, and modules in `folders`, no others."""
    source = Path(tinygpt.__file__).resolve().parents[1]
    before = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    places = [str(source), *map(str, folders), *before]
    kept = {name: value for name, value in os.environ.items() if name != ENVIRONMENT}
    return kept | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(places))}


def command(module: str, arguments: Sequence[str]) -> list[str]:
    """`python -m tinygpt.MODULE ARGUMENTS` with this Python."""
    return [sys.executable, "-m", f"tinygpt.{module}", *arguments]


def timed(arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], output: Path) -> Measured:
    """Run a process to its end, its output in a file.

    KeyboardInterrupt, which asks this process to end, kills the other one first.
    """
    with output.open("wb") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, which is killed as a whole
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(process.pid, signal.SIGKILL)  # its time is lost in any case
            process.wait()
            raise
        wall_s = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return Measured(process.returncode, wall_s, usage.ru_maxrss * unit)


def printed(arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], of: str) -> str:
    """What a process prints; raises UserError with its error, about `of`, if it fails."""
    done = subprocess.run(
        arguments, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        raise failed(of, done.stderr.decode(errors="replace"), done.returncode)
    return done.stdout.decode(errors="replace")


def failed(of: str, output: str, code: int) -> UserError:
    """The error for a process that ended with an exit code other than 0."""
    lines = [line for line in output.splitlines() if line.strip()]
    at = next((i for i, line in enumerate(lines) if line.startswith("error: ")), -_LINES)
    told = "\n  ".join(lines[at:]).removeprefix("error: ")
    return UserError(f"{of}: {told or f'the process ended with exit code {code}'}")
