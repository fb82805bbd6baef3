from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tinygpt.components.models.gpt import GPTConfig
from tinygpt.components.optimizers import adamw_torch
from tinygpt.components.optimizers.adamw import AdamWConfig
from tinygpt.errors import UserError
from tinygpt.language_model import LanguageModel


class TiedModel(LanguageModel):
    """One matrix under two names, a bias, a norm, and a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.hidden = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.frozen = nn.Parameter(torch.ones(3, 3), requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.hidden(self.embedding(tokens))))
        return logits


def test_matrices_decay_and_vectors_do_not_each_parameter_once() -> None:
    model = TiedModel()
    decayed, kept = AdamWConfig(weight_decay=0.3).build(model).param_groups
    assert [decayed["weight_decay"], kept["weight_decay"]] == [0.3, 0.0]
    assert list(map(id, decayed["params"])) == [id(model.embedding.weight), id(model.hidden.weight)]
    vectors = [model.hidden.bias, model.norm.weight, model.norm.bias]
    assert list(map(id, kept["params"])) == list(map(id, vectors))


def test_every_parameter_of_a_gpt_is_in_one_group() -> None:
    model = GPTConfig(n_layer=2, n_head=2, d_model=8).build(vocab_size=11, seq_len=4)
    groups = AdamWConfig().build(model).param_groups
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_updates_are_the_bits_of_torch_and_its_memory_too() -> None:
    models = [
        GPTConfig(n_layer=1, n_head=1, d_model=8).build(vocab_size=11, seq_len=4) for _ in "ab"
    ]
    models[1].load_state_dict(models[0].state_dict())
    ours = AdamWConfig(lr=0.01, weight_decay=0.1).build(models[0])
    groups = AdamWConfig(weight_decay=0.1).build(models[1]).param_groups
    theirs = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), fused=True)
    for group in theirs.param_groups:
        group["lr"] = 0.01
    for _ in range(3):
        tokens = torch.randint(11, (2, 4))
        for model, optimizer in zip(models, (ours, theirs), strict=True):
            model(tokens).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for mine, reference in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(mine, reference)
        assert ours.state[mine].keys() == theirs.state[reference].keys()
        for key, value in ours.state[mine].items():
            assert torch.equal(value, theirs.state[reference][key])


@pytest.mark.parametrize("kernel", [True, False])
def test_updates_are_those_of_the_paper(kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamw_torch, "FUSED", ("cpu",) if kernel else ())
    torch.manual_seed(0)
    model = TiedModel().double()
    config = AdamWConfig(lr=0.01, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.3)
    optimizer = config.build(model)
    by_hand = {name: p.detach().clone() for name, p in model.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in by_hand.items()}
    second = {name: torch.zeros_like(p) for name, p in by_hand.items()}

    for step in range(1, 5):
        optimizer.zero_grad()
        model(torch.randint(7, (5,))).square().sum().backward()
        optimizer.step()
        for name, p in model.named_parameters():
            if p.grad is None:
                continue
            first[name] = 0.8 * first[name] + 0.2 * p.grad
            second[name] = 0.9 * second[name] + 0.1 * p.grad**2
            direction = first[name] / (1 - 0.8**step)
            scale = (second[name] / (1 - 0.9**step)).sqrt() + 1e-6
            decay = 0.3 if p.dim() >= 2 else 0.0
            by_hand[name] -= 0.01 * (direction / scale + decay * by_hand[name])

    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), by_hand[name], rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", 0.0), ("beta1", 1.0), ("beta2", -0.1), ("eps", 0.0), ("weight_decay", -0.1)],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"optimizer.{field}={value} must be"):
        AdamWConfig(**{field: value})
