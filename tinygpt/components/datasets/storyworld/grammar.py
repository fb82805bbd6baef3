"""A grammar of stories: it writes stories at random, and finds the choices that made a given story.

A slot is a block of lines. Each line is one alternative: prose with four kinds of marks:

    [a|b|c]     one of the options; options may contain marks
    {x:TOYS.a}  an entry of the lexicon TOYS that is not yet in this story, shown in its form `a`
                and remembered as x; without a form the entry itself
    {x.his}     a form of the entry remembered as x
    <name:h>    the macro `name`, itself a block of lines, with h wherever it says @
    the door    a phrase with variants, such as "the [|old |heavy ]door", means those variants

The k-th alternative has weight 1/sqrt(k), so the first one is the most frequent. A line may begin
with a tag, `@word `. It is not part of the text: `say` returns it, so that the plot can branch.

A plot is a function that calls `say` once per slot. Every choice therefore appears in the text, and
a `Reader` that runs the same plot recovers the choices from the text alone. The reader requires
that exactly one derivation of each slot fits, so each text has one derivation and an exact
probability: the product of the probabilities of its choices.
"""

import re
from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import log2, sqrt
from random import Random

PRONOUNS = {
    "f": {"he": "she", "him": "her", "his": "her", "He": "She", "His": "Her", "child": "girl"},
    "m": {"he": "he", "him": "him", "his": "his", "He": "He", "His": "His", "child": "boy"},
}


@dataclass(frozen=True)
class Story:
    """A text, and -log2 of the probability that the grammar generates it."""

    text: str
    bits: float


class NotAStory(ValueError):
    """The grammar cannot generate the text in exactly one way."""


class Entry:
    """A word with its forms: "" itself, "a" with an article, "A" with a capital, and others.

    Entries are compared by identity.
    """

    def __init__(self, forms: Mapping[str, str]) -> None:
        word = forms[""]
        article = "an" if word[0] in "aeiou" else "a"
        self.forms = {"a": f"{article} {word}", "A": word[0].upper() + word[1:], **forms}


def _weight(k: int) -> float:
    return 1 / sqrt(k + 1)


Env = dict[str, Entry]  # the entries a story has mentioned so far


class Lexicon:
    """Entries to draw from, the most likely first."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.weight = {entry: _weight(k) for k, entry in enumerate(entries)}
        *self.edges, self.total = accumulate(self.weight.values())

    def free_weight(self, env: Env) -> float:
        """Total weight of the entries that the story has not mentioned."""
        return self.total - sum(self.weight.get(entry, 0.0) for entry in env.values())

    def draw(self, random: Callable[[], float], env: Env) -> Entry:
        """Draw until the entry is free, which keeps the weights of free entries in proportion."""
        taken = env.values()
        while True:
            entry = self.entries[bisect(self.edges, random() * self.total)]
            if entry not in taken:
                return entry


def table(text: str, **more: str) -> Lexicon:
    """A lexicon from lines of `form | form | ...` below a line with the names of the forms.

    The form named `_` is the word itself; a form `is` of f or m adds the pronouns.
    """
    header, *rows = (re.split(r" *\| *", line.strip()) for line in text.strip().splitlines())
    entries = []
    for row in rows:
        forms = dict(zip(header, row, strict=True)) | more
        forms[""] = forms.pop("_")
        entries.append(Entry(forms | PRONOUNS.get(forms.get("is", ""), {})))
    return Lexicon(entries)


def words(text: str, **more: str) -> Lexicon:
    """A lexicon of words separated by commas."""
    return table("_\n" + "\n".join(" ".join(text.split()).split(", ")), **more)


# Compiled templates: a line is a tuple of parts


@dataclass(frozen=True)
class Ref:
    """A form of an entry that was mentioned before."""

    name: str
    form: str

    def write(self, writer: "Writer") -> None:
        writer.pieces.append(writer.env[self.name].forms[self.form])


@dataclass(frozen=True)
class Pick:
    """A new entry of a lexicon."""

    name: str
    form: str
    lexicon: Lexicon

    def write(self, writer: "Writer") -> None:
        entry = self.lexicon.draw(writer.random, writer.env)
        writer.bits += self.bits(entry, writer.env)
        writer.env[self.name] = entry
        writer.pieces.append(entry.forms[self.form])

    def bits(self, entry: Entry, env: Env) -> float:
        return log2(self.lexicon.free_weight(env) / self.lexicon.weight[entry])


@dataclass(frozen=True, eq=False)
class Alternatives:
    """One of several lines, each of which has a tag, often empty."""

    lines: list["Parts"]
    tags: list[str]
    bits: list[float]
    edges: list[float]  # where in [0, 1) each line but the first begins

    def write(self, writer: "Writer") -> str:
        choice = bisect(self.edges, writer.random())
        writer.bits += self.bits[choice]
        for part in self.lines[choice]:
            if part.__class__ is str:
                writer.pieces.append(part)
            else:
                part.write(writer)  # type: ignore[union-attr]  # it is no str
        return self.tags[choice]


Part = str | Ref | Pick | Alternatives
Parts = tuple[Part, ...]


def heads(parts: Parts, env: Env) -> Iterator[tuple[str, Parts, Env, list[float]]]:
    """Each way in which the parts can begin: text, what comes after it, memory, bits of choices.

    The text is empty only if no part is left.
    """
    if not parts:
        yield "", (), env, []
        return
    part, rest = parts[0], parts[1:]
    if isinstance(part, str):
        yield part, rest, env, []
    elif isinstance(part, Ref):
        yield env[part.name].forms[part.form], rest, env, []
    elif isinstance(part, Pick):
        for entry in part.lexicon.entries:
            if entry not in env.values():
                bits = part.bits(entry, env)
                yield entry.forms[part.form], rest, env | {part.name: entry}, [bits]
    else:
        for line, bits in zip(part.lines, part.bits, strict=True):
            for piece, after, memory, more in heads(line + rest, env):
                yield piece, after, memory, [bits, *more]


def readings(
    parts: Parts, text: str, start: int, env: Env
) -> Iterator[tuple[int, Env, list[float]]]:
    """Each derivation of the parts that fits the text at `start`: end, memory, bits of choices."""
    for piece, rest, memory, bits in heads(parts, env):
        if text.startswith(piece, start):
            end = start + len(piece)
            if piece:
                for last, final, more in readings(rest, text, end, memory):
                    yield last, final, bits + more
            else:
                yield end, memory, bits


# Grammar


class Teller(ABC):
    """The interface for plots: `say` and `para` fill a slot and return the tag of its line."""

    def __init__(self, grammar: "Grammar") -> None:
        self.grammar = grammar
        self.env: Env = {}
        self.bits = 0.0
        self.separator = ""

    def say(self, lines: str) -> str:
        """Fill a slot in the same paragraph."""
        tag = self.tell(self.grammar.compile(lines))
        self.separator = " "
        return tag

    def para(self, lines: str) -> str:
        """Fill a slot that begins a paragraph."""
        self.separator = "\n\n"
        return self.say(lines)

    @abstractmethod
    def tell(self, slot: Alternatives) -> str:
        """Write or read the separator and the slot."""


class Writer(Teller):
    """Makes choices at random."""

    def __init__(self, grammar: "Grammar", rng: Random) -> None:
        super().__init__(grammar)
        self.random = rng.random
        self.pieces: list[str] = []

    def tell(self, slot: Alternatives) -> str:
        self.pieces.append(self.separator)
        return slot.write(self)


class Reader(Teller):
    """Recovers the choices from the text; raises NotAStory."""

    def __init__(self, grammar: "Grammar", text: str) -> None:
        super().__init__(grammar)
        self.text = text
        self.position = 0

    def tell(self, slot: Alternatives) -> str:
        start = self.position + len(self.separator)
        found = [
            (tag, line_bits, *reading)
            for tag, line_bits, line in zip(slot.tags, slot.bits, slot.lines, strict=True)
            if self.text.startswith(self.separator, self.position)
            for reading in readings(line, self.text, start, self.env)
        ]
        if len(found) != 1:
            seen = self.text[self.position : self.position + 60]
            raise NotAStory(
                f"{len(found)} derivations, not 1, fit at character {self.position}: {seen!r}"
            )
        tag, line_bits, self.position, self.env, more = found[0]
        for bits in (line_bits, *more):  # added one by one as by the writer: equal to the last bit
            self.bits += bits
        return tag


class Grammar:
    """Lexicons, macros and variants by name, and the plot: a function that tells a whole story."""

    def __init__(
        self,
        plot: Callable[[Teller], None],
        *,
        lexicons: Mapping[str, Lexicon],
        macros: Mapping[str, str],
        variants: Mapping[str, str],
    ) -> None:
        self.plot = plot
        self.lexicons = lexicons
        self.macros = macros
        self.variants = variants
        self._phrases = re.compile(rf"\b({'|'.join(variants) or '(?!)'})\b")
        self._compiled: dict[str, Alternatives] = {}

    def write(self, rng: Random) -> Story:
        """A story drawn at random."""
        writer = Writer(self, rng)
        self.plot(writer)
        return Story("".join(writer.pieces), writer.bits)

    def read(self, text: str) -> Story:
        """The story with this text; raises NotAStory."""
        reader = Reader(self, text)
        self.plot(reader)
        if reader.position != len(text):
            raise NotAStory(f"the story ends at character {reader.position} of {len(text)}")
        return Story(text, reader.bits)

    def compile(self, lines: str) -> Alternatives:
        """The block of lines as a slot; a block is compiled once."""
        slot = self._compiled.get(lines)
        if slot is None:
            slot = self._compiled[lines] = self._block(lines)
        return slot

    def _block(self, lines: str) -> Alternatives:
        options, tags = [], []
        for line in lines.strip().splitlines():
            match = re.fullmatch(r"(?:@(\w+) )?(.*)", line.strip())
            assert match
            tokens = _tokens(match[2])
            options.append(self._parts(tokens))
            tags.append(match[1] or "")
            assert not tokens, f"{line!r}: stray {tokens[0]!r}"
        return _alternatives(options, tags)

    def _parts(self, tokens: list[str], *, vary: bool = True) -> Parts:
        """Consumes tokens up to the end of an option; `vary` replaces phrases by their variants."""
        parts: list[Part] = []
        while tokens and tokens[0] not in "|]":
            token = tokens.pop(0)
            if token == "[":
                options = [self._parts(tokens, vary=vary)]
                while tokens.pop(0) == "|":
                    options.append(self._parts(tokens, vary=vary))
                parts.append(_alternatives(options, [""] * len(options)))
            elif token[0] == "{":
                name, _, form = token[1:-1].partition(".")
                name, _, lexicon = name.partition(":")
                found = self.lexicons[lexicon] if lexicon else None
                parts.append(Pick(name, form, found) if found else Ref(name, form))
            elif token[0] == "<":
                name, _, argument = token[1:-1].partition(":")
                parts.append(self.compile(self.macros[name].replace("@", argument)))
            elif not vary or token.strip() in self.variants:  # an option that is all of a phrase
                parts.append(token)
            else:
                for piece in filter(None, self._phrases.split(token)):
                    varied = self.variants.get(piece)
                    parts += self._parts(_tokens(varied), vary=False) if varied else [piece]
        return tuple(parts)


def _tokens(line: str) -> list[str]:
    return re.findall(r"[\[\]|]|\{[^}]*\}|<[^>]*>|[^\[\]|{<]+", line)


def _alternatives(lines: list[Parts], tags: list[str]) -> Alternatives:
    weights = [_weight(k) for k in range(len(lines))]
    total = sum(weights)
    edges = [edge / total for edge in accumulate(weights)]
    return Alternatives(lines, tags, [log2(total / w) for w in weights], edges[:-1])
