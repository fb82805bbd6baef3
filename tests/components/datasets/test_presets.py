"""The presets: tiny_shakespeare has its usual split, tiny_stories_clean its row ranges."""

import hashlib
import random
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tinygpt.components.datasets import tiny_shakespeare
from tinygpt.components.datasets.tiny_shakespeare import TinyShakespeareConfig
from tinygpt.components.datasets.tiny_stories_clean import TinyStoriesCleanConfig
from tinygpt.errors import UserError

LETTERS = random.Random(0)
PLAY = "".join(LETTERS.choice("ABC def,\n") for _ in range(12_345))


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A play that stands in for the real one."""
    monkeypatch.setattr(tiny_shakespeare, "SHA256", hashlib.sha256(PLAY.encode()).hexdigest())
    path = tmp_path / "input.txt"
    path.write_text(PLAY)
    return path


def write(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"text": texts}), path)


def test_the_first_90_percent_of_tiny_shakespeare_train_and_the_last_10_validate(
    play: Path,
) -> None:
    for path in (play, play.parent):
        source = TinyShakespeareConfig(path=str(path)).open()
        assert list(source.documents("train")) == [PLAY[: int(len(PLAY) * 0.9)]]
        assert list(source.documents("validation")) == [PLAY[int(len(PLAY) * 0.9) :]]
        assert source.n_documents("train") == 1


def test_tiny_shakespeare_is_known_by_its_text_and_not_by_where_it_is() -> None:
    identity = TinyShakespeareConfig().open().identity
    assert identity["sha256"].startswith("86c4e6aa9db7")


def test_another_text_is_no_tiny_shakespeare(play: Path) -> None:
    play.write_text(PLAY.replace("\n", "\r\n"))
    with pytest.raises(UserError, match=r"is not the text of .* type dataset=text dataset.path=F"):
        list(TinyShakespeareConfig(path=str(play)).open().documents("train"))
    with pytest.raises(UserError, match="does not exist"):
        TinyShakespeareConfig(path=str(play) + "s/x").open()
    with pytest.raises(UserError, match=r"dataset\.revision=v1 would be ignored"):
        TinyShakespeareConfig(path=str(play), revision="v1")


def test_the_first_rows_of_tiny_stories_clean_are_held_out(tmp_path: Path) -> None:
    stories = [f"Story {i}." for i in range(20_100)]
    write(tmp_path / "tinystories_gpt4_clean.parquet", stories)
    source = TinyStoriesCleanConfig(path=str(tmp_path)).open()
    assert list(source.documents("train")) == stories[20_000:]
    assert list(source.documents("validation")) == stories[10_000:20_000]
    part = TinyStoriesCleanConfig(path=str(tmp_path), max_documents=9).open()
    assert list(part.documents("train")) == stories[20_000:20_009]
    assert TinyStoriesCleanConfig().open().identity["source"] == [
        "karpathy/tinystories-gpt4-clean",
        "main",
    ]
