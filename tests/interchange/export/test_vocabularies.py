"""The same ids from the library tokenizers and from our tokenizers."""

import json
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.interchange.export.models import stories, tokenizer_of
from tinygpt.errors import UserError
from tinygpt.interchange.export.vocabularies import tokenizer_json
from tinygpt.interfaces import Tokenizer

PARTS = [
    *(" ", "  ", "\n", "\r\n", "\t", "\0", "\u2581", "\u2585", "\u00e9", "e\u0301", "\ufb01"),
    *(
        "\u65e5\u672c",
        "\U0001f469\u200d\U0001f4bb",
        "<|endoftext|>",
        "<0x0A>",
        "<s>",
        "Once",
        "the ",
    ),
    *("\ufeff", "\ue000", "\U000f0000", "\U000f0011", "\u0120", "\u00ff", "\u00c3\u00a9"),
]


def probes() -> list[str]:
    """Special cases, their mixtures, and random Unicode."""
    rng = random.Random(0)
    mixed = ["".join(rng.choices(PARTS, k=rng.randrange(1, 30))) for _ in range(200)]
    points = [
        [rng.randrange(rng.choice((0x80, 0x3000, 0x110000))) for _ in range(20)] for _ in range(200)
    ]
    randoms = ["".join(chr(p) for p in of if not 0xD800 <= p < 0xE000) for of in points]
    return ["", *PARTS, *mixed, *randoms]


@pytest.mark.parametrize("kind", ["bpe", "byte", "char", "hf"])
def test_ids_and_texts_are_equal_on_stories_and_on_any_unicode(kind: str) -> None:
    from tokenizers import Tokenizer as Library

    ours = tokenizer_of(kind)
    library = Library.from_str(json.dumps(tokenizer_json(ours, field="to=hf")))
    library.encode_special_tokens = True
    texts = [*stories()[:60], *probes()]
    assert len(texts) == 60 + 1 + len(PARTS) + 400
    for text in texts:
        ids = ours.encode(text)
        assert library.encode(text, add_special_tokens=False).ids == ids, repr(text)
        assert library.decode(ids, skip_special_tokens=False) == text, repr(text)


def test_half_bytes_without_a_partner_add_nothing() -> None:
    from tokenizers import Tokenizer as Library

    ours = tokenizer_of("char")
    library = Library.from_str(json.dumps(tokenizer_json(ours, field="to=hf")))
    n = ours.encode("n")
    ids = [*n, 5, *n, *ours.encode("\u65e5"), *n]  # id 5 is a half byte
    assert library.decode(ids) == ours.decode(ids) == "nn\u65e5n"


def test_a_tokenizer_of_another_package_is_refused() -> None:
    class Words(Tokenizer):
        vocab_size = 3

        def encode(self, text: str) -> list[int]:
            return [1] * len(text.split())

        def decode_bytes(self, ids: Iterable[int]) -> bytes:
            return b" ".join(b"word" for _ in ids)

        def save(self, folder: Path) -> None:
            (folder / "words").touch()

        def fingerprint(self) -> str:
            return "words"

    with pytest.raises(
        UserError, match=r"tokenizer=words has no counterpart in to=hf; use to=onnx"
    ):
        tokenizer_json(Words(), field="to=hf")
