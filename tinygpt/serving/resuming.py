"""Start `tinygpt.train resume=RUN` as a process of its own, which outlives the server."""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tinygpt.errors import UserError
from tinygpt.records.read import is_held, read_record
from tinygpt.serving.errors import ApiError

WAIT_S = 20.0  # for the run to begin; importing PyTorch takes some seconds
LOOK_S = 0.25


def start(run: Path, components: Sequence[str]) -> int:
    """Go on with a run; returns the pid.  Raises ApiError with what the command says if it fails.

    Returns when the process holds the run, or after WAIT_S.
    """
    command = [sys.executable, "-m", "tinygpt.train", f"resume={run}"]
    if components:
        command.append(f"components=[{','.join(components)}]")
    with tempfile.TemporaryFile() as said:  # has no name, so nothing is left of it
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
        # so that it leaves no zombie when it ends
        threading.Thread(target=process.wait, daemon=True).start()
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end and not _has_begun(run, process.pid):
            if (code := process.poll()) is not None:
                if code == 0:
                    break  # a run that had little left to do
                said.seek(0)
                text = said.read(10_000).decode("utf-8", "replace").strip()
                raise ApiError(400, text.removeprefix("error: ") or f"it ended with code {code}")
            time.sleep(LOOK_S)
    return process.pid


def _has_begun(run: Path, pid: int) -> bool:
    """Whether the process works on the run; looking takes no lock before run.json says so."""
    try:
        record = read_record(run)
    except UserError:
        return False
    process = record.get("process") or {}
    return record["status"] == "running" and process.get("pid") == pid and is_held(run)
