import math

import pytest
import torch

from tinygpt.kernels.loss import cross_entropy
from tinygpt.training import losses


def test_cross_entropy_is_the_mean_negative_log_probability_of_the_targets() -> None:
    probabilities = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]])  # (B=1, T=2, V=3)
    loss = cross_entropy(probabilities.log() + 7.0, torch.tensor([[0, 2]]))
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.1)) / 2, rel=1e-6)


def test_cross_entropy_of_uniform_logits_is_the_log_of_the_vocabulary() -> None:
    loss = cross_entropy(torch.zeros(3, 4, 17), torch.randint(17, (3, 4)))
    assert loss.item() == pytest.approx(math.log(17), rel=1e-6)


def test_cross_entropy_of_bfloat16_logits_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 8, 100).bfloat16(), torch.randint(100, (2, 8))
    loss = cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    exact = cross_entropy(logits.double(), targets).item()
    assert loss.item() == pytest.approx(exact, rel=1e-6)


def test_bits_per_byte_of_a_uniform_guess_over_bytes_is_eight() -> None:
    assert losses.bits_per_byte(1000 * math.log(256), 1000) == pytest.approx(8.0)


def test_bits_per_byte_does_not_depend_on_how_the_text_was_cut() -> None:
    as_bytes, as_pairs = 600 * math.log(256), 300 * math.log(256**2)
    assert losses.bits_per_byte(as_bytes, 600) == pytest.approx(losses.bits_per_byte(as_pairs, 600))
