"""muP: rates and initial weights by role and width."""

from typing import Any

import pytest
import torch

from tinygpt.components.models.gpt import GPTConfig
from tinygpt.components.models.mingru import MinGRUConfig
from tinygpt.components.optimizers.adamw import AdamWConfig
from tinygpt.components.optimizers.muon import MuonConfig
from tinygpt.errors import UserError
from tinygpt.interfaces import ModelConfig, OptimizerConfig
from tinygpt.language_model import LanguageModel


def built(model: ModelConfig, optimizer: OptimizerConfig) -> tuple[LanguageModel, Any, Any]:
    """The model with its initial weights scaled, and the rate and decay of each parameter."""
    torch.manual_seed(0)
    network = model.build(vocab_size=11, seq_len=8)
    groups = optimizer.build(network).param_groups
    by_id = {id(p): group for group in groups for p in group["params"]}
    named = [(name, by_id[id(p)]) for name, p in network.named_parameters()]
    rates = {name: group["lr"] for name, group in named}
    return network, rates, {name: group["weight_decay"] for name, group in named}


def test_rates_and_initial_weights_are_those_of_the_paper_at_four_times_the_base_width():
    model = GPTConfig(n_layer=1, n_head=1, d_model=64)
    plain, _, _ = built(model, AdamWConfig())
    mup = AdamWConfig(lr=0.01, weight_decay=0.1, scaling="mup", base_width=16)
    network, rates, decays = built(model, mup)
    expected = {  # initial weights, rate
        "token_embedding.weight": (1, 1),
        "position_embedding.weight": (1, 1),
        "blocks.0.attention_norm.weight": (1, 1),
        "blocks.0.attention.qkv.weight": (1 / 2, 1 / 4),
        "blocks.0.attention.qkv.bias": (1, 1),
        "blocks.0.mlp.down.weight": (1 / 2, 1 / 4),
        "norm.weight": (1 / 4, 1 / 4),  # scales the logits
        "norm.bias": (1 / 4, 1 / 4),
    }
    for name, (weight, rate) in expected.items():
        assert torch.equal(network.get_parameter(name), plain.get_parameter(name) * weight), name
        assert rates[name] == 0.01 * rate, name
        decay = 0.1 if plain.get_parameter(name).dim() == 2 else 0
        assert rates[name] * decays[name] == pytest.approx(0.01 * decay), name


def test_an_output_matrix_of_its_own_is_scaled_itself():
    model = GPTConfig(n_layer=1, n_head=1, d_model=64, tied=False)
    plain, _, _ = built(model, AdamWConfig())
    network, rates, _ = built(model, AdamWConfig(lr=0.01, scaling="mup", base_width=16))
    for name, share in (("head.weight", 1 / 4), ("norm.weight", 1)):
        assert torch.equal(network.get_parameter(name), plain.get_parameter(name) * share)
        assert rates[name] == 0.01 * share


@pytest.mark.parametrize(
    "model", [GPTConfig(n_layer=1, n_head=1, d_model=64), MinGRUConfig(n_layer=1, d_model=64)]
)
def test_muon_keeps_the_rate_of_hidden_matrices_at_every_width(model):
    plain, _, _ = built(model, MuonConfig())
    scaled = MuonConfig(adamw_lr=1e-3, scaling="mup", base_width=16)
    network, rates, _ = built(model, scaled)
    hidden = {n for n, r in network.roles().items() if r == "hidden"}
    for name, p in network.named_parameters():
        if name in hidden:
            assert torch.equal(p, plain.get_parameter(name) / 2)
            assert rates[name] == 0.02
        else:
            assert rates[name] == (0.25e-3 if name in network.output_norm() else 1e-3)


@pytest.mark.parametrize("config", [AdamWConfig, MuonConfig])
def test_at_the_base_width_nothing_changes(config):
    model = GPTConfig(n_layer=1, n_head=1, d_model=64)
    (plain, rates, decays), scaled = built(model, config()), built(model, config(scaling="mup"))
    assert (rates, decays) == scaled[1:]
    for ours, theirs in zip(plain.parameters(), scaled[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_cannot_be_scaled_is_refused():
    with pytest.raises(UserError, match=r"has no effect with optimizer\.scaling=none"):
        AdamWConfig(base_width=32)
    with pytest.raises(UserError, match=r"optimizer\.scaling=spectral"):
        MuonConfig(scaling="spectral")
    model = GPTConfig(n_layer=1, n_head=1, d_model=8, norm_gain=False, norm="rmsnorm")
    with pytest.raises(UserError, match=r"type model\.tied=false"):
        built(model, AdamWConfig(scaling="mup"))
