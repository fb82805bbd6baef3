"""The compare command: its arguments, its output, and a reader that closes the pipe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes
from tests.runs_on_disk import make_run
from tinygpt import compare


def refusal(typed: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        compare.main(typed)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["x=tokens"], "type which runs to compare, such as latest or outputs/SWEEP"),
        (["latest", "basline=a"], "basline is not a field; did you mean baseline?"),
        (["latest", "x=tokns"], "x=tokns is not a choice; did you mean x=tokens?"),
        (["latest", "x=step", "x=time"], "x is typed twice: step and time"),
        (["latest", "out=a.png"], "out=a.png must end in .html; type out=a.html"),
        (["latest", "out="], "out= has no value; type out=VALUE, or leave it out"),
        (["latest", "output_dir="], "output_dir= has no value"),
        (["latest", "output_dir=nosuch"], "output_dir=nosuch is not a folder"),
        (["latest"], "latest holds no run; runs are in outputs/"),
        (["--baseline", "a"], "settings are typed without dashes: baseline=a"),
    ],
)
def test_a_mistyped_comparison_gets_an_error_with_what_to_type(
    typed: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    text = refusal(typed, capsys)
    assert words in text
    assert "Traceback" not in text


def test_a_folder_with_an_equals_sign_in_its_name_is_a_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "lr=1")
    with pytest.raises(SystemExit) as ended:
        compare.main(["lr=1"])
    assert ended.value.code == 0
    assert "one configuration" in capsys.readouterr().out


def test_the_page_is_written_even_if_the_tables_cannot_be_printed(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "tinygpt.compare", "run", "out=page.html"]
    done = processes.run(command, cwd=tmp_path, stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.glob("page.*")} == {
        *("page.html", "page.md", "page.csv", "page.json")
    }
