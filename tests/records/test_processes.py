"""The process of a run is interrupted, and no other one."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs_on_disk import make_run
from tinygpt.errors import UserError
from tinygpt.records.processes import interrupt

# holds a run as training does, until SIGTERM
RUN = """
import json, signal, sys
from pathlib import Path
from filelock import FileLock
from tinygpt.records.processes import this_process

run = Path(sys.argv[1])
record = json.loads((run / "run.json").read_text())
(run / "run.json").write_text(json.dumps(record | {"process": this_process()}))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
with FileLock(run / ".lock"):
    print("ready", flush=True)
    signal.pause()
"""


@pytest.fixture
def held(tmp_path):
    run = make_run(tmp_path / "RUN", status="running", bpb=None)
    command = [sys.executable, "-c", RUN, str(run)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout.readline() == "ready\n"
        yield run, process
        process.kill()


def changed(run, **process):
    path = run / "run.json"
    record = json.loads(path.read_text())
    record["process"] |= process
    path.write_text(json.dumps(record))


def test_the_process_that_holds_the_run_is_asked_to_end(held):
    run, process = held
    changed(run, host="elsewhere")
    with pytest.raises(UserError, match="runs on elsewhere; stop it there"):
        interrupt(run)
    own = json.loads((run / "run.json").read_text())["process"]["started"]
    changed(run, host=platform.node(), started=1)
    if own is not None:  # Linux knows when a process began
        with pytest.raises(UserError, match="is another one now"):
            interrupt(run)
    changed(run, started=own)
    assert interrupt(run) == process.pid
    assert process.wait(10) == 3
    with pytest.raises(UserError, match="is not running"):
        interrupt(run)


def test_a_run_that_nothing_holds_is_not_interrupted(tmp_path):
    run = make_run(tmp_path / "RUN", status="running", process={"pid": 1, "host": "x"})
    with pytest.raises(UserError, match="is not running"):
        interrupt(run)
