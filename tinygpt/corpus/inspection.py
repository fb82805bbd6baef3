"""Statistics of a prepared corpus: lengths, use of the vocabulary, and other vocabulary sizes.

Tokens are counted over all of train, lengths over at most LENGTHS documents. Statistics of the text
use documents drawn uniformly, about SAMPLE_TOKENS tokens of them, which bounds memory.
"""

import codecs
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from tinygpt.components.tokenizers.bpe import BPEConfig
from tinygpt.corpus.overlap import sample
from tinygpt.corpus.prepared import Prepared
from tinygpt.errors import UserError
from tinygpt.interfaces import Split, Tokenizer, utf8_length

LENGTHS = 1_000_000  # documents of a split whose lengths are counted
SAMPLE_TOKENS = 10_000_000  # of a split, whose text is used
SAMPLE_DOCUMENTS = 20_000
TRAIN_BYTES = 10_000_000  # of text that other vocabularies learn from
TEST_BYTES = 2_000_000  # of validation text that they are measured on
_CHUNK = 1 << 20  # tokens at a time
_N_CODE_POINTS = 0x110000

Integers = npt.NDArray[np.int64]


class Documents:
    """The documents of a prepared split, by their number."""

    def __init__(self, prepared: Prepared, split: Split) -> None:
        self.info = prepared.splits[split]
        self.tokenizer = prepared.tokenizer
        self._tokens = prepared.tokens(split)
        self._ends = prepared.document_ends(split)

    def lengths(self) -> Integers:
        """Tokens of at most LENGTHS documents, each without end of text: (documents,)."""
        drawn = np.array(sample(self.info.documents, LENGTHS))
        starts = np.where(drawn > 0, self._ends[np.maximum(drawn - 1, 0), 0], 1)
        lengths: Integers = self._ends[drawn, 0] - 1 - starts
        return lengths

    def sampled(self) -> list[int]:
        """The documents whose text is used."""
        n = SAMPLE_TOKENS * self.info.documents // self.info.tokens
        return sample(self.info.documents, min(max(1, n), SAMPLE_DOCUMENTS))

    def n_tokens(self, index: int) -> int:
        """Number of ids in a document, without end of text."""
        start, stop = self._place(index)
        return stop - start

    def beginning(self, index: int, limit: int = _CHUNK) -> list[int]:
        """The ids of a document, `limit` at most, without end of text."""
        return next(self._ids(index, limit), [])

    def text(self, index: int) -> Iterator[str]:
        """The text of a document, in pieces."""
        parts = self._ids(index, _CHUNK)
        first = next(parts, [])
        if len(first) < _CHUNK:
            yield self.tokenizer.decode(first)
            return
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a piece may cut a character
        for ids in chain([first], parts):
            yield decoder.decode(self.tokenizer.decode_bytes(ids))
        yield decoder.decode(b"", final=True)

    def some(self, utf8_bytes: int) -> list[str]:
        """Documents drawn uniformly, about this many bytes in total; long ones are cut."""
        n = max(1, utf8_bytes * self.info.documents // self.info.utf8_bytes)
        drawn = sample(self.info.documents, n)
        return [self.tokenizer.decode(self.beginning(index, utf8_bytes)) for index in drawn]

    def _ids(self, index: int, limit: int) -> Iterator[list[int]]:
        start, stop = self._place(index)
        for at in range(start, stop, limit):
            yield self._tokens[at : min(stop, at + limit)].tolist()

    def _place(self, index: int) -> tuple[int, int]:
        """The positions where the document's tokens begin and end."""
        # a split begins with end of text, and a document ends with one
        start = int(self._ends[index - 1, 0]) if index else 1
        return start, int(self._ends[index, 0]) - 1


# Lengths and characters


def characters_of(documents: Documents) -> tuple[Integers, Integers]:
    """Characters of each sampled document, and how often each code point occurs in all of them."""
    lengths, counts = [], np.zeros(_N_CODE_POINTS, np.int64)
    texts: list[str] = []
    waiting = 0
    for index in documents.sampled():
        lengths.append(0)
        for text in documents.text(index):
            lengths[-1] += len(text)
            texts.append(text)
            waiting += len(text)
        if waiting >= _CHUNK:
            counts += _count_characters(texts)
            texts, waiting = [], 0
    return np.array(lengths), counts + _count_characters(texts)


def _count_characters(texts: Sequence[str]) -> Integers:
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
    return np.bincount(points, minlength=_N_CODE_POINTS)


# The vocabulary


def count_ids(prepared: Prepared) -> Integers:
    """How often each id occurs in train: (vocabulary,)."""
    tokens, n = prepared.tokens("train"), prepared.tokenizer.vocab_size
    counts = np.zeros(n, np.int64)
    for start in range(0, len(tokens), _CHUNK):
        counts += np.bincount(tokens[start : start + _CHUNK], minlength=n)
    return counts


def longest_tokens(tokenizer: Tokenizer, counts: Integers, limit: int) -> list[int]:
    """The used ids with the most characters, longest first."""
    used = np.flatnonzero(counts).tolist()
    return sorted(used, key=lambda i: (-len(tokenizer.decode([i])), i))[:limit]


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[str]:
    """Visible text of each id: incomplete characters as <C3>, ids without bytes as <id 7>."""
    for i in ids:
        data = tokenizer.decode_bytes([i])
        try:
            yield "".join(map(visible, data.decode("utf-8", "surrogatepass"))) or f"<id {i}>"
        except UnicodeDecodeError:
            yield "".join(f"<{byte:02X}>" for byte in data)


def visible(character: str) -> str:
    """The character, or its code point if it is invisible or a terminal control character."""
    shown = character.isprintable() or character in "\n\t"
    return character if shown else f"<U+{ord(character):04X}>"


# Other vocabularies


def bytes_per_token(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """UTF-8 bytes of the texts divided by their tokens, including an end of text for each."""
    return sum(map(utf8_length, texts)) / (len(tokenizer.encode_batch(texts).ids) + len(texts))


def compare_sizes(
    sizes: Sequence[int], *, train: Sequence[str], test: Sequence[str]
) -> dict[int, float | str]:
    """Bytes per token of tokenizer=bpe at each vocabulary size, or why a size is impossible."""
    results: dict[int, float | str] = {}
    for size in sizes:
        try:
            tokenizer = BPEConfig(vocab_size=size).train(iter(train))
        except UserError as error:
            results[size] = str(error)
        else:
            results[size] = (
                bytes_per_token(tokenizer, test)
                if tokenizer.vocab_size == size
                else f"too large for this text; the largest that works is {tokenizer.vocab_size}"
            )
    return results
