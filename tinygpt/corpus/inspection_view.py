"""Show the statistics of a corpus on a terminal: tables, and documents with coloured tokens."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tinygpt.corpus.inspection import Documents, Integers, longest_tokens, pieces, visible
from tinygpt.corpus.shards import SplitInfo
from tinygpt.interfaces import Split, Tokenizer

SHOWN_TOKENS = 160  # of a document
TOKEN_STYLES = ("black on #bcd6ee", "black on #f9d3a7")
PERCENTILES = {"shortest": 0, "5 %": 5, "25 %": 25, "median": 50, "75 %": 75, "95 %": 95}
PERCENTILES |= {"longest": 100}
LISTED = 12  # longest tokens, rarest characters
SELDOM = 10  # an id that occurs less often in train is hardly learned


def console() -> Console:
    """A rich console that prints text unchanged, 100 columns wide or more without a terminal."""
    made = Console(markup=False, emoji=False, highlight=False, soft_wrap=False)
    if not made.is_terminal:
        made.width = max(made.width, 100)
    return made


def split_table(splits: Mapping[Split, SplitInfo]) -> Table:
    """Documents, tokens and bytes."""
    table = _table("", *splits)
    table.add_row("documents", *(f"{info.documents:,}" for info in splits.values()))
    reasons = sorted({reason for info in splits.values() for reason in info.dropped})
    for reason in reasons:
        counts = (f"{info.dropped.get(reason, 0):,}" for info in splits.values())
        table.add_row(f"left out: {reason.replace('_', ' ')}", *counts)
    table.add_row("UTF-8 bytes", *(f"{info.utf8_bytes:,}" for info in splits.values()))
    table.add_row("tokens", *(f"{info.tokens:,}" for info in splits.values()))
    ratios = (f"{info.utf8_bytes / info.tokens:.3f}" for info in splits.values())
    table.add_row("bytes per token", *ratios)
    return table


def length_table(lengths: Mapping[str, Integers]) -> Table:
    """Percentiles of the lengths of documents, a row for each name."""
    table = _table("length of a document", *PERCENTILES)
    for name, values in lengths.items():
        shown = np.percentile(values, list(PERCENTILES.values()), method="nearest")
        table.add_row(name, *(f"{value:,}" for value in shown))
    return table


def vocabulary_line(counts: Integers) -> str:
    """A line on how train uses the ids."""
    never, seldom = int((counts == 0).sum()), int((counts < SELDOM).sum())
    return (
        f"train uses {counts.size - never:,} of {counts.size:,} ids; {seldom:,} are in it fewer "
        f"than {SELDOM} times, of these {never:,} never"
    )


def longest(tokenizer: Tokenizer, counts: Integers) -> Columns | None:
    """The longest tokens with their counts in train; None if each token is a character."""
    ids = longest_tokens(tokenizer, counts, LISTED)
    if not ids or len(tokenizer.decode(ids[:1])) < 2:
        return None
    texts = ("".join(_on_a_line(piece) for piece in pieces(tokenizer, [i])) for i in ids)
    return _columns(f"{text!r} {counts[i]:,}" for text, i in zip(texts, ids, strict=True))


def rarest(counts: Integers) -> Columns:
    """The rarest characters, which may be errors in the text, with their counts."""
    points = sorted(np.flatnonzero(counts).tolist(), key=lambda point: (counts[point], point))
    return _columns(f"{_character(chr(point))} {counts[point]:,}" for point in points[:LISTED])


def candidate_table(results: Mapping[int, float | str]) -> Table:
    """Bytes per token for each size, and how many tokens it saves over the size before."""
    table = _table("vocabulary", "bytes per token", "fewer tokens than the row above")
    before: float | None = None
    for size, result in results.items():
        if isinstance(result, str):
            way_out = result.partition("; ")[2].partition(":")[0]  # "the largest that works is 284"
            table.add_row(f"{size:,}", "none", way_out or result)
            continue
        saved = f"{100 * (1 - before / result):.1f} %" if before else ""
        table.add_row(f"{size:,}", f"{result:.3f}", saved)
        before = result
    return table


def document(documents: Documents, index: int, *, colour: bool) -> Text:
    """The tokens of a document: on alternating backgrounds, or separated by |."""
    ids = documents.beginning(index, SHOWN_TOKENS + 1)
    more = len(ids) > SHOWN_TOKENS
    return tokens_text(documents.tokenizer, ids[:SHOWN_TOKENS], more=more, colour=colour)


def tokens_text(tokenizer: Tokenizer, ids: Sequence[int], *, more: bool, colour: bool) -> Text:
    """The tokens of a text; `more` marks that the text continues."""
    text = Text(no_wrap=False, overflow="fold")
    for number, piece in enumerate(pieces(tokenizer, ids)):
        if number and not colour:
            text.append("|")
        shown = _on_a_line(piece) + "\n" * piece.count("\n")
        text.append(shown, TOKEN_STYLES[number % 2] if colour else None)
    if more:
        text.append(" \u2026")
    return text


def in_colour(target: Console) -> bool:
    """Whether the console shows background colours."""
    return target.is_terminal and target.color_system is not None and not target.no_color


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _columns(items: Iterable[str]) -> Columns:
    return Columns([Text(item) for item in items], padding=(0, 4), equal=True)


def _on_a_line(text: str) -> str:
    return text.replace("\t", "\u21e5").replace("\n", "\u21b5")


def _character(character: str) -> str:
    """The character, with its code point if it looks like another."""
    shown = "' '" if character == " " else _on_a_line(visible(character))
    plain = character.isascii() or shown != character
    return shown if plain else f"{shown} U+{ord(character):04X}"
