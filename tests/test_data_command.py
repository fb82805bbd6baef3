"""`python -m tinygpt.data`: its output, its plot and its errors."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tinygpt import data


@pytest.fixture
def typed(text_file: Path, tmp_path: Path) -> list[str]:
    return [
        "dataset=text",
        f"dataset.path={text_file}",
        "dataset.separator='\\n\\n'",
        f"cache_dir={tmp_path / 'cache'}",
    ]


def exit_of(*arguments: str) -> int | str | None:
    try:
        data.main(arguments)
    except SystemExit as end:
        return end.code
    return 0


def test_everything_is_shown_and_the_picture_is_where_it_says(
    typed: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert (
        exit_of(*typed, "tokenizer=bpe", "tokenizer.vocab_size=320", "candidates=[300,330,9000]")
        == 0
    )
    printed = capsys.readouterr().out
    assert "text as bpe tokens, vocabulary 320" in printed
    assert re.search(r"\ndocuments +\d+ +\d+\s", printed)
    assert re.search(r"\ntrain, characters +\d+", printed)
    assert re.search(r"train uses \d+ of 320 ids", printed)
    assert re.search(r"\n' \w\w+' \d+ +' \w+' \d+", printed)
    assert re.search(r"train documents repeat an earlier one", printed)
    assert len(re.findall(r"\nTrain document \d+, \d+ tokens\n\w+\| ", printed)) == 3
    assert re.search(
        r"\n300 +\d\.\d{3} *\n330 +\d\.\d{3} +\d+\.\d %\n9,000 +none +the largest", printed
    )
    (picture,) = (tmp_path / "cache" / "text").glob("bpe-*.png")
    assert printed.endswith(f"\nthe picture is {picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")

    assert exit_of(*typed, "tokenizer=bpe", "tokenizer.vocab_size=320", "candidates=[]") == 0
    again = capsys.readouterr().out
    assert "preparing" not in again
    assert "Bytes per token of validation" not in again


def test_the_picture_goes_where_it_is_wanted(typed: list[str], tmp_path: Path) -> None:
    out = tmp_path / "new" / "mine.png"
    assert exit_of(*typed, "candidates=[]", f"out={out}") == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_is_reported_without_a_traceback(
    typed: list[str], capsys: pytest.CaptureFixture[str], text_file: Path
) -> None:
    out = text_file / "mine.png"
    assert exit_of(*typed, "candidates=[]", f"out={out}") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {out} cannot be written (")
    assert said.endswith("; type out=FILE.png\n")


@pytest.mark.slow  # test_console.py has the characters
def test_a_terminal_without_the_characters_gets_what_it_can_show(tmp_path: Path) -> None:
    text = tmp_path / "accents.txt"
    text.write_text("caf\u00e9\n" * 100, encoding="utf-8")
    command = [sys.executable, "-m", "tinygpt.data", "dataset=text", f"dataset.path={text}"]
    command += ["tokenizer=char", "candidates=[]", f"cache_dir={tmp_path / 'cache'}"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"c|a|f|?|" in done.stdout
