"""The console: a bar on a terminal, plain lines in a pipe, and a restored terminal."""

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tinygpt
from tinygpt.components.loggers.console import ConsoleLogger
from tinygpt.interfaces import RunInfo

SOURCES = str(Path(tinygpt.__file__).parents[1])
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
SCRIPT = """
import sys
from pathlib import Path
from tinygpt.interfaces import RunInfo
from tinygpt.components.loggers.console import ConsoleLogger

logger = ConsoleLogger()
logger.start(RunInfo(Path(), "id", None, {}, {"max_steps": 40}, None))
print("before the first row")
try:
    for step in (10, 20, 30, 40):
        row = {"train/loss": 5 / step, "perf/tokens_per_sec": 12345.0, "optim/lr": 1e-3}
        if step % 20 == 0:
            row |= {"val/loss": 6 / step, "val/bpb": 4 / step}
            logger.samples(step, ["\\x1b[31mcaf\\u00e9 \\u2615 [bold]", "another"])
        logger.log(step, row)
        print(f"warned at {step} [red]", file=sys.stderr)
        if step == 30 and "fail" in sys.argv:
            raise RuntimeError("out of memory")
finally:
    logger.finish("failed", {})
print("after")
"""


def on_terminal(*arguments: str, columns: int = 100, **environment: str) -> str:
    """All that the script writes to a pseudo-terminal."""
    main, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdin=child,
        stdout=child,
        stderr=child,
        env=os.environ
        | {"PYTHONPATH": SOURCES, "TERM": "xterm", "COLUMNS": str(columns), "PYTHONUTF8": "1"}
        | environment,
    )
    os.close(child)
    data = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        data += part
    os.close(main)
    assert process.wait() == (1 if "fail" in arguments else 0), data.decode()
    return data.decode()


def screen(written: str) -> list[str]:
    """The lines as they stand at the end: what a one-line bar erased is gone, colours too."""
    lines = []
    for line in written.replace("\r\n", "\n").split("\n"):
        last = re.split(r"\r\x1b\[2K", line)[-1]
        lines.append(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", last).rstrip())
    return lines


def started(
    derived: dict[str, float | None], *, resumed_at: int | None = None, clock: Callable[[], float]
) -> tuple[ConsoleLogger, io.StringIO]:
    stream = io.StringIO()
    logger = ConsoleLogger(stream, clock=clock)
    logger.start(RunInfo(Path(), "id", None, {}, derived, resumed_at))
    return logger, stream


def test_a_pipe_gets_one_aligned_line_per_row() -> None:
    times = iter([0.0, 6.5, 13.0, 1000.0])
    logger, stream = started({"max_steps": 1000}, clock=lambda: next(times))
    row = {"train/loss": 2.34118, "perf/tokens_per_sec": 12345.0, "optim/lr": 9.8e-4}
    logger.log(90, row)
    logger.log(180, row | {"val/loss": 2.3, "val/bpb": 1.61, "val/bpb_above_floor": 0.2})
    logger.log(1000, row | {"perf/tokens_per_sec": 850.0})
    assert stream.getvalue().splitlines() == [
        "step   90/1000  loss 2.3412   12.3k tok/s  lr 9.8e-04  eta  1m06s",
        "step  180/1000  loss 2.3412   12.3k tok/s  lr 9.8e-04  eta    59s"
        "  val 2.3000 (1.610 bpb, 0.200 above floor)",
        "step 1000/1000  loss 2.3412     850 tok/s  lr 9.8e-04  eta     0s",
    ]


def test_a_row_may_hold_only_some_of_the_metrics() -> None:
    logger, stream = started({"max_steps": None}, clock=lambda: 0.0)
    logger.log(7, {"val/loss": 2.0})
    assert stream.getvalue() == "step      7  val 2.0000\n"


def test_the_remaining_time_of_a_resumed_run_counts_its_own_steps_only() -> None:
    times = iter([100.0, 110.0])
    logger, stream = started({"max_steps": 1000}, resumed_at=900, clock=lambda: next(times))
    logger.log(950, {"elapsed_s": 5000.0})
    assert stream.getvalue() == "step  950/1000  eta    10s\n"


def test_the_remaining_time_follows_a_change_of_speed() -> None:
    now = [0.0]
    logger, stream = started({"max_steps": 1000}, clock=lambda: now[0])
    for step in range(1, 101):
        now[0] += 60.0 if step <= 50 else 1.0
        logger.log(step, {})
    assert stream.getvalue().splitlines()[-1] == "step  100/1000  eta 15m00s"


def test_what_is_left_of_growing_steps_is_counted_in_tokens() -> None:
    """The 900 steps that are left have more tokens than the 100 before, and take longer."""
    logger, stream = ConsoleLogger(out := io.StringIO(), clock=lambda: 0.0), out
    config = {"trainer": {"first_tokens_per_step": 16}}
    derived = {"max_steps": 1000, "max_tokens": 61_000}
    logger.start(RunInfo(Path(), "id", None, config, derived, None))
    logger.log(100, {"tokens": 1000, "perf/tokens_per_sec": 1000.0})
    assert stream.getvalue().split("eta")[1].strip() == "1m00s"


@pytest.mark.parametrize(
    ("left_s", "words"),
    [(5, "5s"), (65, "1m05s"), (3600, "1h00m"), (7640, "2h07m"), (100_000, "1d03h"), (-3, "0s")],
)
def test_a_run_by_the_clock_counts_down_its_own_time(left_s: float, words: str) -> None:
    logger, stream = started({"max_steps": None, "max_time_s": 200_000.0}, clock=lambda: 0.0)
    logger.log(20, {"elapsed_s": 200_000.0 - left_s})
    assert stream.getvalue().split("eta")[1].strip() == words


def test_the_first_sample_is_shown_shortly_and_cannot_command_the_terminal() -> None:
    logger, stream = started({"max_steps": 10}, clock=lambda: 0.0)
    logger.samples(5, ["Once\nupon \x1b[2J a \x07time " + "x" * 1000, "second"])
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["", "  sample at step 5"]
    assert lines[2].startswith(r"    Once upon \x1b[2J a \x07time xxx")
    assert lines[-1] == ""
    assert "second" not in stream.getvalue()
    assert len(stream.getvalue()) < 600
    assert max(map(len, lines)) <= 80


def test_a_terminal_gets_a_bar_and_keeps_what_is_worth_keeping() -> None:
    written = on_terminal()
    assert "\r\x1b[2K" in written
    *lines, bar, after, end = screen(written)
    assert lines == [
        "before the first row",
        "warned at 10 [red]",
        "",
        "  sample at step 20",
        r"    \x1b[31mcafé ☕ [bold]",
        "",
        "step 20/40  loss 0.2500  val 0.3000 (0.200 bpb)",
        "warned at 20 [red]",
        "warned at 30 [red]",
        "",
        "  sample at step 40",
        r"    \x1b[31mcafé ☕ [bold]",
        "",
        "step 40/40  loss 0.1250  val 0.1500 (0.100 bpb)",
        "warned at 40 [red]",
    ]
    assert bar.lstrip("━ ").startswith("step 40/40  loss 0.1250  val 0.1500 (0.100 bpb)  eta ")
    assert bar.endswith("12.3k tok/s")
    assert (after, end) == ("after", "")


def test_an_exception_leaves_the_cursor_visible_and_its_text_below_the_bar() -> None:
    written = on_terminal("fail")
    assert written.count(HIDE) == 1
    assert written.rindex(SHOW) > written.rindex(HIDE)
    lines = screen(written)
    bar = next(i for i, line in enumerate(lines) if "━" in line)
    assert "step 30/40" in lines[bar]
    assert lines[bar + 1].startswith("Traceback")
    assert "RuntimeError: out of memory" in lines


@pytest.mark.parametrize("columns", [20, 60])
def test_a_narrow_ascii_terminal_shows_a_line_that_fits(columns: int) -> None:
    written = on_terminal(columns=columns, PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert written.isascii()
    *_, bar, after, _ = screen(written)
    assert bar.startswith("step 40/40")
    assert len(bar) <= columns
    assert after == "after"


def test_a_dumb_terminal_gets_plain_lines() -> None:
    written = on_terminal(TERM="dumb", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert "\x1b" not in written
    assert r"    \x1b[31mcaf? ? [bold]" in screen(written)
    assert len([line for line in screen(written) if line.startswith("step ")]) == 4


def test_a_pipe_gets_no_control_sequence_even_if_colours_are_asked_for() -> None:
    environment = os.environ | {"PYTHONPATH": SOURCES, "FORCE_COLOR": "1", "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, check=True
    )
    assert b"\x1b" not in done.stdout
    assert b"\r" not in done.stdout
    assert done.stdout.count(b"\nstep ") == 4
