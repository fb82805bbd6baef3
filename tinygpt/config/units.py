"""Counts and durations as users write them."""

import re
from fractions import Fraction

from tinygpt.errors import UserError, check_range

_COUNT = {"": 1, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_count(field_name: str, value: float | str) -> int:
    """5000000, 5e6, "5_000_000", "5M" or "2.5K" as a number; raises UserError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", str(value).replace("_", "").upper())
    if not match:
        raise UserError(f"{field_name}={value} is not a count; type 5000000, 5_000_000 or 5M")
    count = Fraction(match[1]) * _COUNT[match[2]]  # exact: as a float 2.3 * 1e6 is no whole number
    if count < 1 or count.denominator != 1:
        raise UserError(f"{field_name}={value} must be a whole number, at least 1")
    return int(count)


def parse_duration(field_name: str, value: float | str) -> float:
    """90, "90s", "1.5m" or "1h30m" in seconds; raises UserError."""
    text = str(value).lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    elif parts and "".join(number + unit for number, unit in parts) == text:
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    else:
        raise UserError(f"{field_name}={value} is not a duration; type 90s, 15m or 1h30m")
    check_range(field_name, seconds, above=0)
    return seconds
