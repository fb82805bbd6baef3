"""A command finishes its work even if its output cannot be written."""

import errno
import json
import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tinygpt import console

ROOT = Path(__file__).parents[1]
# prints more than a pipe holds, then does its work
COMMAND = """
import sys
from pathlib import Path
from tinygpt import console

def work():
    console.log_to_console()
    if "result" in sys.argv:
        console.printing_the_result()
    for _ in range(2000):
        console.say("a line " + 70 * "-")
        console.warn("a warning")
    if "language" in sys.argv:
        print("caf\u00e9 \U0001f642")
    if "signal" in sys.argv:
        import os, signal
        os.kill(os.getpid(), getattr(signal, sys.argv[-1]))
    with open("work", "w") as file:  # the lowest free number: 1 or 2 if that were closed
        print("more on the console")
        file.write("done")
    return 0

raise SystemExit(console.guarded(work))
"""


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which `command` is the process above; the exit code is its own."""
    python = shlex.join([sys.executable, "-c", COMMAND])
    line = line.replace("command", python) + "; exit ${PIPESTATUS[0]}"
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "line",
    [
        "command 2>&1 | head -1",
        "command >/dev/full",
        "command >/dev/full 2>&1",
        "command >&-",
        "command 2>&-",
        "command <&- >&- 2>&-",
    ],
)
def test_a_command_finishes_its_work_without_a_console(line: str, tmp_path: Path) -> None:
    done = shell(line, tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "work").read_text() == "done"
    assert "Traceback" not in done.stderr


def test_a_command_whose_result_is_printed_fails_when_it_cannot_be_printed(tmp_path: Path) -> None:
    done = shell("command result >/dev/full", tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "error: standard output cannot be written: No space left on device"
    piped = shell("command result 2>/dev/null | head -1", tmp_path)
    assert (piped.returncode, piped.stderr) == (141, "")  # as of any program that `head` ends
    assert len(piped.stdout.splitlines()) == 1
    assert not (tmp_path / "work").exists()


def test_a_terminal_without_a_character_shows_another_in_its_place(tmp_path: Path) -> None:
    done = shell("command language 2>&1 | tail -2", tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "caf? ?\nmore on the console\n")


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_ends_a_command_with_one_line(name: str, code: int, tmp_path: Path) -> None:
    done = shell(f"command signal {name} >/dev/null", tmp_path)
    said = "error: interrupted" if name == "SIGINT" else f"error: interrupted by {name}"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (code, said)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGTERM"])
def test_a_signal_that_was_ignored_stays_ignored(name: str, tmp_path: Path) -> None:
    done = shell(f"trap '' {name}; command signal {name} >/dev/null", tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "work").exists()


def test_a_folder_that_was_removed_is_named_in_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = shell("rmdir $PWD; command", gone)
    said = "error: the current folder has been removed; cd to one that exists\n"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(said)


def refusal(error: Exception, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """The exit code and the text of a command in which this is raised."""

    def work() -> None:
        raise error

    with pytest.raises(SystemExit) as exit_info:
        console.guarded(work)
    return exit_info.value.code, capsys.readouterr().err


def test_an_error_of_the_system_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "a\x1b[2J.json")
    assert refusal(full, capsys) == (1, "error: a\\x1b[2J.json: No space left on device\n")
    memory = MemoryError("Unable to allocate 8 TiB")
    assert refusal(memory, capsys) == (1, "error: not enough memory: Unable to allocate 8 TiB\n")
    with pytest.raises(FileNotFoundError):  # our own mistake keeps its traceback
        console.guarded(lambda: Path("missing").read_text())


def test_a_message_cannot_command_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    log = console.LogFile(tmp_path / "train.log")
    logger = logging.getLogger("tinygpt")
    console.log_to_console()
    logger.addHandler(log)
    try:
        console.say("a \x1b[2J b")
        console.warn("c \x07")
    finally:
        logger.removeHandler(log)
        log.close()
    assert capsys.readouterr() == ("a \\x1b[2J b\n", "warning: c \\x07\n")
    assert r"INFO a \x1b[2J b" in (tmp_path / "train.log").read_text()


def test_a_log_that_cannot_be_written_is_reported_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "train.log"
    path.symlink_to("/dev/full")
    log = console.LogFile(path)
    logger = logging.getLogger("tinygpt")
    console.log_to_console()
    logger.addHandler(log)
    try:
        for number in range(3):
            console.say(f"message {number}")
    finally:
        logger.removeHandler(log)
        log.close()
    output, errors = capsys.readouterr()
    assert output == "message 0\nmessage 1\nmessage 2\n"
    assert errors == f"warning: {path} cannot be written: No space left on device\n"


def test_torchrun_reports_the_error_of_the_rank(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    with pytest.raises(SystemExit):
        console.fail("modle is not a field\x1b")
    report = json.loads((tmp_path / "error.json").read_text())
    assert report["message"]["message"] == r"modle is not a field\x1b"
    assert int(report["message"]["extraInfo"]["timestamp"]) > 1e9
