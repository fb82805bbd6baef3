"""Nats of a text by a decoder."""

import pytest
import torch
from torch import nn

from tinygpt.components.models.gpt import GPTConfig
from tinygpt.generation.likelihood import window_nats


@pytest.mark.gcc
@pytest.mark.parametrize("n_tokens", [2, 8, 9, 30])
def test_nats_are_those_of_the_models_loss_over_the_same_windows(n_tokens: int) -> None:
    torch.manual_seed(0)
    model = GPTConfig(n_layer=2, n_head=2, d_model=16).build(vocab_size=11, seq_len=8)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    tokens = torch.randint(11, (n_tokens,))
    decoder = model.decoder(1)
    found = window_nats(decoder, tokens.tolist(), seq_len=8).sum()
    expected = 0.0
    for start in range(0, n_tokens - 1, 8):
        window = tokens[None, start : start + 9]
        loss = model.double().loss(window[:, :-1], window[:, 1:])
        expected += loss.item() * (window.size(1) - 1)
    assert found == pytest.approx(expected, rel=1e-5)
