"""Hub datasets over real HTTP from a local server: reading, caching, errors."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tinygpt.components.datasets.hub.config import HubConfig
from tinygpt.errors import UserError

TRAIN = [f"Story {i}: once upon a time." for i in range(300)]
VALIDATION = [f"Unseen story {i}." for i in range(20)]


def table(texts: list[str]) -> bytes:
    """A parquet file with one story a row, and rows that hold none."""
    rows = [*texts, "", " \n", None]
    file = io.BytesIO()
    parquet.write_table(pa.table({"text": rows, "id": list(range(len(rows)))}), file)
    return file.getvalue()


def card(*subsets: str) -> bytes:
    """The README of a repo with subsets of one file each."""
    configs = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/train.parquet"}]}
        for name in subsets
    ]
    return f"---\nconfigs: {json.dumps(configs)}\n---\n".encode()


@pytest.fixture(scope="module", autouse=True)
def repos(hub: Any) -> None:
    """Fill the hub; not when this module is imported, as every worker does."""
    stories = {
        "data/train-00000-of-00001.parquet": table(TRAIN),
        "data/validation-00000-of-00001.parquet": table(VALIDATION),
    }
    hub.repos |= {
        "someone/stories": stories,
        "someone/subsets": {
            "README.md": card("en", "de"),
            "en/train.parquet": table(TRAIN),
            "de/train.parquet": table(["Anfang.", "Ende."]),
        },
        "someone/no_data": {"README.md": b"---\n---\n"},
        "someone/script": {**stories, "script.py": b"raise SystemExit"},
        "someone/corrupt": {"data/train.parquet": b"PAR1 and then nonsense"},
        "someone/large": stories,
        "someone/gated": stories,
        "someone/down": stories,
    }


READ: dict[str, dict[str, Any]] = {
    "plain": {"repo": "someone/stories"},
    "fraction": {"repo": "someone/stories", "fraction": 0.1},
    "held out": {"repo": "someone/stories", "validation_split": None, "validation_fraction": 0.2},
    "subset": {"repo": "someone/subsets", "subset": "en"},
    "tag": {"repo": "someone/stories", "revision": "v1.0"},
}


@pytest.fixture(scope="module")
def read(machine: Any) -> dict[str, dict[str, Any]]:
    """What is read while the hub is in reach; afterwards the machine has it in its cache."""
    answers = machine.load(*READ.values())
    others = [call for call in machine.hub.calls if "/datasets/someone/" not in call]
    assert not others, "the hub is told more than it must know"
    return dict(zip(READ, answers, strict=True))


def test_the_rows_that_hold_text_are_the_documents(read: dict[str, dict[str, Any]]) -> None:
    assert read["plain"]["train"] == TRAIN
    assert read["plain"]["validation"] == VALIDATION
    assert read["plain"]["n_documents"] == [303, 23]  # at most
    for split in ("train", "validation"):
        assert read["plain"]["dropped"][split] == {"empty": 3, "bad_text": 0}


def test_fraction_takes_the_first_rows_of_train_only(read: dict[str, dict[str, Any]]) -> None:
    assert read["fraction"]["train"] == TRAIN[:30]
    assert read["fraction"]["validation"] == VALIDATION
    assert read["fraction"]["n_documents"] == [30, 23]


@pytest.mark.parametrize(("case", "fraction"), [("held out", 0.2), ("subset", 0.05)])
def test_without_a_validation_split_a_part_of_train_is_held_out(
    read: dict[str, dict[str, Any]], case: str, fraction: float
) -> None:
    train, validation = read[case]["train"], read[case]["validation"]
    assert sorted(train + validation) == sorted(TRAIN)
    assert len(validation) == pytest.approx(300 * fraction, abs=20)
    assert read[case]["n_documents"] == [None, None]


def test_the_commit_is_recorded_and_not_part_of_what_is_asked(
    machine: Any, read: dict[str, dict[str, Any]]
) -> None:
    for answer in read.values():
        assert answer["provenance"]["commit"] == machine.hub.commit
        assert machine.hub.commit not in json.dumps(answer["identity"])
    assert read["plain"]["provenance"]["rows"] == {
        "train": {"split": "train", "start": 0, "stop": 303},
        "validation": {"split": "validation", "start": 0, "stop": 23},
    }


def test_what_was_read_once_is_read_again_without_network(
    machine: Any, read: dict[str, dict[str, Any]]
) -> None:
    plain, fraction, tag, commit = machine.load(
        READ["plain"],
        READ["fraction"],
        READ["tag"],
        {"repo": "someone/stories", "revision": machine.hub.commit},
        network=False,
    )
    assert plain["train"] == commit["train"] == TRAIN
    assert plain["provenance"] == read["plain"]["provenance"]
    assert fraction["train"] == TRAIN[:30]
    assert (
        max(plain["elapsed_s"], commit["elapsed_s"]) < 20
    )  # the library alone takes 23 s for each
    assert re.match(
        f"dataset.revision=v1.0 cannot be looked up.*\n.*={machine.hub.commit}", tag["error"]
    )


def test_hf_hub_offline_sends_no_request(machine: Any, read: dict[str, dict[str, Any]]) -> None:
    calls = len(machine.hub.calls)
    cached, missing = machine.load(READ["plain"], {"repo": "someone/corrupt"}, offline=True)
    assert cached["train"] == read["plain"]["train"]
    assert "cannot be had from the hub: HF_HUB_OFFLINE is set" in missing["error"]
    assert len(machine.hub.calls) == calls


def test_without_network_the_error_comes_at_once_and_says_what_to_type(
    machine: Any, tmp_path: Path
) -> None:
    [answer] = machine.another(tmp_path).load(READ["plain"], network=False)
    assert answer["elapsed_s"] < 20  # the library alone takes 23 s
    assert "dataset.repo=someone/stories is not in the local cache" in answer["error"]
    assert "refused" in answer["error"]
    assert "dataset.path=FOLDER" in answer["error"]
    assert "dataset=storyworld" in answer["error"]


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"repo": "someone/storys"}, "dataset.repo=someone/storys is not on the hub, or is private"),
    ({"repo": "some one"}, "dataset.repo=some one is no name; type dataset.repo=OWNER/NAME"),
    ({"repo": "someone/gated"}, "dataset.repo=someone/gated.* gated .*hf auth login"),
    ({"repo": "someone/no_data"}, "dataset.repo=someone/no_data has no data files"),
    ({"repo": "someone/script"}, "dataset.repo=someone/script.*scripts are no longer supported"),
    ({"repo": "someone/corrupt"}, "dataset.repo=someone/corrupt could not be loaded: Parquet"),
    ({"repo": "someone/down"}, "dataset.repo=someone/down .* from the hub: Server error '500"),
    ({"repo": "someone/stories", "revision": "v2"}, "dataset.revision=v2 is no branch, tag or"),
    ({"repo": "someone/subsets"}, "dataset.repo=someone/subsets has subsets; .*\n  .*: en, de"),
    (
        {"repo": "someone/subsets", "subset": "dee"},
        "dataset.subset=dee .*; did you mean dataset.subset=de.*\n  choices: de, en",
    ),
    (
        {"repo": "someone/large", "train_split": "trian"},
        "dataset.train_split=trian .*\n  choices: train, validation",
    ),
    (
        {"repo": "someone/stories", "validation_split": "test"},
        "dataset.validation_split=test .*\n  choices: train, validation",
    ),
    (
        {"repo": "someone/stories", "validation_fraction": 0.2},
        "dataset.validation_fraction=0.2 would be ignored.*dataset.validation_split=null",
    ),
    (
        {"repo": "someone/stories", "text_column": "story"},
        r"dataset.text_column=story is not a column\n  columns of .*: text \(string\), id \(int64",
    ),
    ({"repo": "someone/stories", "text_column": "id"}, "text_column=id holds int64, not text"),
    (
        {"repo": "someone/subsets", "subset": "de"},
        "dataset.validation_fraction=0.05 leaves no document for validation",
    ),
]


def test_every_mistake_is_named_with_its_way_out(machine: Any) -> None:
    answers = machine.load(*(case for case, _ in MISTAKES))
    for answer, (case, message) in zip(answers, MISTAKES, strict=True):
        assert re.search(message, answer.get("error", "")), (case, answer.get("error"))
        assert answer["elapsed_s"] < 20
    downloads = [call for call in machine.hub.calls if call.endswith(".parquet") and "GET" in call]
    assert not any("someone/large" in call for call in downloads), "a typo costs no download"


# Without any hub


def test_a_config_that_cannot_work_is_refused() -> None:
    for fields, message in (
        ({}, "dataset.repo is missing; type dataset.repo=OWNER/NAME, or dataset.path=FOLDER"),
        ({"path": "x", "revision": "v1"}, "dataset.revision=v1 would be ignored"),
        ({"repo": "a/b", "fraction": 1.1}, r"dataset.fraction=1.1 must be at most 1"),
        ({"repo": "a/b", "validation_split": "train"}, "dataset.validation_split=train is the tr"),
        (
            {
                "repo": "a/b",
                "validation_split": "train",
                "validation_rows": "9:",
                "train_rows": ":10",
            },
            "that have no row in common",
        ),
        ({"repo": "a/b", "train_rows": "20"}, "dataset.train_rows=20 is no range of rows; type"),
        ({"repo": "a/b", "train_rows": "20:10"}, "dataset.train_rows=20:10 has no rows: STOP"),
        ({"repo": "a/b", "max_documents": 5, "fraction": 0.5}, "both say how much to train on"),
        ({"repo": "a/b", "max_documents": 0}, "dataset.max_documents=0 must be at least 1"),
        (
            {"repo": "a/b", "validation_split": None, "validation_rows": "0:9"},
            "dataset.validation_rows=0:9 would be ignored",
        ),
    ):
        with pytest.raises(UserError, match=message):
            HubConfig(**fields)


@pytest.mark.parametrize(
    "change",
    [
        {"repo": "someone/else"},
        {"revision": "v1.0"},
        {"subset": "en"},
        {"text_column": "story"},
        {"train_split": "all"},
        {"validation_split": "test"},
        {"fraction": 0.5},
        {"max_documents": 5},
        {"train_rows": "20:"},
        {"validation_rows": ":20"},
        {"on_bad_text": "replace"},
        {"validation_fraction": 0.2},
    ],
)
def test_every_field_that_changes_the_documents_changes_the_identity(
    change: dict[str, Any],
) -> None:
    plain: dict[str, Any] = {"repo": "someone/stories"}
    changed = HubConfig(**plain | change).open().identity
    assert json.dumps(changed) != json.dumps(HubConfig(**plain).open().identity)


def test_a_folder_typed_as_a_repo_is_pointed_to_the_right_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "someone/stories").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"type dataset\.path=someone/stories"):
        HubConfig(repo="someone/stories").open()
