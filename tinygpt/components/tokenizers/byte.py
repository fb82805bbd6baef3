"""One id for each byte of UTF-8: nothing to learn, nothing unknown.

Ids: 0 is end of text, 1 to 256 are the bytes 0 to 255.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from tinygpt.errors import UserError
from tinygpt.interfaces import Encoded, Tokenizer, TokenizerConfig
from tinygpt.registry import register

FILE = "tokenizer.json"
CONTENT = {"name": "byte"}


class ByteTokenizer(Tokenizer):
    """The tokenizer without settings: byte b has id b + 1."""

    @property
    def vocab_size(self) -> int:
        return 257

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.encode_batch([text]).ids.tolist()
        return ids

    def encode_batch(self, texts: Sequence[str]) -> Encoded:
        parts = [text.encode("utf-8", "surrogatepass") for text in texts]
        ids = np.frombuffer(b"".join(parts), np.uint8).astype(np.int32)
        ids += 1
        return Encoded(ids, np.fromiter(map(len, parts), np.int64, len(parts)))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """UTF-8 bytes of the ids; raises ValueError for an id that does not exist."""
        values = np.fromiter(ids, np.int64)
        unknown = values[(values < 0) | (values > 256)]
        if unknown.size:
            raise ValueError(f"id {unknown[0]} is not in the vocabulary of {self.vocab_size}")
        return (values[values > 0] - 1).astype(np.uint8).tobytes()

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(CONTENT) + "\n", encoding="ascii")

    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(["byte"]).encode()).hexdigest()


@register("tokenizer")
@dataclass
class ByteConfig(TokenizerConfig):
    """Nothing to set and nothing to learn."""

    most_bytes_per_token: ClassVar[float] = 1.0
    name: str = "byte"

    def train(self, documents: Iterator[str]) -> ByteTokenizer:
        return ByteTokenizer()

    def load(self, folder: Path) -> ByteTokenizer:
        path = folder / FILE
        again = "restore it, or make it again with python -m tinygpt.prepare tokenizer=byte"
        if not path.is_file():
            raise UserError(f"{path} is missing; {again}")
        try:
            if json.loads(path.read_bytes()) != CONTENT:
                raise ValueError("it is of another tokenizer")
        except (OSError, ValueError):
            raise UserError(f"{path} is damaged, or not of a byte tokenizer; {again}") from None
        return ByteTokenizer()
