"""Go on with a run or a sweep in a process of its own, which outlives the server."""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tinygpt.errors import UserError
from tinygpt.records.read import is_held, read_record
from tinygpt.serving.errors import ApiError
from tinygpt.sweeps.folder import read_sweep

WAIT_S = 20.0  # for it to begin; importing PyTorch takes some seconds
LOOK_S = 0.25


def resume_run(run: Path, components: Sequence[str]) -> int:
    """Go on with a run; returns the pid.  Raises ApiError with what the command says if it fails.

    Returns when the process holds the run, or after WAIT_S.
    """
    typed = [f"resume={run}"]
    if components:
        typed.append(f"components=[{','.join(components)}]")
    return _start(typed, lambda pid: _holds_run(run, pid))


def resume_sweep(sweep: Path, *, retry_failed: bool) -> int:
    """Go on with a sweep, as `resume_run` with a run."""
    typed = ["-m", f"sweep={sweep}", *(["retry_failed=true"] if retry_failed else [])]
    return _start(typed, lambda pid: _holds_sweep(sweep, pid))


def _start(typed: Sequence[str], has_begun: Callable[[int], bool]) -> int:
    with tempfile.TemporaryFile() as said:  # has no name, so nothing is left of it
        process = subprocess.Popen(
            [sys.executable, "-m", "tinygpt.train", *typed],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        # so that it leaves no zombie when it ends
        threading.Thread(target=process.wait, daemon=True).start()
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end and not has_begun(process.pid):
            if (code := process.poll()) is not None:
                if code == 0:
                    break  # there was little left to do
                said.seek(0)
                text = said.read(10_000).decode("utf-8", "replace").strip()
                raise ApiError(400, text.removeprefix("error: ") or f"it ended with code {code}")
            time.sleep(LOOK_S)
    return process.pid


def _holds_run(run: Path, pid: int) -> bool:
    """Whether the process works on the run; looking takes no lock before run.json says so."""
    try:
        record = read_record(run)
    except UserError:
        return False
    process = record.get("process") or {}
    return record["status"] == "running" and process.get("pid") == pid and is_held(run)


def _holds_sweep(sweep: Path, pid: int) -> bool:
    try:
        process = read_sweep(sweep).get("process")
    except UserError:
        return False
    return isinstance(process, dict) and process.get("pid") == pid and is_held(sweep)
