"""Rules for how much of a source is read: fraction, max_documents and ranges of rows."""

import re

from tinygpt.errors import UserError, check_range

_MARGIN = 1.25  # for text whose tokens are longer than usual
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def check(fraction: float, max_documents: int | None) -> None:
    """Raise UserError unless each is in range and at most one of them limits the amount."""
    check_range("dataset.fraction", fraction, above=0, high=1)
    if max_documents is not None:
        check_range("dataset.max_documents", max_documents, low=1)
        if fraction != 1:
            raise UserError(
                f"dataset.fraction={fraction} and dataset.max_documents={max_documents} both say "
                "how much to train on; leave one of them out"
            )


def number(fraction: float | str, *, auto: bool) -> float:
    """The fraction as a float; raises UserError for text. `auto`: whether that word is allowed."""
    if isinstance(fraction, bool | str):
        raise UserError(
            f"dataset.fraction={fraction} must be a number above 0 and at most 1, such as 0.1"
            + ", or auto" * auto
        )
    return float(fraction)


def enough(needed: float) -> float:
    """The fraction to prepare if training reads about `needed` of the text.

    A quarter is added, and the result is rounded up, so that runs of similar length share one
    prepared text.
    """
    return next((step for step in _STEPS if step >= needed * _MARGIN), 1.0)


def first(n: int, fraction: float) -> int:
    """The number of items in the first part of n items: at least one, unless n is zero."""
    return min(n, max(1, round(fraction * n)))


def rows(field: str, typed: str | None) -> tuple[int, int | None]:
    """(start, stop) of a range of rows such as 10000:20000, counted from 0; None means all rows.

    Raises UserError for anything else and for a range without rows.
    """
    if typed is None:
        return 0, None
    found = re.fullmatch(r"([\d_]*):([\d_]*)", typed.replace(" ", ""))
    if not found:
        raise UserError(f"{field}={typed} is no range of rows; type {field}=START:STOP, or START:")
    start = int(found[1]) if found[1] else 0
    stop = int(found[2]) if found[2] else None
    if stop is not None and stop <= start:
        raise UserError(f"{field}={typed} has no rows: STOP must be above START")
    return start, stop


def overlap(one: tuple[int, int | None], other: tuple[int, int | None]) -> bool:
    """Whether two such ranges have a row in common."""
    return (other[1] is None or one[0] < other[1]) and (one[1] is None or other[0] < one[1])
