"""Tracks: which local copies of their text they take."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests.speedruns.tiny import tiny_track
from tinygpt.errors import UserError
from tinygpt.speedruns.tracks import TRACKS, TextFile

TEXT = b"Once upon a time.<|endoftext|>The end."
FILE = TextFile(url="https://example.org/a.txt", sha256=hashlib.sha256(TEXT).hexdigest())


def test_a_track_with_a_file_takes_only_a_copy_of_it(tmp_path: Path) -> None:
    track = replace(tiny_track(), file=FILE)
    copy, other = tmp_path / "copy.txt", tmp_path / "other.txt"
    copy.write_bytes(TEXT)
    other.write_bytes(TEXT + b"\n")
    track.check_text(copy)
    for text, said in (
        (None, "text= is missing"),
        (tmp_path, f"text={tmp_path} is not a file"),
        (other, f"text={other} is another text: its sha256 begins with "),
    ):
        with pytest.raises(UserError) as caught:
            track.check_text(text)
        message = str(caught.value)
        assert message.startswith(said)
        assert "curl -fL -o tiny.txt https://example.org/a.txt\n" in message
        assert message.endswith("python -m tinygpt.speedrun track=tiny text=tiny.txt")


def test_generated_text_takes_no_copy_and_downloaded_text_may_have_one(tmp_path: Path) -> None:
    TRACKS["storyworld"].check_text(None)
    with pytest.raises(UserError, match="would be ignored: track=storyworld generates its text"):
        TRACKS["storyworld"].check_text(tmp_path)
    TRACKS["shakespeare"].check_text(None)
    with pytest.raises(UserError, match=r"is not a file; .* leave text= out to download it, or"):
        TRACKS["shakespeare"].check_text(tmp_path)
