"""Files of other formats than their names say, and the variants of CSV and parquet that exist."""

import codecs
import gzip
import io
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tinygpt.components.datasets.reading import parquet_files
from tinygpt.components.datasets.text import TextConfig
from tinygpt.errors import UserError

MANY = [f"Story {i}: once upon a time,\na cät sat." for i in range(60)]


def everything(path: Path, **fields: Any) -> list[str]:
    """The documents of both splits."""
    source = TextConfig(path=str(path), **fields).open()
    return sorted([*source.documents("train"), *source.documents("validation")])


# Files that are not UTF-8 text


@pytest.mark.parametrize("policy", ["error", "replace", "skip"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_refused_under_every_policy_with_a_command_that_converts_it(
    tmp_path: Path, encoding: str, policy: str
) -> None:
    path = tmp_path / "a story.txt"
    text = "\n\n".join(MANY)
    path.write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match=r"a story.txt is UTF-\d.*; convert it .*\n  iconv") as info:
        everything(path, on_bad_text=policy)
    if policy == "error":
        command = str(info.value).splitlines()[-1]
        subprocess.run(["/bin/sh", "-c", command], check=True)
        assert "".join(everything(path)).count("Story") == len(MANY)


def test_utf_16_in_a_compressed_file_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress('{"text": "a"}\n'.encode("utf-16")))
    with pytest.raises(UserError, match=r"a.jsonl.gz is UTF-16; decompress it and convert"):
        everything(path)


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a", "text")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive(), "is a zip archive, as .docx and .epub are, not plain text; leave it out"),
        (b"PK\x03\x04", "is a zip archive"),
        (
            gzip.compress(b"text", mtime=0),
            "is compressed by gzip, not plain text; name it a.txt.gz",
        ),
        (b"PAR1 and so on", "is a parquet file, not plain text; name it a.parquet"),
        (b"%PDF-1.7\n", "is a PDF"),
        (bytes(range(256)) + bytes(100), "is not text: it has NUL bytes; leave it out"),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "b.txt").write_text("some text " * 100)
    with pytest.raises(UserError, match=f"a.txt {message}"):
        everything(tmp_path, on_bad_text="replace")


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv", ".parquet"])
def test_a_nul_in_a_document_is_bad_text(tmp_path: Path, kind: str) -> None:
    path, texts = tmp_path / f"a{kind}", [*MANY, "a NUL\0here"]
    fields = {}
    if kind == ".parquet":
        parquet.write_table(pa.table({"text": texts}), path)
    elif kind == ".txt":
        fields["separator"] = "<|end|>"
        path.write_text("<|end|>".join(texts))
    elif kind == ".csv":
        path.write_text("text\n" + "\n".join(f'"{text}"' for text in texts))
    else:
        lines = [text.replace("\n", "\\n").replace("\0", "\\u0000") for text in texts]
        path.write_text("".join(f'{{"text": "{line}"}}\n' for line in lines))
    with pytest.raises(UserError, match=rf"a{kind}.* NUL.*type dataset.on_bad_text=replace"):
        everything(path, **fields)
    assert everything(path, on_bad_text="skip", **fields) == sorted(MANY)
    assert "a NUL\ufffdhere" in everything(path, on_bad_text="replace", **fields)


# Variants of CSV


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.tsv.gz"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_that_makes_the_text_a_column(
    tmp_path: Path, delimiter: str, name: str
) -> None:
    rows = [f'{i}{delimiter}"{text}"' for i, text in enumerate(MANY)]
    data = "\n".join([f"n{delimiter}text", *rows]).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert everything(tmp_path) == sorted(MANY)
    with pytest.raises(UserError, match=r"did you mean text\?\n.*: n \(string\), text \(string\)"):
        everything(tmp_path, text_column="texts")


def test_a_whole_header_typed_as_the_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text;n\nA story, told;1\n")
    with pytest.raises(UserError, match=r"text;n is the whole first line .* by ';'.*\n.*: text, n"):
        everything(tmp_path, text_column="text;n")


def test_a_single_column_may_hold_any_character(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "\n".join(f"a;b|c\t{i}" for i in range(60)))
    assert len(everything(tmp_path)) == 60


# Variants of parquet


KINDS: dict[str, Any] = {
    "category": pa.dictionary(pa.int32(), pa.string()),
    "binary": pa.binary(),
    "large": pa.large_string(),
    "large binary": pa.large_binary(),
    "view": pa.string_view(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_of_text_column_gives_the_same_documents(tmp_path: Path, kind: str) -> None:
    column = pa.array([*MANY, None]).cast(KINDS[kind])
    parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet", row_group_size=7)
    parquet.write_table(pa.table({"text": pa.nulls(5)}), tmp_path / "b.parquet")
    assert everything(tmp_path) == sorted(MANY)


def test_binary_that_is_not_utf_8_is_bad_text(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": [*MANY, b"\xff\xd8\xff"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet row 60 is not UTF-8: byte 0 \(0xFF\)"):
        everything(tmp_path)
    assert everything(tmp_path, on_bad_text="skip") == sorted(MANY)


@pytest.mark.parametrize("column", [[["a", "b"]], [{"role": "user"}], [1.5]])
def test_a_parquet_column_of_another_type_is_named(tmp_path: Path, column: Any) -> None:
    parquet.write_table(pa.table({"text": column, "story": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"text holds .*, not text\n  columns .* story \(string\)"):
        everything(tmp_path)


def test_columns_beside_the_text_may_be_nested(tmp_path: Path) -> None:
    data = {"meta": [{"text": "x"}] * 60, "tags": [["a", "b"]] * 60, "text": MANY}
    parquet.write_table(pa.table(data), tmp_path / "a.parquet")
    assert everything(tmp_path) == sorted(MANY)


@pytest.mark.parametrize("encoding", ["dictionary", "DELTA_BYTE_ARRAY"])
def test_rows_that_share_a_long_value_take_the_memory_of_a_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setattr(parquet_files, "_DICTIONARY_BATCH_BYTES", 1 << 20)
    path = tmp_path / "a.parquet"
    options: dict[str, Any] = {"compression": "zstd", "store_schema": False}
    if encoding != "dictionary":
        options |= {"use_dictionary": False, "column_encoding": {"text": encoding}}
    value = "many words " * 10_000
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), [value])
    parquet.write_table(pa.table({"text": column}), path, **options)
    assert path.stat().st_size < 40_000
    peak = n = 0
    for text in TextConfig(path=str(path)).open().documents("train"):
        n += text == value
        peak = max(peak, pa.total_allocated_bytes())
    assert n == 300
    assert peak < 5_000_000 < n * len(value) / 4


# Files without text in a folder


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.txt", "a.csv.gz"])
@pytest.mark.parametrize("data", [b"", codecs.BOM_UTF8, b"\n \n"])
def test_an_empty_file_does_not_stop_a_folder(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (tmp_path / "b.jsonl").write_text("".join(f'{{"text": "story {i}"}}\n' for i in range(60)))
    assert len(everything(tmp_path)) == 60
    with pytest.raises(UserError, match="holds no text"):
        everything(tmp_path / name)
