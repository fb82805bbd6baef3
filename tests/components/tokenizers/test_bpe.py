"""BPE: cases that sentencepiece alone gets wrong, and errors."""

import random
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt.components.datasets.storyworld.config import StoryworldConfig
from tinygpt.components.tokenizers.bpe import (
    MAX_KNOWN,
    MAX_KNOWN_BYTES,
    MAX_PART,
    RESERVED,
    BPEConfig,
    BPETokenizer,
    _word_cuts,
)
from tinygpt.errors import UserError

STORY = "once there was a little red bird who liked to sing under the old oak tree"
NEWLINE = 1
FIRST_BYTE = 2


def documents(n: int = 200) -> Iterator[str]:
    rng = random.Random(0)
    for _ in range(n):
        yield "\n".join(" ".join(rng.choices(STORY.split(), k=8)) for _ in range(3))


def train(*texts: str, **fields: int | float | str) -> BPETokenizer:
    return BPEConfig(**fields).train(iter(texts))  # type: ignore[arg-type]  # by name, any field


def pieces(tokenizer: BPETokenizer) -> set[bytes]:
    return {tokenizer.decode_bytes([i]) for i in range(258, tokenizer.vocab_size)}


def suggested(config: BPEConfig, texts: list[str]) -> int:
    """The size that the error tells the user to type."""
    with pytest.raises(UserError) as caught:
        config.train(iter(texts))
    match = re.search(r"works is (\d+): type tokenizer\.vocab_size=(\d+)$", str(caught.value))
    assert match
    assert match[1] == match[2]
    return int(match[1])


def test_the_vocabulary_has_the_size_asked_for_end_of_text_included() -> None:
    tokenizer = train(*documents(), vocab_size=320)
    assert tokenizer.vocab_size == 320
    assert max(tokenizer.encode("".join(documents(5)))) < 320


def test_frequent_words_become_one_id() -> None:
    tokenizer = train(*documents(), vocab_size=330)
    assert len(tokenizer.encode(" little bird")) == 2


def test_a_newline_costs_one_id_and_is_never_part_of_another() -> None:
    tokenizer = train(*documents(), vocab_size=320)
    assert tokenizer.encode("\n\n") == [NEWLINE, NEWLINE]
    assert not any(b"\n" in piece for piece in pieces(tokenizer))


def test_a_run_of_spaces_becomes_one_id() -> None:
    indented = "".join(f"\n{'    ' * depth}word" for depth in (0, 1, 2, 1) * 20)
    assert len(train(indented, vocab_size=275).encode("        ")) == 1


def test_each_byte_has_an_id() -> None:
    tokenizer = train(*documents(), vocab_size=320)
    assert tokenizer.decode_bytes(range(FIRST_BYTE, FIRST_BYTE + 256)) == bytes(range(256))


def test_an_unseen_character_costs_its_bytes() -> None:
    tokenizer = train(*documents(), vocab_size=320)
    assert tokenizer.encode("\u00e9") == [FIRST_BYTE + 0xC3, FIRST_BYTE + 0xA9]
    assert tokenizer.encode("\u2581") == [FIRST_BYTE + b for b in (0xE2, 0x96, 0x81)]
    assert tokenizer.encode("\ud800") == [FIRST_BYTE + b for b in (0xED, 0xA0, 0x80)]


@pytest.mark.parametrize("reserved", ["\u2581", "\u2585", "\0", "\ud800", "\t", "<|endoftext|>"])
def test_an_odd_character_does_not_keep_its_document_from_being_learned(reserved: str) -> None:
    tokenizer = train(f"zebra zebra{reserved} zebra zebra zebra", vocab_size=275)
    assert b" zebra" in pieces(tokenizer)


@pytest.mark.parametrize("separator", [" ", "\n", "\u3042"])
def test_a_long_document_is_learned_from_to_its_end(separator: str) -> None:
    long = separator.join(["apple"] * 20_000 + ["zebra"] * 20_000)
    assert {b"zebra", b" zebra"} & pieces(train(long, vocab_size=275))


@pytest.mark.parametrize("gap", [" ", "  ", " " * 50, "\n", " \n "])
def test_cutting_a_long_text_changes_no_id(gap: str, tmp_path: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    words = " ".join(documents()).split()
    text = gap.join(f"{word}{i}" for i, word in enumerate(words))  # each of them once
    assert len(text) > 5 * MAX_PART
    tokenizer = train(text, vocab_size=370)
    tokenizer.save(tmp_path)
    uncut = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert tokenizer.encode(text) == uncut.encode(text)


def test_no_piece_crosses_a_place_where_texts_are_cut() -> None:
    gaps = (" ", "  ", "   ", "\t ", " \t")
    words = (
        "it's",
        "McCoy",
        "3rd",
        "a1",
        "x.",
        "(y)",
        "na\u00efve",
        "\u0434\u0430.",
        "__init__",
        "O'Neil,",
    )
    text = "".join(f"{gap}{word}" for gap in gaps for word in words) * 9
    learned = pieces(train(text, vocab_size=suggested(BPEConfig(vocab_size=5000), [text])))
    assert {b"   ", b" McCoy", b" it", b"'", b" na\xc3\xafve", b"__"} <= learned
    for piece in learned:
        assert _word_cuts(piece, np.array([0, len(piece)])).tolist() == [0, len(piece)]


@pytest.fixture(scope="module")
def spaced() -> BPETokenizer:
    """Knows runs of spaces, and words with and without one before them."""
    gaps = (" ", "  ", "    ", "\t", " \t", "\n", "\n  ")
    rng = random.Random(0)
    words = [rng.choice(gaps) + word for text in documents() for word in text.split()]
    marked = [word + mark for word in words[::9] for mark in (".", ",", "'s", "1", "?!", "\u00e9")]
    return train("".join(words + marked), "\u00e9\u3042\u3044" * 20, vocab_size=380)


def by_sentencepiece(tokenizer: BPETokenizer, text: str) -> list[int]:
    """Its ids for the text as a whole; but each reserved character is spelled in bytes."""
    ids: list[int] = []
    for part in re.split(f"([{RESERVED}])", text):
        if re.fullmatch(f"[{RESERVED}]", part):
            ids += [FIRST_BYTE + byte for byte in part.encode("utf-8", "surrogatepass")]
        else:
            ids += tokenizer._processor.encode(part)
    return ids


gaps = st.text(" ", max_size=5) | st.text(" \t\n\r\u00a0\u2028", max_size=4)
odd = st.sampled_from(
    ["\u2581", "\u2585", "\0", "\ud800", "\udfff", "<|endoftext|>", "<0x0A>", "\N{GRINNING FACE}"]
)
long_words = st.text("litebrd\u00e9", min_size=1, max_size=9).map(lambda text: text * 12)
words = st.sampled_from(STORY.split()) | st.text(st.characters(), max_size=5) | odd | long_words
words |= st.text("bird.,'s?!10\u00e9", max_size=8)
text_of_words = st.lists(st.tuples(gaps, words), max_size=12).map(
    lambda pairs: "".join(gap + word for gap, word in pairs)
)


@settings(max_examples=60)
@given(texts=st.lists(text_of_words | st.tuples(text_of_words, gaps).map("".join), max_size=4))
def test_the_ids_of_any_texts_are_those_of_sentencepiece(
    spaced: BPETokenizer, texts: list[str]
) -> None:
    encoded = spaced.encode_batch(texts)
    expected = [by_sentencepiece(spaced, text) for text in texts]
    assert encoded.ids.tolist() == [i for ids in expected for i in ids]
    assert encoded.lengths.tolist() == [len(ids) for ids in expected]


def test_the_ids_of_stories_are_those_of_sentencepiece() -> None:
    source = StoryworldConfig(train_stories=1000, validation_stories=100).open()
    stories = [*source.documents("train"), *source.documents("validation")]
    tokenizer = train(*stories, vocab_size=1000)
    expected = tokenizer._processor.encode(stories)
    for _ in range(2):  # the second time all words are known
        encoded = tokenizer.encode_batch(stories)
        assert encoded.ids.tolist() == [i for ids in expected for i in ids]
        assert encoded.lengths.tolist() == [len(ids) for ids in expected]


@pytest.mark.parametrize("before", ["", "\n", "bird\n", "  \n", "old oak\n\n"])
def test_a_word_of_any_length_has_the_same_ids_wherever_it_stands(
    spaced: BPETokenizer, before: str
) -> None:
    word = "bird" * MAX_PART
    assert spaced.encode(before + word) == spaced.encode(before) + spaced.encode("bird") * MAX_PART


def test_of_the_words_that_were_encoded_only_so_many_are_kept() -> None:
    tokenizer = train(*documents(), vocab_size=320)
    for start in (0, 0, 90_000, 180_000, 10**6):
        text = " ".join(map(str, range(start, start + 90_000)))
        last = tokenizer.encode(text + "x" * 1000)
        assert tokenizer.decode(last) == text + "x" * 1000
        assert len(tokenizer._known) <= MAX_KNOWN
        assert max(map(len, tokenizer._known)) <= MAX_KNOWN_BYTES
    tokenizer.encode("\n".join(map(str, range(MAX_KNOWN + 1))))
    assert len(tokenizer._known) == MAX_KNOWN


def test_a_long_text_without_white_space_comes_back() -> None:
    text = "".join(random.Random(0).choices("ab\u3042\N{GRINNING FACE}", k=5 * MAX_PART))
    tokenizer = train(*documents(), vocab_size=320)
    assert tokenizer.decode(tokenizer.encode(text)) == text


few_characters = st.text("ab c\n\t\u00e9\u2581", min_size=1, max_size=30)  # so that pairs recur
some_text = st.lists(few_characters, max_size=5).filter(lambda t: "".join(t).strip("\n\u2581"))


@settings(max_examples=50)
@given(texts=some_text)
def test_the_sizes_that_the_errors_name_work_and_the_next_ones_do_not(texts: list[str]) -> None:
    largest = suggested(BPEConfig(vocab_size=5000), texts)
    assert train(*texts, vocab_size=largest).vocab_size == largest
    assert suggested(BPEConfig(vocab_size=largest + 1), texts) == largest
    smallest = suggested(BPEConfig(vocab_size=258), texts)
    assert train(*texts, vocab_size=smallest).vocab_size == smallest
    assert suggested(BPEConfig(vocab_size=smallest - 1), texts) == smallest


any_text = st.text(st.characters(), max_size=40)  # surrogates too


@settings(max_examples=40)
@given(texts=st.lists(any_text | any_text.map(lambda text: 3 * text), min_size=1, max_size=4))
def test_any_documents_can_be_learned_from_or_are_refused_by_our_errors(texts: list[str]) -> None:
    try:
        size = suggested(BPEConfig(vocab_size=5000), texts)
    except AssertionError:  # the other error: no text
        with pytest.raises(UserError, match="finds no text to learn from"):
            train(*texts)
    else:
        tokenizer = train(*texts, vocab_size=size)
        assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts
        assert not any(tokenizer.eot_id in tokenizer.encode(text) for text in texts)


def test_a_vocabulary_too_large_is_an_error_about_the_field() -> None:
    expected = (
        "tokenizer.vocab_size=20000 is too large for this text; "
        "the largest that works is 284: type tokenizer.vocab_size=284"
    )
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        train("hello world", vocab_size=20_000)


def test_a_vocabulary_too_small_is_an_error_about_the_field() -> None:
    expected = (
        "tokenizer.vocab_size=260 is too small for this text; "
        "the smallest that works is 266: type tokenizer.vocab_size=266"
    )
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        train("hello world", vocab_size=260)


@pytest.mark.parametrize("text", ["\n\n", "\0", "\u2581", "\n\u2585\0\n"])
def test_documents_without_a_character_to_learn_are_no_text(text: str) -> None:
    with pytest.raises(UserError, match="tokenizer=bpe finds no text to learn from"):
        train(text, vocab_size=300)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("vocab_size", 257, "at least 258"),
        ("train_bytes", 99_999, "at least 100000"),
        ("character_coverage", 0.9, "at least 0.98"),
        ("character_coverage", 1.1, "at most 1"),
    ],
)
def test_a_setting_out_of_range_is_named(field: str, value: float, rule: str) -> None:
    with pytest.raises(UserError, match=rf"^tokenizer\.{field}={value} must be {rule}$"):
        train("text", **{field: value})


def test_less_coverage_leaves_rare_characters_to_their_bytes() -> None:
    text = "abab" * 100 + "\u00e9"
    assert "\u00e9".encode() in pieces(train(text, vocab_size=262))
    assert "\u00e9".encode() not in pieces(train(text, vocab_size=262, character_coverage=0.99))


def test_of_a_text_beyond_train_bytes_all_parts_are_sampled_in_bounded_memory() -> None:
    def stream() -> Iterator[str]:
        for word in ("early", "middle", "late"):
            for i in range(10_000):
                yield f"{word} {i:06d} " + "x" * 80

    config = BPEConfig(vocab_size=320, train_bytes=100_000)
    tracemalloc.start()
    try:
        tokenizer = config.train(stream())  # 2.8 MB
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_500_000
    assert {b"early", b"middle", b"late"} <= pieces(tokenizer)
    assert config.train(stream()).fingerprint() == tokenizer.fingerprint()


def test_a_sample_is_at_most_train_bytes_and_spread_evenly() -> None:
    n, first = 20_000, 0x4E00
    stream = [
        f"{i:04d}" + chr(first + i) for i in range(n)
    ]  # 7 bytes; the last tells what was seen
    size = suggested(BPEConfig(vocab_size=258, train_bytes=100_000), stream)
    learned = pieces(train(*stream, vocab_size=size, train_bytes=100_000))
    quarters = [0, 0, 0, 0]
    for i in range(n):
        quarters[4 * i // n] += chr(first + i).encode() in learned
    assert 100_000 / 4 < 7 * sum(quarters) <= 100_000
    assert max(quarters) < 1.2 * min(quarters)


def test_training_and_encoding_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    text = "\u2585 " + "word " * 10_000 + "y" * 50_000 + "\0\u2581\ud800"
    tokenizer = train(*documents(), text, vocab_size=330)
    tokenizer.decode(tokenizer.encode(text))
    suggested(BPEConfig(vocab_size=20_000), ["hello"])
    suggested(BPEConfig(vocab_size=258), ["hello"])
    assert capfd.readouterr() == ("", "")


# vocab_size=auto


def uses_of_the_last_merge(tokenizer: BPETokenizer, texts: list[str]) -> int:
    """How often the newest merge is applied: no later one takes its piece."""
    merged = [i for i in range(258, tokenizer.vocab_size) if len(tokenizer.decode([i])) > 1]
    return int((tokenizer.encode_batch(texts).ids == merged[-1]).sum())


@pytest.mark.parametrize("min_frequency", [5, 40, 300])
def test_auto_learns_every_merge_that_is_frequent_enough_and_no_other(min_frequency: int) -> None:
    texts = list(StoryworldConfig(train_stories=60).open().documents("train"))
    tokenizer = train(*texts, vocab_size="auto", min_frequency=min_frequency)
    assert uses_of_the_last_merge(tokenizer, texts) >= min_frequency
    one_more = train(*texts, vocab_size=tokenizer.vocab_size + 1)
    assert uses_of_the_last_merge(one_more, texts) < min_frequency
    same = train(*texts, vocab_size=tokenizer.vocab_size)
    assert same.fingerprint() == tokenizer.fingerprint()


def test_auto_counts_all_documents_and_not_only_those_that_are_learned_from() -> None:
    texts = list(StoryworldConfig(train_stories=300).open().documents("train"))
    assert sum(map(len, texts)) > 200_000
    whole = train(*texts, vocab_size="auto")
    sampled = train(*texts, vocab_size="auto", train_bytes=100_000)
    assert sampled.vocab_size > 0.8 * whole.vocab_size


@pytest.mark.parametrize("text", ["a", "ab ab", "é", "Hello. " * 3, "x" * 300, "\n\n."])
def test_auto_takes_a_text_of_any_size(text: str) -> None:
    tokenizer = train(text, vocab_size="auto")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_auto_stays_below_its_cap_and_a_low_cap_keeps_the_characters() -> None:
    texts = list(documents())
    assert train(*texts, vocab_size="auto", max_vocab_size=300).vocab_size == 300
    kept = train(*texts, vocab_size="auto", max_vocab_size=258)
    assert kept.decode(kept.encode(texts[0])) == texts[0]
    assert kept.vocab_size == 258 + len(set("".join(texts)) - {"\n"})


def test_a_fixed_size_keeps_the_identity_that_prepared_data_has() -> None:
    assert BPEConfig(vocab_size=512).identity == {
        "name": "bpe",
        "vocab_size": 512,
        "train_bytes": 50_000_000,
        "character_coverage": 1.0,
    }
    assert BPEConfig(vocab_size="auto").identity["min_frequency"] == 100


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": "many"}, "vocab_size=many must be a whole number, or auto"),
        ({"min_frequency": 7}, "min_frequency=7 is used only with tokenizer.vocab_size=auto"),
        ({"vocab_size": "auto", "min_frequency": 0}, "min_frequency=0 must be at least 1"),
        ({"vocab_size": "auto", "max_vocab_size": 9}, "max_vocab_size=9 must be at least 258"),
    ],
)
def test_a_setting_of_auto_that_does_not_fit_is_named(
    fields: dict[str, int | str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        BPEConfig(**fields)  # type: ignore[arg-type]  # by name, any field
