"""Statistics of a corpus equal counts made by hand from the text."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tinygpt.components.datasets.text import TextConfig
from tinygpt.components.tokenizers.bpe import BPEConfig
from tinygpt.components.tokenizers.byte import ByteConfig
from tinygpt.components.tokenizers.char import CharConfig
from tinygpt.config import PrepareConfig
from tinygpt.corpus import inspection, inspection_view
from tinygpt.corpus.inspection import Documents, bytes_per_token, compare_sizes, count_ids, pieces
from tinygpt.corpus.inspection_view import length_table, longest, rarest, split_table, tokens_text
from tinygpt.corpus.prepared import Prepared, prepare
from tinygpt.interfaces import TokenizerConfig

TEXTS = [f"The cat number {i} sat on the mat.{'!' * i}\nIt purred\u00e9." for i in range(40)]


def made(folder: Path, texts: list[str], tokenizer: TokenizerConfig | None = None) -> Prepared:
    path = folder / "texts.txt"
    path.write_text("|".join(texts))
    dataset = TextConfig(path=str(path), separator="|", validation_fraction=0.3)
    cfg = PrepareConfig(
        dataset=dataset, tokenizer=tokenizer or ByteConfig(), cache_dir=str(folder / "cache")
    )
    return prepare(cfg, lambda text: None)


def train_texts(prepared: Prepared) -> list[str]:
    """The documents of train, by another way: from the stream."""
    tokens = prepared.tokens("train")[:].tolist()
    texts, ids = [], []
    for token in tokens[1:]:
        if token == prepared.tokenizer.eot_id:
            texts.append(prepared.tokenizer.decode(ids))
            ids = []
        else:
            ids.append(token)
    return texts


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return made(tmp_path_factory.mktemp("small"), TEXTS, BPEConfig(vocab_size=300))


def shown(*what: object, width: int = 200) -> str:
    """What a console without colours prints."""
    target = Console(width=width, markup=False, emoji=False, highlight=False, color_system=None)
    with target.capture() as capture:
        for item in what:
            target.print(item)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


# Numbers


def test_lengths_are_those_of_the_documents(small: Prepared) -> None:
    documents, texts = Documents(small, "train"), train_texts(small)
    expected = [len(small.tokenizer.encode(text)) for text in texts]
    assert documents.lengths().tolist() == expected
    assert [documents.n_tokens(i) for i in range(len(texts))] == expected
    assert ["".join(documents.text(i)) for i in range(len(texts))] == texts
    assert documents.beginning(1, 3) == small.tokenizer.encode(texts[1])[:3]


def test_characters_are_counted_in_the_sampled_documents(small: Prepared) -> None:
    lengths, counts = inspection.characters_of(Documents(small, "train"))
    texts = train_texts(small)
    assert lengths.tolist() == [len(text) for text in texts]
    assert {chr(i): counts[i] for i in np.flatnonzero(counts)} == Counter("".join(texts))


def test_of_many_documents_some_are_drawn(small: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "SAMPLE_DOCUMENTS", 5)
    monkeypatch.setattr(inspection, "LENGTHS", 7)
    documents = Documents(small, "train")
    lengths, counts = inspection.characters_of(documents)
    assert len(lengths) == 5
    assert counts.sum() == lengths.sum()
    assert len(documents.lengths()) == 7
    monkeypatch.setattr(inspection, "SAMPLE_TOKENS", 100)
    assert 1 <= len(documents.sampled()) <= 3


def test_a_document_longer_than_a_piece_is_looked_at_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = made(tmp_path, ["a\u00e9\U0001f600b" * 9, *TEXTS])
    monkeypatch.setattr(inspection, "_CHUNK", 7)  # cuts characters
    documents, texts = Documents(prepared, "train"), train_texts(prepared)
    assert ["".join(documents.text(i)) for i in range(len(texts))] == texts


def test_ids_are_counted_over_all_of_train(
    small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Counter(small.tokens("train")[:].tolist())
    for chunk in (1 << 20, 11):
        monkeypatch.setattr(inspection, "_CHUNK", chunk)
        counts = count_ids(small)
        assert len(counts) == small.tokenizer.vocab_size
        assert {i: counts[i] for i in np.flatnonzero(counts)} == expected


def test_bytes_per_token_is_what_the_manifest_says_but_for_the_first_end_of_text(
    small: Prepared,
) -> None:
    info = small.splits["train"]
    assert bytes_per_token(small.tokenizer, train_texts(small)) == pytest.approx(
        info.utf8_bytes / (info.tokens - 1)
    )


def test_a_larger_vocabulary_has_longer_tokens_until_the_text_has_no_more() -> None:
    results = compare_sizes([290, 320, 4096, 20_000], train=TEXTS, test=TEXTS[:5])
    small, large, default, none = results.values()
    assert isinstance(default, str)  # the default shrinks, and would be shown as if it had not
    assert "the largest that works is" in default
    assert isinstance(small, float)
    assert isinstance(large, float)
    assert 1 < small < large
    assert isinstance(none, str)
    assert "the largest that works is" in none


# How it is shown


def test_pieces_show_each_id_and_steer_no_terminal() -> None:
    byte = ByteConfig().train(iter([]))
    assert list(pieces(byte, byte.encode("a\u00e9\x1b\n"))) == [
        "a", "<C3>", "<A9>", "<U+001B>", "\n"
    ]  # fmt: skip
    char = CharConfig().train(iter(["a\u202e\ud800"]))
    assert list(pieces(char, char.encode("a\u202e\ud800"))) == ["a", "<U+202E>", "<U+D800>"]
    assert list(pieces(char, [0, *char.encode("b")])) == ["<id 0>", "<id 7>", "<id 3>"]


def test_tokens_are_parted_by_a_mark_where_there_is_no_colour() -> None:
    tokenizer = BPEConfig(vocab_size=300).train(iter(TEXTS))
    ids = tokenizer.encode("The cat sat.\n[bold]:cat:")
    text = tokens_text(tokenizer, ids, more=True, colour=False)
    printed = shown(text)
    parts = [tokenizer.decode([i]).replace("\n", "\u21b5\n") for i in ids]
    assert len(parts) < len("The cat sat.\n[bold]:cat:")
    assert printed == "|".join(parts) + " \u2026"


def test_tokens_have_alternating_backgrounds_in_colour() -> None:
    tokenizer = ByteConfig().train(iter([]))
    text = tokens_text(tokenizer, tokenizer.encode("abc"), more=False, colour=True)
    assert text.plain == "abc"
    styles = [str(span.style) for span in text.spans]
    assert styles == [inspection_view.TOKEN_STYLES[i % 2] for i in range(3)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"force_terminal": True, "color_system": "256"}, True),
        ({"force_terminal": True, "color_system": "256", "no_color": True}, False),
        ({"force_terminal": True, "color_system": None}, False),
        ({"force_terminal": False, "color_system": "256"}, False),
    ],
)
def test_colour_is_for_terminals_that_have_it(options: dict[str, object], expected: bool) -> None:
    target = Console(**options)  # type: ignore[arg-type]  # by name, any option
    assert inspection_view.in_colour(target) is expected


def test_tables_have_the_numbers(small: Prepared) -> None:
    printed = shown(split_table(small.splits)).splitlines()
    rows = {line[:15].strip(): line[15:].split() for line in printed}
    info = small.splits["train"]
    assert rows["documents"][0] == f"{info.documents:,}"
    assert rows["tokens"][0] == f"{info.tokens:,}"
    assert rows["bytes per token"][0] == f"{info.utf8_bytes / info.tokens:.3f}"
    lengths = np.arange(1, 1002) * 10
    row = shown(length_table({"train, tokens": lengths})).splitlines()[1].split()
    assert row[-7:] == ["10", "510", "2,510", "5,010", "7,510", "9,510", "10,010"]


def test_the_longest_tokens_and_the_rarest_characters_are_listed_with_their_counts(
    small: Prepared,
) -> None:
    counts = count_ids(small)
    first = shown(longest(small.tokenizer, counts)).split("    ")[0]
    token, _, count = first.rpartition(" ")
    (i,) = small.tokenizer.encode(token.strip("'"))
    assert int(count) == counts[i]
    assert longest(ByteConfig().train(iter([])), np.ones(257, np.int64)) is None
    characters = np.zeros(0x110000, np.int64)
    for character, times in {"a": 9, "\n": 1, "\u00e9": 2, "\x07": 3, " ": 4}.items():
        characters[ord(character)] = times
    assert shown(rarest(characters)).split() == [
        "\u21b5", "1", "\u00e9", "U+00E9", "2", "<U+0007>", "3", "'", "'", "4", "a", "9"
    ]  # fmt: skip
