"""Measures of texts: repetition, diversity, copying, consistency.  None needs a model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

_WORD = re.compile(r"[^\W\d_]+(?:'[a-z]+)?|[.,!?]")  # letters of any alphabet
_LETTERS = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")
_CHUNK = 1 << 22  # training tokens that are hashed at once
_BASE = np.uint64(0x9E3779B97F4A7C15)
Ids = npt.NDArray[np.int64]


def words(text: str) -> list[str]:
    """Words in lower case, and . , ! ? as words of their own."""
    return [word.lower() for word in _WORD.findall(text)]


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All n-grams in order."""
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


def repeated(text: str, n: int = 4) -> float | None:
    """The share of a text's n-grams that it had before; None for a text without one."""
    found = ngrams(words(text), n)
    return None if not found else 1 - len(set(found)) / len(found)


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Different n-grams over all n-grams of the texts together (Li et al. 2016, distinct-n).

    None for texts without one.
    """
    found = [gram for text in texts for gram in ngrams(words(text), n)]
    return len(set(found)) / len(found) if found else None


def self_bleu(texts: Sequence[str]) -> list[float]:
    """BLEU-4 of each text against all others (Zhu et al. 2018, Texygen): high if they are alike.

    An order of n-grams without a match counts as half a match (Lin and Och 2004, smoothing).  Texts
    of fewer than 4 words are left out; one text alone has no score.
    """
    if len(texts) < 2:
        return []
    grams = [[Counter(ngrams(words(text), n)) for n in range(1, 5)] for text in texts]
    lengths = [len(words(text)) for text in texts]
    scores = []
    for i, own in enumerate(grams):
        if lengths[i] < 4:
            continue
        others = [j for j in range(len(texts)) if j != i]
        logs = 0.0
        for n in range(4):
            most: Counter[tuple[str, ...]] = Counter()
            for j in others:
                most |= grams[j][n]
            matches = sum((own[n] & most).values())
            logs += math.log(max(matches, 0.5) / max(1, sum(own[n].values()))) / 4
        nearest = min((lengths[j] for j in others), key=lambda size: abs(size - lengths[i]))
        brevity = min(0.0, 1 - nearest / lengths[i])
        scores.append(math.exp(logs + brevity))
    return scores


def unknown_words(text: str, known: set[str]) -> float | None:
    """The share of a text's words that are not in `known`; None for a text without words."""
    found = [word.lower() for word in _LETTERS.findall(text)]
    return None if not found else sum(word not in known for word in found) / len(found)


def vocabulary(texts: Iterable[str]) -> set[str]:
    """All words of the texts in lower case."""
    return {word.lower() for text in texts for word in _LETTERS.findall(text)}


def has_balanced_quotes(text: str) -> bool:
    """Whether each paragraph has an even number of double quotation marks."""
    return all(part.count('"') % 2 == 0 for part in text.split("\n\n"))


def kept_names(text: str) -> float | None:
    """The share of names in the second half that the first half has; None without such names.

    A name is a capitalised word inside of a sentence.
    """
    half = len(text) // 2
    found = list(re.finditer(r"(?<=[a-z,] )[A-Z][a-z]+\b", text))
    late = [m[0] for m in found if m.start() >= half]
    if not late:
        return None
    early = set(re.findall(r"\b[A-Z][a-z]+\b", text[:half]))
    return sum(name in early for name in late) / len(late)


def distance(texts: Sequence[str], others: Sequence[str], n: int) -> float | None:
    """Jensen-Shannon divergence of the n-grams' distributions in bits: 0 equal, 1 disjoint.

    None if one of the two has no n-gram.
    Lin 1991, "Divergence measures based on the Shannon entropy", equation 3.6.
    """
    counts = [
        Counter(gram for text in group for gram in ngrams(words(text), n))
        for group in (texts, others)
    ]
    totals = [sum(count.values()) for count in counts]
    if not all(totals):
        return None
    found = 0.0
    for gram in counts[0] | counts[1]:
        p, q = (count[gram] / total for count, total in zip(counts, totals, strict=True))
        middle = (p + q) / 2
        found += sum(x * math.log2(x / middle) / 2 for x in (p, q) if x)
    return found


# Copies, over token ids


def longest_copies(texts: Sequence[Sequence[int]], chunks: Sequence[Ids]) -> list[int]:
    """Of each text the longest span, in tokens, that the training tokens have as well.

    A span of n is a copy only if one of n - 1 is, so all texts are searched by halves together.
    Spans are compared by 64-bit hashes.
    """
    low, high = [0] * len(texts), [len(text) for text in texts]
    while any(a < b for a, b in zip(low, high, strict=True)):
        middles = [(a + b + 1) // 2 for a, b in zip(low, high, strict=True)]
        open_ = [i for i in range(len(texts)) if low[i] < high[i]]
        found = set()
        for n in {middles[i] for i in open_}:
            found |= _with_copies([i for i in open_ if middles[i] == n], texts, chunks, n)
        for i in open_:
            if i in found:
                low[i] = middles[i]
            else:
                high[i] = middles[i] - 1
    return low


def _with_copies(
    numbers: Sequence[int], texts: Sequence[Sequence[int]], chunks: Sequence[Ids], n: int
) -> set[int]:
    """Which of the texts have a span of n tokens that a chunk has."""
    hashes = {i: hashed(np.asarray(texts[i], np.int64), n) for i in numbers}
    known = _known(np.unique(np.concatenate(list(hashes.values()))), chunks, n)
    return {i for i, own in hashes.items() if np.isin(own, known).any()}


def share_of_copies(texts: Sequence[Sequence[int]], chunks: Sequence[Ids], n: int) -> float:
    """The share of the texts' n-token spans that the training tokens have as well."""
    all_hashes = [hashed(np.asarray(text, np.int64), n) for text in texts]
    together = np.concatenate([np.zeros(0, np.uint64), *all_hashes])
    if not len(together):
        return 0.0
    known = _known(np.unique(together), chunks, n)
    return float(np.isin(together, known).mean())


def _known(wanted: npt.NDArray[np.uint64], chunks: Sequence[Ids], n: int) -> npt.NDArray[np.uint64]:
    """Which of the sorted hashes are those of a span of n tokens in a chunk."""
    seen = np.zeros(len(wanted), bool)
    for chunk in chunks:
        for start in range(0, max(1, len(chunk) - n + 1), _CHUNK):
            found = hashed(chunk[start : start + _CHUNK + n - 1], n)
            places = np.minimum(np.searchsorted(wanted, found), len(wanted) - 1)
            seen[places[wanted[places] == found]] = True
    return wanted[seen]


def hashed(tokens: Ids, n: int) -> npt.NDArray[np.uint64]:
    """A hash of each span of n tokens: a polynomial modulo 2^64 of mixed ids."""
    if len(tokens) < n:
        return np.zeros(0, np.uint64)
    with np.errstate(over="ignore"):
        mixed = (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(29)
        total, size, power, found = 0, 1, _BASE, mixed
        # spans of n from spans of powers of two, so that the work is n log n at most
        result = np.zeros(len(tokens) - n + 1, np.uint64)
        left = n
        while left:
            if left & size:
                part = found[total : total + len(result)]
                result = result * power + part
                total += size
                left -= size
            if left:
                found = found[:-size] * power + found[size:]
                power = power * power
                size *= 2
    return result
