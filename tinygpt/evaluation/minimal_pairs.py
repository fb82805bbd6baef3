"""Pairs of texts that differ in one place, one right and one wrong, made from stories by rule.

The rules know English and look at nothing but the stories.  The items depend on the documents, the
number and the seed, never on a model or a tokenizer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

_SENTENCE = re.compile(r"[^.!?]+[.!?]+[\"']*")
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
_END = re.compile(r"[.!?]+[\"']*(?=\s|$)")
_NOUN = re.compile(r"\b(?:the|a|an|his|her|my|their|your|its) ([a-z]{4,})(?=[.,!?])")
_PRONOUNS = {"he": "she", "she": "he"}
_ARTICLES = {"a": "an", "an": "a"}
_AGREEMENT = {
    **{"was": "were", "were": "was", "is": "are", "are": "is"},
    **{"has": "have", "have": "has", "does": "do", "do": "does"},
}
_HARD_TO_TELL = 20  # other documents whose ending may stand in for the true one


@dataclass(frozen=True)
class Item:
    """A context and two continuations of it, of which the first is right."""

    context: str
    right: str
    wrong: str
    per_byte: bool = False  # compare nats per byte, because the continuations differ in length


@dataclass(frozen=True)
class Corpus:
    """What the rules know of all documents."""

    documents: Sequence[str]
    words: Counter[str]  # lower case
    names: Mapping[str, str]  # name -> "f" or "m", the commonest first
    nouns: Counter[str]  # that stand after an article and before punctuation

    @classmethod
    def of(cls, documents: Sequence[str]) -> Corpus:
        """Count words, nouns and names."""
        words: Counter[str] = Counter()
        nouns: Counter[str] = Counter()
        inside: Counter[str] = Counter()  # capitalised, and not at the beginning of a sentence
        people: dict[str, Counter[str]] = {}
        for text in documents:
            found = _WORD.findall(text)
            words.update(word.lower() for word in found)
            nouns.update(_NOUN.findall(text))
            capitalised = re.findall(r"(?<=[a-z,] )[A-Z][a-z]+\b", text)
            inside.update(capitalised)
            if main := Counter(capitalised).most_common(1):
                lower = Counter(word.lower() for word in found)
                she = lower["she"] + lower["her"] > lower["he"] + lower["his"] + lower["him"]
                people.setdefault(main[0][0], Counter())["f" if she else "m"] += 1
        names = {
            name: people[name].most_common(1)[0][0]
            for name, count in inside.most_common()
            if name in people and count >= 3 and words[name.lower()] < 2 * count + 10
        }
        return cls(documents, words, names, nouns)


Rule = Callable[[str, Corpus, Random], Item | None]


def build(documents: Sequence[str], *, items: int, seed: int) -> dict[str, list[Item]]:
    """Items of each kind, one for each document where the rule finds a place, `items` at most."""
    corpus = Corpus.of(documents)
    made: dict[str, list[Item]] = {}
    for kind, rule in RULES.items():
        rng = Random(f"{kind} {seed}")
        order = list(documents)
        rng.shuffle(order)
        found: list[Item] = []
        for text in order:
            if len(found) < items and (item := rule(text, corpus, rng)):
                found.append(item)
        if found:
            made[kind] = found
    return made


def _exchanged(text: str, start: int, end: int, word: str) -> Item | None:
    """The text up to the end of the sentence, with another word at [start, end)."""
    stop = _END.search(text, end)
    if stop is None:
        return None
    after = text[end : stop.end()]
    return Item(text[:start], text[start:end] + after, word + after)


def _places(pattern: str | re.Pattern[str], text: str) -> list[re.Match[str]]:
    """Matches in the second half of the text, where there is something to remember."""
    return [m for m in re.finditer(pattern, text) if m.start() > len(text) // 2]


def sentences(text: str) -> list[tuple[int, int]]:
    """Where each sentence begins and ends, without the space before it."""
    found = []
    for match in _SENTENCE.finditer(text):
        start = match.start() + len(match[0]) - len(match[0].lstrip())
        if start < match.end():
            found.append((start, match.end()))
    return found


def _ending(text: str, corpus: Corpus, rng: Random) -> Item | None:
    """The last sentence, or the last one of another story of about the same length."""
    parts = sentences(text)
    if len(parts) < 4:
        return None
    start, end = parts[-1]
    right = text[start:end]
    others = []
    for other in rng.sample(corpus.documents, min(_HARD_TO_TELL, len(corpus.documents))):
        last = sentences(other)[-1:]
        if other != text and last:
            others.append(other[last[0][0] : last[0][1]])
    others = [other for other in others if other != right]
    if not others:
        return None
    wrong = min(others, key=lambda other: abs(len(other) - len(right)))
    context = text[:start]
    space = context[len(context.rstrip()) :]
    return Item(context.rstrip(), space + right, space + wrong, per_byte=True)


def _order(text: str, corpus: Corpus, rng: Random) -> Item | None:
    """Two neighbouring sentences of one paragraph, as they are or exchanged."""
    parts = sentences(text)
    pairs = [
        (a, b)
        for a, b in pairwise(parts[1:])
        if text[a[1] : b[0]] == " "
        and text[slice(*a)] != text[slice(*b)]
        and text[a[0]].isupper()
        and text[b[0]].isupper()
        and '"' not in text[a[0] - 2 : b[1]]
    ]
    if not pairs:
        return None
    (start, middle), (after, end) = rng.choice(pairs)
    first, second = text[start:middle], text[after:end]
    return Item(text[:start], f"{first} {second}", f"{second} {first}")


def _name(text: str, corpus: Corpus, rng: Random) -> Item | None:
    """The protagonist's name, or one of the same kind that is about as common."""
    told = Counter(word for word in _WORD.findall(text) if word in corpus.names)
    if not told:
        return None
    hero = told.most_common(1)[0][0]
    places = _places(rf"\b{hero}\b", text)
    if told[hero] < 3 or not places:
        return None
    ranks = list(corpus.names)
    kind, rank = corpus.names[hero], ranks.index(hero)
    others = [
        (abs(place - rank), name)
        for place, name in enumerate(ranks)
        if corpus.names[name] == kind and name not in text
    ]
    if not others:
        return None
    place = rng.choice(places)
    return _exchanged(text, place.start(), place.end(), rng.choice(sorted(others)[:5])[1])


def _pronoun(text: str, corpus: Corpus, rng: Random) -> Item | None:
    """He or she, where only one of them has been told of."""
    lower = text.lower()
    places = [
        place
        for place in _places(r"\b(he|she)\b", text)
        if re.search(rf"\b{place[0]}\b", lower[: place.start()])
        and not re.search(rf"\b{_PRONOUNS[place[0]]}\b", lower[: place.start()])
    ]
    return _swapped(text, places, _PRONOUNS, rng)


def _article(text: str, corpus: Corpus, rng: Random) -> Item | None:
    """A or an."""
    return _swapped(text, list(re.finditer(r"\b(a|an)\b(?= [a-z])", text)), _ARTICLES, rng)


def _agreement(text: str, corpus: Corpus, rng: Random) -> Item | None:
    """Singular or plural of a verb after a noun or a pronoun."""
    verbs = "|".join(_AGREEMENT)
    # "do" and "have" after "to", "did", "will" and the like have no number
    places = re.finditer(rf"(?<=[a-z] )(?<!\bto )(?<!d )(?<!n )(?<!ll )\b({verbs})\b", text)
    return _swapped(text, list(places), _AGREEMENT, rng)


def _swapped(
    text: str, places: Sequence[re.Match[str]], swap: Mapping[str, str], rng: Random
) -> Item | None:
    if not places:
        return None
    place = rng.choice(places)
    return _exchanged(text, place.start(), place.end(), swap[place[0]])


def _object(text: str, corpus: Corpus, rng: Random) -> Item | None:
    """A noun that was named before, or one about as common that this story does not have."""
    half = len(text) // 2
    places = [
        place
        for place in _NOUN.finditer(text)
        if place.start() > half
        and corpus.nouns[place[1]] >= 3
        and re.search(rf"\b{place[1]}\b", text[:half])
    ]
    if not places:
        return None
    place = rng.choice(places)
    noun = place[1]
    vowel, plural = noun[0] in "aeiou", noun.endswith("s")
    others = [
        (abs(count - corpus.nouns[noun]), other)
        for other, count in corpus.nouns.items()
        if (other[0] in "aeiou", other.endswith("s")) == (vowel, plural) and other not in text
    ]
    if not others:
        return None
    return _exchanged(text, place.start(1), place.end(1), rng.choice(sorted(others)[:5])[1])


def _quote(text: str, corpus: Corpus, rng: Random) -> Item | None:
    """The closing quotation mark, or none."""
    places = [m for m in _places(r'[,.!?]"(?= )', text) if text[: m.start()].count('"') % 2]
    if not places:
        return None
    place = rng.choice(places)
    return _exchanged(text, place.end() - 1, place.end(), "")


RULES: dict[str, Rule] = {
    "ending": _ending,
    "order": _order,
    "name": _name,
    "object": _object,
    "pronoun": _pronoun,
    "article": _article,
    "agreement": _agreement,
    "quote": _quote,
}
