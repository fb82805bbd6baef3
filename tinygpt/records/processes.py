"""Which process works on a run or a sweep: it is recorded, so that another can interrupt it."""

import os
import platform
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinygpt.errors import UserError
from tinygpt.records.read import is_held, read_record


def this_process() -> dict[str, Any]:
    """The record of this process."""
    pid = os.getpid()
    return {"pid": pid, "host": platform.node(), "started": _start_ticks(pid)}


def interrupt(run: Path) -> int:
    """Ask the process of a run to end, as Ctrl-C does: it saves first.  Returns its pid.

    SIGTERM, because a process that was started in the background may ignore SIGINT.

    Raises UserError if no process works on the run, or another machine's does.
    """
    record = read_record(run)
    if record["status"] != "running" or not is_held(run):
        raise UserError(f"{run} is not running, so there is nothing to stop")
    return send_sigterm(run, record.get("process") or {})


def send_sigterm(folder: Path, process: Mapping[str, Any]) -> int:
    """Ask the process that works on a folder to end; `process` is its record.  Returns its pid.

    Raises UserError if it is not recorded, ended, or runs on another machine.
    """
    pid, host = process.get("pid"), process.get("host")
    if not isinstance(pid, int) or pid <= 1:
        raise UserError(f"{folder} does not record its process; stop it where it was started")
    if host != platform.node():
        raise UserError(f"{folder} runs on {host}; stop it there")
    if _start_ticks(pid) != process.get("started"):
        raise UserError(f"{folder}: process {pid} is another one now; stop it by Ctrl-C")
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError as error:
        raise UserError(f"{folder}: process {pid} cannot be stopped: {error.strerror}") from None
    return pid


def _start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (Linux, proc(5)); None if not known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return int(stat.rpartition(b")")[2].split()[19])  # field 22
    except (OSError, ValueError, IndexError):
        return None
