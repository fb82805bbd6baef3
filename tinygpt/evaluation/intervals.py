"""95 % intervals of shares and means, as findings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tinygpt.interfaces import Finding

Numbers = Sequence[float] | npt.NDArray[Any]
_Z = 1.959963984540054  # of the standard normal distribution, two-sided 95 %


def share(successes: float, n: int, *, better: Literal["higher", "lower"] | None) -> Finding:
    """The share of n items, with Wilson's score interval (Wilson 1927, JASA 22)."""
    if not n:
        raise ValueError("a share needs items")
    p = successes / n
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return Finding(p, max(0.0, middle - half), min(1.0, middle + half), n, better)


def mean(values: Numbers, *, better: Literal["higher", "lower"] | None) -> Finding:
    """The mean of independent values, with its interval by the normal approximation."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return Finding(float(array.mean()), n=len(array), better=better)
    half = _Z * float(array.std(ddof=1)) / math.sqrt(len(array))
    value = float(array.mean())
    return Finding(value, value - half, value + half, len(array), better)


def mean_of_shares(shares: Sequence[Finding]) -> Finding:
    """The mean of shares of independent items, each with the same weight; more is better."""
    value = sum(share.value for share in shares) / len(shares)
    variance = sum(s.value * (1 - s.value) / s.n for s in shares if s.n) / len(shares) ** 2
    half = _Z * math.sqrt(variance)
    return Finding(value, value - half, value + half, sum(s.n or 0 for s in shares), "higher")


def ratio(
    numerators: Numbers,
    denominators: Numbers,
    *,
    better: Literal["higher", "lower"] | None,
) -> Finding:
    """Sum over sum, such as nats per byte over documents, with the interval of a ratio estimator.

    Cochran 1977, "Sampling Techniques", equation 6.13, for documents drawn independently.
    """
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    value, n = float(top.sum() / bottom.sum()), len(top)
    if n < 2:
        return Finding(value, n=n, better=better)
    spread = math.sqrt(float(((top - value * bottom) ** 2).sum()) / (n - 1) / n)
    half = _Z * spread / float(bottom.mean())
    return Finding(value, value - half, value + half, n, better)
