"""Byte-pair encoding by sentencepiece: frequent strings get ids, rare characters spell their bytes.

Ids: 0 is end of text, 1 the newline, 2 to 257 the bytes, the rest learned pieces and characters.
"""

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygpt.errors import UserError, check_range
from tinygpt.interfaces import Encoded, Tokenizer, TokenizerConfig, utf8_length
from tinygpt.registry import register

FILE = "tokenizer.json"
MODEL_FILE = "tokenizer.model"
SPACE = "\u2581"  # how sentencepiece writes a space: in a text it would come back as one
# Besides: it leaves a text with U+2585 out of the training, learns no NUL, refuses lone surrogates.
RESERVED = f"{SPACE}\u2585\0\ud800-\udfff"
MAX_PART = 4096  # characters

# A text is cut into its reserved characters and the parts between.  A part ends at white space
# where it can, as pieces do, so the cuts change no id.  They keep sentencepiece quick (its time per
# character grows with the length) and below the length from which training would leave a text out.
_PART = f"[^{RESERVED}]{{1,{MAX_PART}}}"
_END = f"(?:(?<! )(?![^ \n{RESERVED}])|(?<=\n))"
_CUT = re.compile(f"[{RESERVED}]|{_PART}{_END}|{_PART}")
_RESERVED = re.compile(f"[{RESERVED}]")

# Texts repeat few words, so each is encoded once and its ids are kept: this many at most, for words
# of this many UTF-8 bytes at most; about 30 MB of English.
MAX_KNOWN = 200_000
MAX_KNOWN_BYTES = 64
MAX_VOCAB_SIZE = 1_000_000
ID_BYTES = 4  # of an int32
_TOO_LARGE = r"size too high \(\d+\)\..* <= (\d+)"  # sentencepiece's errors
_TOO_SMALL = r"smaller than required_chars\. \d+ vs (\d+)"

AUTO = "auto"
LEARNED = 258  # the first id that is learned: end of text, the newline and the bytes come before
_OF_AUTO = ("min_frequency", "max_vocab_size")
_COUNTED_AT_ONCE = 1 << 20  # characters
MAX_WORDS = 2_000_000  # different words that are counted; beyond, the rarest are forgotten


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
        self._sizes = np.array([len(self._bytes[i]) for i in range(len(self._pieces))])
        self._known: dict[bytes, bytes] = {}  # word -> its ids as int32

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    @property
    def pieces(self) -> list[str]:
        """The piece of each id, as sentencepiece writes it: with U+2581 for a space."""
        return list(self._pieces)

    def encode(self, text: str) -> list[int]:
        # without Arrow, whose import would make the first prompt of a command wait
        data = text.encode("utf-8", "surrogatepass")
        cuts = _word_cuts(data, np.array([0, len(data)])).tolist()
        words = [data[start:end] for start, end in pairwise(cuts)]
        ids: list[int] = np.frombuffer(b"".join(self._word_ids(words)), np.int32).tolist()
        return ids

    def encode_batch(self, texts: Sequence[str]) -> Encoded:
        """`encode` for many texts; takes about ten times their size in memory."""
        import pyarrow as pa

        cut, cuts, text_ends = _words(texts)
        words = cut.dictionary_encode()
        distinct = pa.array(self._word_ids(words.dictionary.to_pylist()), pa.large_binary())
        _, offsets, ids = distinct.take(words.indices).buffers()
        ends = np.frombuffer(offsets, dtype=np.int64, count=len(cuts)) // ID_BYTES
        return Encoded(
            np.frombuffer(ids or b"", dtype=np.int32, count=int(ends[-1])),
            np.diff(ends[np.searchsorted(cuts, text_ends)]),
        )

    def _word_ids(self, words: list[bytes]) -> list[bytes]:
        """The ids of each of the different words, as int32; those of short words are kept."""
        known = list(map(self._known.get, words))
        new = [word for word, ids in zip(words, known, strict=True) if ids is None]
        new_ids = self._encode_words(new)
        short = [i for i, word in enumerate(new) if len(word) <= MAX_KNOWN_BYTES][:MAX_KNOWN]
        if len(self._known) + len(short) > MAX_KNOWN:
            self._known.clear()  # frequent words soon return
        self._known.update((new[i], new_ids[i]) for i in short)
        rest = iter(new_ids)
        return [next(rest) if ids is None else ids for ids in known]

    def _encode_words(self, words: list[bytes]) -> list[bytes]:
        """As one text, a newline after each: quicker than one by one."""
        text = b"".join([word + b"\n" for word in words]).decode("utf-8", "surrogatepass")
        ids = np.concatenate(
            [np.empty(0, dtype=np.int32), *map(self._part_ids, _CUT.findall(text))]
        )
        sizes = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
        stops = np.cumsum(sizes + 1) - 1
        spans = np.searchsorted(np.cumsum(self._sizes[ids]), [stops - sizes, stops], side="right")
        data, (first, last) = ids.tobytes(), (ID_BYTES * spans).tolist()
        return [data[start:stop] for start, stop in zip(first, last, strict=True)]

    def _part_ids(self, part: str) -> npt.NDArray[np.int32]:
        if _RESERVED.match(part):
            spelled = [self._byte_ids[byte] for byte in part.encode("utf-8", "surrogatepass")]
            return np.array(spelled, dtype=np.int32)
        ids: npt.NDArray[np.int32] = self._processor.encode(part, out_type="numpy")
        return ids

    def merge_counts(self, words: Mapping[bytes, int]) -> list[int]:
        """How often each merge is applied in these words, given how often each word occurs.

        In the order in which the merges were learned.  A piece that is a part of later pieces
        counts with them: that is how often its merge was applied.
        """
        text = list(words)
        counts = np.zeros(self.vocab_size, dtype=np.int64)
        for word, ids in zip(text, self._encode_words(text), strict=True):
            np.add.at(counts, np.frombuffer(ids, dtype=np.int32), words[word])
        id_of = {piece: i for i, piece in enumerate(self._pieces)}
        ranks = {p: i for p, i in id_of.items() if i >= LEARNED and len(p) > 1}
        for piece, rank in sorted(ranks.items(), key=lambda item: -item[1]):
            for part in _merged_parts(piece, ranks):
                counts[id_of[part]] += counts[rank]
        return [int(counts[rank]) for rank in sorted(ranks.values())]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """UTF-8 bytes of the ids; raises ValueError for an id that does not exist.

        Each id adds its own bytes, so a stream of ids decodes as it grows.
        """
        if isinstance(ids, np.ndarray):
            ids = ids.tolist()  # numpy's own numbers are slow one by one
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


def _words(
    texts: Sequence[str],
) -> tuple[Any, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The words of the texts as an Arrow array, where each begins, and where each text ends."""
    import pyarrow as pa

    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    data = b"".join(encoded)
    text_ends = np.cumsum([0, *map(len, encoded)])
    cuts = _word_cuts(data, text_ends)
    buffers = [None, pa.py_buffer(cuts), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(cuts) - 1, buffers), cuts, text_ends


def _word_cuts(data: bytes, text_ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where words begin, and the end: (words + 1,).  `text_ends` begins with 0.

    A word begins at the start of a text, a newline, a run of spaces, and after a Latin letter at
    what is none.  A piece has spaces only at its start, no newline, and characters of one script
    (Latin, or the one of punctuation and digits): none crosses a cut, so the words' ids are the
    text's.
    """
    characters = np.frombuffer(data, dtype=np.uint8)
    space = characters == ord(" ")
    cut = np.zeros(len(data) + 1, dtype=np.bool_)
    cut[1:-1] = space[1:] > space[:-1]
    letter = (characters | 0x20) - ord("a") < 26  # ASCII; other letters are bytes above it
    cut[1:-1] |= letter[:-1] > (letter | (characters >= 0x80))[1:]
    cut[:-1] |= characters == ord("\n")
    cut[text_ends] = True
    return np.flatnonzero(cut)


def _merged_parts(piece: str, ranks: Mapping[str, int]) -> list[str]:
    """The two pieces whose merge made this one: earlier merges are applied, lowest rank first."""
    parts, last = list(piece), len(ranks) + LEARNED
    while len(parts) > 2:
        pairs = enumerate(left + right for left, right in pairwise(parts))
        _, i = min((ranks.get(pair, last), i) for i, pair in pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


class _WordCounts:
    """How often each word occurs in the documents that pass through `counted`."""

    def __init__(self) -> None:
        self.counts: Counter[bytes] = Counter()

    def counted(self, documents: Iterable[str]) -> Iterator[str]:
        """The documents as they are."""
        waiting: list[str] = []
        size = 0
        for document in documents:
            waiting.append(document)
            size += len(document)
            if size > _COUNTED_AT_ONCE:
                self._count(waiting)
                waiting, size = [], 0
            yield document
        self._count(waiting)

    def _count(self, documents: Sequence[str]) -> None:
        words = _words(documents)[0].value_counts()
        values, counts = words.field("values").to_pylist(), words.field("counts").to_pylist()
        self.counts.update(dict(zip(values, counts, strict=True)))
        rare = 1
        while len(self.counts) > MAX_WORDS:
            self.counts = Counter({w: n for w, n in self.counts.items() if n > rare})
            rare += 1


@register("tokenizer")
@dataclass
class BPEConfig(TokenizerConfig):
    """How many pieces to learn, and from how much text."""

    name: str = "bpe"
    # end of text included; more shortens texts and grows the embedding: 4096 suits small models,
    # about 30_000 the full TinyStories; a short text gives fewer than the default; auto: every
    # piece that occurs min_frequency times
    vocab_size: int | str = 4096
    # with auto: how often a piece must occur in the training text; fewer gives a larger vocabulary
    min_frequency: int = 100
    max_vocab_size: int = (
        65_536  # with auto: the most pieces; above 65_536 tokens take twice the disk
    )
    # UTF-8 bytes; of a longer text a random share that fits is learned from: bounds memory and time
    train_bytes: int = 50_000_000
    # share of the text whose characters get ids; below 1 the rarest are left to their bytes, as
    # text with thousands of characters (Chinese, say) may need
    character_coverage: float = 1.0
    # the tokenizer of another run, such as outputs/RUN/tokenizer; null learns one from the text
    path: str | None = None

    def __post_init__(self) -> None:
        if self.path is not None:
            self._check_nothing_is_learned()
        if self.vocab_size == AUTO:
            check_range("tokenizer.min_frequency", self.min_frequency, low=1)
            check_range(
                "tokenizer.max_vocab_size", self.max_vocab_size, low=LEARNED, high=MAX_VOCAB_SIZE
            )
        elif isinstance(self.vocab_size, str):
            raise UserError(
                f"tokenizer.vocab_size={self.vocab_size} must be a whole number, or auto"
            )
        else:
            check_range("tokenizer.vocab_size", self.vocab_size, low=LEARNED, high=MAX_VOCAB_SIZE)
            for name in _OF_AUTO:
                if getattr(self, name) != getattr(type(self), name):
                    raise UserError(
                        f"tokenizer.{name}={getattr(self, name)} is used only with "
                        f"tokenizer.vocab_size=auto, and it is {self.vocab_size}"
                    )
        check_range("tokenizer.train_bytes", self.train_bytes, low=100_000)
        check_range("tokenizer.character_coverage", self.character_coverage, low=0.98, high=1)

    def _check_nothing_is_learned(self) -> None:
        """Raise UserError for a setting of learning, which `path` would leave without effect."""
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name not in ("name", "path") and value != f.default:
                raise UserError(
                    f"tokenizer.{f.name}={value} has no effect with tokenizer.path={self.path}, "
                    f"which is already learned; leave out one of the two"
                )

    @property
    def identity(self) -> dict[str, Any]:
        """The settings of learning, or the pieces of a loaded tokenizer; its path does not count.

        Raises UserError if there is no tokenizer in `path`.
        """
        if self.path is not None:
            return {"name": self.name, "fingerprint": self.load_from(self.path).fingerprint()}
        settings = asdict(self)
        del settings["path"]
        if self.vocab_size != AUTO:  # so that data prepared before there was `auto` stays valid
            for name in _OF_AUTO:
                del settings[name]
        return settings

    def train(self, documents: Iterator[str]) -> BPETokenizer:
        """A text too short for the default vocab_size gives the largest vocabulary it supports.

        Raises UserError for another vocab_size that the text does not support, and if there is no
        tokenizer in `path`.
        """
        if self.path is not None:
            loaded = self.load_from(self.path)
            assert isinstance(loaded, BPETokenizer)
            return loaded
        words = _WordCounts() if self.vocab_size == AUTO else None
        parts = _sample(words.counted(documents) if words else documents, self.train_bytes)
        if not parts:
            raise _no_text()
        if words:
            return self._frequent_pieces(parts, words)
        assert isinstance(self.vocab_size, int)
        try:
            return BPETokenizer(self._learned(parts, self.vocab_size))
        except RuntimeError as error:
            largest = re.search(_TOO_LARGE, str(error))
            if largest and self.vocab_size == type(self).vocab_size:
                return BPETokenizer(self._learned(parts, int(largest[1])))
            if explained := self._explain(str(error)):
                raise explained from None
            raise

    def _frequent_pieces(self, parts: Sequence[str], words: "_WordCounts") -> BPETokenizer:
        """The tokenizer whose merged pieces occur min_frequency times in all documents.

        The order of merges does not depend on the vocabulary's size, so the merges of the largest
        vocabulary are counted, and as many are learned as are frequent enough.
        """
        try:
            model = self._learned(parts, self.max_vocab_size)
        except RuntimeError as error:
            limit = re.search(_TOO_LARGE, str(error)) or re.search(_TOO_SMALL, str(error))
            if not limit:
                raise self._explain(str(error)) or error from None
            model = self._learned(parts, int(limit[1]))
        largest = BPETokenizer(model)
        counts = largest.merge_counts(words.counts)
        frequent = sum(count >= self.min_frequency for count in counts)
        if frequent == len(counts):
            return largest
        return BPETokenizer(self._learned(parts, largest.vocab_size - len(counts) + frequent))

    def _learned(self, parts: Sequence[str], vocab_size: int) -> bytes:
        """The sentencepiece model of the parts; raises sentencepiece's RuntimeError."""
        from sentencepiece import SentencePieceTrainer

        model = BytesIO()
        SentencePieceTrainer.train(
            sentence_iterator=iter(parts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
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
        return model.getvalue()

    def _explain(self, complaint: str) -> UserError | None:
        """The UserError for a sentencepiece error that the user can fix; None for others."""
        if "sentences_.empty()" in complaint:
            return _no_text()
        for pattern, size, end in (
            (_TOO_LARGE, "large", "largest"),
            (_TOO_SMALL, "small", "smallest"),
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
