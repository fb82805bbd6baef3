"""A file of the library `tokenizers` gives the library's ids, or is refused for a reason."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers

from tinygpt.components.tokenizers import hf
from tinygpt.components.tokenizers.hf import HFConfig, HFTokenizer
from tinygpt.errors import UserError

Change = Callable[..., str]
STORIES = [
    "the small fox ran over the hill.\n\nThen the star saw:  a fox!\n",
    "na\u00efve caf\u00e9, e\u0301 and \u4f60\u597d\t\N{GRINNING FACE}",
    "",
]


def made(path: object, **fields: str) -> HFTokenizer:
    return HFConfig(path=str(path), **fields).train(iter([]))


@pytest.fixture
def changed(hf_file: Path, tmp_path: Path) -> Change:
    """Writes the file with other settings in it."""

    def change(**settings: Any) -> str:
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(json.loads(hf_file.read_bytes()) | settings))
        return str(path)

    return change


def refused(path: object, **fields: str) -> str:
    with pytest.raises(UserError) as error:
        made(path, **fields)
    return str(error.value)


def test_the_ids_are_the_librarys_own(hf_file: Path) -> None:
    library = Library.from_file(str(hf_file))
    ours = made(hf_file)
    assert [ours.encode(text) for text in STORIES] == [library.encode(t).ids for t in STORIES]
    assert ours.decode(ours.encode(STORIES[1])) == library.decode(library.encode(STORIES[1]).ids)
    assert len(ours.encode(" small fox")) == 2


def test_end_of_text_is_found_by_its_name_and_is_never_made_from_text(hf_file: Path) -> None:
    tokenizer = made(hf_file)
    assert (tokenizer.eot, tokenizer.eot_id) == ("<|endoftext|>", tokenizer.vocab_size - 1)
    for text in ("<|endoftext|>", "a <|endoftext|><|pad|> b\ud800<|endoftext|>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert max(tokenizer.encode(text)) < tokenizer.eot_id - 1
    assert tokenizer.eot_id in Library.from_file(str(hf_file)).encode("<|endoftext|>").ids


def test_end_of_text_may_be_typed(hf_file: Path) -> None:
    assert made(hf_file, eot="<|pad|>").eot_id == made(hf_file).eot_id - 1
    assert made(hf_file, eot="<|pad|>").fingerprint() != made(hf_file).fingerprint()
    assert refused(hf_file, eot="<|endoftxt|>") == (
        "tokenizer.eot=<|endoftxt|> is not a choice; did you mean tokenizer.eot=<|endoftext|>?\n"
        "  choices: <|endoftext|>, <|pad|>"
    )


def test_a_file_without_a_known_end_of_text_lists_its_special_tokens(changed: Change) -> None:
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    stop = token | {"id": 330, "content": "<|stop|>", "special": True}
    path = changed(added_tokens=[stop])
    assert refused(path) == (
        f"tokenizer.path={path} has no token that is known to end a text, such as <|endoftext|>; "
        "type tokenizer.eot=TOKEN\n  its special tokens: <|stop|>"
    )
    assert made(path, eot="<|stop|>").eot == "<|stop|>"


def test_truncation_padding_and_frames_of_the_file_change_nothing(
    hf_file: Path, changed: Change
) -> None:
    library = Library.from_file(str(hf_file))
    library.enable_truncation(max_length=3)
    library.enable_padding(length=50)
    settings = json.loads(library.to_str())
    path = changed(truncation=settings["truncation"], padding=settings["padding"])
    assert made(path).encode(STORIES[0]) == made(hf_file).encode(STORIES[0])


def test_unicode_normalization_is_left_out(hf_file: Path, changed: Change) -> None:
    tokenizer = made(changed(normalizer={"type": "NFC"}))
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "e\u0301"
    assert tokenizer.encode(STORIES[0]) == made(hf_file).encode(STORIES[0])


PREFIX = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
LOSSES = {
    "'Once upon a time, there was a cat.' comes back as 'once upon": {
        "normalizer": {"type": "Lowercase"}
    },
    "'Once upon a time, there was a cat.' comes back as ' Once upon": {"pre_tokenizer": PREFIX},
    "'Once upon a time, there was a cat.' comes back as 'Onceupon": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, PREFIX | {"add_prefix_space": False}],
        }
    },
    "\\ufb01": {"normalizer": {"type": "NFKC"}},
}


@pytest.mark.parametrize("words", LOSSES)
def test_a_file_that_would_change_the_text_is_refused_with_an_example(
    words: str, changed: Change
) -> None:
    path = changed(**LOSSES[words])
    said = refused(path)
    assert said.startswith(
        f"tokenizer.path={path} does not give text back as it was, so val/bpb would be wrong: '"
    )
    assert words.encode().decode("unicode_escape") in said


def test_a_text_that_the_samples_did_not_foresee_is_refused_when_it_would_lose_something(
    changed: Change, hf_file: Path
) -> None:
    greedy = {"id": 332, "content": "zebra", "single_word": False, "lstrip": True, "rstrip": True,
              "normalized": False, "special": False}  # fmt: skip
    added = json.loads(hf_file.read_bytes())["added_tokens"]
    tokenizer = made(changed(added_tokens=[*added, greedy]))
    with pytest.raises(UserError, match="'a zebra ran' comes back as 'azebraran'"):
        tokenizer.encode_batch(["the fox", "a zebra ran"])


def test_a_vocabulary_without_all_bytes_is_refused(tmp_path: Path) -> None:
    words = Library(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["</s>"])
    words.save(str(tmp_path / "words.json"))
    assert "words.json is not byte-level: it has no id for 255 of the 256 bytes" in refused(
        tmp_path / "words.json"
    )


def test_a_numbering_with_a_hole_decodes(changed: Change, hf_file: Path) -> None:
    model = json.loads(hf_file.read_bytes())["model"]
    last = max(model["vocab"], key=model["vocab"].get)
    model["vocab"][last] = 400
    tokenizer = made(changed(model=model))
    assert tokenizer.vocab_size == 401
    assert tokenizer.decode_bytes([399, *tokenizer.encode("fox")]) == b"fox"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model": 7}', "\ud800"])
def test_a_file_that_is_something_else_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    said = refused(path)
    assert said.startswith(f"tokenizer.path={path} is no tokenizer.json that the library")
    assert "\n" not in said


def test_a_path_that_leads_nowhere_says_where_to(hf_file: Path, tmp_path: Path) -> None:
    folder = hf_file.parent
    assert refused(folder / "tokeniser.json") == (
        f"tokenizer.path={folder}/tokeniser.json does not exist; "
        f"did you mean tokenizer.path={hf_file}?"
    )
    assert refused(folder).endswith(f" is a folder; type tokenizer.path={hf_file}")
    assert refused(tmp_path).endswith(" is a folder; type the tokenizer.json in it")
    assert refused(tmp_path / "x" / "y").endswith("y does not exist")


def test_the_content_is_the_identity_and_not_the_place(hf_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.json"
    copy.write_bytes(hf_file.read_bytes())
    config = HFConfig(path=str(copy))
    assert config.identity == HFConfig(path=str(hf_file)).identity
    assert made(copy).fingerprint() == made(hf_file).fingerprint()
    copy.write_bytes(hf_file.read_bytes() + b"\n")
    assert config.identity != HFConfig(path=str(hf_file)).identity


def test_a_saved_tokenizer_does_not_need_the_first_file(hf_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.json"
    copy.write_bytes(hf_file.read_bytes())
    config = HFConfig(path=str(copy), eot="<|pad|>")
    config.train(iter([])).save(tmp_path)
    copy.unlink()
    assert config.load(tmp_path).eot == "<|pad|>"
    assert (tmp_path / "tokenizer.json").read_bytes() == hf_file.read_bytes()


def test_a_long_text_is_cut_where_no_id_changes(
    hf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "the  fox  slept.\n\n then it \t ran: " * 400 + "x" * 2500
    tokenizer = made(hf_file)
    expected = tokenizer.encode(text)
    limit = 1000
    monkeypatch.setattr(hf, "MAX_PART", limit)
    monkeypatch.setattr(hf, "_CUT", re.compile(hf._CUT.pattern.replace(str(1 << 20), str(limit))))
    assert max(map(len, hf._CUT.findall(text))) == limit
    assert tokenizer.encode(text[:-2500]) == expected[: len(tokenizer.encode(text[:-2500]))]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_tokenizer_that_falls_back_to_bytes_gives_every_text_back(tmp_path: Path) -> None:
    """The form in which a bpe tokenizer of tinygpt is exported."""
    tokens = [
        "<|endoftext|>",
        "\n",
        *(f"<0x{b:02X}>" for b in range(256)),
        " ",
        "a",
        "b",
        " a",
        "é",
    ]
    model = {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": [[" ", "a"]]}
    special = {"id": 0, "content": "<|endoftext|>", "special": True, "normalized": False}
    sides = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    content = {"added_tokens": [special | sides], "model": model | {"byte_fallback": True}}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"version": "1.0"} | content))
    tokenizer = HFConfig(path=str(path)).train(iter(()))
    assert tokenizer.encode(" ab\né") == [261, 260, 1, 262]
    assert tokenizer.encode("\u2581") == [2 + byte for byte in "\u2581".encode()]
    for text in (" a <0x0A> <|endoftext|>", "\ud83d\0\u2028", "\N{WOMAN}\N{ZERO WIDTH JOINER}"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
