"""Progress messages of long work."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tinygpt
from tinygpt.corpus import progress
from tinygpt.corpus.progress import Progress

WORK = """
from tinygpt.corpus import progress
progress._DRAW_EVERY_S = 0.0
with progress.Progress("train", print, n_documents=4) as shown:
    for _ in range(4):
        shown.add(1, 500_000)
print("ready")
"""


def test_without_a_terminal_a_line_is_printed_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    with Progress("train", lines.append, n_documents=1000) as shown:
        shown.add(1, 10)
        assert lines == []
    monkeypatch.setattr(progress, "REPORT_EVERY_S", 0.0)
    with Progress("train", lines.append, n_documents=1000) as shown:
        shown.skip(400, 3_000_000)
        shown.add(100, 2_000_000)
    with Progress("vocabulary", lines.append) as shown:
        shown.add(7, 0)
    pattern = r"  train: 500 of 1,000 documents, 5 MB, \d[\d,]*\.\d MB/s"
    assert re.fullmatch(pattern, lines[0])
    assert lines[1] == "  vocabulary: 7 documents, 0 MB, 0.0 MB/s"


def test_the_share_that_is_done_is_told_from_what_is_known() -> None:
    for n_documents, share in [(8, 0.25), (1, 1.0), (None, None)]:  # there may be more
        with Progress("train", print, n_documents=n_documents) as shown:
            shown.add(2, 20)
            assert shown.share == share


def test_on_a_terminal_a_bar_follows_the_work_and_is_gone_at_its_end() -> None:
    ours, theirs = pty.openpty()
    root = str(Path(tinygpt.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-c", WORK]
    subprocess.run(command, stdout=theirs, env=environment, check=True, timeout=60)
    os.close(theirs)
    seen = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "train: 2 of 4 documents, 1 MB" in seen
    after = seen.rpartition("train: 4 of 4 documents, 2 MB")[2]
    assert "\x1b[2K" in after  # the line is cleared
    assert after.strip().endswith("ready")
