"""Characters get ids in code point order; the unseen are spelled in half bytes."""

import json
import random
import tracemalloc
from pathlib import Path

import pytest

from tinygpt.components.tokenizers.char import CHUNK, CharConfig, CharTokenizer


def train(*documents: str) -> CharTokenizer:
    return CharConfig().train(iter(documents))


def test_ids_are_end_of_text_then_nibbles_then_characters_in_order() -> None:
    tokenizer = train("bab", "a\n")
    assert tokenizer.vocab_size == 1 + 16 + 3
    assert tokenizer.encode("\nab") == [17, 18, 19]


def test_an_unseen_character_is_its_utf8_bytes_as_nibbles() -> None:
    e_acute = [1 + 0xC, 1 + 0x3, 1 + 0xA, 1 + 0x9]  # UTF-8 C3 A9
    assert train("ab").encode("a\u00e9b") == [17, *e_acute, 18]
    assert len(train("ab").encode("\N{GRINNING FACE}")) == 8


def test_unknown_characters_are_counted_each_time_they_occur() -> None:
    tokenizer = train("ab\0")
    assert tokenizer.unknown_characters("ab\0ab") == 0
    assert tokenizer.unknown_characters("axbx\N{GRINNING FACE}") == 3
    assert tokenizer.unknown_characters("") == 0


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([5, 2], b"A"),  # nibbles 4 and 1
        ([5], b""),
        ([5, 2, 5], b"A"),
        ([5, 17, 2], b"a"),  # a character parts them
        ([5, 0, 2], b""),  # so does end of text
        ([17, 5, 5, 2, 2], b"a\x44\x11"),
        ([5, 17, 5, 2], b"aA"),  # a stray one does not shift the next pair
    ],
)
def test_a_nibble_without_a_partner_adds_nothing(ids: list[int], expected: bytes) -> None:
    assert train("a").decode_bytes(ids) == expected


def test_the_order_of_documents_changes_nothing() -> None:
    documents = ["zebra", "apple\n", "\u00e9t\u00e9", "\ud83d\ude00 lone"]
    shuffled = random.Random(0).sample(documents, k=4)
    assert shuffled != documents
    assert train(*shuffled).fingerprint() == train(*documents).fingerprint()
    assert train("".join(shuffled)).fingerprint() == train(*documents).fingerprint()


def test_neighbouring_lone_surrogates_stay_two_characters_in_the_file(tmp_path: Path) -> None:
    tokenizer = train("\ude00\ud83d")  # JSON would join them in one string
    tokenizer.save(tmp_path)
    assert CharConfig().load(tmp_path).characters == ["\ud83d", "\ude00"]


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    train("ba").save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    assert content["characters"] == ["a", "b"]


def test_the_end_of_a_huge_document_is_learned_too() -> None:
    assert train("a" * CHUNK + "b" + "a" * CHUNK + "c").characters == ["a", "b", "c"]


@pytest.mark.parametrize(("length", "n"), [(8 * CHUNK, 1), (CHUNK // 4, 32)])
def test_training_holds_no_more_than_a_chunk_of_one_document(length: int, n: int) -> None:
    tracemalloc.start()
    try:
        CharConfig().train("x" * length for _ in range(n))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # tables over all code points, the document itself, a chunk of it as 4-byte and 8-byte numbers
    assert peak < 7_000_000 + length + 16 * CHUNK
