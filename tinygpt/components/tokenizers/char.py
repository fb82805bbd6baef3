"""One id for each character of the train documents; any other is spelled out in half bytes.

Ids: 0 is end of text, 1 to 16 are the nibbles 0 to 15, the rest are the characters in code point
order.  A character outside the vocabulary is written as its UTF-8 bytes, two nibbles each, the high
one first, so that every text survives and the vocabulary stays tiny.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from tinygpt.errors import UserError
from tinygpt.interfaces import Encoded, Tokenizer, TokenizerConfig
from tinygpt.registry import register

FILE = "tokenizer.json"
FIRST_NIBBLE = 1
FIRST_CHARACTER = FIRST_NIBBLE + 16
N_CODE_POINTS = 0x110000
CHUNK = 2**20  # characters processed at once while training; bounds memory on huge documents


class CharTokenizer(Tokenizer):
    """`characters` in code point order, each once; lone surrogates count as characters."""

    def __init__(self, characters: Sequence[str]) -> None:
        self.characters = list(characters)
        first = FIRST_CHARACTER
        self._bytes = {i: _utf8(c) for i, c in enumerate(self.characters, first)} | {0: b""}
        self._ids = np.zeros(N_CODE_POINTS, dtype=np.int32)  # 0: outside the vocabulary
        points = [ord(c) for c in self.characters]
        self._ids[points] = np.arange(first, self.vocab_size, dtype=np.int32)

    @property
    def vocab_size(self) -> int:
        return FIRST_CHARACTER + len(self.characters)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.encode_batch([text]).ids.tolist()
        return ids

    def encode_batch(self, texts: Sequence[str]) -> Encoded:
        points = _code_points("".join(texts))
        ids = self._lookup(points)
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        unseen = np.flatnonzero(ids == 0)
        if unseen.size:
            spelled = [_nibbles(chr(point)) for point in points[unseen]]
            widths = np.ones(len(ids), dtype=np.int64)
            widths[unseen] = [len(nibbles) for nibbles in spelled]
            ids = np.repeat(ids, widths)
            ids[ids == 0] = np.concatenate(spelled)
            ends = np.concatenate([[0], np.cumsum(widths)])[np.cumsum(lengths)]
            lengths = np.diff(ends, prepend=0)
        return Encoded(ids, lengths)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """UTF-8 bytes of the ids; raises ValueError for an id that does not exist.

        Nibbles pair up from the first of their run; one without a partner adds nothing.  So the
        bytes of the first k ids begin the bytes of all, and a stream of ids decodes as it grows.
        """
        ids = list(ids)
        try:
            return b"".join([self._bytes[i] for i in ids])
        except KeyError:  # a nibble, or an id that does not exist
            return self._spelled_bytes(ids)

    def _spelled_bytes(self, ids: Sequence[int]) -> bytes:
        out = bytearray()
        high: int | None = None
        for i in ids:
            if FIRST_NIBBLE <= i < FIRST_CHARACTER:
                nibble = int(i) - FIRST_NIBBLE
                if high is None:
                    high = nibble
                    continue
                out.append(high << 4 | nibble)
            elif i in self._bytes:
                out += self._bytes[i]
            else:
                raise ValueError(f"id {i} is not in the vocabulary of {self.vocab_size}")
            high = None
        return bytes(out)

    def unknown_characters(self, text: str) -> int:
        """How many of the text's characters are outside the vocabulary."""
        return int(np.count_nonzero(self._lookup(_code_points(text)) == 0))

    def save(self, folder: Path) -> None:
        content = {"name": "char", "fingerprint": self.fingerprint(), "characters": self.characters}
        (folder / FILE).write_text(json.dumps(content) + "\n", encoding="ascii")

    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(["char", self.characters]).encode()).hexdigest()

    def _lookup(self, points: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
        return self._ids.take(points, mode="clip")  # all are in range; clip is the fastest mode


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _nibbles(character: str) -> npt.NDArray[np.int32]:
    """The ids that spell the character: 2 to 8 of them."""
    values = [half for byte in _utf8(character) for half in (byte >> 4, byte & 15)]
    return np.array(values, dtype=np.int32) + FIRST_NIBBLE


@register("tokenizer")
@dataclass
class CharConfig(TokenizerConfig):
    """The characters of the train documents are the vocabulary, unless one is loaded."""

    most_bytes_per_token: ClassVar[float] = 1.0
    name: str = "char"
    # the tokenizer of another run, such as outputs/RUN/tokenizer; null learns one from the text
    path: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """The characters of a loaded tokenizer; its path does not count."""
        if self.path is None:
            return {"name": self.name}
        return {"name": self.name, "fingerprint": self.load_from(self.path).fingerprint()}

    def train(self, documents: Iterator[str]) -> CharTokenizer:
        """Raises UserError if the documents have no text, or `path` no tokenizer."""
        if self.path is not None:
            loaded = self.load_from(self.path)
            assert isinstance(loaded, CharTokenizer)
            return loaded
        seen = np.zeros(N_CODE_POINTS, dtype=np.bool_)
        for document in documents:
            for start in range(0, len(document), CHUNK):
                seen[_code_points(document[start : start + CHUNK])] = True
        if not seen.any():
            raise UserError(
                "tokenizer=char finds no text to learn from in the training documents; "
                "choose another dataset=NAME, or more of it"
            )
        return CharTokenizer([chr(point) for point in np.flatnonzero(seen)])

    def load(self, folder: Path) -> CharTokenizer:
        path = folder / FILE
        again = "restore it, or make it again with python -m tinygpt.prepare tokenizer=char"
        if not path.is_file():
            raise UserError(f"{path} is missing; {again}")
        try:
            content = json.loads(path.read_bytes())
            tokenizer = CharTokenizer(content["characters"])
            if content["fingerprint"] != tokenizer.fingerprint():
                raise ValueError("the characters are not those that were saved")
        except (OSError, ValueError, TypeError, KeyError):
            raise UserError(f"{path} is damaged, or not of a char tokenizer; {again}") from None
        return tokenizer
