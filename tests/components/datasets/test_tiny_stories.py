"""TinyStories: the repo on the hub by default, or a local copy of it."""

import os
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tinygpt.components.datasets.tiny_stories import TinyStoriesConfig
from tinygpt.errors import UserError

TRAIN = [f"Once upon a time there were {i} cats." for i in range(50)]
VALIDATION = ["One day, a dog sang.", "The end."]


def write(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"text": texts}), path)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    write(folder / "data/train-00000-of-00001.parquet", TRAIN)
    write(folder / "data/validation-00000-of-00001.parquet", VALIDATION)
    return folder


def test_the_default_is_the_published_repo_with_its_own_validation_split() -> None:
    identity = TinyStoriesConfig().open().identity
    assert identity["source"] == ["roneneldan/TinyStories", "main"]
    assert identity["splits"] == ["train", "validation"]


def test_a_local_copy_is_read_as_the_repo_would_be(copy: Path) -> None:
    source = TinyStoriesConfig(path=str(copy), fraction=0.1).open()
    assert list(source.documents("train")) == TRAIN[:5]
    assert list(source.documents("validation")) == VALIDATION
    assert source.n_documents("train") == 5
    assert source.provenance() == {
        "source": str(copy),
        "commit": None,
        "rows": {
            "train": {"split": "train", "start": 0, "stop": 5},
            "validation": {"split": "validation", "start": 0, "stop": 2},
        },
    }


def test_a_local_copy_without_a_validation_split_holds_some_of_train_out(copy: Path) -> None:
    (copy / "data/validation-00000-of-00001.parquet").unlink()
    source = TinyStoriesConfig(path=str(copy), validation_fraction=0.2).open()
    train, validation = (list(source.documents(split)) for split in ("train", "validation"))
    assert sorted(train + validation) == sorted(TRAIN)
    assert 0 < len(validation) < 25


def test_a_local_copy_is_known_by_its_contents_and_not_by_its_place(copy: Path) -> None:
    before = TinyStoriesConfig(path=str(copy)).open().identity
    moved = copy.rename(copy.with_name("moved"))
    (moved / ".cache").mkdir()
    (moved / ".cache/download.lock").write_text("left by a download")
    file = moved / "data/validation-00000-of-00001.parquet"
    os.utime(file, (1, 1))
    assert TinyStoriesConfig(path=str(moved)).open().identity == before
    write(file, VALIDATION[::-1])
    assert TinyStoriesConfig(path=str(moved)).open().identity != before


def test_an_edited_local_copy_is_read_anew(copy: Path) -> None:
    list(TinyStoriesConfig(path=str(copy)).open().documents("train"))
    write(copy / "data/train-00000-of-00001.parquet", ["Something else."])
    assert list(TinyStoriesConfig(path=str(copy)).open().documents("train")) == ["Something else."]


def test_a_path_that_is_no_such_folder_is_refused_before_anything_is_loaded(copy: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.path=.*/cop does not exist; .*=.*/copy\?"):
        TinyStoriesConfig(path=str(copy.with_name("cop"))).open()
    file = copy / "data/train-00000-of-00001.parquet"
    with pytest.raises(UserError, match=r"type dataset=text dataset\.path="):
        TinyStoriesConfig(path=str(file)).open()
    (copy / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no data files"):
        list(TinyStoriesConfig(path=str(copy / "empty")).open().documents("train"))
