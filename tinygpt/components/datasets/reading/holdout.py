"""Which documents are held out for validation where a source has no such split of its own."""

import hashlib
from collections.abc import Iterable, Iterator

from tinygpt.errors import UserError
from tinygpt.interfaces import Split


def part(documents: Iterable[str], split: Split, *, validation_fraction: float) -> Iterator[str]:
    """The documents of one split; a hash of the text decides, so equal texts stay together.

    A larger fraction holds out the same documents and more.  Raises UserError if none is left.
    """
    empty = True
    lowest = 1.0
    for text in documents:
        place = _place(text)
        lowest = min(lowest, place)
        if (place < validation_fraction) == (split == "validation"):
            empty = False
            yield text
    if empty and lowest < 1:  # a source without documents is the caller's to name
        enough = (int(lowest * 1000) + 1) / 1000  # holds out at least one
        way_out = "a smaller one" if split == "train" else f"{enough} or more"
        raise UserError(
            f"dataset.validation_fraction={validation_fraction} leaves no document for {split}; "
            f"type {way_out}, or give it more documents"
        )


def _place(text: str) -> float:
    """A number in [0, 1), uniform over texts, that depends on nothing but the text."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48  # 48 bits are exact in a float
