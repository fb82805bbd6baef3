"""A session at the keyboard: prompts, going on, Ctrl-C and Ctrl-D."""

import io
import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.test_sample_command import TOKENIZER, chain_of, make_run
from tinygpt.sample import SampleConfig, write


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After a comes b, and then the end; after x comes 🙂, without an end."""
    x, smile = TOKENIZER.encode("x🙂")
    chain = chain_of("ab") | {x: smile, smile: x}
    return make_run(tmp_path_factory.mktemp("outputs") / "chat", chain)


def test_lines_are_prompts_and_an_empty_one_goes_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\nx\n\n\nba\n"))
    write(
        SampleConfig(run=str(run), interactive=True, device="cpu", temperature=0, max_new_tokens=3)
    )
    assert capsys.readouterr().out == "ab\nx🙂x🙂\nx🙂x\n🙂x🙂\nbab\n"


def test_after_the_end_of_a_text_an_empty_line_begins_a_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = chain_of("ab") | {TOKENIZER.eot_id: TOKENIZER.encode("a")[0]}
    run = make_run(tmp_path / "again", chain)
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\n\n"))
    write(SampleConfig(run=str(run), interactive=True, device="cpu", temperature=0))
    assert capsys.readouterr().out == "ab\nab\n"


class Session:
    """The command on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self.terminal = pty.fork()
        if not self.pid:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it
            command = [sys.executable, "-m", "tinygpt.sample", *arguments]
            os.execve(sys.executable, command, {**os.environ, "TERM": "xterm"})
        self.shown = ""

    def type(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def interrupt(self) -> None:
        """Type Ctrl-C as somebody who waits would: again, if no prompt has come.

        Python checks for signals where it waits for a key; one that comes while readline handles
        a key is seen at the next.
        """
        for attempt in range(30):
            self.type("\x03")
            try:
                self.wait_for("> ", timeout=3)
            except AssertionError:
                if attempt == 29:
                    raise
            else:
                return

    def wait_for(self, text: str, timeout: float = 90) -> str:
        """Read until the text has come; returns all up to it."""
        end = time.monotonic() + timeout
        while text not in self.shown:
            assert time.monotonic() < end, f"{text!r} has not come after {self.shown!r}"
            if select.select([self.terminal], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self.terminal, 65536).decode("utf-8", "replace")
                except OSError:  # the session has ended
                    assert text in self.shown, self.shown
        before, _, self.shown = self.shown.partition(text)
        return before


@pytest.mark.skipif(sys.platform != "linux", reason="terminals differ")
def test_ctrl_c_ends_the_text_and_ctrl_d_the_session(run: Path) -> None:
    session = Session(
        f"run={run}", "interactive=true", "device=cpu", "temperature=0", "max_new_tokens=100000000"
    )
    try:
        session.wait_for("Ctrl-D the session.")
        session.wait_for("> ")
        session.type("a\n")
        assert "ab\r\n1 token in " in session.wait_for("tok/s")
        session.wait_for("> ")
        session.type("x\n")
        session.wait_for("🙂x🙂x")
        session.type("\x03")  # Ctrl-C
        session.wait_for("tok/s")
        session.wait_for("> ")
        session.type("unfinished")
        session.wait_for("unfinished")
        session.interrupt()  # ends the line only
        session.type("\x1b[A\x1b[A\n")  # the line before the last: a
        assert "ab\r\n1 token in " in session.wait_for("tok/s")
        session.wait_for("> ")
        session.type("\x04")  # Ctrl-D
        _, status = os.waitpid(session.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    except BaseException:
        os.kill(session.pid, signal.SIGKILL)
        raise
    finally:
        os.close(session.terminal)
