"""Copies are counted exactly within a memory limit; long common runs of words are found."""

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from tinygpt import train
from tinygpt.components.datasets.storyworld.config import StoryworldConfig
from tinygpt.components.datasets.text import TextConfig
from tinygpt.components.datasets.tiny_stories import TinyStoriesConfig
from tinygpt.corpus import overlap
from tinygpt.corpus.overlap import (
    Overlap,
    count_copies,
    count_shared_ngrams,
    count_sharing,
    digests,
    sample,
)

MB = 1 << 20
FEW = st.lists(st.sampled_from(["a", "b", "c", "\ud800", "", "a "]), max_size=12)


def written(folder: Path, *shards: list[str]) -> list[Path]:
    """The digests of each shard in a file of its own."""
    paths = [folder / f"{number}" for number in range(len(shards))]
    for path, texts in zip(paths, shards, strict=True):
        path.write_bytes(digests(texts).tobytes())
    return paths


@given(shards=st.lists(FEW, max_size=3), validation=FEW)
def test_copies_are_counted_as_by_comparing_all_texts(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[str]], validation: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("digests")
    (folder / "validation").mkdir()
    copies = count_copies(written(folder, *shards), written(folder / "validation", validation))
    train = [text for shard in shards for text in shard]
    assert copies == (len(train) - len({*train}), sum(text in train for text in validation))


def test_a_digest_is_of_the_text_and_the_same_everywhere() -> None:
    assert digests(["", "a", "\ud800"]).tolist() == [
        0x2D06800538D394C2,  # xxh3 of no bytes, from the specification of xxHash
        0xE6C632B61E964E1F,
        digests(["\ud800"])[0],
    ]
    assert digests(["a"]).dtype == np.dtype("<u8")


def random_digests(n: int, seed: int) -> overlap.Digests:
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


def test_memory_stays_within_what_was_granted_however_many_and_however_repeated(
    tmp_path: Path,
) -> None:
    different, again = random_digests(1_500_000, 0), random_digests(10, 1)
    train = np.concatenate([different, np.repeat(again, 100_000)])
    validation = np.concatenate([different[:30_000], random_digests(200_000, 2), again])
    np.random.default_rng(3).shuffle(train)
    for name, values in {"0": train[:7], "1": train[7:], "validation": validation}.items():
        values.tofile(tmp_path / name)
    tracemalloc.start()
    try:
        copies = count_copies(
            [tmp_path / "0", tmp_path / "1"], [tmp_path / "validation"], memory_bytes=8 * MB
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert copies == (10 * 99_999, 30_010)
    assert peak < 8 * MB < train.nbytes / 2


def test_all_documents_may_be_the_same(tmp_path: Path) -> None:
    same = written(tmp_path, ["once"] * 300_000)
    assert count_copies(same, same, memory_bytes=8 * MB) == (299_999, 300_000)
    assert count_copies([], same) == (0, 0)


def test_a_sample_is_even_without_repeats_and_the_same_each_time() -> None:
    drawn = sample(1_000_000, 10_000)
    assert drawn == sample(1_000_000, 10_000) != sample(1_000_000, 10_000, seed=1)
    assert len({*drawn}) == 10_000
    assert drawn == sorted(drawn)
    counts = Counter(index // 100_000 for index in drawn)
    assert min(counts.values()) > 850
    assert max(counts.values()) < 1_150
    assert sample(3, 10) == [0, 1, 2]


WORDS = [f"word{number}" for number in range(40)]


def text(*words: str) -> str:
    return " ".join(words)


def test_thirteen_words_in_a_row_are_found_whatever_their_case_and_punctuation() -> None:
    train = ["Nothing of it.", text("before", *WORDS[:13], "after")]
    shouted = ", ".join(WORDS[:13]).upper() + "! Then something else."
    other = text("unlike", *WORDS[20:35])
    twelve = text(*WORDS[:12], "other", *WORDS[12:13])
    shuffled = text(*WORDS[12::-1])
    assert count_sharing(train, [shouted]) == (2, 1, 1)
    assert count_sharing(train, [other, twelve, shuffled, "", "one two"]) == (2, 5, 0)
    assert count_sharing(train, [other, shouted, shouted]) == (2, 3, 2)
    assert count_sharing([], [shouted]) == (0, 1, 0)


def test_words_in_common_are_looked_for_in_a_bounded_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "TRAIN_SAMPLE", 2)
    monkeypatch.setattr(overlap, "VALIDATION_SAMPLE", 3)
    shared = text(*WORDS)
    assert count_sharing(["", "", shared], [shared] * 9) == (2, 3, 0)
    assert count_sharing(["", shared], [shared] * 9) == (2, 3, 3)
    monkeypatch.setattr(overlap, "LONGEST", 50)
    assert count_sharing(["", shared], [shared] * 9) == (2, 3, 0)


def test_all_words_in_common_are_counted_in_documents_of_any_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overlap, "LONGEST", 50)
    monkeypatch.setattr(overlap, "TRAIN_SAMPLE", 1)
    own = [f"own{number}" for number in range(20)]
    # 13 words have one run, 20 have eight; repeats count once
    validation = [text(*WORDS[:13]), text(*own), text(*WORDS[:13])]
    assert count_shared_ngrams(["", text(*own, *WORDS[:12])], validation) == (8, 9)
    assert count_shared_ngrams(["", text("x", *WORDS[:13]).upper()], validation) == (1, 9)
    assert count_shared_ngrams([], []) == (0, 0)


FOUND = Overlap(
    train_documents=20_000,
    train_copies=3,
    validation_documents=450,
    validation_in_train=9,
    sampled_train=8_000,
    sampled_validation=450,
    sampled_sharing=90,
)


def test_the_numbers_survive_the_manifest() -> None:
    assert Overlap.from_dict(FOUND.to_dict()) == FOUND


def test_the_numbers_are_shown_with_the_size_of_the_sample() -> None:
    assert FOUND.lines() == [
        "3 of 20,000 (<0.1 %) train documents repeat an earlier one",
        "9 of 450 (2 %) validation documents stand in train too, word for word",
        "90 of 450 (20 %) sampled validation documents share 13 words in a row with 8,000 sampled "
        "train documents; with all of train it is more",
        "  (that includes phrases which many texts use: generated text shares nearly everywhere, "
        "and leaks nothing by it)",
    ]
    everything = Overlap.from_dict(FOUND.to_dict() | {"sampled_train": 20_000})
    assert everything.lines()[2].endswith(" share 13 words in a row with train")


def test_a_warning_says_how_many_what_it_means_and_what_to_type() -> None:
    said = FOUND.warning(TinyStoriesConfig())
    assert said == (
        "9 of 450 (2 %) validation documents stand in train too, word for word: on these val/loss "
        "and val/bpb measure memory, and are too low; type dataset=tiny_stories_clean, the stories "
        "without copies, or dataset.validation_split=null, which holds out a part of train by a "
        "hash of the text and so keeps copies together"
    )
    other = FOUND.warning(TextConfig(path="a.txt"))
    assert other
    assert other.endswith("and are too low; choose another dataset=NAME")


def test_without_a_copy_in_train_nothing_is_warned_of() -> None:
    none = Overlap.from_dict(FOUND.to_dict() | {"validation_in_train": 0})
    assert none.warning(StoryworldConfig()) is None


def test_training_warns_of_a_validation_that_train_holds(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_stories = [f"Story {number}: {text(*WORDS)}." for number in range(30)]
    for split, texts in {
        "train": train_stories,
        "validation": [*train_stories[:2], "Another one, which is new."],
    }.items():
        path = tmp_path / "stories" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table({"text": texts}), path)
    of_text = ("dataset=text", "dataset.path=", "dataset.separator=")
    settings = [setting for setting in tiny if not setting.startswith(of_text)]
    dataset = ["dataset=tiny_stories", f"dataset.path={tmp_path / 'stories'}"]
    with pytest.raises(SystemExit) as end:
        train.main([*settings, *dataset, "trainer.max_steps=1"])
    assert end.value.code == 0
    said = capsys.readouterr().err
    assert said.startswith("warning: 2 of 3 (66.7 %) validation documents stand in train too")
