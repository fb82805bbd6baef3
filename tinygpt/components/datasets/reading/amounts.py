"""How much of a source is read: the rules for fraction, max_documents and ranges of rows."""

import re

from tinygpt.errors import UserError, check_range


def check(fraction: float, max_documents: int | None) -> None:
    """Raise UserError unless each is in range and at most one of them asks for less than all."""
    check_range("dataset.fraction", fraction, above=0, high=1)
    if max_documents is not None:
        check_range("dataset.max_documents", max_documents, low=1)
        if fraction != 1:
            raise UserError(
                f"dataset.fraction={fraction} and dataset.max_documents={max_documents} both say "
                "how much to train on; leave one of them out"
            )


def first(n: int, fraction: float) -> int:
    """How many of n are their first part: at least one, unless there is none."""
    return min(n, max(1, round(fraction * n)))


def rows(field: str, typed: str | None) -> tuple[int, int | None]:
    """(start, stop) of rows counted from 0, from text like 10000:20000; None: all, up to the end.

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
