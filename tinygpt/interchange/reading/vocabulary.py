"""Which row of the source's embedding each id of a tokenizer has."""

from __future__ import annotations

from tinygpt.components.tokenizers.bpe import BPETokenizer
from tinygpt.components.tokenizers.byte import ByteTokenizer
from tinygpt.components.tokenizers.char import FIRST_CHARACTER, CharTokenizer
from tinygpt.errors import UserError
from tinygpt.interchange.reading import llama2c, nanogpt
from tinygpt.interchange.reading.source import Source
from tinygpt.interfaces import Tokenizer

NEW = -1  # a row that the source does not have
_PADDED_TO = 64  # embeddings are padded to a multiple of it: nanoGPT has 50,304 rows for 50,257
_N_BYTES = 256


def rows(source: Source, tokenizer: Tokenizer, *, came_along: bool) -> list[int]:
    """The row of the source's embedding for each id of the tokenizer, or NEW.

    `came_along` says that the tokenizer is the one that came with the weights. Raises UserError if
    the weights are of another vocabulary.
    """
    found = _matched(source, tokenizer, came_along=came_along)
    if found is None:
        way_out = "leave tokenizer= out" if source.tokenizer else source.no_tokenizer
        raise UserError(
            f"init_from={source.path} has {source.vocab_size:,} tokens, and the tokenizer has "
            f"{tokenizer.vocab_size:,}; it must be the one that the weights were trained with: "
            f"{way_out}"
        )
    return found


def _matched(source: Source, tokenizer: Tokenizer, *, came_along: bool) -> list[int] | None:
    """None if the vocabularies do not match.

    Besides equal sizes these match: rows beyond the ids are padding, and are cut; nanoGPT's
    characters, which have no end of text and no half bytes; and llama2.c's order of our bpe and
    byte.
    """
    size, n_rows = tokenizer.vocab_size, source.vocab_size
    if source.kind == nanogpt.KIND and isinstance(tokenizer, CharTokenizer):
        same_characters = size - FIRST_CHARACTER == n_rows
        return [NEW] * FIRST_CHARACTER + list(range(n_rows)) if same_characters else None
    if source.kind == llama2c.KIND and n_rows == size + 2:
        # 0 is unknown, 1 begins a text, 2 ends one; then bytes, of bpe also the newline and pieces
        newline = 3 + _N_BYTES
        if isinstance(tokenizer, BPETokenizer):
            return [1, newline, *range(3, newline), *range(newline + 1, n_rows)]
        if isinstance(tokenizer, ByteTokenizer):
            return [1, *range(3, newline)]
    if size == n_rows:
        return list(range(size))
    padded = -(-size // _PADDED_TO) * _PADDED_TO
    if size < n_rows and (came_along or n_rows == padded):
        return list(range(size))
    return None
