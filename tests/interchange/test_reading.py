"""Weights of other tools compute here what they compute there; bad files are refused in a line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.interchange.foreign import NanoGPT, random_weights, save_llama2c, save_nanogpt
from tinygpt.components.models.gpt import GPTConfig
from tinygpt.errors import UserError
from tinygpt.interchange.reading.find import find_source
from tinygpt.interchange.reading.source import Source

VOCAB, SEQ_LEN = 60, 16
NANOGPT = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": SEQ_LEN, "vocab_size": VOCAB}
TOKENS = torch.arange(2 * SEQ_LEN).view(2, SEQ_LEN) * 7 % VOCAB


def found(path: Path | str) -> Source:
    return find_source(str(path), output_dir=Path("outputs"))


def our_logits(source: Source) -> torch.Tensor:
    """The logits of a model that was built as the source says and has its weights."""
    assert source.read
    model = source.model.build(vocab_size=source.vocab_size, seq_len=source.seq_len).eval()
    model.load_state_dict(source.read().tensors)
    with torch.no_grad():
        logits: torch.Tensor = model(TOKENS)
    return logits


def gpt2(**changes: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": SEQ_LEN, "vocab_size": VOCAB}
    special = {"bos_token_id": 0, "eos_token_id": 0}
    return _random(GPT2LMHeadModel(GPT2Config(**{**sizes, **special, **changes})))


def llama(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "hidden_size": 16,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": SEQ_LEN,
        "vocab_size": VOCAB,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    return _random(LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})))


def _random(model: Any) -> Any:
    torch.manual_seed(0)
    random_weights(model)
    return model.eval()


def their_logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        output = model(TOKENS)
    logits: torch.Tensor = output if isinstance(output, torch.Tensor) else output.logits
    return logits


# Hugging Face's folders


@pytest.mark.parametrize(
    "make",
    [
        gpt2,
        lambda: gpt2(activation_function="gelu"),
        llama,
        lambda: llama(tie_word_embeddings=False),
    ],
    ids=["GPT-2", "GPT-2 with the exact GELU", "Llama", "Llama, untied"],
)
@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
def test_a_folder_of_transformers_computes_the_same(
    make: Callable[[], Any], shards: bool, tmp_path: Path
) -> None:
    model = make()
    model.save_pretrained(tmp_path, max_shard_size="12KB" if shards else "1GB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 if shards else True
    source = found(tmp_path)
    assert (source.kind, source.seq_len) == (type(model).__name__, SEQ_LEN)
    torch.testing.assert_close(our_logits(source), their_logits(model), rtol=1e-5, atol=1e-5)


def test_names_without_their_prefix_and_mask_buffers_are_those_of_openais_files(
    tmp_path: Path,
) -> None:
    model = gpt2()
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    bare = {name.removeprefix("transformer."): t for name, t in load_file(file).items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, SEQ_LEN, SEQ_LEN).tril()
    save_file(bare, file)
    torch.testing.assert_close(
        our_logits(found(tmp_path)), their_logits(model), rtol=1e-5, atol=1e-5
    )


# nanoGPT and llama2.c


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."], ids=["plain", "compiled"])
def test_a_checkpoint_of_nanogpt_computes_the_same(bias: bool, prefix: str, tmp_path: Path) -> None:
    model = NanoGPT(**NANOGPT, bias=bias)  # type: ignore[arg-type]  # whole numbers
    _random(model)
    save_nanogpt(model, tmp_path / "ckpt.pt", NANOGPT | {"bias": bias}, prefix=prefix)
    source = found(tmp_path)  # the folder, as nanoGPT's out_dir
    assert source.path == tmp_path / "ckpt.pt"
    assert isinstance(source.model, GPTConfig)
    assert (source.model.bias, source.model.feedforward) == (bias, "gelu_erf")
    torch.testing.assert_close(our_logits(source), their_logits(model), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False, "num_key_value_heads": 4}])
def test_a_bin_of_llama2c_computes_the_same(changes: dict[str, Any], tmp_path: Path) -> None:
    model = llama(**changes)
    save_llama2c(model, tmp_path / "model.bin")
    source = found(tmp_path / "model.bin")
    torch.testing.assert_close(our_logits(source), their_logits(model), rtol=1e-5, atol=1e-5)


def test_the_checksum_is_that_of_the_file(tmp_path: Path) -> None:
    import hashlib

    save_llama2c(llama(), tmp_path / "model.bin")
    source = found(tmp_path / "model.bin")
    assert source.read
    expected = hashlib.sha256((tmp_path / "model.bin").read_bytes()).hexdigest()
    assert source.read().sha256() == expected


# What is refused


class _Harmful:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def refused(path: Path | str) -> str:
    """The error, which is one line, of finding and reading a source."""

    def read() -> None:
        source = found(path)
        assert source.read
        source.read()

    with pytest.raises(UserError) as caught:
        read()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.save({"model": {}, "model_args": _Harmful(marker)}, tmp_path / "ckpt.pt")
    assert "it holds more than tensors and plain values" in refused(tmp_path / "ckpt.pt")
    assert not marker.exists()
    torch.load(tmp_path / "ckpt.pt", weights_only=False)
    assert marker.exists(), "the file does run code where it is let"


def test_a_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    save_nanogpt(
        NanoGPT(**NANOGPT, bias=True),  # type: ignore[arg-type]  # whole numbers
        tmp_path / "ckpt.pt",
        NANOGPT,
        prefix="",
    )
    save_llama2c(llama(), tmp_path / "model.bin")
    llama().save_pretrained(tmp_path / "hf")
    for name in ("ckpt.pt", "model.bin", "hf/model.safetensors"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-100])
    assert "ckpt.pt is not read: it is damaged" in refused(tmp_path / "ckpt.pt")
    assert "bytes, and its header says" in refused(tmp_path / "model.bin")
    assert "model.safetensors cannot be read" in refused(tmp_path / "hf")


def test_sizes_that_are_not_those_of_the_tensors_are_named(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path / "hf")
    config = tmp_path / "hf/config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"n_positions": 8}))
    assert "position_embedding.weight is (16, 16) there, and its sizes say (8, 16)" in refused(
        tmp_path / "hf"
    )
    config.write_text(json.dumps(content | {"n_layer": 3}))
    assert "lacks" in refused(tmp_path / "hf")
    config.write_text("{")
    assert "config.json is not JSON; download it again" in refused(tmp_path / "hf")
    wrong = NANOGPT | {"n_layer": 3}
    save_nanogpt(NanoGPT(**NANOGPT, bias=True), tmp_path / "ckpt.pt", wrong, prefix="")  # type: ignore[arg-type]
    assert "lacks blocks.2." in refused(tmp_path / "ckpt.pt")


def test_a_missing_shard_and_pytorchs_old_files_are_named(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path, max_shard_size="12KB")
    next(tmp_path.glob("*-00001-*.safetensors")).unlink()
    assert "is missing, and model.safetensors.index.json names it" in refused(tmp_path)
    for file in tmp_path.glob("model*"):
        file.unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert "may run code when it is loaded, so it is never read" in refused(tmp_path)
    assert "may run code when it is loaded" in refused(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("ckpt.pt", b"no zip", "is damaged, or not a file of torch.save"),
        ("model.bin", b"short", "is not a .bin of llama2.c: its header has no sizes"),
        ("model.bin", b"24ka" + bytes(60), "later version"),
        ("model.gguf", b"GGUF", "is no kind of file that can be read; init_from takes"),
        ("folder/notes.txt", b"", "holds no weights that can be read"),
    ],
)
def test_other_files_are_refused(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert words in refused(path.parent if name.startswith("folder") else path)


def test_a_name_that_is_nothing_is_answered_with_all_that_is_taken(tmp_path: Path) -> None:
    text = refused("nope")
    assert text.startswith("init_from=nope does not exist; init_from takes a run folder, ")
    for words in ("config.json and model.safetensors", "ckpt.pt of nanoGPT", ".bin of llama2.c"):
        assert words in text
    (tmp_path / "model.bin").touch()
    assert f"did you mean init_from={tmp_path}/model.bin?" in refused(tmp_path / "modl.bin")


def test_a_file_of_a_folder_leads_to_the_folder(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path / "hf")
    text = refused(tmp_path / "hf/model.safetensors")
    folder = text.rpartition("init_from=")[2]
    assert found(folder).kind == "GPT2LMHeadModel"


def test_a_name_on_the_hub_is_answered_with_the_command_that_downloads_it() -> None:
    with pytest.raises(UserError, match=r"hf download openai-community/gpt2 .* --local-dir gpt2"):
        found("gpt2")
    with pytest.raises(UserError, match=r"hf download Qwen/Qwen3-0\.6B "):
        found("Qwen/Qwen3-0.6B")
