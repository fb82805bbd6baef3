"""The files of prepared tokens: shards read as one array, and damage is detected."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt.corpus.shards import (
    FILES,
    Shard,
    ShardedArray,
    ShardWriter,
    documents_at,
    documents_of,
    first_damage,
    path_of,
    read_sealed,
    record_path,
    tokens_of,
    write_sealed,
)

ROWS = np.arange(60).reshape(-1, 2) * 10


@st.composite
def pieces(draw: st.DrawFn) -> ShardedArray:
    cuts = sorted(draw(st.lists(st.integers(0, len(ROWS)), max_size=6)))
    return ShardedArray(np.split(ROWS, cuts))


@given(pieces(), st.slices(len(ROWS)))
def test_a_slice_across_shards_is_that_of_the_whole(array: ShardedArray, part: slice) -> None:
    assert array[part].tolist() == ROWS[part].tolist()
    assert array[part, 1].tolist() == ROWS[part, 1].tolist()
    assert len(array) == len(ROWS)


@given(pieces(), st.lists(st.integers(-len(ROWS), len(ROWS) - 1), max_size=12))
def test_indices_of_any_shape_find_the_rows_of_the_whole(
    array: ShardedArray, indices: list[int]
) -> None:
    for shape in [(-1,), (1, -1), (len(indices), 1, 1)]:
        key = np.array(indices, np.int64).reshape(shape)
        assert array[key].tolist() == ROWS[key].tolist()
        assert array[key, 0].tolist() == ROWS[key, 0].tolist()
        assert array[key].dtype == ROWS.dtype
    for index in indices:
        assert array[index].tolist() == ROWS[index].tolist()
        assert array[index, 1] == ROWS[index, 1]


@pytest.mark.parametrize("index", [60, -61, [0, 60]])
@pytest.mark.parametrize("cuts", [[], [3], [0, 60]])
def test_what_is_outside_of_the_array_is_refused(index: Any, cuts: list[int]) -> None:
    array = ShardedArray(np.split(np.arange(60), cuts))
    with pytest.raises(IndexError):
        array[index]


def test_an_array_in_pieces_is_taken_where_an_array_is() -> None:
    array = ShardedArray(np.split(np.arange(9), [2, 5]))
    assert np.asarray(array).tolist() == list(range(9))
    assert np.searchsorted(array, 6) == 6
    assert np.asarray(array, dtype=np.float32).dtype == np.float32


def written(folder: Path, before: list[Shard]) -> Shard:
    writer = ShardWriter(folder, "train", len(before), before=before)
    for tokens, lengths, utf8_bytes in [([7, 7, 0, 8, 0], [3, 2], [5, 1]), ([9, 0], [2], [4])]:
        writer.add(
            np.array(tokens, "<u2"),
            read=len(lengths) + 1,
            lengths=np.array(lengths),
            utf8_bytes=np.array(utf8_bytes),
            digests=np.array(lengths, "<u8"),
        )
    return writer.finish()


def test_shards_go_on_counting_where_those_before_them_stop(tmp_path: Path) -> None:
    shards = [written(tmp_path, [])]
    shards.append(written(tmp_path, shards))
    assert [shard.tokens for shard in shards] == [8, 7]  # the stream begins with end of text
    assert {(s.read, s.documents, s.utf8_bytes) for s in shards} == {(5, 3, 10)}
    stream = [7, 7, 0, 8, 0, 9, 0]
    assert tokens_of(tmp_path, "train", shards, "<u2")[:].tolist() == [0, *stream, *stream]
    ends = [[4, 5], [6, 6], [8, 10], [11, 15], [13, 16], [15, 20]]
    assert documents_of(tmp_path, "train", shards)[:].tolist() == ends
    for drawn in ([0, 1, 2, 3, 4, 5], [0], [3], [2, 4], []):
        documents = documents_at(drawn, tmp_path, "train", shards, "<u2")
        expected = [[[7, 7], [8], [9]][i % 3] for i in drawn]
        assert [ids.tolist() for ids in documents] == expected
    record = read_sealed(record_path(tmp_path, "train", 1))
    assert record
    assert Shard(**record) == shards[1]


def test_a_shard_is_seen_when_it_is_whole_and_not_before(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train", 0, before=[])
    assert {path.suffix for path in tmp_path.iterdir()} == {".partial"}
    writer.abandon()
    assert list(tmp_path.iterdir()) == []
    written(tmp_path, [])
    assert len(list(tmp_path.iterdir())) == len(FILES) + 1


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["flipped", "truncated", "longer", "gone"])
def test_every_change_of_a_file_is_found(tmp_path: Path, file: str, damage: str) -> None:
    shard = written(tmp_path, [])
    assert first_damage(tmp_path, "train", shard) is None
    path = path_of(tmp_path, "train", 0, file)
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes({"truncated": content[:-1], "longer": content + b"\0"}.get(damage, content))
    if damage == "gone":
        path.unlink()
    assert first_damage(tmp_path, "train", shard) == path


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device of a full disk is of Linux")
def test_a_shard_for_which_the_disk_is_full_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "train-00000.tokens.bin.partial").symlink_to("/dev/full")
    writer = ShardWriter(tmp_path, "train", 0, before=[])
    many = np.ones(100_000, np.int64)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        writer.add(many, read=1, lengths=many, utf8_bytes=many, digests=many)
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_json_that_was_changed_is_not_taken_for_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    content = {"tokens": 5, "checksums": {"tokens": "ab"}, "entropy_bits": 1.5}
    write_sealed(path, content)
    assert read_sealed(path) == content
    text = path.read_text()
    for broken in (text.replace("5", "6", 1), text[: len(text) // 2], "[]", "", "{}", "\0"):
        path.write_text(broken)
        assert read_sealed(path) is None
    path.write_text(json.dumps(json.loads(text)))  # the same content, written in another way
    assert read_sealed(path) == content
    path.unlink()
    assert read_sealed(path) is None
