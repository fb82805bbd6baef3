"""Readers: compressed files, broken encodings, and files larger than the memory limit."""

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tinygpt.components.datasets.reading import readers
from tinygpt.components.datasets.text import TextConfig, TextFiles
from tinygpt.errors import UserError

MANY = [f"Story {i}: once upon a time,\na cät sat." for i in range(200)]


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)  # type: ignore[no-any-return]


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}
LINES = {
    ".txt": "<|end|>".join(MANY).encode(),
    ".jsonl": "".join(json.dumps({"text": text}) + "\n" for text in MANY).encode(),
    ".csv": ('text\n"' + '"\n"'.join(MANY) + '"\n').encode(),
}


def opened(path: Path, **fields: Any) -> TextFiles:
    source = TextConfig(path=str(path), **fields).open()
    assert isinstance(source, TextFiles)
    return source


def everything(path: Path, **fields: Any) -> list[str]:
    source = opened(path, **fields)
    return sorted([*source.documents("train"), *source.documents("validation")])


def fields_for(kind: str) -> dict[str, Any]:
    return {"separator": "<|end|>"} if kind == ".txt" else {}


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kind", LINES)
def test_a_compressed_file_gives_the_same_documents(
    tmp_path: Path, kind: str, compression: str
) -> None:
    compress, half = COMPRESS[compression], len(LINES[kind]) // 2
    path = tmp_path / f"a{kind}{compression}"
    # two parts one after another are one file, as with cat
    path.write_bytes(compress(LINES[kind][:half]) + compress(LINES[kind][half:]))
    assert everything(path, **fields_for(kind)) == sorted(MANY)


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_compressed_file_that_was_cut_off_or_damaged_is_named(
    tmp_path: Path, compression: str
) -> None:
    path = tmp_path / f"a.jsonl{compression}"
    whole = COMPRESS[compression](LINES[".jsonl"])
    for broken in (whole[: len(whole) // 2], b"not compressed at all, but long enough to try"):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"a.jsonl.* cannot be decompressed: .*get it again"):
            everything(path)


def test_a_pattern_and_a_mixed_folder_take_every_file_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.jsonl").write_bytes(LINES[".jsonl"])
    (tmp_path / "b/c.csv.gz").write_bytes(gzip.compress(LINES[".csv"]))
    (tmp_path / "b/.d.jsonl").write_text("hidden")
    (tmp_path / "b/notes.md").write_text("notes")
    parquet.write_table(pa.table({"text": MANY}), tmp_path / "b/e.parquet")
    parquet.write_table(pa.table({"text": MANY}), tmp_path / "b/f.parquet.gz")
    assert list(opened(tmp_path).identity["files"]) == ["a.jsonl", "b/c.csv.gz", "b/e.parquet"]
    assert everything(tmp_path) == sorted(MANY * 3)
    assert everything(tmp_path / "**/*.csv.gz") == sorted(MANY)
    assert list(opened(tmp_path / "b/*").identity["files"]) == ["c.csv.gz", "e.parquet"]


# Broken encodings

BROKEN: dict[str, bytes] = {
    ".txt": b"<|end|>".join([b"good one", b"b\xffd", "gööd two".encode(), b"bad \xe2\x82"]),
    ".jsonl": b'{"text": "good one"}\n{"text": "b\xffd"}\n{"text": "g\\u00f6\xc3\xb6d two"}\n'
    b'{"text": "bad \\ud83d"}\n',
    ".csv": b'id,text\n1,good one\n2,"b\xffd\nmore"\n\xff,g\xc3\xb6\xc3\xb6d two\n4,bad \xe2\x82\n',
}


def write_broken(folder: Path, kind: str) -> Path:
    path = folder / f"a{kind}"
    if kind == ".parquet":
        texts = [b"good one", b"b\xffd", "gööd two".encode(), b"bad \xe2\x82"]
        column = pa.array(texts, pa.binary())
        strings = pa.StringArray.from_buffers(len(texts), column.buffers()[1], column.buffers()[2])
        parquet.write_table(pa.table({"text": strings}), path)
    else:
        path.write_bytes(BROKEN[kind])
    return path


@pytest.mark.parametrize("kind", [*BROKEN, ".parquet"])
def test_bad_text_is_an_error_or_replaced_or_skipped_and_counted(tmp_path: Path, kind: str) -> None:
    path = write_broken(tmp_path, kind)
    fields = fields_for(kind) | {"validation_fraction": 0.7}
    with pytest.raises(UserError, match=r"type dataset.on_bad_text=replace .* =skip|=skip"):
        everything(path, **fields)
    source = opened(path, on_bad_text="skip", **fields)
    assert sorted([*source.documents("train"), *source.documents("validation")]) == [
        "good one",
        "gööd two",
    ]
    assert source.dropped("train") == {"empty": 0, "bad_text": 2}
    assert source.dropped("validation") == {"empty": 0, "bad_text": 0}
    more = "\nmore" if kind == ".csv" else ""
    assert everything(path, on_bad_text="replace", **fields) == sorted(
        ["good one", f"b\ufffdd{more}", "gööd two", "bad \ufffd"]
    )


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        (".txt", r"a.txt is not UTF-8: byte 16 \(0xFF\)"),
        (".jsonl", r"a.jsonl is not UTF-8: byte 32 \(0xFF\)"),
        (".csv", r"a.csv is not UTF-8: byte 23 \(0xFF\)"),
        (".parquet", r"a.parquet row 1 is not UTF-8: byte 1 \(0xFF\)"),
    ],
)
def test_the_place_of_bad_text_is_named(tmp_path: Path, kind: str, place: str) -> None:
    with pytest.raises(UserError, match=place):
        everything(write_broken(tmp_path, kind), **fields_for(kind))


def test_a_bad_piece_of_a_single_document_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff")
    (tmp_path / "b.txt").write_bytes(b"good " * 20)
    source = opened(tmp_path, on_bad_text="skip")
    assert "".join(source.documents("train")) == "good " * 18
    assert source.dropped("train") == {"empty": 0, "bad_text": 1}


def test_empty_documents_are_counted(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": [*MANY, "", None, " \n"]}), tmp_path / "a.parquet")
    source = opened(tmp_path)
    assert source.dropped("train") == {}
    list(source.documents("train"))
    assert source.dropped("train") == {"empty": 3, "bad_text": 0}


# Sizes


def test_a_long_document_of_a_txt_is_cut_where_lines_end_however_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    long = "".join(f"líne {i}\n" for i in range(40)) + "é" * 60
    just = "x" * 20 + "\n" + "x" * 30
    path.write_text(f"{long}<|end|>short<|end|>{just}<|end|>{'y' * 52}")
    monkeypatch.setattr(readers, "PIECE", 51)
    seen = set()
    for n_bytes in (1, 7, 49, 64, 1000):
        monkeypatch.setattr(readers, "_CHUNK", n_bytes)
        seen.add(tuple(everything(path, separator="<|end|>", validation_fraction=0.5)))
    [pieces] = seen
    assert max(len(piece.encode()) for piece in pieces) <= 51
    assert {"short", just, "y" * 51, "y", "é" * 25}.issubset(pieces)
    lines = [piece for piece in pieces if piece.startswith("l")]
    assert all(piece.endswith("\n") for piece in lines)
    path.write_text(long)
    whole = opened(path, validation_fraction=0.25)
    parts = ["".join(whole.documents(split)) for split in ("train", "validation")]
    assert parts == [long[: int(len(long) * 0.75)], long[int(len(long) * 0.75) :]]


@pytest.mark.parametrize("kind", [*LINES, ".parquet"])
def test_the_size_of_the_text_is_about_known_before_it_is_read(tmp_path: Path, kind: str) -> None:
    texts = [f"{i} {' '.join(MANY[: i % 7])}" for i in range(500)]
    path = tmp_path / f"a{kind}"
    if kind == ".parquet":
        parquet.write_table(pa.table({"text": texts}), path)
    elif kind == ".csv":
        path.write_text("text\n" + "".join(f'"{text}"\n' for text in texts))
    else:
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    size = sum(len(text.encode()) for text in texts)
    assert opened(path).utf8_bytes_estimate() == pytest.approx(
        size, rel=0.25
    )  # quotes and names too
    part = opened(path, fraction=0.5, validation_fraction=0.2)
    assert part.utf8_bytes_estimate() == pytest.approx(0.6 * size, rel=0.25)


READ = """
import sys
from tinygpt.components.datasets.text import TextConfig
import pyarrow.parquet

def peak_kb():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])

source = TextConfig(path=sys.argv[1]).open()
before = peak_kb()
print(sum(map(len, source.documents("train"))) + sum(map(len, source.documents("validation"))))
print(peak_kb() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("kind", "n_texts", "most_kb"),
    [
        (".txt", 45_000, 40_000),
        pytest.param(".parquet", 90_000, 80_000, marks=pytest.mark.slow),
    ],
)
def test_memory_does_not_grow_with_one_huge_document_or_row_group(
    tmp_path: Path, kind: str, n_texts: int, most_kb: int
) -> None:
    path = tmp_path / f"a{kind}"
    story = "".join(f"line number {i} of a long text\n" for i in range(40))
    texts = [f"{i} {story}" for i in range(n_texts)]
    if kind == ".txt":
        with path.open("w") as file:
            file.writelines(texts)
    else:
        options: Any = {"compression": "none", "use_dictionary": False}
        parquet.write_table(pa.table({"text": texts}), path, **options)
    characters, grown_kb = subprocess.run(
        [sys.executable, "-c", READ, str(path)], check=True, capture_output=True, text=True
    ).stdout.split()
    assert int(characters) == sum(map(len, texts)) > 1300 * most_kb / 1.05
    assert int(grown_kb) < most_kb
