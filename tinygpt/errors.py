"""User-facing errors and helpers that phrase them."""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from math import inf

# https://USER:PASSWORD@host, and https://host?token=VALUE
_USERINFO = re.compile(r"(\w://)[^\s/'\"]+@")
_QUERY = re.compile(
    r"(?i)([?&][\w-]*(?:token|key|secret|password|signature|credential)=)[^&\s'\"]+"
)


def masked(text: str) -> str:
    """The text with *** for passwords and tokens in its URLs."""
    return _QUERY.sub(r"\1***", _USERINFO.sub(r"\1***@", text))


class UserError(ValueError):
    """An error that the user can fix; commands print it without a traceback.

    The text names the field as typed, the value, the rule and what to type instead. Passwords in
    URLs are masked.
    """

    def __init__(self, message: object) -> None:
        super().__init__(masked(str(message)))


class AlreadyFinished(UserError):
    """A finished run was resumed and has no steps left."""


# Characters that a terminal obeys instead of showing: C0 and C1 controls except tab and newline,
# marks that change the direction of writing, line separators, and halves of surrogate pairs, which
# cannot be encoded at all.
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    """The text with each character that a terminal would obey written as its escape, as in \\x1b.

    Tabs and newlines stay, and a Windows line ending becomes a newline. Use it wherever a text from
    a document, a model, a file or the command line is printed.
    """
    return _OBEYED.sub(_escape, text.replace("\r\n", "\n"))


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


_ALSO_CALLED = {"gpu": "cuda", "metal": "mps"}  # `gpu` looks like cpu and never means it


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that looks most like `word`, or None when none is close."""
    choices = list(choices)
    if _ALSO_CALLED.get(word) in choices:
        return _ALSO_CALLED[word]
    matches = get_close_matches(word, choices, n=1, cutoff=0.5)
    return matches[0] if matches else None


def did_you_mean(word: str, choices: Iterable[str], before: str = "") -> str:
    """The end of an error, with the nearest choice after `before`; "" when none is close."""
    match = nearest(word, choices)
    return f"; did you mean {before}{match}?" if match else ""


def as_typed(value: object) -> str:
    """The value as it is written on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def not_a_choice(field: str, value: object, choices: Iterable[str]) -> UserError:
    """The error for `field=value` where only `choices` are valid."""
    choices = sorted(choices)
    # Hydra reads on, off, true and false as booleans, and a text field then holds their names
    switch = {"True": "true", "False": "false"}.get(str(value))
    word = {"true": "always", "false": "never"}.get(switch or "", str(value))
    hint = "" if as_typed(value) == "null" else did_you_mean(word, choices, f"{field}=")
    return UserError(
        f"{field}={switch or as_typed(value)} is not a choice{hint}\n"
        f"  choices: {', '.join(choices) or 'none yet'}"
    )


def check_choice(field: str, value: str, choices: Iterable[str]) -> None:
    """Raise UserError unless `value` is one of `choices`."""
    if value not in choices:
        raise not_a_choice(field, value, choices)


LARGEST, SMALLEST = 1e30, 1e-30  # what a setting may be: far beyond any use, inside of float32
LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes that Linux allows for a file's name and its path


def shortened(value: object) -> str:
    """The value as text of at most 60 characters, to quote it in an error."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text):,} characters)"


def check_path(field: str, value: str | None) -> None:
    """Raise UserError unless `value` could be the path of a file or folder, or is None."""
    if value is None:
        return
    broken = {
        "is empty": not value.strip(),
        "has a NUL character in it": "\0" in value,
        f"has a name of more than {LONGEST_NAME} bytes in it": any(
            len(os.fsencode(part)) > LONGEST_NAME for part in value.split("/")
        ),
        f"is longer than {LONGEST_PATH:,} bytes": len(os.fsencode(value)) > LONGEST_PATH,
    }
    for fault in (text for text, holds in broken.items() if holds):
        raise UserError(f"{field}={visible(shortened(value))} {fault}; type {field}=FOLDER")


def check_range(
    field: str,
    value: float | None,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
) -> None:
    """Raise UserError unless low <= value <= high and above < value < below, or it is None.

    Any number must be finite, at most LARGEST, and 0 or at least SMALLEST away from it.
    """
    if value is None:
        return
    rules = [
        (abs(value) != inf, "finite"),
        (not LARGEST < abs(value) < inf, f"at most {LARGEST:g}"),
        (not 0 < abs(value) < SMALLEST, f"0 or at least {SMALLEST:g}"),
        (low is None or value >= low, f"at least {low}"),
        (above is None or value > above, f"above {above}"),
        (high is None or value <= high, f"at most {high}"),
        (below is None or value < below, f"below {below}"),
    ]
    broken = [text for holds, text in rules if not holds]
    if broken:
        raise UserError(f"{field}={shortened(value)} must be {' and '.join(broken)}")
