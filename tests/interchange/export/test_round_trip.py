"""Exports read back by `init_from=`: the same weights, and the same tokenizer."""

import hashlib
from pathlib import Path

import pytest
from torch import Tensor

from tests.interchange.export.models import SEQ_LEN, source
from tinygpt.errors import UserError
from tinygpt.interchange import own_tokenizer, starting
from tinygpt.interchange.export.write import export
from tinygpt.interchange.reading.find import find_source
from tinygpt.interchange.reading.vocabulary import NEW, rows


def checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("to", "model", "switches", "tokenizer"),
    [
        pytest.param("hf", "nano", (), "char", marks=pytest.mark.slow),
        ("hf", "llama_nano", ("model.n_kv_head=2", "model.tied=false"), "bpe"),
        pytest.param("hf", "qwen3_nano", (), "hf", marks=pytest.mark.slow),
        ("llama2c", "llama_nano", ("model.n_kv_head=2",), "bpe"),
        ("llama2c", "llama_nano", ("model.tied=false",), "byte"),
    ],
)
def test_what_is_exported_comes_back_with_the_same_checksum(
    to: str, model: str, switches: tuple[str, ...], tokenizer: str, tmp_path: Path
) -> None:
    exported = source(tmp_path / "run", model, *switches, tokenizer=tokenizer)
    out = export(exported, to=to, out=tmp_path / "out").path
    found = find_source(str(out), output_dir=tmp_path)
    assert found.tokenizer
    assert found.tokenizer.name == tokenizer
    words = found.tokenizer.train(iter(()))
    assert words.fingerprint() == exported.tokenizer.fingerprint()
    assert found.read
    tensors = found.read().tensors
    of_ids = rows(found, words, came_along=True)
    assert NEW not in of_ids
    for name in {"token_embedding.weight", "head.weight"} & tensors.keys():
        tensors[name] = tensors[name][of_ids]
    ours = {name: p.detach() for name, p in exported.model.named_parameters()}
    assert checksum(tensors) == checksum(ours)
    assert found.seq_len == SEQ_LEN
    cfg = starting.compose_run([f"init_from={out}", "dataset=storyworld"])
    assert cfg.tokenizer == found.tokenizer
    assert cfg.model == found.model


def test_a_tokenizer_that_is_damaged_is_named(tmp_path: Path) -> None:
    out = export(source(tmp_path / "run"), to="hf", out=tmp_path / "out").path
    (out / own_tokenizer.FOLDER / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer.json is damaged; export the run again, or rem"):
        find_source(str(out), output_dir=tmp_path)


def test_without_our_tokenizer_that_of_characters_says_where_it_comes_from(tmp_path: Path) -> None:
    """As in a copy that transformers has saved."""
    exported = source(tmp_path / "run", tokenizer="char")
    out = export(exported, to="hf", out=tmp_path / "out").path
    (out / own_tokenizer.FOLDER).rename(tmp_path / "kept")
    with pytest.raises(UserError, match=r"tokenizer=char tokenizer.path=") as caught:
        starting.compose_run([f"init_from={out}", "dataset=storyworld"])
    assert str(out / own_tokenizer.FOLDER) in str(caught.value)
    typed = ["tokenizer=char", f"tokenizer.path={tmp_path / 'kept'}"]
    cfg = starting.compose_run([f"init_from={out}", "dataset=storyworld", *typed])
    assert cfg.tokenizer.name == "char"
