"""Choices between whole stories of which storyworld's grammar tells one and never the other.

A perfect model is right in all of them, so the true answer and the best score are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from random import Random

from tinygpt.components.datasets.storyworld.grammar import Entry, Lexicon, NotAStory, Reader
from tinygpt.components.datasets.storyworld.plots import STORYWORLD
from tinygpt.components.datasets.storyworld.words import NUMBERS
from tinygpt.evaluation.minimal_pairs import Item

KINDS = ("world_name", "world_object", "world_count")
_NUMBER = re.compile(rf"\b({'|'.join(NUMBERS[2:])})\b")


def build(documents: Sequence[str], *, items: int, seed: int) -> dict[str, list[Item]]:
    """Up to `items` of each kind, at most one of a kind from a story."""
    order = list(documents)
    Random(f"storyworld {seed}").shuffle(order)
    made: dict[str, list[Item]] = {}
    for text in order:
        missing = [kind for kind in KINDS if len(made.get(kind, [])) < items]
        if not missing:
            break
        if missing == ["world_count"] and not _NUMBER.search(text):
            continue  # it counts nothing, and reading it would take milliseconds
        try:
            reader = Reader(STORYWORLD, text)
            STORYWORLD.plot(reader)
        except NotAStory:
            continue
        rng = Random(f"{seed} {text}")  # whichever documents were read before
        done = set()
        for kind, item in _exchanges(text, reader, rng):
            found = made.setdefault(kind, [])
            if kind not in done and len(found) < items and not _is_told(item):
                done.add(kind)
                found.append(item)
    return {kind: made[kind] for kind in KINDS if made.get(kind)}


def _is_told(item: Item) -> bool:
    try:
        STORYWORLD.read(item.context + item.wrong)
    except NotAStory:
        return False
    return True


def _exchanges(text: str, reader: Reader, rng: Random) -> Iterator[tuple[str, Item]]:
    """One later mention of each thing in the story, told as another of its kind."""
    mentioned = list(reader.env.items())
    rng.shuffle(mentioned)
    for name, entry in mentioned:
        word = entry.forms[""]
        others = _others(name, entry, reader)
        places = [m.start() for m in re.finditer(rf"\b{re.escape(word)}\b", text)]
        later = [place for place in places[1:] if place > len(text) // 2]
        if name == "left":  # a number that follows from others, and need not be told before
            later = places[-1:]
        if not others or not later:
            continue
        start, other = rng.choice(later), rng.choice(others)
        end = start + len(word)
        kind = "name" if "is" in entry.forms else "count" if word in NUMBERS else "object"
        yield f"world_{kind}", Item(text[:start], text[start:], other + text[end:])


def _others(name: str, entry: Entry, reader: Reader) -> list[str]:
    """Words of the same kind that the story does not have."""
    told = {each.forms[""] for each in reader.env.values()}
    if name == "left":
        candidates = list(NUMBERS[1:11])
    else:
        lexicons = [x for x in STORYWORLD.lexicons.values() if entry in x.weight]
        candidates = [
            other.forms[""]
            for other in _smallest(lexicons)
            if other.forms.get("is") == entry.forms.get("is")
        ]
    return [word for word in candidates if word not in told]


def _smallest(lexicons: Sequence[Lexicon]) -> Sequence[Entry]:
    return min((lexicon.entries for lexicon in lexicons), key=len, default=[])
