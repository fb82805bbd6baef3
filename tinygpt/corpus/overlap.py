"""Overlap of train and validation: repeated documents, and long runs of words in common.

Documents are compared by a 64-bit hash of their text. The probability that two of n different
documents have the same hash is about n^2 / 2^65: 1e-7 for two million, 1e-4 for sixty million.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from math import ceil, log2
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygpt.interfaces import DatasetConfig

NGRAM = 13  # words; of GPT-3's study of contaminated tests (Brown et al. 2020, appendix C)
MEMORY_BYTES = 256 << 20  # that `count_copies` uses at most
TRAIN_SAMPLE = 20_000  # documents
VALIDATION_SAMPLE = 1_000  # documents
LONGEST = 10_000  # characters of each sampled document that are compared

_CHUNK = 1 << 16  # digests read at a time
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so multiplying by it loses no bits (mod 2^64)
_WORD = re.compile(r"\w+")

Digests = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Overlap:
    """The numbers of repeated documents in the manifest."""

    train_documents: int
    train_copies: int  # documents of train that repeat an earlier one
    validation_documents: int
    validation_in_train: int  # documents of validation that are also in train
    # sampled documents that share NGRAM words in a row with sampled train documents
    sampled_train: int
    sampled_validation: int
    sampled_sharing: int

    def to_dict(self) -> dict[str, int]:
        """The JSON for the manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Overlap":
        """Reads the result of `to_dict`; ignores other keys."""
        return cls(**{f.name: int(content[f.name]) for f in fields(cls)})

    def lines(self) -> list[str]:
        """A line of text for each number."""
        lines = [
            f"{_share(self.train_copies, self.train_documents)} train documents repeat an "
            "earlier one",
            f"{_share(self.validation_in_train, self.validation_documents)} validation documents "
            "stand in train too, word for word",
        ]
        if self.sampled_train < self.train_documents:
            whom = f"{self.sampled_train:,} sampled train documents; with all of train it is more"
        else:
            whom = "train"
        if self.sampled_validation:
            lines.append(
                f"{_share(self.sampled_sharing, self.sampled_validation)} sampled validation "
                f"documents share {NGRAM} words in a row with {whom}"
            )
            lines.append(
                "  (that includes phrases which many texts use: generated text shares nearly "
                "everywhere, and leaks nothing by it)"
            )
        return lines

    def warning(self, dataset: DatasetConfig) -> str | None:
        """The warning of training if validation holds text of train; None if it does not."""
        if not self.validation_in_train:
            return None
        ways_out = ["choose another dataset=NAME"]
        if dataset.name == "tiny_stories":
            ways_out = ["type dataset=tiny_stories_clean, the stories without copies"]
        if getattr(dataset, "validation_split", None) is not None:
            ways_out.append(
                "dataset.validation_split=null, which holds out a part of train by a hash of the "
                "text and so keeps copies together"
            )
        return (
            f"{_share(self.validation_in_train, self.validation_documents)} validation documents "
            "stand in train too, word for word: on these val/loss and val/bpb measure memory, "
            f"and are too low; {', or '.join(ways_out)}"
        )


def _share(part: int, whole: int) -> str:
    percent = 100 * part / whole if whole else 0.0
    shown = "<0.1" if 0 < percent < 0.1 else f"{percent:.1f}" if percent % 1 else f"{percent:.0f}"
    return f"{part:,} of {whole:,} ({shown} %)"


# Copies, word for word


def digests(texts: Sequence[str]) -> Digests:
    """A 64-bit hash (xxh3) of the UTF-8 bytes of each text: (texts,), little endian."""
    from xxhash import xxh3_64_intdigest

    hashes = (xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) for text in texts)
    return np.fromiter(hashes, dtype="<u8", count=len(texts))


def count_copies(
    train: Sequence[Path], validation: Sequence[Path], *, memory_bytes: int = MEMORY_BYTES
) -> tuple[int, int]:
    """Train documents that repeat an earlier one, and validation documents that are in train.

    The files hold the results of `digests` as raw bytes. It uses at most `memory_bytes`, however
    many documents there are: with more documents it reads the files more often, each time for
    another range of digests. The minimum is 8 MB.
    """
    total = sum(path.stat().st_size for path in train) // 8
    # 8 bytes a digest; a second array and a mask to remove copies; and the buffer being read
    room = max(4 * _CHUNK, (memory_bytes - 64 * _CHUNK) // 17)
    # digests are spread evenly; half of the memory is left for deviations
    bits = max(0, ceil(log2(2 * total / room))) if total else 0
    distinct = in_train = 0
    buffer = np.empty(min(room, total + _CHUNK), "<u8")
    for part in range(1 << bits):
        filled = 0
        for chunk in _read(train, part, bits):
            if filled + len(chunk) > len(buffer):
                filled = _without_copies(buffer, filled)
            buffer[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        filled = _without_copies(buffer, filled)
        distinct += filled
        known = buffer[:filled]
        in_train += sum(int(_among(chunk, known).sum()) for chunk in _read(validation, part, bits))
    return total - distinct, in_train


def _read(paths: Sequence[Path], part: int, bits: int) -> Iterator[Digests]:
    """The digests whose first `bits` bits equal `part`."""
    for path in paths:
        with path.open("rb") as file:
            while (chunk := np.fromfile(file, "<u8", _CHUNK)).size:
                yield chunk[chunk >> np.uint64(64 - bits) == part] if bits else chunk


def _without_copies(buffer: Digests, filled: int) -> int:
    """Sort the filled part and remove repeats; returns the new length."""
    part = buffer[:filled]
    part.sort()
    first = np.ones(filled, np.bool_)
    np.not_equal(part[1:], part[:-1], out=first[1:])
    distinct = part[first]
    buffer[: distinct.size] = distinct
    return int(distinct.size)


def _among(values: Digests, ordered: Digests) -> npt.NDArray[np.bool_]:
    """Whether each value is in the sorted array."""
    if not ordered.size:
        return np.zeros(values.size, np.bool_)
    places = np.searchsorted(ordered, values).clip(max=ordered.size - 1)
    found: npt.NDArray[np.bool_] = ordered[places] == values
    return found


# Long runs of words in common


def sample(n_documents: int, limit: int, *, seed: int = 0) -> list[int]:
    """Numbers of the documents to compare, in order: all, or `limit` drawn without repeats."""
    if n_documents <= limit:
        return list(range(n_documents))
    drawn = np.random.default_rng(seed).choice(
        n_documents, size=limit, replace=False, shuffle=False
    )
    return sorted(drawn.tolist())


def count_sharing(train: Iterable[str], validation: Iterable[str]) -> tuple[int, int, int]:
    """Numbers of sampled train documents, of sampled validation documents, and of those
    validation documents that share NGRAM words in a row with a sampled train document.

    Words are compared as in GPT-3's study, without case and punctuation. At most TRAIN_SAMPLE
    and VALIDATION_SAMPLE documents are sampled, and LONGEST characters of each. A document of fewer
    than NGRAM words shares nothing.
    """
    of_validation = [_ngrams(text, limit=LONGEST) for text in islice(validation, VALIDATION_SAMPLE)]
    wanted = np.unique(np.concatenate([np.empty(0, np.uint64), *of_validation]))
    found = np.zeros(wanted.size, np.bool_)
    n_train = 0
    for text in islice(train, TRAIN_SAMPLE):
        n_train += 1
        ngrams = _ngrams(text, limit=LONGEST)
        shared = ngrams[_among(ngrams, wanted)]
        found[np.searchsorted(wanted, shared)] = True
    common = wanted[found]
    sharing = sum(bool(_among(ngrams, common).any()) for ngrams in of_validation)
    return n_train, len(of_validation), sharing


def count_shared_ngrams(train: Iterable[str], validation: Iterable[str]) -> tuple[int, int]:
    """Of the distinct runs of NGRAM words in validation: how many are in train, and all of them.

    Every document is read whole; words are compared as in `count_sharing`.
    """
    of_validation = [_ngrams(text, limit=None) for text in validation]
    wanted = np.unique(np.concatenate([np.empty(0, np.uint64), *of_validation]))
    found = np.zeros(wanted.size, np.bool_)
    for text in train:
        ngrams = _ngrams(text, limit=None)
        found[np.searchsorted(wanted, ngrams[_among(ngrams, wanted)])] = True
    return int(found.sum()), int(wanted.size)


def _ngrams(text: str, *, limit: int | None) -> Digests:
    """A 64-bit hash of each run of NGRAM words: a polynomial in the hashes of the words.

    Of the first `limit` characters; None takes the whole text.
    """
    words = _WORD.findall(text[:limit].lower())
    # Python's hash differs between processes, but is used in this one only
    values = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    hashes = np.zeros(max(0, len(words) - NGRAM + 1), np.uint64)
    for k in range(NGRAM):
        hashes = hashes * _FACTOR + values[k : k + hashes.size]
    return hashes
