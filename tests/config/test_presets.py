"""Presets found again in the config of a model."""

import pytest

from tinygpt.config.presets import preset_of, short_name

GPT = {"name": "gpt", "n_layer": 4, "n_head": 4, "d_model": 64}  # the rest has its defaults
LLAMA = {"positions": "rope", "norm": "rmsnorm", "bias": False, "feedforward": "swiglu"}
GROUPED = {"feedforward": "relu2", "n_kv_head": 2}


@pytest.mark.parametrize(
    ("model", "preset", "name"),
    [
        (GPT, "nano", "nano"),
        ({**GPT, **LLAMA}, "llama_nano", "llama_nano"),
        ({**GPT, **LLAMA, **GROUPED}, "arcee_nano", "arcee_nano"),
        ({"name": "mingru", "n_layer": 4, "d_model": 64}, "mingru_nano", "mingru_nano"),
        ({**GPT, "d_model": 80}, None, "gpt 4-80"),
        ({**GPT, **LLAMA, "n_layer": 3}, None, "llama 3-64"),
        ({**GPT, "dropout": 0.1}, None, "gpt dropout=0.1 4-64"),
        (
            {**GPT, "own": 1, "dropout": 0.1, "norm_eps": 1.0},
            None,
            "gpt dropout=0.1 norm_eps=1.0 ... 4-64",
        ),
        ({"name": "lstm", "width": 3}, None, "lstm"),
        ({"name": "gpt", "n_layer": 4}, None, "gpt 4"),
        ({}, None, "?"),
    ],
)
def test_a_model_is_named_as_it_was_chosen(
    model: dict[str, object], preset: str | None, name: str
) -> None:
    assert preset_of(model) == preset
    assert short_name(model) == name
