"""Parse numbers, counts and durations as users type them."""

import re
from fractions import Fraction
from math import inf
from typing import Any

from tinygpt.errors import UserError, check_range, shortened

LARGEST_COUNT = 10**18
_COUNT = {"": 1, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000}
LONGEST_S = 1e9  # 30 years
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# ASCII digits only; at most two exponent digits, because 1e999 would be a number of 1,000 digits
_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:[eE]\+?[0-9]{1,2})?"


def parse_count(field_name: str, value: float | str) -> int:
    """Parse 5000000, 5e6, "5_000_000", "5M" or "2.5K" as a whole number; raises UserError."""
    text = str(value).replace("_", "").upper()
    match = re.fullmatch(rf"({_NUMBER})([KMB]?)", text)
    if not match:
        shown = shortened(value)
        raise UserError(f"{field_name}={shown} is not a count; type 5000000, 5_000_000 or 5M")
    if len(text) > 40:
        raise UserError(f"{field_name}={shortened(value)} must be at most {LARGEST_COUNT:g}")
    count = Fraction(match[1]) * _COUNT[match[2]]  # exact: as a float 2.3 * 1e6 is not whole
    if count < 1 or count.denominator != 1:
        raise UserError(f"{field_name}={value} must be a whole number, at least 1")
    check_range(field_name, int(count), high=LARGEST_COUNT)
    return int(count)


def whole_number(value: object) -> int | None:
    """Parse 1e3, "1e3" or "1_000" as 1000; None for anything that is not exactly a whole number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    text = "" if isinstance(value, str) and len(value) > 40 else str(value).replace("_", "")
    match = re.fullmatch(rf"([+-]?)({_NUMBER})", text)
    if not match or Fraction(match[2]).denominator != 1:
        return None
    return int(Fraction(match[2])) * (-1 if match[1] == "-" else 1)


def parse_duration(field_name: str, value: float | str) -> float:
    """Parse 90, "90s", "1.5m" or "1h30m" as seconds; raises UserError."""
    text = str(value).lower()
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text)
    if len(text) > 40:  # may have more digits than a float can hold
        seconds = inf
    elif re.fullmatch(r"[0-9]+(\.[0-9]+)?(e[+-]?[0-9]{1,2})?", text):
        seconds = float(text)
    elif parts and "".join(number + unit for number, unit in parts) == text:
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    else:
        shown = shortened(value)
        raise UserError(f"{field_name}={shown} is not a duration; type 90s, 15m or 1h30m")
    check_range(field_name, seconds, above=0, high=LONGEST_S)
    return seconds


def type_names(hint: Any) -> list[str]:
    """The names of the types in an annotation such as `int | None`."""
    text = hint.__name__ if isinstance(hint, type) and "[" not in str(hint) else str(hint)
    return [part.strip() for part in text.split("|")]
