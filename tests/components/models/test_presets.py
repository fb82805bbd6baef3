"""Presets of other architectures are those of transformers, with copied weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from tinygpt.components.models.gpt import GPTConfig

CONF = Path(__file__).parents[3] / "conf" / "model"
V, T = 61, 20
SIZES = ("nano", "tiny", "small", "medium")
OURS = {  # their words for ours
    "model.embed_tokens": "token_embedding",
    "model.layers": "blocks",
    "model.norm": "norm",
    "lm_head": "head",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "mlp_norm",
    "self_attn.o_proj": "attention.out",
    "self_attn": "attention",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
}


def preset(name: str) -> GPTConfig:
    fields = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    del fields["defaults"]
    return GPTConfig(**fields)


def reference(family: str, config: GPTConfig) -> Any:
    """The model of transformers that a config of ours describes, its weights all random."""
    import transformers

    name = {"llama": "Llama", "qwen3": "Qwen3", "arcee": "Arcee"}[family]
    n_kv_head = config.n_kv_head or config.n_head
    made = getattr(transformers, f"{name}Config")(
        vocab_size=V,
        hidden_size=config.d_model,
        num_hidden_layers=config.n_layer,
        num_attention_heads=config.n_head,
        num_key_value_heads=n_kv_head,
        head_dim=config.d_model // config.n_head,
        intermediate_size=config.ff_width,
        max_position_embeddings=T,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_base},
        tie_word_embeddings=config.tied,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(made).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def in_our_words(weights: dict[str, Tensor], *, tied: bool) -> dict[str, Tensor]:
    """Their weights under our names: q, k and v are one matrix here."""
    named = {}
    for name, weight in weights.items():
        for theirs, ours in OURS.items():
            name = name.replace(theirs, ours)
        named[name] = weight
    for name in [name for name in named if name.endswith("q_proj.weight")]:
        parts = [named.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        named[name.replace("q_proj", "qkv")] = torch.cat(parts)
    if tied:
        del named["head.weight"]
    return named


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "arcee"])
def test_logits_equal_those_of_transformers(family: str, tied: bool) -> None:
    config = replace(preset(f"{family}_nano"), tied=tied)
    theirs = reference(family, config)
    ours = config.build(vocab_size=V, seq_len=T).double()
    ours.load_state_dict(in_our_words(theirs.state_dict(), tied=tied))  # every name, every shape
    tokens = torch.randint(V, (3, T))
    expected = theirs(tokens).logits
    assert expected.abs().max() > 1
    # they normalise and rotate in float32, whatever the weights are
    torch.testing.assert_close(ours(tokens), expected, rtol=1e-5, atol=1e-5)
    slower = replace(config, rope_base=2 * config.rope_base).build(vocab_size=V, seq_len=T).double()
    slower.load_state_dict(ours.state_dict())
    assert (slower(tokens) - expected).abs().max() > 1e-3  # even this would show


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", ["llama", "qwen3", "arcee", "modern"])
def test_presets_of_a_size_have_about_its_parameters(family: str, size: str) -> None:
    def n_params(config: GPTConfig) -> int:
        with torch.device("meta"):
            model = replace(config, positions="none").build(vocab_size=1, seq_len=1)
        return sum(parameter.numel() for parameter in model.parameters())

    config = replace(preset(f"{family}_{size}"), rope_base=1e4)
    assert n_params(config) == pytest.approx(n_params(preset(size)), rel=0.2)
