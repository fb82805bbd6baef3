"""Properties that every tokenizer has."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt.components.tokenizers.bpe import BPEConfig
from tinygpt.components.tokenizers.byte import ByteConfig
from tinygpt.components.tokenizers.char import CharConfig
from tinygpt.components.tokenizers.hf import HFConfig
from tinygpt.errors import UserError
from tinygpt.interfaces import Tokenizer, TokenizerConfig, utf8_length

KINDS = ("byte", "char", "bpe", "hf")
LEARNING = ("char", "bpe")
FILES = [
    ("byte", "tokenizer.json"),
    ("char", "tokenizer.json"),
    ("bpe", "tokenizer.json"),
    ("bpe", "tokenizer.model"),
    ("hf", "tokenizer.json"),
    ("hf", "tinygpt.json"),
]

STORY = "the a small fox saw ran over green hill and then slept under bright star"
TRICKY = [
    "",
    " ",
    "    ",
    "\n\n",
    "\r\n",
    "\t",
    "\0",
    "\x1b[0m",
    "\x7f\x80\x85",
    "\u2028",
    "\ufeff",
    "\u2581",  # sentencepiece's space
    "\u2585\u2047",  # sentencepiece's unknown
    "\ufffd",
    "\ufffe\uffff\U0010ffff",
    "\ud83d",
    "\ude00",
    "e\u0301",
    "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}",
    "<|endoftext|>",
    "<unk>",
    "<s>",
    "<0x0A>",
    "the small fox",
]
# any code point, surrogates too, and what is likely to go wrong
texts = st.lists(st.text(st.characters(), max_size=8) | st.sampled_from(TRICKY), max_size=6).map(
    "".join
)


def documents(seed: int = 0) -> Iterator[str]:
    """Short texts with a line end in each, one of them with an end of text written out."""
    rng = random.Random(seed)
    for _ in range(100):
        words = rng.choices(STORY.split(), k=17)
        yield " ".join(words[:12]) + ".\n" + " ".join(words[12:]) + "!"
    yield "the <|endoftext|> " * 20


@pytest.fixture(scope="module")
def configs(hf_file: Path) -> dict[str, TokenizerConfig]:
    """One of each kind."""
    hf = HFConfig(path=str(hf_file))
    return {"byte": ByteConfig(), "char": CharConfig(), "bpe": BPEConfig(vocab_size=330), "hf": hf}


@pytest.fixture(scope="module")
def tokenizers(configs: dict[str, TokenizerConfig]) -> dict[str, Tokenizer]:
    return {kind: config.train(documents()) for kind, config in configs.items()}


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts)
def test_every_string_comes_back_and_is_never_given_end_of_text(
    tokenizers: dict[str, Tokenizer], kind: str, text: str
) -> None:
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(tokenizer.decode_bytes(ids)) == utf8_length(text)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.eot_id not in ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [*TRICKY, "".join(TRICKY), "".join(TRICKY) * 200])
def test_tricky_strings_come_back(tokenizers: dict[str, Tokenizer], kind: str, text: str) -> None:
    assert tokenizers[kind].decode(tokenizers[kind].encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
@given(batch=st.lists(texts, max_size=6))
def test_a_batch_is_encoded_as_its_texts_are(
    tokenizers: dict[str, Tokenizer], kind: str, batch: list[str]
) -> None:
    encoded = tokenizers[kind].encode_batch(batch)
    one_by_one = [tokenizers[kind].encode(text) for text in batch]
    assert encoded.ids.tolist() == [i for ids in one_by_one for i in ids]
    assert encoded.lengths.tolist() == [len(ids) for ids in one_by_one]
    assert (encoded.ids.dtype, encoded.lengths.dtype) == (np.int32, np.int64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_of_the_training_is_encoded_as_the_training_meant_it(
    tokenizers: dict[str, Tokenizer], kind: str
) -> None:
    text = next(documents())
    most = {"byte": len(text), "char": len(text)}.get(kind, len(text) / 3)
    assert len(tokenizers[kind].encode(text)) <= most


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_any_ids_decode_and_a_stream_of_them_only_ever_adds_bytes(
    tokenizers: dict[str, Tokenizer], kind: str, data: st.DataObject
) -> None:
    tokenizer = tokenizers[kind]
    low_ids = st.integers(0, 20)  # where the special ones are
    ids = data.draw(st.lists(low_ids | st.integers(0, tokenizer.vocab_size - 1), max_size=12))
    whole = tokenizer.decode_bytes(ids)
    for k in range(len(ids)):
        assert whole.startswith(tokenizer.decode_bytes(ids[:k]))
    assert isinstance(tokenizer.decode(ids), str)
    assert tokenizer.decode_bytes(np.array(ids, dtype=np.int32)) == whole


@pytest.mark.parametrize("kind", KINDS)
@given(before=texts, after=texts)
def test_end_of_text_adds_nothing_and_keeps_documents_apart(
    tokenizers: dict[str, Tokenizer], kind: str, before: str, after: str
) -> None:
    tokenizer = tokenizers[kind]
    ids = [*tokenizer.encode(before), tokenizer.eot_id, *tokenizer.encode(after)]
    assert tokenizer.decode_bytes(ids) == b"".join(
        text.encode("utf-8", "surrogatepass") for text in (before, after)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_that_does_not_exist_is_named(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    for wrong in (-1, tokenizers[kind].vocab_size, 10**9):
        with pytest.raises(ValueError, match=f"id {wrong} is not in the vocabulary of "):
            tokenizers[kind].decode([1, wrong])
    tokenizers[kind].decode([tokenizers[kind].vocab_size - 1])


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_loads_as_the_same_tokenizer(
    configs: dict[str, TokenizerConfig], tokenizers: dict[str, Tokenizer], kind: str, tmp_path: Path
) -> None:
    tokenizers[kind].save(tmp_path)
    loaded = configs[kind].load(tmp_path)
    text = "".join(TRICKY) + next(documents())
    assert loaded.fingerprint() == tokenizers[kind].fingerprint()
    assert loaded.vocab_size == tokenizers[kind].vocab_size
    assert loaded.encode(text) == tokenizers[kind].encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    assert {path.name for path in tmp_path.iterdir()} == {name for k, name in FILES if k == kind}


@pytest.mark.parametrize("kind", LEARNING)
def test_the_documents_determine_the_fingerprint(
    configs: dict[str, TokenizerConfig], tokenizers: dict[str, Tokenizer], kind: str
) -> None:
    again = configs[kind].train(documents())
    other = configs[kind].train(text.replace("fox", "Zog") for text in documents())
    assert again.fingerprint() == tokenizers[kind].fingerprint()
    assert other.fingerprint() != tokenizers[kind].fingerprint()


def test_tokenizers_of_different_kinds_differ_in_their_fingerprints(
    tokenizers: dict[str, Tokenizer],
) -> None:
    assert len({tokenizer.fingerprint() for tokenizer in tokenizers.values()}) == len(KINDS)


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_missing_file_is_named(
    configs: dict[str, TokenizerConfig],
    tokenizers: dict[str, Tokenizer],
    kind: str,
    name: str,
    tmp_path: Path,
) -> None:
    tokenizers[kind].save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError) as caught:
        configs[kind].load(tmp_path)
    assert f"{tmp_path / name} is missing" in str(caught.value)
    assert f"python -m tinygpt.prepare tokenizer={kind}" in str(caught.value)


@pytest.mark.parametrize(("kind", "name"), FILES)
@settings(max_examples=50)
@given(data=st.data())
def test_a_damaged_file_is_named_and_never_loads_as_something_else(
    configs: dict[str, TokenizerConfig],
    tokenizers: dict[str, Tokenizer],
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    name: str,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    tokenizers[kind].save(folder)
    good = (folder / name).read_bytes()
    at = data.draw(st.integers(0, len(good) - 2))
    bad = data.draw(
        st.sampled_from([good[:at], good[:at] + b"9" + good[at + 1 :], b"[]", b"7", b'{"name": 1}'])
    )
    (folder / name).write_bytes(bad)
    try:
        loaded = configs[kind].load(folder)
    except UserError as error:
        refusal = str(error)
    else:  # the change meant nothing, such as in the word "name" of the JSON
        refusal = ""
        assert loaded.fingerprint() == tokenizers[kind].fingerprint()
    assert not refusal or str(folder / name) in refusal


@pytest.mark.parametrize(("kind", "other"), itertools.permutations(KINDS, 2))
def test_the_folder_of_another_tokenizer_is_refused(
    configs: dict[str, TokenizerConfig],
    tokenizers: dict[str, Tokenizer],
    kind: str,
    other: str,
    tmp_path: Path,
) -> None:
    tokenizers[other].save(tmp_path)
    with pytest.raises(UserError, match=r"\.(json|model) is (missing|damaged, or not of)"):
        configs[kind].load(tmp_path)


@pytest.mark.parametrize("kind", LEARNING)
@pytest.mark.parametrize("nothing", [[], [""], ["", ""]])
def test_no_text_is_an_error_that_names_the_choice(
    configs: dict[str, TokenizerConfig], kind: str, nothing: list[str]
) -> None:
    with pytest.raises(UserError, match=f"tokenizer={kind} finds no text to learn from"):
        configs[kind].train(iter(nothing))


@pytest.mark.parametrize("kind", LEARNING)
def test_a_tokenizer_of_another_run_is_loaded_and_nothing_is_learned(
    kind: str, configs: dict[str, TokenizerConfig], tmp_path: Path
) -> None:
    learned = configs[kind].train(documents())
    learned.save(tmp_path)
    loads = type(configs[kind])(path=str(tmp_path))  # type: ignore[call-arg]  # both have a path
    loaded = loads.train(iter(()))
    assert loaded.fingerprint() == learned.fingerprint()
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    with pytest.raises(UserError, match=r"is not a folder; type the tokenizer of a run"):
        _ = loads.identity
    again = type(configs[kind])(path=str(moved))  # type: ignore[call-arg]
    assert again.identity == {"name": kind, "fingerprint": learned.fingerprint()}


@pytest.mark.parametrize("kind", LEARNING)
def test_a_folder_without_the_tokenizer_is_refused_by_the_name_of_the_field(
    kind: str, configs: dict[str, TokenizerConfig], tmp_path: Path
) -> None:
    config = type(configs[kind])(path=str(tmp_path))  # type: ignore[call-arg]
    with pytest.raises(UserError, match=rf"tokenizer\.path=.* holds no intact {kind} tokenizer: "):
        config.train(iter(()))
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "run.json").touch()
    with pytest.raises(UserError, match=r"is a run; type tokenizer\.path=.*/tokenizer$"):
        config.train(iter(()))


def test_settings_of_learning_beside_a_path_are_refused() -> None:
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size=512 has no effect with"):
        BPEConfig(vocab_size=512, path="outputs/RUN/tokenizer")


def test_the_key_of_prepared_tokens_is_what_it_was_before_there_was_a_path() -> None:
    assert CharConfig().identity == {"name": "char"}
    assert BPEConfig().identity == {
        "name": "bpe",
        "vocab_size": 4096,
        "train_bytes": 50_000_000,
        "character_coverage": 1.0,
    }
