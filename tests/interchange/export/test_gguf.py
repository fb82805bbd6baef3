"""Exports for llama.cpp, loaded by it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.interchange.export.models import SEQ_LEN, source
from tinygpt.errors import UserError
from tinygpt.interchange.architectures import architecture_of, pairs_to_halves
from tinygpt.interchange.export import gguf as our_gguf
from tinygpt.interchange.export.llama_cpp import LlamaCpp
from tinygpt.interchange.export.source import Source, logits_of
from tinygpt.interchange.export.write import export

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")


def contents(exported: Source) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys and tensors of the file."""
    architecture = architecture_of(exported.cfg.model, field="to=gguf")
    return our_gguf.keys(exported, architecture), our_gguf.tensors(exported, architecture)


def difference(exported: Source, path: Path) -> float:
    """The largest difference of log-probabilities after some tokens."""
    llama_cpp, found = LlamaCpp(path, n_ctx=SEQ_LEN), []
    for window in exported.windows().tolist():
        for ids in (window[:5], window[:20], window[:40]):
            ours = logits_of(exported.reference, torch.tensor([ids]))[0, -1].log_softmax(-1)
            theirs = llama_cpp.log_probabilities(ids, 50)
            found += [abs(value - float(ours[i])) for i, value in theirs.items()]
    return max(found)


@pytest.mark.parametrize(
    ("model", "switches", "tokenizer", "dtype", "n_texts"),
    [
        ("nano", (), "bpe", "fp32", 97),
        ("nano", ("model.tied=false", "model.bias=false"), "byte", "fp16", 109),
        ("llama_nano", ("model.n_kv_head=2",), "char", "fp32", 4),
        ("qwen3_nano", (), "hf", "fp32", 109),
        ("arcee_nano", (), "byte", "fp32", 109),
        # each architecture, switch, tokenizer and dtype is in one of those above
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("llama_nano", ("model.tied=false", "model.bias=true"), "bpe", "fp32", 97),
                ("arcee_nano", (), "bpe", "fp16", 97),
            ]
        ),
    ],
)
def test_llama_cpp_computes_the_same(
    model: str, switches: tuple[str, ...], tokenizer: str, dtype: str, n_texts: int, tmp_path: Path
) -> None:
    exported = source(tmp_path / "run", model, *switches, tokenizer=tokenizer, dtype=dtype)
    done = export(exported, to="gguf", out=tmp_path / "out")
    tensors, ids, probabilities, greedy = done.checks
    assert "read back by gguf are equal" in tensors
    assert f"ids equal for {n_texts} of {n_texts} texts" in ids
    assert "differ by at most" in probabilities
    if dtype == "fp32" and model != "nano":
        assert greedy == "greedy text equal for 3 of 3 prompts"
        assert difference(exported, tmp_path / "out" / "model.gguf") < 1e-3


def test_a_prompt_gets_the_end_of_text_before_it_and_comes_back(tmp_path: Path) -> None:
    exported = source(tmp_path / "run", tokenizer="bpe")
    export(exported, to="gguf", out=tmp_path / "out")
    llama_cpp = LlamaCpp(tmp_path / "out" / "model.gguf", n_ctx=SEQ_LEN)
    text = "Nora was na\u00efve.\n <|endoftext|>"
    assert llama_cpp.ids(text) == [0, *exported.tokenizer.encode(text)]
    assert llama_cpp.text(exported.tokenizer.encode(text)) == text


@pytest.mark.parametrize("key", ["add_space_prefix", "bos_token_id"])
def test_a_key_of_the_tokenizer_that_would_load_without_an_error_is_needed(
    key: str, tmp_path: Path
) -> None:
    exported = source(tmp_path / "run", tokenizer="bpe")
    keys, tensors = contents(exported)
    del keys[f"tokenizer.ggml.{key}"]
    our_gguf.write_file(tmp_path / "model.gguf", keys, tensors)
    ids = LlamaCpp(tmp_path / "model.gguf", n_ctx=SEQ_LEN).ids("Nora was")
    assert ids != [0, *exported.tokenizer.encode("Nora was")]
    assert (ids[0] == 1) == (key == "bos_token_id")  # 1 is our newline


def test_the_base_of_rotation_is_needed(tmp_path: Path) -> None:
    exported = source(tmp_path / "run", "llama_nano", "model.rope_base=50.0")
    keys, tensors = contents(exported)
    del keys["llama.rope.freq_base"]
    our_gguf.write_file(tmp_path / "model.gguf", keys, tensors)
    assert difference(exported, tmp_path / "model.gguf") > 1e-2


@pytest.mark.parametrize("model", ["llama_nano", "arcee_nano", "qwen3_nano"])
def test_rows_of_queries_and_keys_must_be_in_the_order_of_the_architecture(
    model: str, tmp_path: Path
) -> None:
    exported = source(tmp_path / "run", model)
    keys, tensors = contents(exported)
    for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight"):
        rows = torch.from_numpy(tensors[name])
        tensors[name] = pairs_to_halves(rows, len(rows) // 8).numpy()
    our_gguf.write_file(tmp_path / "model.gguf", keys, tensors)
    assert difference(exported, tmp_path / "model.gguf") > 1e-2


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("nano", "gpt2.attention.layer_norm_epsilon"),
        ("nano", "gpt2.context_length"),
        ("llama_nano", "llama.attention.layer_norm_rms_epsilon"),
        ("qwen3_nano", "qwen3.attention.head_count_kv"),
    ],
)
def test_llama_cpp_refuses_a_file_without_another_key(model: str, key: str, tmp_path: Path) -> None:
    keys, tensors = contents(source(tmp_path / "run", model))
    del keys[key]
    our_gguf.write_file(tmp_path / "model.gguf", keys, tensors)
    with pytest.raises(RuntimeError):
        LlamaCpp(tmp_path / "model.gguf", n_ctx=SEQ_LEN)


def test_the_exact_gelu_is_refused(tmp_path: Path) -> None:
    exported = source(tmp_path / "run", "nano", "model.feedforward=gelu_erf")
    with pytest.raises(UserError, match=r"model.feedforward=gelu_erf has no .* to=gguf.*to=hf"):
        export(exported, to="gguf", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())
