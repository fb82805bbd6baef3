"""Damaged files and paths that cannot be read: one line that names the file, in little memory."""

import bz2
import gzip
import json
import lzma
import os
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tinygpt.components.datasets.hub.config import HubConfig
from tinygpt.components.datasets.text import TextConfig
from tinygpt.components.datasets.tiny_shakespeare import TinyShakespeareConfig
from tinygpt.errors import UserError

MANY = [f"Story {i}: once upon a time,\na cät sat." for i in range(60)]
N_DAMAGES = 15  # of each format

# Damage


def write_parquet(**options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        texts = pa.array(MANY)
        if options.pop("category", False):
            texts = texts.dictionary_encode()
        table = pa.table({"id": list(range(len(MANY))), "text": texts})
        parquet.write_table(table, path, row_group_size=25, **options)

    return write


def write_bytes(data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


LINES = "".join(json.dumps({"text": text}) + "\n" for text in MANY).encode()
ROWS = "".join(f'{i};"{text}"\n' for i, text in enumerate(MANY))
FORMATS: dict[str, Callable[[Path], None]] = {
    "a.txt": write_bytes("".join(MANY).encode()),
    "a.jsonl": write_bytes(LINES),
    "a.csv": write_bytes(f"n;text\n{ROWS}".encode()),
    "a.jsonl.gz": write_bytes(gzip.compress(LINES)),
    "a.jsonl.bz2": write_bytes(bz2.compress(LINES)),
    "a.jsonl.xz": write_bytes(lzma.compress(LINES)),
    "a.jsonl.zst": write_bytes(pa.compress(LINES, codec="zstd", asbytes=True)),
    "plain.parquet": write_parquet(compression="none", use_dictionary=False),
    "dictionary.parquet": write_parquet(compression="none"),
    "snappy.parquet": write_parquet(compression="snappy", use_dictionary=False),
    "zstd.parquet": write_parquet(compression="zstd"),
    "category.parquet": write_parquet(category=True),
}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The data with flipped bits, another byte, bytes that were lost, or a hole of zeros."""
    broken = bytearray(data)
    at = rng.randrange(len(broken))
    match rng.choice(["flip", "flips", "byte", "cut", "hole", "insert"]):
        case "flip":
            broken[at] ^= 1 << rng.randrange(8)
        case "flips":
            for _ in range(4):
                broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        case "byte":
            broken[at] = rng.randrange(256)
        case "cut":
            del broken[at:]
        case "hole":
            broken[at : at + 16] = bytes(16)
        case "insert":
            broken[at:at] = rng.randbytes(3)
    return bytes(broken)


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_read_or_named_in_one_line_and_in_little_memory(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    FORMATS[name](path)
    whole, rng = path.read_bytes(), random.Random(f"damage of {name}")
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(N_DAMAGES):
        path.write_bytes(damaged(whole, rng))
        source = TextConfig(path=str(path), validation_fraction=0.3).open()
        try:
            source.utf8_bytes_estimate()
            texts = [*source.documents("train"), *source.documents("validation")]
        except UserError as error:
            texts = []
            if str(path) not in str(error):
                raise
        assert all(isinstance(text, str) for text in texts)
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert grown_kb < 100_000


def test_no_damage_to_a_footer_ends_the_process(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": MANY}), path)
    whole = path.read_bytes()
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for at in range(start, len(whole) - 8, 2):
        broken = bytearray(whole)
        broken[at] ^= 1 << at // 2 % 8
        path.write_bytes(broken)
        try:
            TextConfig(path=str(path)).open().utf8_bytes_estimate()
        except UserError as error:
            if str(path) not in str(error):
                raise


# Paths

ALL: list[Callable[[str], Any]] = [
    lambda path: TextConfig(path=path),
    lambda path: HubConfig(path=path),
    lambda path: TinyShakespeareConfig(path=path),
]


@pytest.mark.parametrize("config", ALL)
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("a\0b.txt", r"dataset.path='a\\x00b.txt' cannot be read: embedded null byte"),
        ("x" * 5000, r"dataset.path='x{100}\.\.\.' cannot be read: File name too long"),
        ("~nobody_at_all/a.txt", "dataset.path='~nobody.*cannot be read: Could not determine home"),
    ],
)
def test_a_path_that_the_system_refuses_is_one_line(
    config: Callable[[str], Any], typed: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        config(typed).open()
    assert "\n" not in str(error.value)


def test_a_wrong_pattern_advises_one_that_works(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/c.txt").write_text("text " * 20)
    with pytest.raises(UserError, match=r"\*\* must stand alone between slashes; type") as error:
        TextConfig(path=f"{tmp_path}/**.txt").open()
    advised = str(error.value).split("dataset.path=")[-1]
    assert list(TextConfig(path=advised).open().documents("train"))


@pytest.mark.parametrize("config", ALL)
def test_a_pipe_is_refused_instead_of_waited_for(
    tmp_path: Path, config: Callable[[str], Any]
) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"a.txt is a pipe.*type dataset.path=FILE"):
        config(str(tmp_path / "a.txt")).open()


def test_a_pipe_in_a_folder_is_no_text(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("text " * 20)
    assert "".join(TextConfig(path=str(tmp_path)).open().documents("train")) == "text " * 18


def test_a_folder_named_like_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "input.txt").mkdir()
    with pytest.raises(UserError, match=r"input.txt is a folder.*type dataset.path=FILE"):
        TinyShakespeareConfig(path=str(tmp_path)).open()


def test_a_working_folder_that_was_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for config in ALL:
        with pytest.raises(UserError, match=r"'a.txt' cannot be read: the current folder was rem"):
            config("a.txt").open()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that every user can enter; pytest's own are private."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_what_may_not_be_read_is_named_and_no_document_is_missed(open_folder: Path) -> None:
    tmp_path = open_folder
    (tmp_path / "a").mkdir()
    (tmp_path / "a/closed").mkdir(mode=0)
    (tmp_path / "b.txt").write_text("text " * 20)
    (tmp_path / "closed.txt").write_text("text " * 20)
    (tmp_path / "closed.txt").chmod(0)
    cases = {"a": "a/closed cannot be read", "a/closed": "cannot be read", "closed.txt": "closed.t"}
    as_root = os.geteuid() == 0
    if as_root:
        os.seteuid(65534)  # root may read everything
    try:
        for name, message in cases.items():
            with pytest.raises(UserError, match=f"{message}.*: Permission denied"):
                list(TextConfig(path=str(tmp_path / name)).open().documents("train"))
            with pytest.raises(UserError, match=f"{message}.*: Permission denied"):
                _ = TextConfig(path=str(tmp_path / name)).open().identity
    finally:
        if as_root:
            os.seteuid(0)
