"""Divide documents into train and validation where a source has no validation split."""

import hashlib
import math
from collections.abc import Iterable, Iterator
from itertools import islice

from tinygpt.errors import UserError
from tinygpt.interfaces import Split


def part(
    documents: Iterable[str],
    split: Split,
    *,
    validation_fraction: float,
    train_among: int | None = None,
) -> Iterator[str]:
    """The documents of one split, chosen by a hash of the text, so equal texts stay together.

    A larger fraction holds out the same documents and more.  Train takes its documents from the
    first `train_among`, if that is given.  Raises UserError at the end if the split is empty.
    """
    empty = True
    lowest, highest = 1.0, 0.0
    for text in islice(documents, train_among if split == "train" else None):
        place = _place(text)
        lowest, highest = min(lowest, place), max(highest, place)
        if (place < validation_fraction) == (split == "validation"):
            empty = False
            yield text
    if not empty or lowest > highest:  # without any document the caller names the source
        return
    field = f"dataset.validation_fraction={validation_fraction}"
    if split == "train" and train_among is not None:
        raise UserError(
            f"{field} holds out all of the first {train_among:,} documents, which dataset.fraction "
            "leaves for train; type a larger dataset.fraction"
        )
    if lowest == highest:
        raise UserError(
            f"{field} leaves no document for {split}, and no other value would: all documents are "
            "the same text; give it at least one other document"
        )
    bound = "more" if split == "validation" else "less"
    raise UserError(
        f"{field} leaves no document for {split}; type {_between(lowest, highest)} or {bound}, or "
        "give it more documents"
    )


def _place(text: str) -> float:
    """A number in [0, 1), uniform over texts, that depends on nothing but the text."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48  # 48 bits are exact in a float


def _between(lowest: float, highest: float) -> float:
    """The shortest decimal f with lowest < f <= highest: both splits have a document with it."""
    for digits in range(3, 16):
        f = (math.floor(lowest * 10.0**digits) + 1) / 10.0**digits
        if lowest < f <= highest:
            return f
    return highest
