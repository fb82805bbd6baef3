"""A tokenizer.json of the Hugging Face library `tokenizers`, such as GPT-2's, loaded unchanged.

It must be byte-level, or fall back to bytes as what tinygpt exports of its bpe does: each byte has
an id, so that every text comes back as it was.  The ids are
the library's own, with two exceptions: the name of a special token in a text is text, and the
Unicode normalization (NFC) that some files ask for is left out, because it changes the text.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

from tinygpt.errors import UserError, did_you_mean, not_a_choice
from tinygpt.interfaces import Encoded, Tokenizer, TokenizerConfig, utf8_length
from tinygpt.registry import register

FILE = "tokenizer.json"
OURS = "tinygpt.json"  # which token ends a text, and the checksum of that and of FILE
# common names of the end-of-text token, the likeliest first
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<EOS>", "[EOS]")
MAX_PART = 1 << 20  # characters; the library's memory grows with the length of a text

# A long text is cut before a space that ends a word, where byte-level tokenizers end a token too.
_SURROGATE = re.compile("[\ud800-\udfff]")
_PART = f"[^\ud800-\udfff]{{1,{MAX_PART}}}"
_CUT = re.compile(f"[\ud800-\udfff]|{_PART}(?![^\ud800-\udfff])|{_PART}(?<=\\S)(?= )|{_PART}")

_PROBES = (
    "Once upon a time, there was a cat.",
    " a  space   before\tand behind ",
    "two\n\nlines\r\nand  \n ends\n",
    "Stra\u00dfe, na\u00efve caf\u00e9, \u4f60\u597d, \u0645\u0631\u062d\u0628\u0627",
    "e\u0301 \ufb01 \u00bd \uff21 \u2581 \ufeff \ufffd \u2028",
    "ABC abc 1234567 3.14 'll 's!?... <s> </s> [UNK] <0x0A>",
    "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}",
    "".join(map(chr, range(256))),
)


class HFTokenizer(Tokenizer):
    """`content` is a tokenizer.json; raises UserError if it would lose text."""

    def __init__(self, content: bytes, eot: str | None, *, where: str) -> None:
        try:
            from tokenizers import Tokenizer as Library
        except ImportError:
            raise UserError(
                'tokenizer=hf needs the library tokenizers: pip install "tinygpt[hf]"'
            ) from None
        # preparation already uses all cores, by processes; and the library warns about threads
        # after a fork
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            settings = json.loads(content)
            if settings.get("normalizer") == {"type": "NFC"}:
                settings["normalizer"] = None
            settings |= {"truncation": None, "padding": None, "post_processor": None}
            self._library = Library.from_str(json.dumps(settings))
            self.settings: dict[str, Any] = settings  # a tokenizer.json, as it is used here
        except Exception as error:  # the library raises no narrower one
            reason = " ".join(str(error).split())
            raise UserError(
                f"{where} is no tokenizer.json that the library tokenizers reads: {reason}"
            ) from None
        self._library.encode_special_tokens = True  # as text
        self._where = where
        self._content = content

        added = self._library.get_added_tokens_decoder()
        self.eot = _end_of_text([t.content for t in added.values() if t.special], eot, where)
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        falls_back = (settings.get("model") or {}).get("byte_fallback") is True
        bytes_of = _bytes_of_fallback if falls_back else _bytes_of
        names = [f"<0x{byte:02X}>" for byte in range(256)] if falls_back else BYTE_CHARACTERS
        self.eot_id = vocabulary[self.eot]
        size = max(vocabulary.values()) + 1
        self._bytes = dict.fromkeys(range(size), b"")  # of a number that is no token, none
        for token, i in vocabulary.items():
            self._bytes[i] = token.encode() if i in added else bytes_of(token)
        self._bytes[self.eot_id] = b""
        self._sizes = np.array([len(part) for part in self._bytes.values()])
        self._byte_ids = [vocabulary.get(character, -1) for character in names]
        self._check()

    def _check(self) -> None:
        """Raise UserError unless sample texts survive encoding and decoding unchanged."""
        missing = self._byte_ids.count(-1)
        if missing:
            raise UserError(
                f"{self._where} is not byte-level: it has no id for {missing} of the 256 bytes, "
                "and text with them would be lost; use one such as GPT-2's or Llama 3's"
            )
        for probe in (*_PROBES, self.eot, f"a {self.eot} b{self.eot}"):
            if self.decode(self.encode(probe)) != probe:
                raise self._lost(probe)

    def _lost(self, text: str) -> UserError:
        back = self.decode(self._encode_parts(text))
        at = next((i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), 0)
        near = slice(max(0, at - 20), at + 40)
        return UserError(
            f"{self._where} does not give text back as it was, so val/bpb would be wrong: "
            f"{text[near]!r} comes back as {back[near]!r}; "
            "use one without a normalizer and without add_prefix_space"
        )

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.encode_batch([text]).ids.tolist()
        return ids

    def encode_batch(self, texts: Sequence[str]) -> Encoded:
        """Raises UserError for a text that would not decode to itself."""
        if any(map(_needs_cutting, texts)):
            ids = [self._encode_parts(text) for text in texts]
        else:
            encoded = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
            ids = [item.ids for item in encoded]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum()))
        if self._sizes[flat].sum() != sum(map(utf8_length, texts)):
            sizes = (self._sizes[part].sum() for part in ids)
            raise self._lost(
                next(t for t, n in zip(texts, sizes, strict=True) if n != utf8_length(t))
            )
        return Encoded(flat, lengths)

    def _encode_parts(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in _CUT.findall(text):
            if _SURROGATE.match(part):  # the library refuses such text
                ids += [self._byte_ids[byte] for byte in part.encode("utf-8", "surrogatepass")]
            else:
                ids += self._library.encode(part, add_special_tokens=False).ids
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """UTF-8 bytes of the ids; raises ValueError for an id that does not exist.

        Each id adds its own bytes, so a stream of ids decodes as it grows.
        """
        try:
            return b"".join([self._bytes[i] for i in ids])
        except KeyError as error:
            raise ValueError(f"id {error} is not in the vocabulary of {self.vocab_size}") from None

    def save(self, folder: Path) -> None:
        ours = {"name": "hf", "eot": self.eot, "fingerprint": self.fingerprint()}
        (folder / FILE).write_bytes(self._content)
        (folder / OURS).write_text(json.dumps(ours) + "\n", encoding="ascii")

    def fingerprint(self) -> str:
        return _fingerprint(self._content, self.eot)


@register("tokenizer")
@dataclass
class HFConfig(TokenizerConfig):
    """The file to load; nothing is learned."""

    name: str = "hf"
    path: str = MISSING  # a tokenizer.json; only its content counts, and a run keeps a copy
    eot: str | None = None  # the special token that ends a text; null finds <|endoftext|> and such

    @property
    def identity(self) -> dict[str, Any]:
        """The content of the file; its path does not count."""
        return {
            "name": self.name,
            "sha256": hashlib.sha256(self._read()).hexdigest(),
            "eot": self.eot,
        }

    def train(self, documents: Iterator[str]) -> HFTokenizer:
        """Load the file; raises UserError if it is no tokenizer or would lose text."""
        return HFTokenizer(self._read(), self.eot, where=f"tokenizer.path={self.path}")

    def load(self, folder: Path) -> HFTokenizer:
        path, ours = folder / FILE, folder / OURS
        again = "restore it, or make it again with python -m tinygpt.prepare tokenizer=hf"
        for needed in (ours, path):
            if not needed.is_file():
                raise UserError(f"{needed} is missing; {again}")
        try:
            saved = json.loads(ours.read_bytes())
            eot, expected = str(saved["eot"]), saved["fingerprint"]
            content = path.read_bytes()
        except (OSError, ValueError, TypeError, KeyError):
            raise UserError(f"{ours} is damaged, or not of an hf tokenizer; {again}") from None
        if _fingerprint(content, eot) != expected:
            raise UserError(f"{path} is damaged: its checksum is not in {ours}; {again}")
        return HFTokenizer(content, eot, where=str(path))

    def _read(self) -> bytes:
        field, path = f"tokenizer.path={self.path}", Path(self.path).expanduser()
        if path.is_dir():
            inside = path / FILE
            typed = f"tokenizer.path={inside}" if inside.is_file() else "the tokenizer.json in it"
            raise UserError(f"{field} is a folder; type {typed}")
        try:
            return path.read_bytes()
        except FileNotFoundError:
            siblings = [str(other) for other in path.parent.glob("*.json")]
            hint = did_you_mean(str(path), siblings, "tokenizer.path=")
            raise UserError(f"{field} does not exist{hint}") from None
        except OSError as error:
            raise UserError(f"{field} cannot be read ({error.strerror})") from None


def _end_of_text(special: list[str], typed: str | None, where: str) -> str:
    """The special token that ends a text; raises UserError."""
    if typed is not None and typed not in special:
        raise not_a_choice("tokenizer.eot", typed, special)
    found = typed or next((token for token in END_OF_TEXT if token in special), None)
    if found is None:
        raise UserError(
            f"{where} has no token that is known to end a text, such as {END_OF_TEXT[0]}; "
            f"type tokenizer.eot=TOKEN\n  its special tokens: {', '.join(special) or 'none'}"
        )
    return found


def _needs_cutting(text: str) -> bool:
    return len(text) > MAX_PART or (not text.isascii() and bool(_SURROGATE.search(text)))


def _byte_characters() -> Iterator[str]:
    """How byte-level vocabularies write the bytes 0 to 255 (GPT-2, openai/gpt-2, encoder.py).

    A byte that Latin-1 prints is that character, the others are the characters from U+0100 on.
    """
    odd = 0x100
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or (byte >= 0xA1 and byte != 0xAD):
            yield chr(byte)
        else:
            yield chr(odd)
            odd += 1


BYTE_CHARACTERS = list(_byte_characters())
_BYTE = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}


def _bytes_of(token: str) -> bytes:
    try:
        return bytes(_BYTE[character] for character in token)
    except KeyError:  # no byte-level token, but a name
        return token.encode()


def _bytes_of_fallback(token: str) -> bytes:
    """The bytes of a piece of text, or the byte that a token such as <0x0A> stands for."""
    byte = re.fullmatch("<0x([0-9A-F]{2})>", token)
    return bytes([int(byte[1], 16)]) if byte else token.encode()


def _fingerprint(content: bytes, eot: str) -> str:
    parts = ["hf", eot, hashlib.sha256(content).hexdigest()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
