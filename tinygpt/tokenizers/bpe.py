"""Byte-pair encoding by sentencepiece: frequent strings get ids, rare characters spell their bytes.

Ids: 0 is end of text, 1 the newline, 2 to 257 the bytes, the rest learned pieces and characters.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinygpt.errors import UserError, check_range
from tinygpt.interfaces import Tokenizer, TokenizerConfig, utf8_length
from tinygpt.registry import register

FILE = "tokenizer.json"
MODEL_FILE = "tokenizer.model"
SPACE = "\u2581"  # how sentencepiece writes a space: in a text it would come back as one
# Besides: it leaves a text with U+2585 out of the training, learns no NUL, refuses lone surrogates.
RESERVED = f"{SPACE}\u2585\0\ud800-\udfff"
MAX_PART = 4096  # characters

# A text is cut into its reserved characters and the parts between.  A part ends before white space
# where it can, as pieces do, so the cuts change no id.  They keep sentencepiece quick (its time per
# character grows with the length) and below the length from which training would leave a text out.
_PART = f"[^{RESERVED}]{{1,{MAX_PART}}}"
_CUT = re.compile(f"[{RESERVED}]|{_PART}(?<! )(?![^ \n{RESERVED}])|{_PART}")
_RESERVED = re.compile(f"[{RESERVED}]")


class BPETokenizer(Tokenizer):
    """`model` is a sentencepiece model that `BPEConfig.train` made."""

    def __init__(self, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        self._model = model
        self._processor = SentencePieceProcessor(model_proto=model)
        self._pieces = [self._processor.id_to_piece(i) for i in range(len(self._processor))]
        self._byte_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        self._bytes = {i: p.replace(SPACE, " ").encode() for i, p in enumerate(self._pieces)}
        self._bytes |= {i: bytes([byte]) for byte, i in enumerate(self._byte_ids)}
        self._bytes |= {self.eot_id: b""}

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.encode_batch([text])[0].tolist()
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        groups = [_CUT.findall(text) for text in texts]
        parts = [part for group in groups for part in group]
        plain = [part for part in parts if not _RESERVED.match(part)]
        encoded = iter(self._processor.encode(plain, out_type="numpy"))
        ids = (self._spell(part) if _RESERVED.match(part) else next(encoded) for part in parts)
        nothing = np.empty(0, dtype=np.int32)
        return [np.concatenate([nothing, *islice(ids, len(group))]) for group in groups]

    def _spell(self, text: str) -> npt.NDArray[np.int32]:
        data = text.encode("utf-8", "surrogatepass")
        return np.array([self._byte_ids[byte] for byte in data], dtype=np.int32)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """UTF-8 bytes of the ids; raises ValueError for an id that does not exist.

        Each id adds its own bytes, so a stream of ids decodes as it grows.
        """
        try:
            return b"".join([self._bytes[i] for i in ids])
        except KeyError as error:
            raise ValueError(f"id {error} is not in the vocabulary of {self.vocab_size}") from None

    def save(self, folder: Path) -> None:
        content = {"name": "bpe", "model_sha256": hashlib.sha256(self._model).hexdigest()}
        (folder / MODEL_FILE).write_bytes(self._model)
        (folder / FILE).write_text(json.dumps(content) + "\n", encoding="ascii")

    def fingerprint(self) -> str:
        # the pieces in order determine the merges; the model's bytes also hold training options
        return hashlib.sha256(json.dumps(["bpe", self._pieces]).encode()).hexdigest()


@register("tokenizer")
@dataclass
class BPEConfig(TokenizerConfig):
    """How many pieces to learn, and from how much text."""

    name: str = "bpe"
    # end of text included; more shortens texts and grows the embedding: 4096 suits small models,
    # about 30_000 the full TinyStories
    vocab_size: int = 4096
    # UTF-8 bytes; of a longer text a random share that fits is learned from: bounds memory and time
    train_bytes: int = 50_000_000
    # share of the text whose characters get ids; below 1 the rarest are left to their bytes, as
    # text with thousands of characters (Chinese, say) may need
    character_coverage: float = 1.0

    def __post_init__(self) -> None:
        check_range("tokenizer.vocab_size", self.vocab_size, low=258)  # end of text, newline, bytes
        check_range("tokenizer.train_bytes", self.train_bytes, low=100_000)
        check_range("tokenizer.character_coverage", self.character_coverage, low=0.98, high=1)

    def train(self, documents: Iterator[str]) -> BPETokenizer:
        from sentencepiece import SentencePieceTrainer

        parts = _sample(documents, self.train_bytes)
        model = BytesIO()
        if not parts:
            raise _no_text()
        try:
            SentencePieceTrainer.train(
                sentence_iterator=iter(parts),
                model_writer=model,
                model_type="bpe",
                vocab_size=self.vocab_size,
                character_coverage=self.character_coverage,
                # every character comes back as it was
                byte_fallback=True,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                # the unknown piece is never made when bytes are there, so it can be end of text
                unk_id=BPETokenizer.eot_id,
                unk_piece="<|endoftext|>",
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                user_defined_symbols=["\n"],  # costs one id always: pieces never hold it
                max_sentence_length=4 * MAX_PART,  # bytes
                num_threads=1,  # is stored in the model; more are no faster
                minloglevel=2,  # silent; what goes wrong is raised
            )
        except RuntimeError as error:
            if explained := self._explain(str(error)):
                raise explained from None
            raise
        return BPETokenizer(model.getvalue())

    def _explain(self, complaint: str) -> UserError | None:
        """What sentencepiece complains of, where the user can mend it."""
        if "sentences_.empty()" in complaint:
            return _no_text()
        for pattern, size, end in (
            (r"size too high \(\d+\)\..* <= (\d+)", "large", "largest"),
            (r"smaller than required_chars\. \d+ vs (\d+)", "small", "smallest"),
        ):
            if match := re.search(pattern, complaint):
                return UserError(
                    f"tokenizer.vocab_size={self.vocab_size} is too {size} for this text; "
                    f"the {end} that works is {match[1]}: type tokenizer.vocab_size={match[1]}"
                )
        return None

    def load(self, folder: Path) -> BPETokenizer:
        path, model_path = folder / FILE, folder / MODEL_FILE
        again = "restore it, or make it again with python -m tinygpt.prepare tokenizer=bpe"
        for needed in (path, model_path):
            if not needed.is_file():
                raise UserError(f"{needed} is missing; {again}")
        try:
            expected = json.loads(path.read_bytes())["model_sha256"]
            model = model_path.read_bytes()
        except (OSError, ValueError, TypeError, KeyError):
            raise UserError(f"{path} is damaged, or not of a bpe tokenizer; {again}") from None
        if hashlib.sha256(model).hexdigest() != expected:
            raise UserError(f"{model_path} is damaged: its checksum is not in {path}; {again}")
        return BPETokenizer(model)


def _no_text() -> UserError:
    return UserError(
        "tokenizer=bpe finds no text to learn from in the training documents; "
        "choose another dataset=NAME, or more of it"
    )


def _sample(documents: Iterable[str], limit: int) -> list[str]:
    """Parts of the documents, `limit` UTF-8 bytes at most: all of them, or a random share.

    Each time the limit is passed, half of what is kept and of what will be kept is let go.
    """
    rng = random.Random(0)  # the same documents give the same sample
    kept: list[str] = []
    size, share = 0, 1.0
    for document in documents:
        for part in _CUT.findall(document):
            if _RESERVED.match(part) or rng.random() >= share:
                continue
            kept.append(part)
            size += utf8_length(part)
            while size > limit:
                share /= 2
                kept = [part for part in kept if rng.random() < 0.5]
                size = sum(map(utf8_length, kept))
    return kept
