"""Our models and those of transformers with the same weights."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tinygpt.components.models.gpt import GPTConfig
from tinygpt.components.models.mingru import MinGRUConfig
from tinygpt.errors import UserError
from tinygpt.interchange.architectures import (
    ARCHITECTURES,
    architecture_of,
    from_hf_config,
    from_hf_tensors,
    halves_to_pairs,
    pairs_to_halves,
    to_hf_config,
    to_hf_tensors,
)

VOCAB, SEQ_LEN = 40, 24
SIZE: dict[str, Any] = {"n_layer": 2, "n_head": 4, "d_model": 32}
LLAMA = SIZE | {"positions": "rope", "norm": "rmsnorm", "bias": False, "feedforward": "swiglu"}
QWEN3 = LLAMA | {"qk_norm": True, "n_kv_head": 2, "rope_base": 1e6, "norm_eps": 1e-6}
ARCEE = LLAMA | {"feedforward": "relu2", "n_kv_head": 2}
MODELS = {
    "gpt2": SIZE,
    "gpt2, untied, other widths": SIZE | {"tied": False, "d_ff": 48, "norm_eps": 1e-3},
    "gpt2 with the exact GELU": SIZE | {"feedforward": "gelu_erf"},
    "gpt2 without biases": SIZE | {"bias": False},
    "gpt2 without gains": SIZE | {"norm_gain": False},
    "gpt2 without positions": SIZE | {"positions": "none"},
    "llama": LLAMA | {"n_kv_head": 2},
    "llama, untied, biased": LLAMA | {"tied": False, "bias": True, "rope_base": 500.0},
    "qwen3": QWEN3,
    "qwen3 without gains, untied": QWEN3 | {"norm_gain": False, "tied": False},
    "arcee": ARCEE,
    "arcee, biased, all heads": ARCEE | {"bias": True, "n_kv_head": 4},
}


def ours(config: GPTConfig) -> Any:
    """A model whose parameters are all random, norms and biases included."""
    torch.manual_seed(0)
    model = config.build(vocab_size=VOCAB, seq_len=SEQ_LEN).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.5 if parameter.dim() == 1 else 0.0, std=0.15)
    return model


def theirs(content: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """The model of transformers; every weight must be found."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**content)).eval()
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if content["tie_word_embeddings"] else set())
    model.tie_weights()
    return model


def logits_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out = model(tokens)
    return out if isinstance(out, torch.Tensor) else out.logits


@pytest.mark.parametrize("name", MODELS)
def test_a_model_computes_the_same_in_transformers_and_comes_back(name: str) -> None:
    config = GPTConfig(**MODELS[name])
    model = ours(config)
    content = to_hf_config(config, vocab_size=VOCAB, seq_len=SEQ_LEN, eot_id=0)
    assert content["model_type"] == name.replace(",", "").split()[0]
    tensors = to_hf_tensors(model.state_dict(), config, seq_len=SEQ_LEN)
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    hf = theirs(content, tensors)
    assert type(hf).__name__ == content["architectures"][0]
    tokens = torch.randint(VOCAB, (3, SEQ_LEN))
    expected = logits_of(model, tokens)
    torch.testing.assert_close(logits_of(hf, tokens), expected, rtol=0, atol=2e-5)

    read = from_hf_config(hf.config.to_dict(), where="config.json")
    assert (read.vocab_size, read.seq_len) == (VOCAB, SEQ_LEN)
    back = read.model.build(vocab_size=VOCAB, seq_len=SEQ_LEN).eval()
    back.load_state_dict(from_hf_tensors(tensors, read, where="folder"))
    torch.testing.assert_close(logits_of(back, tokens), expected, rtol=0, atol=2e-5)
    again = to_hf_tensors(back.state_dict(), read.model, seq_len=SEQ_LEN)
    assert all(torch.equal(again[key], tensors[key]) for key in tensors.keys() | again.keys())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_made_by_transformers_computes_the_same_here(name: str) -> None:
    config = GPTConfig(**MODELS[name])
    content = to_hf_config(config, vocab_size=VOCAB, seq_len=SEQ_LEN, eot_id=0)
    torch.manual_seed(1)
    from transformers import AutoConfig, AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_config(AutoConfig.for_model(**content)).eval()
    for parameter in hf.parameters():
        torch.nn.init.normal_(parameter, mean=0.5 if parameter.dim() == 1 else 0.0, std=0.15)
    read = from_hf_config(hf.config.to_dict(), where="config.json")
    model = read.model.build(vocab_size=VOCAB, seq_len=SEQ_LEN).eval()
    model.load_state_dict(from_hf_tensors(hf.state_dict(), read, where="folder"))
    tokens = torch.randint(VOCAB, (3, SEQ_LEN))
    torch.testing.assert_close(logits_of(model, tokens), logits_of(hf, tokens), rtol=0, atol=2e-5)


def test_gpt2_files_without_prefix_and_with_mask_buffers_are_read() -> None:
    config = GPTConfig(**SIZE)
    model = ours(config)
    content = to_hf_config(config, vocab_size=VOCAB, seq_len=SEQ_LEN, eot_id=0)
    read = from_hf_config(content, where="config.json")
    tensors = to_hf_tensors(model.state_dict(), config, seq_len=SEQ_LEN)
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    old |= {"h.0.attn.bias": torch.ones(1, 1, SEQ_LEN, SEQ_LEN)}
    state = from_hf_tensors(old, read, where="folder")
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_a_missing_or_unknown_tensor_is_named() -> None:
    config = GPTConfig(**LLAMA)
    content = to_hf_config(config, vocab_size=VOCAB, seq_len=SEQ_LEN, eot_id=0)
    read = from_hf_config(content, where="config.json")
    tensors = to_hf_tensors(ours(config).state_dict(), config, seq_len=SEQ_LEN)
    name = "model.layers.1.self_attn.k_proj.weight"
    less = {key: tensor for key, tensor in tensors.items() if key != name}
    with pytest.raises(UserError, match=f"folder lacks {name}"):
        from_hf_tensors(less, read, where="folder")
    more = tensors | {"model.layers.0.adapter.weight": torch.ones(1)}
    with pytest.raises(UserError, match=r"1 tensors without a place .* model.layers.0.adapter"):
        from_hf_tensors(more, read, where="folder")


@pytest.mark.parametrize(
    ("key", "value", "model"),
    [
        ("activation_function", "relu", "gpt2"),
        ("scale_attn_by_inverse_layer_idx", True, "gpt2"),
        ("hidden_act", "gelu", "llama"),
        ("head_dim", 16, "qwen3"),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}, "llama"),
        ("use_sliding_window", True, "qwen3"),
        ("model_type", "mamba", "gpt2"),
    ],
)
def test_a_config_that_our_model_cannot_compute_is_refused(
    key: str, value: object, model: str
) -> None:
    config = GPTConfig(**MODELS[model])
    content = to_hf_config(config, vocab_size=VOCAB, seq_len=SEQ_LEN, eot_id=0)
    named = "rope_type" if key == "rope_parameters" else key
    with pytest.raises(UserError, match=rf"F/config.json: {named} (is )?\w+"):
        from_hf_config(content | {key: value}, where="F/config.json")


@pytest.mark.parametrize(
    ("model", "switches", "error"),
    [
        (SIZE, {"logit_softcap": 15.0}, r"model.logit_softcap=15.0 has .*softcap=null"),
        (SIZE, {"window": 8}, r"model.window=8 has .*GPT2LMHeadModel, needs model.window=null"),
        (SIZE, {"n_kv_head": 2}, r"model.n_kv_head=2 has .*needs model.n_kv_head=null"),
        (LLAMA, {"value_residual": True}, r"value_residual=true .*LlamaForCausalLM, needs"),
        (LLAMA, {"ngram": 3}, r"model.ngram=3 has"),
        (LLAMA, {"sandwich_norm": True}, r"model.sandwich_norm=true has"),
        (LLAMA, {"embedding_norm": True}, r"model.embedding_norm=true has"),
        (LLAMA, {"x0_shortcut": True}, r"model.x0_shortcut=true has"),
        (LLAMA, {"value_embeddings": True}, r"model.value_embeddings=true has"),
        (LLAMA, {"norm": "layernorm"}, r"model.norm=layernorm has"),
        (QWEN3, {"bias": True}, r"model.(bias|qk_norm)=true has"),
        (ARCEE, {"qk_norm": True}, r"model.feedforward=relu2 has .*needs model.feedforward=swiglu"),
    ],
)
def test_a_switch_that_no_other_tool_has_is_named(
    model: dict[str, Any], switches: dict[str, Any], error: str
) -> None:
    with pytest.raises(UserError, match=error):
        architecture_of(GPTConfig(**model | switches), field="to=hf")


def test_another_model_is_refused_with_what_takes_it() -> None:
    with pytest.raises(UserError, match=r"model.name=mingru has no counterpart in to=gguf.*onnx"):
        architecture_of(MinGRUConfig(), field="to=gguf")


def test_every_switch_of_the_model_is_either_exported_or_refused() -> None:
    """A new switch must be entered in the tables, or it would be lost in an export."""
    settings_of_training = {"dropout", "zero_init", "embedding_std", "copy_init"}
    held = {"n_layer", "n_head", "d_model", "d_ff", "n_kv_head", "rope_base", "norm_eps"}
    held |= {"tied", "bias", "norm_gain", "name", "ngram_rows"}
    for architecture in ARCHITECTURES.values():
        known = set(architecture.switches) | held | settings_of_training
        assert set(vars(GPTConfig())) == known, architecture


def test_rows_for_tools_that_rotate_pairs_come_back() -> None:
    rows = torch.arange(2 * 6 * 3).view(12, 3)
    pairs = halves_to_pairs(rows, 2)
    assert pairs[:6, 0].tolist() == [0, 9, 3, 12, 6, 15]  # rows 0 3 1 4 2 5 of the first head
    assert torch.equal(pairs_to_halves(pairs, 2), rows)


def test_n_kv_head_as_many_as_heads_is_plain_attention() -> None:
    config = replace(GPTConfig(**SIZE), n_kv_head=4)
    assert architecture_of(config, field="to=hf").name == "gpt2"
