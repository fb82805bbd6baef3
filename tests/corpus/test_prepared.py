"""Prepared tokens: the files' content, when they are made again, and that they are complete.

The test file is also the program that the tests start and kill: see `main` at its end.
"""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

import tinygpt
from tinygpt.components.datasets.text import TextConfig
from tinygpt.components.tokenizers.bpe import BPEConfig
from tinygpt.components.tokenizers.char import CharConfig
from tinygpt.config import PrepareConfig
from tinygpt.corpus import sharding
from tinygpt.corpus.prepared import prepare
from tinygpt.errors import UserError
from tinygpt.interfaces import DatasetConfig, Split, TextSource, Tokenizer, TokenizerConfig

TEXTS: dict[Split, list[str]] = {
    "train": ["aé", "b", "", "a🙂\n", "lone \ud800"],
    "validation": ["ab", "zß"],  # z and ß are not in the vocabulary
}
ROOT = Path(tinygpt.__file__).parents[1]


@dataclass
class PagesConfig(DatasetConfig):
    """Documents of this file, and a source that notes each look at them."""

    name: str = "pages"
    revision: str = "r1"
    fraction: float = 1.0

    def open(self) -> "Pages":
        return Pages(self)


class Pages(TextSource):
    texts = TEXTS
    read: list[str] = []  # noqa: RUF012  # shared by all, and emptied by each test
    at_moment = staticmethod(lambda moment: None)  # called with a name of each moment of a build

    def __init__(self, cfg: PagesConfig) -> None:
        self.cfg = cfg

    @property
    def identity(self) -> dict[str, Any]:
        return {"revision": self.cfg.revision, "fraction": self.cfg.fraction}

    def provenance(self) -> dict[str, Any]:
        self.at_moment("provenance")
        return {"commit": "0123abcd"}

    def entropy_bits(self, split: Split) -> float | None:
        self.at_moment(f"entropy of {split}")
        return 12.5 if split == "validation" else None

    def dropped(self, split: Split) -> dict[str, int]:
        return {"empty": 1}

    def documents(self, split: Split) -> Iterator[str]:
        self.read.append(split)
        turn = self.read.count(split)
        for i, text in enumerate(self.texts[split]):
            self.at_moment(f"{split} {turn}, document {i}")
            yield text


@pytest.fixture(autouse=True)
def nothing_read_yet() -> None:
    Pages.read.clear()


def silent(text: str) -> None: ...


def config(folder: Path, **fields: Any) -> PrepareConfig:
    choices: dict[str, Any] = {"dataset": PagesConfig(), "tokenizer": CharConfig(), **fields}
    return PrepareConfig(cache_dir=str(folder), **choices)


def folders(cache: Path) -> list[Path]:
    return sorted(path for path in cache.glob("*/*") if path.is_dir())


# What is in the files


def test_a_stream_is_end_of_text_then_each_document_with_end_of_text_behind(
    tmp_path: Path,
) -> None:
    data = prepare(config(tmp_path), silent)
    encode, eot = data.tokenizer.encode, [data.tokenizer.eot_id]
    train = [*eot, *encode("aé"), *eot, *encode("b"), *eot, *encode("a🙂\n"), *eot]
    assert data.tokens("train")[:].tolist() == [*train, *encode("lone \ud800"), *eot]
    assert data.tokens("validation")[:].tolist() == [*eot, *encode("ab"), *eot, *encode("zß"), *eot]
    assert len(encode("zß")) == 2 + 4  # spelled by nibbles: tokens are not characters


def test_documents_are_counted_in_tokens_and_utf8_bytes_up_to_their_ends(tmp_path: Path) -> None:
    data = prepare(config(tmp_path), silent)
    assert data.document_ends("train")[:].tolist() == [[4, 3], [6, 4], [10, 10], [17, 18]]
    assert data.document_ends("validation")[:].tolist() == [[4, 2], [11, 5]]
    for split, documents, tokens, utf8_bytes in [("train", 4, 17, 18), ("validation", 2, 11, 5)]:
        info = data.splits[split]  # type: ignore[index]
        assert (info.documents, info.tokens, info.utf8_bytes) == (documents, tokens, utf8_bytes)


def test_the_stream_is_the_same_however_it_is_batched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(config(tmp_path / "1"), silent)
    monkeypatch.setattr(sharding, "BATCH_BYTES", 3)
    parts = prepare(config(tmp_path / "2"), silent)
    assert parts.folder.name == whole.folder.name
    for file in ("train-00000.tokens.bin", "train-00000.documents.bin", "train-00000.json"):
        assert (parts.folder / file).read_bytes() == (whole.folder / file).read_bytes()


def test_the_stream_is_the_same_however_it_is_cut_into_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(config(tmp_path / "1"), silent)
    monkeypatch.setattr(sharding, "SHARD_BYTES", 3)
    monkeypatch.setattr(sharding, "BATCH_BYTES", 1)
    cut = prepare(config(tmp_path / "2"), silent)
    assert [shard.documents for shard in cut.splits["train"].shards] == [1, 2, 1]
    for split, info in whole.splits.items():
        assert len(info.shards) == 1
        assert cut.tokens(split)[:].tolist() == whole.tokens(split)[:].tolist()
        assert cut.document_ends(split)[:].tolist() == whole.document_ends(split)[:].tolist()
        assert replace(cut.splits[split], shards=info.shards) == info


def test_the_manifest_says_where_the_tokens_come_from_and_what_they_are(tmp_path: Path) -> None:
    dataset = PagesConfig(fraction=0.5)
    data = prepare(config(tmp_path, dataset=dataset), silent)
    manifest = json.loads((data.folder / "manifest.json").read_text())
    assert manifest["dataset"] == {"name": "pages", "revision": "r1", "fraction": 0.5}
    assert manifest["provenance"] == {"commit": "0123abcd"}
    assert manifest["tokenizer"] == {"name": "char"}
    assert manifest["tokenizer_fingerprint"] == data.tokenizer.fingerprint()
    assert manifest["vocab_size"] == data.tokenizer.vocab_size
    assert (manifest["eot_id"], manifest["dtype"], manifest["format"]) == (0, "<u2", 2)
    assert manifest["tinygpt"] == tinygpt.__version__
    assert manifest["created_at"].endswith("+00:00")

    def xxh3(file: str) -> str:
        path = data.folder / f"validation-00000.{file}.bin"
        return xxhash.xxh3_128_hexdigest(path.read_bytes())

    assert manifest["splits"]["validation"] == {
        "documents": 2,
        "tokens": 11,
        "utf8_bytes": 5,
        "entropy_bits": 12.5,
        "dropped": {"empty": 1},
        "shards": [
            {
                "index": 0,
                "read": 2,
                "documents": 2,
                "tokens": 11,
                "utf8_bytes": 5,
                "checksums": {file: xxh3(file) for file in ("tokens", "documents", "digests")},
            }
        ],
    }
    assert manifest["splits"]["train"]["entropy_bits"] is None
    assert manifest["overlap"]["train_documents"] == 4
    assert data.splits["validation"].floor_bpb == 12.5 / 5
    assert data.splits["train"].floor_bpb is None


class Wide(Tokenizer):
    """Each character is the largest id; a vocabulary of any size."""

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    def vocab_size(self) -> int:
        return self.size

    def encode(self, text: str) -> list[int]:
        return [self.size - 1] * len(text)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"x" * len(list(ids))

    def save(self, folder: Path) -> None: ...

    def fingerprint(self) -> str:
        return f"wide {self.size}"


@dataclass
class WideConfig(TokenizerConfig):
    name: str = "wide"
    size: int = 0

    def train(self, documents: Iterator[str]) -> Wide:
        return Wide(self.size)

    def load(self, folder: Path) -> Wide:
        return Wide(self.size)


@pytest.mark.parametrize(
    ("vocab_size", "width"), [(1 << 16, 2), ((1 << 16) + 1, 4), ((1 << 31) - 1, 4)]
)
def test_ids_take_two_bytes_where_they_fit_and_else_four(
    tmp_path: Path, vocab_size: int, width: int
) -> None:
    data = prepare(config(tmp_path, tokenizer=WideConfig(size=vocab_size)), silent)
    tokens = data.tokens("validation")[:]
    last = vocab_size - 1
    assert tokens.tolist() == [0, last, last, 0, last, last, 0]
    assert (data.folder / "validation-00000.tokens.bin").stat().st_size == width * len(tokens)
    assert tokens.dtype == np.dtype(f"<u{width}")


def test_an_existing_tokenizer_of_ours_comes_back_with_the_tokens(tmp_path: Path) -> None:
    texts = [f"A tale of {n} mice. " * 3 for n in range(60)]
    (tmp_path / "tales.txt").write_text("|".join(texts))
    dataset = TextConfig(path=str(tmp_path / "tales.txt"), separator="|")
    for tokenizer in (CharConfig(), BPEConfig(vocab_size=290)):
        for _ in range(2):  # made, and opened
            data = prepare(config(tmp_path, dataset=dataset, tokenizer=tokenizer), silent)
            both = "".join(data.tokenizer.decode(data.tokens(s)[:].tolist()) for s in data.splits)
            assert sorted(both.split("A tale")) == sorted("".join(texts).split("A tale"))


# When they are made again


def test_a_second_prepare_reads_nothing_and_writes_nothing(tmp_path: Path) -> None:
    first = prepare(config(tmp_path), silent)
    # a look at the first document of each, then the vocabulary, then the tokens
    assert Pages.read == ["validation", "train", "train", "train", "validation"]
    Pages.read.clear()

    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    before = state()
    lines: list[str] = []
    second = prepare(config(tmp_path), lines.append)
    assert (Pages.read, lines, state()) == ([], [], before)
    assert second.folder == first.folder
    assert second.tokens("train")[:].tolist() == first.tokens("train")[:].tolist()
    assert second.tokenizer.fingerprint() == first.tokenizer.fingerprint()


def test_every_field_that_determines_the_tokens_makes_another_folder_and_no_other_does(
    tmp_path: Path,
) -> None:
    text = tmp_path / "a.txt"
    text.write_text("|".join(f"document {i}" for i in range(30)))
    dataset = TextConfig(path=str(text), separator="|")
    base = config(tmp_path / "cache", dataset=dataset)
    changes: list[PrepareConfig] = [
        replace(base, dataset=replace(dataset, fraction=0.5)),
        replace(base, dataset=replace(dataset, validation_fraction=0.2)),
        replace(base, dataset=replace(dataset, separator="t")),
        replace(base, tokenizer=BPEConfig(vocab_size=280)),
        replace(base, tokenizer=BPEConfig(vocab_size=281)),
        replace(base, tokenizer=BPEConfig(vocab_size=280, train_bytes=200_000)),
        replace(base, tokenizer=BPEConfig(vocab_size=280, character_coverage=0.999)),
        replace(base, dataset=PagesConfig()),
        replace(base, dataset=PagesConfig(revision="r2")),
    ]
    made = {prepare(cfg, silent).folder for cfg in [base, *changes]}
    assert len(made) == 1 + len(changes)
    assert sorted(made) == folders(tmp_path / "cache")

    text.write_text(text.read_text() + "|one more")
    made.add(prepare(base, silent).folder)
    assert len(made) == 2 + len(changes)

    elsewhere = tmp_path / "elsewhere" / "a.txt"
    elsewhere.parent.mkdir()
    text.rename(elsewhere)
    moved = replace(base, dataset=replace(dataset, path=str(elsewhere)))
    assert prepare(moved, silent).folder in made
    other_cache = replace(moved, cache_dir=str(tmp_path / "other"))
    assert prepare(other_cache, silent).folder.name in {folder.name for folder in made}


def test_the_home_folder_and_the_working_folder_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    home = prepare(config(Path("~/cache")), silent).folder
    assert home.is_relative_to(tmp_path / "home" / "cache")
    assert prepare(config(Path("here")), silent).folder.is_relative_to(tmp_path / "here")


# What is wrong, and the way out


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("texts", [[], [""]])
def test_a_split_without_text_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: Split, texts: list[str]
) -> None:
    monkeypatch.setattr(Pages, "texts", {**TEXTS, split: texts})
    with pytest.raises(UserError, match=f"the {split} split holds no text"):
        prepare(config(tmp_path, tokenizer=WideConfig(size=10)), silent)
    assert folders(tmp_path) == []


def test_another_failure_to_read_is_not_called_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(moment: str) -> None:
        raise FileNotFoundError(errno.ENOENT, "gone", "part-7.parquet")

    monkeypatch.setattr(Pages, "at_moment", staticmethod(broken))
    with pytest.raises(FileNotFoundError):
        prepare(config(tmp_path), silent)
    assert folders(tmp_path) == []


def test_a_number_of_processes_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="workers=0 must be at least 1"):
        config(tmp_path, workers=0)


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        prepare(config(tmp_path / "file"), silent)
    assert str(error.value).startswith(f"cache_dir={tmp_path / 'file'} cannot be written (")
    assert str(error.value).endswith("; type cache_dir=FOLDER")


# Two processes, and death


def started(*arguments: object) -> subprocess.Popen[str]:
    """This file as a process of its own."""
    command = [sys.executable, __file__, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_of_two_that_start_together_one_builds_and_the_other_waits_and_says_so(
    tmp_path: Path,
) -> None:
    cache = tmp_path / "cache"
    processes = [started("wait", cache, tmp_path / "gate") for _ in range(2)]
    outputs: list[list[str]] = [[], []]
    for process, lines in zip(processes, outputs, strict=True):
        assert process.stdout
        lines.append(process.stdout.readline())  # "preparing" or "another process is preparing"
    assert folders(cache) == [folder for folder in folders(cache) if folder.suffix == ".partial"]
    (tmp_path / "gate").touch()
    for process, lines in zip(processes, outputs, strict=True):
        lines += process.communicate(timeout=30)[0].splitlines()
        assert process.returncode == 0

    builder, waiter = sorted(outputs, key=lambda lines: lines[0].startswith("another"))
    (folder,) = folders(cache)
    assert builder[0].startswith("preparing pages as char tokens")
    assert builder[-1] == f"{folder} after ['validation', 'train', 'train', 'train', 'validation']"
    assert waiter == [
        f"another process is preparing {folder}; waiting for it\n",
        f"{folder} after []",
    ]


def test_who_waits_for_a_process_that_dies_builds_instead(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    victim = started("wait", cache, tmp_path / "never")
    assert victim.stdout
    victim.stdout.readline()
    waiter = started("wait", cache, tmp_path / "gate")
    assert waiter.stdout
    assert waiter.stdout.readline().startswith("another process is preparing")
    victim.kill()
    (tmp_path / "gate").touch()
    last = waiter.communicate(timeout=30)[0].splitlines()[-1]
    assert (
        last == f"{folders(cache)[0]} after ['validation', 'train', 'train', 'train', 'validation']"
    )
    victim.communicate()


def main(task: str, cache: Path, argument: str) -> None:
    """Prepare in `cache`, and wait for a file at each moment."""

    def at_moment(moment: str) -> None:
        if task == "wait":
            wait_for(Path(argument))

    Pages.at_moment = staticmethod(at_moment)
    data = prepare(config(cache), print)
    print(f"{data.folder} after {Pages.read}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
