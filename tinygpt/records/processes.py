"""Which process works on a run: run.json records it, so that another one can interrupt it."""

import os
import platform
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinygpt.errors import UserError
from tinygpt.records.read import is_held, read_record


def this_process() -> dict[str, Any]:
    """The record of this process for run.json."""
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
    process: Mapping[str, Any] = record.get("process") or {}
    pid, host = process.get("pid"), process.get("host")
    if not isinstance(pid, int) or pid <= 1:
        raise UserError(f"{run} does not record its process; stop it where it was started")
    if host != platform.node():
        raise UserError(f"{run} runs on {host}; stop it there")
    if _start_ticks(pid) != process.get("started"):
        raise UserError(f"{run}: process {pid} is another one now; stop the run by Ctrl-C")
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError as error:
        raise UserError(f"{run}: process {pid} cannot be stopped: {error.strerror}") from None
    return pid


def _start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (Linux, proc(5)); None if not known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return int(stat.rpartition(b")")[2].split()[19])  # field 22
    except (OSError, ValueError, IndexError):
        return None
