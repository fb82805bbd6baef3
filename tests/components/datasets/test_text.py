"""Local text files: reading, splitting, and errors."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tinygpt.components.datasets.reading import readers
from tinygpt.components.datasets.text import TextConfig
from tinygpt.errors import UserError

MANY = [f"Story {i}: once upon a time,\na cat sat." for i in range(200)]


def write_jsonl(path: Path, texts: list[str], column: str = "text") -> None:
    path.write_text("".join(json.dumps({"id": 1, column: text}) + "\n" for text in texts))


def write_csv(path: Path, texts: list[str], column: str = "text") -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", column], *([1, text] for text in texts)])


def write_parquet(path: Path, texts: list[str], column: str = "text") -> None:
    parquet.write_table(pa.table({"id": [1] * len(texts), column: texts}), path, row_group_size=7)


def write_txt(path: Path, texts: list[str], column: str = "text") -> None:
    path.write_text("<|end|>".join(texts), newline="")


WRITERS: dict[str, Callable[..., None]] = {
    ".jsonl": write_jsonl,
    ".csv": write_csv,
    ".parquet": write_parquet,
    ".txt": write_txt,
}


def documents(path: Path, split: str = "train", **fields: Any) -> list[str]:
    return list(TextConfig(path=str(path), **fields).open().documents(split))  # type: ignore[arg-type]


def everything(path: Path, **fields: Any) -> list[str]:
    """The documents of both splits; for more than one document."""
    return sorted(documents(path, **fields) + documents(path, "validation", **fields))


def fields_for(ending: str) -> dict[str, Any]:
    return {"separator": "<|end|>"} if ending == ".txt" else {}


# What is read


@pytest.mark.parametrize("ending", WRITERS)
def test_every_format_gives_the_same_documents(tmp_path: Path, ending: str) -> None:
    texts = [*MANY, "comma, \"quote\" and 'é' 😀\t", " spaces kept ", "carriage\r\nreturn"]
    WRITERS[ending](tmp_path / f"a{ending}", texts)
    assert everything(tmp_path, **fields_for(ending)) == sorted(texts)


@pytest.mark.parametrize("ending", WRITERS)
def test_blank_documents_are_left_out(tmp_path: Path, ending: str) -> None:
    WRITERS[ending](tmp_path / f"a{ending}", [*MANY, "", " \n\t ", "\r\n"])
    assert everything(tmp_path, **fields_for(ending)) == sorted(MANY)


def test_null_is_no_document(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [*MANY, None])  # type: ignore[list-item]
    write_jsonl(tmp_path / "b.jsonl", [None])  # type: ignore[list-item]
    assert everything(tmp_path) == sorted(MANY)


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    for ending in (".txt", ".jsonl", ".csv"):
        path = tmp_path / f"a{ending}"
        WRITERS[ending](path, MANY)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert everything(path, **fields_for(ending)) == sorted(MANY)


def test_a_folder_is_read_in_the_order_of_names_without_hidden_and_other_files(
    tmp_path: Path,
) -> None:
    for name in ("b/2.txt", "b/1.TXT", "a.txt", ".hidden.txt", ".git/x.txt", "picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    source = TextConfig(path=str(tmp_path), validation_fraction=0.6).open()
    assert list(source.identity["files"]) == ["a.txt", "b/1.TXT", "b/2.txt"]
    assert sorted(everything(tmp_path, validation_fraction=0.6)) == ["a.txt", "b/1.TXT", "b/2.txt"]


def test_a_separator_is_found_wherever_the_reading_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_txt(tmp_path / "a.txt", MANY)
    for n_bytes in (1, 2, 6, 7, 8, 1000):
        monkeypatch.setattr(readers, "_CHUNK", n_bytes)
        assert everything(tmp_path, separator="<|end|>") == sorted(MANY)


def test_a_separator_may_be_typed_with_escapes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(MANY[:50]))
    assert everything(tmp_path, separator=r"\n\n") == sorted(MANY[:50])


def test_a_long_csv_field_is_read(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ["x" * 200_000, *MANY])
    assert len(everything(tmp_path)) == 201


# How it is split


@pytest.mark.parametrize("ending", WRITERS)
def test_fraction_takes_the_first_part_and_leaves_validation_as_it_is(
    tmp_path: Path, ending: str
) -> None:
    WRITERS[ending](tmp_path / f"a{ending}", MANY)
    fields = fields_for(ending)
    train, validation = documents(tmp_path, **fields), documents(tmp_path, "validation", **fields)
    assert documents(tmp_path, fraction=0.25, **fields) == [t for t in MANY[:50] if t in train]
    assert documents(tmp_path, "validation", fraction=0.25, **fields) == validation


def test_the_last_characters_of_a_single_document_are_its_validation_split(tmp_path: Path) -> None:
    text = "".join(f"líne {i:03}\r\n" for i in range(100)) + "end"
    (tmp_path / "a.txt").write_text(text, newline="")
    assert documents(tmp_path) == [text[: int(0.9 * len(text))]]
    assert documents(tmp_path, "validation") == [text[int(0.9 * len(text)) :]]
    assert documents(tmp_path, validation_fraction=0.25, fraction=0.5) == [text[:376]]


def test_a_single_row_is_cut_like_a_single_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["x" * 90 + "y" * 10])
    assert documents(tmp_path) == ["x" * 90]
    assert documents(tmp_path, "validation") == ["y" * 10]


@pytest.mark.parametrize("ending", WRITERS)
def test_max_documents_takes_the_first_to_train_on(tmp_path: Path, ending: str) -> None:
    WRITERS[ending](tmp_path / f"a{ending}", MANY)
    fields = fields_for(ending)
    assert documents(tmp_path, max_documents=7, **fields) == documents(tmp_path, **fields)[:7]
    validation = documents(tmp_path, "validation", **fields)
    assert documents(tmp_path, "validation", max_documents=7, **fields) == validation


def test_a_single_document_that_is_too_short_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"leaves no text for train of .* one document of 1 char"):
        documents(tmp_path)


# What it is known by


def test_the_identity_follows_the_contents_and_not_the_place(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    write_jsonl(old / "a.jsonl", MANY)
    before = TextConfig(path=str(old)).open().identity
    old.rename(new)
    os.utime(new / "a.jsonl", (1, 1))
    assert TextConfig(path=str(new)).open().identity == before
    write_jsonl(new / "a.jsonl", [*MANY[:-1], MANY[-1].upper()])
    assert TextConfig(path=str(new)).open().identity != before


@pytest.mark.parametrize(
    "change",
    [
        {"text_column": "id"},
        {"fraction": 0.5},
        {"validation_fraction": 0.2},
        {"separator": "\n"},
        {"max_documents": 9},
        {"on_bad_text": "skip"},
    ],
)
def test_every_field_that_changes_the_documents_changes_the_identity(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    write_jsonl(tmp_path / "a.jsonl", MANY)
    write_txt(tmp_path / "b.txt", MANY)
    plain, changed = TextConfig(path=str(tmp_path)), TextConfig(path=str(tmp_path), **change)
    assert plain.open().identity != changed.open().identity


# What is wrong with it


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "stori.jsonl"}, r"dataset.path=.*stori.jsonl does not exist; did you mean "
                                  r"dataset.path=.*stories.jsonl"),
        ({"path": "notes.md"}, r"notes.md has no file .* read: \.txt, \.jsonl, \.csv, \.tsv, "),
        ({"path": "empty"}, "has no file that can be read"),
        ({"path": "blank.txt"}, "blank.txt holds no text"),
        ({"path": "stories.jsonl", "separator": "|"}, r"separator='\|' would be ignored"),
        ({"path": "stories.txt", "text_column": "body"}, "text_column=body would be ignored"),
        ({"path": "stories.txt", "max_documents": 9},
         r"max_documents=9 would be ignored: .* is one document; .* dataset.separator=TEXT"),
        ({"path": "one.jsonl", "max_documents": 9}, "max_documents=9 would be ignored"),
        ({"path": "stories.jsonl", "max_documents": 0}, "dataset.max_documents=0 must be at lea"),
        ({"path": "stories.jsonl", "max_documents": 9, "fraction": 0.5},
         "dataset.fraction=0.5 and dataset.max_documents=9 both say"),
        ({"path": "stories.jsonl", "on_bad_text": "ignore"},
         r"on_bad_text=ignore is not a choice.*\n  choices: error, replace, skip"),
        ({"path": "*.md"}, "md has no file that can be read"),
        ({"path": "stories.txt", "separator": "@@"}, "separator='@@' is nowhere in the .txt"),
        ({"path": "stories.txt", "separator": ""}, "separator='' separates nothing"),
        ({"path": "stories.jsonl", "text_column": "txt"},
         r"text_column=txt is not a column; did you mean text\?\n  columns of .*stories.jsonl:1: "
         r"id \(int\), text \(string\)"),
        ({"path": "stories.jsonl", "text_column": "id"}, "text_column=id holds int, not text"),
        ({"path": "stories.csv", "text_column": "body"}, r"columns of .*: id \(string\), text \("),
        ({"path": "stories.parquet", "text_column": "id"}, "text_column=id holds int64, not text"),
        ({"path": "stories.parquet", "text_column": "body"}, r"columns of .*: id \(int64\), text"),
        ({"path": "broken.jsonl"}, r"broken.jsonl:3 is not JSON"),
        ({"path": "list.jsonl"}, r"list.jsonl:1 must be an object"),
        ({"path": "ragged.csv"}, r"ragged.csv:3 is not CSV: 3 fields where the first line has 2"),
        ({"path": "quote.csv"}, r"quote.csv:2 is not CSV: ',' expected after"),
        ({"path": "broken.parquet"}, r"broken.parquet cannot be read as parquet"),
        ({"path": "latin.txt"}, r"latin.txt is not UTF-8: byte 11 \(0xE9\) begins no char.*=skip"),
        ({"path": "latin.jsonl"}, r"latin.jsonl is not UTF-8: byte 13 "),
        ({"path": "cut.txt"}, r"cut.txt is not UTF-8: byte 2 "),
        ({"path": "stories.txt", "fraction": 0}, "dataset.fraction=0 must be above 0"),
        ({"path": "stories.txt", "validation_fraction": 1}, "dataset.validation_fraction=1 must"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    for ending, write in WRITERS.items():
        write(tmp_path / f"stories{ending}", MANY)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("notes")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n\n{"text": "b"\n')
    (tmp_path / "list.jsonl").write_text('["a"]\n')
    (tmp_path / "ragged.csv").write_text("id,text\n1,a\n2,b,c\n")
    (tmp_path / "quote.csv").write_text('id,text\n1,"a "quote" inside"\n')
    (tmp_path / "broken.parquet").write_text("PAR1")
    write_jsonl(tmp_path / "one.jsonl", ["Only one."])
    (tmp_path / "latin.txt").write_bytes(b"one line\nca\xe9\n")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    (tmp_path / "cut.txt").write_bytes(b"ab\xc3")
    fields = fields | {"path": str(tmp_path / fields["path"])}
    with pytest.raises(UserError, match=message):
        list(TextConfig(**fields).open().documents("train"))
