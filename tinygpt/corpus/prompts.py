"""An example prompt: the first words of a validation document."""

import re

from tinygpt.corpus.prepared import Prepared

_TOKENS = 1000  # of the document; enough for a few lines
_WORDS = re.compile(r"\S+(?: \S+){0,3}")
_CHARACTERS = 60  # for text without spaces


def example_prompt(prepared: Prepared) -> str:
    """Up to four words from the start of a line of the first validation document; "" if none fit.

    If a split is one document, it may begin in the middle of a line; that line is skipped.
    """
    end = int(prepared.document_ends("validation")[0, 0]) - 1  # without end of text
    ids = prepared.tokens("validation")[1 : min(end, 1 + _TOKENS)].tolist()
    lines = prepared.tokenizer.decode(ids).split("\n")
    if prepared.splits["validation"].documents == 1 and len(lines) > 1:
        lines = lines[1:]
    starts = [match[0][:_CHARACTERS] for line in lines if (match := _WORDS.match(line.strip()))]
    starts = [start for start in starts if start.isprintable()]
    return next((start for start in starts if " " in start), "".join(starts[:1]))
