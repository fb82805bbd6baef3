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
_SHORTEST = 8  # tokens of a span whose places in the training tokens are kept
_FILTER_BITS = 22  # of a hash
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))
Ids = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


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
    split = [words(text) for text in texts]
    logs = [0.0] * len(texts)
    for n in range(1, 5):
        grams = [Counter(ngrams(of_text, n)) for of_text in split]
        most: dict[tuple[str, ...], tuple[int, int, int]] = {}  # count, whose, next count
        for i, own in enumerate(grams):
            for gram, count in own.items():
                first, whose, second = most.get(gram, (0, -1, 0))
                if count > first:
                    most[gram] = count, i, first
                elif count > second:
                    most[gram] = first, whose, count
        for i, own in enumerate(grams):
            matches = 0
            for gram, count in own.items():
                first, whose, second = most[gram]
                matches += min(count, second if whose == i else first)
            logs[i] += math.log(max(matches, 0.5) / max(1, sum(own.values()))) / 4
    scores = []
    for i, of_text in enumerate(split):
        if len(of_text) < 4:
            continue
        others = (len(other) for j, other in enumerate(split) if j != i)
        nearest = min(others, key=lambda size: abs(size - len(of_text)))
        scores.append(math.exp(logs[i] + min(0.0, 1 - nearest / len(of_text))))
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


def longest_copies(texts: Sequence[Sequence[int]], train: Ids) -> list[int]:
    """Of each text the longest span, in tokens, that the training tokens have as well.

    Spans are compared by 64-bit hashes.
    """
    own = [Spans(np.asarray(text, np.int64)) for text in texts]
    margin = max((len(text) for text in texts), default=0)
    longest = [0] * len(texts)
    for start in range(0, len(train), _CHUNK):
        longest = _longer(longest, own, Spans(train[start : start + _CHUNK + margin]))
    return longest


def _longer(known: Sequence[int], texts: Sequence[Spans], train: Spans) -> list[int]:
    """The longest copies, if those of `known` lengths are from other training tokens.

    A span of n is a copy only if one of n - 1 is, so all texts are searched by halves together.
    """
    places: dict[int, npt.NDArray[np.int64]] = {}  # by size: where training has a span of a text

    def at(size: int) -> npt.NDArray[np.int64] | None:
        """Where a span of `size`, a power of two, of any text begins; None: everywhere."""
        if size < _SHORTEST:
            return None
        if size not in places:
            before = at(size // 2)
            _, found = train.matches(_together(texts, size), size, before)
            places[size] = found
        return places[size]

    low, high = list(known), [max(k, len(text)) for k, text in zip(known, texts, strict=True)]
    while open_ := [i for i in range(len(texts)) if low[i] < high[i]]:
        middles = {i: (low[i] + high[i] + 1) // 2 for i in open_}
        for n in sorted(set(middles.values())):
            now = [i for i in open_ if middles[i] == n]
            wanted = _together([texts[i] for i in now], n)
            copies, _ = train.matches(wanted, n, at(1 << (n.bit_length() - 1)))
            for i in now:
                if np.isin(texts[i].hashes(n), copies).any():
                    low[i] = n
                else:
                    high[i] = n - 1
    return low


def share_of_copies(texts: Sequence[Sequence[int]], train: Ids, n: int) -> float:
    """The share of the texts' n-token spans that the training tokens have as well."""
    own = [Spans(np.asarray(text, np.int64)) for text in texts]
    wanted = _together(own, n)
    if not len(wanted):
        return 0.0
    copies = [
        Spans(train[start : start + _CHUNK + n - 1]).matches(wanted, n)[0]
        for start in range(0, len(train), _CHUNK)
    ]
    together = np.concatenate([text.hashes(n) for text in own])
    return float(np.isin(together, np.concatenate([np.zeros(0, np.uint64), *copies])).mean())


def _together(texts: Sequence[Spans], n: int) -> Hashes:
    """The different hashes of the texts' spans of n tokens, sorted."""
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *(text.hashes(n) for text in texts)]))


class Spans:
    """Hashes of the spans of a stream of tokens: a polynomial modulo 2^64 of mixed ids."""

    def __init__(self, tokens: Ids) -> None:
        mixed = (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(29)
        powers = np.cumprod(np.full(len(tokens), _BASE))
        self._sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed * powers)])
        self._inverse = np.cumprod(np.full(len(tokens), _INVERSE))  # so place does not matter

    def __len__(self) -> int:
        return len(self._inverse)

    def hashes(self, n: int, places: npt.NDArray[np.int64] | None = None) -> Hashes:
        """The hash of each span of n tokens, or of those that begin at `places`."""
        found: Hashes
        if places is None:
            count = max(0, len(self) - n + 1)
            found = (self._sums[n : n + count] - self._sums[:count]) * self._inverse[:count]
        else:
            found = (self._sums[places + n] - self._sums[places]) * self._inverse[places]
        return found

    def matches(
        self, wanted: Hashes, n: int, places: npt.NDArray[np.int64] | None = None
    ) -> tuple[Hashes, npt.NDArray[np.int64]]:
        """Which of the sorted hashes are of spans of n tokens here, and where these begin.

        Looks at `places` only, if given.
        """
        if places is not None:
            places = places[places <= len(self) - n]
        hashes = self.hashes(n, places)
        if not len(wanted) or not len(hashes):
            return wanted[:0], np.zeros(0, np.int64)
        marked = np.zeros(1 << _FILTER_BITS, np.bool_)  # most spans are none of the wanted ones
        shift = np.uint64(64 - _FILTER_BITS)
        marked[wanted >> shift] = True
        likely = np.flatnonzero(marked[hashes >> shift])
        index = np.minimum(np.searchsorted(wanted, hashes[likely]), len(wanted) - 1)
        right = wanted[index] == hashes[likely]
        seen = np.zeros(len(wanted), np.bool_)
        seen[index[right]] = True
        found = likely[right]
        return wanted[seen], found if places is None else places[found]
