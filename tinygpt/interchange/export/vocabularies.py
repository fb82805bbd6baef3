"""Our tokenizers as tokenizer.json of Hugging Face, with the same ids.

A lone surrogate is the one text that they cannot take: UTF-8 does not have it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tinygpt.components.tokenizers.bpe import LEARNED, SPACE, BPETokenizer
from tinygpt.components.tokenizers.byte import ByteTokenizer
from tinygpt.components.tokenizers.char import FIRST_CHARACTER, FIRST_NIBBLE, CharTokenizer
from tinygpt.components.tokenizers.hf import BYTE_CHARACTERS, HFTokenizer
from tinygpt.errors import UserError
from tinygpt.interfaces import Tokenizer

END_OF_TEXT = "<|endoftext|>"
_PRIVATE = 0xF0000  # code points that Unicode leaves to private use: one for each id of char
_PAIR = "\ue000"  # before each pair of half bytes while a text is decoded


def end_of_text(tokenizer: Tokenizer) -> str:
    """The name of the token that ends a text."""
    return tokenizer.eot if isinstance(tokenizer, HFTokenizer) else END_OF_TEXT


def unsupported(tokenizer: Tokenizer, *, field: str) -> UserError:
    """The error for a tokenizer that a format cannot hold; `field` is the format as typed."""
    name = type(tokenizer).__name__.removesuffix("Tokenizer").lower()
    return UserError(
        f"tokenizer={name} has no counterpart in {field}; use to=onnx, which holds the model alone"
    )


def tokenizer_json(tokenizer: Tokenizer, *, field: str) -> dict[str, Any]:
    """The content of tokenizer.json; raises UserError for a tokenizer that is not ours."""
    if isinstance(tokenizer, HFTokenizer):
        return tokenizer.settings
    if isinstance(tokenizer, BPETokenizer):
        parts = _bpe(tokenizer)
    elif isinstance(tokenizer, ByteTokenizer):
        parts = _byte()
    elif isinstance(tokenizer, CharTokenizer):
        parts = _char(tokenizer)
    else:
        raise unsupported(tokenizer, field=field)
    special = {"content": END_OF_TEXT, "special": True, "normalized": False}
    sides = {"lstrip": False, "rstrip": False, "single_word": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": tokenizer.eot_id, **special, **sides}],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        **parts,
    }


def is_of_characters(content: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json is what `tokenizer_json` makes of `tokenizer=char`."""
    model = content.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    return isinstance(vocab, dict) and vocab.get(chr(_PRIVATE + 1)) == 1


def tokenizer_config(tokenizer: Tokenizer, *, seq_len: int) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    name = end_of_text(tokenizer)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **dict.fromkeys(("bos_token", "eos_token", "pad_token"), name),
        "model_max_length": seq_len,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # <|endoftext|> in a text is text
    }


def _bpe_model(vocab: dict[str, int], merges: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": [list(merge) for merge in merges],
    }


def _bpe(tokenizer: BPETokenizer) -> dict[str, Any]:
    """Pieces with their spaces and no normalizer: with ▁ a text that holds one would come back
    changed.  Characters without a piece become bytes.
    """
    pieces = [END_OF_TEXT, *(piece.replace(SPACE, " ") for piece in tokenizer.pieces[1:])]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    learned = {piece: i for piece, i in vocab.items() if i >= LEARNED}
    return {
        "decoder": _sequence("decoders", {"type": "ByteFallback"}, {"type": "Fuse"}),
        "model": _bpe_model(vocab, _merges(learned)) | {"byte_fallback": True},
    }


def _merges(learned: dict[str, int]) -> list[tuple[str, str]]:
    """The pairs of pieces that make another piece, in the order of those pieces.

    sentencepiece merges whatever pair makes a piece, and the earliest learned piece first.
    """
    merges = []
    for piece in learned:
        splits = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        known = [split for split in splits if split[0] in learned and split[1] in learned]
        merges += sorted(known, key=lambda split: (learned[split[0]], learned[split[1]]))
    return merges


def _byte() -> dict[str, Any]:
    vocab = {END_OF_TEXT: 0} | {character: i for i, character in enumerate(BYTE_CHARACTERS, 1)}
    return {"pre_tokenizer": _BYTES, "decoder": _BYTES, "model": _bpe_model(vocab)}


_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def _char(tokenizer: CharTokenizer) -> dict[str, Any]:
    """Each id is a private character: the text's bytes become those of known characters, then the
    bytes that are left become two for their halves.
    """
    names = [chr(_PRIVATE + i) for i in range(tokenizer.vocab_size)]
    nibbles = names[FIRST_NIBBLE:FIRST_CHARACTER]
    pairs = [high + low for high in nibbles for low in nibbles]
    known = {
        name: "".join(BYTE_CHARACTERS[byte] for byte in character.encode())
        for name, character in zip(names[FIRST_CHARACTER:], tokenizer.characters, strict=True)
        if not "\ud800" <= character <= "\udfff"  # no text of the library holds one
    }
    one = f"[{nibbles[0]}-{nibbles[-1]}]"
    return {
        "normalizer": _sequence(
            "normalizers",
            {"type": "ByteLevel"},
            *(_replace(spelled, name) for name, spelled in known.items()),
            *(_replace(c, pair) for c, pair in zip(BYTE_CHARACTERS, pairs, strict=True)),
        ),
        "decoder": _sequence(
            "decoders",
            {"type": "Fuse"},
            # pairs begin where an even number of halves is left
            _replace({"Regex": f"(?=({one}{one})+(?!{one}))"}, _PAIR),
            *(_replace(_PAIR + pair, c) for c, pair in zip(BYTE_CHARACTERS, pairs, strict=True)),
            _replace({"Regex": f"{one}|{_PAIR}"}, ""),
            *(_replace(name, spelled) for name, spelled in known.items()),
            _BYTES,
        ),
        "model": _bpe_model({END_OF_TEXT: 0} | {name: i for i, name in enumerate(names) if i}),
    }


def _replace(pattern: str | dict[str, str], content: str) -> dict[str, Any]:
    if isinstance(pattern, str):
        pattern = {"String": pattern}
    return {"type": "Replace", "pattern": pattern, "content": content}


def _sequence(kind: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", kind: list(parts)}
