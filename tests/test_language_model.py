"""The defaults of LanguageModel, and what our models override."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.components.models.gpt import GPTConfig
from tinygpt.language_model import LanguageModel, Role, activation_bytes
from tinygpt.training.losses import ModelLoss

V, C = 17, 6


class Least(LanguageModel):
    """Only what must be written: logits from the token at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(V, C)
        self.layers = nn.ModuleList(nn.Linear(C, C) for _ in range(2))
        self.norm = nn.RMSNorm(C)
        self.scale = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(C, V, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.rows(tokens)
        for layer in self.layers:
            x = x + self.scale * layer(x).tanh()
        logits: Tensor = self.head(self.norm(x))
        return logits


def test_without_logits_there_is_no_model() -> None:
    with pytest.raises(TypeError, match=r"abstract method '?forward"):
        LanguageModel()  # type: ignore[abstract]


def test_the_default_loss_is_that_of_the_logits() -> None:
    model, (tokens, targets) = Least(), torch.randint(0, V, (2, 3, 5))
    expected = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(ModelLoss(model)(tokens, targets), expected)
    assert model.new_cache() is None
    assert model.use_kernels(False) == []
    assert model.use_kernels(True) == ["the model (it has no kernels)"]


def test_the_role_of_a_parameter_follows_from_its_module_and_its_dimensions() -> None:
    roles = Least().roles()
    assert roles == {
        "scale": Role.SCALAR,
        "rows.weight": Role.EMBEDDING,
        "layers.0.weight": Role.HIDDEN,
        "layers.0.bias": Role.BIAS,
        "layers.1.weight": Role.HIDDEN,
        "layers.1.bias": Role.BIAS,
        "norm.weight": Role.NORM,
        "head.weight": Role.HIDDEN,  # only the model itself knows better
    }
    assert {role for role in roles.values() if role.decays} == {Role.EMBEDDING, Role.HIDDEN}


def test_the_default_work_of_a_token_is_six_for_each_weight_of_a_matrix_product() -> None:
    assert Least().flops_per_token() == 6 * (2 * C * C + C * V)


def test_units_are_what_a_model_repeats_outer_ones_first() -> None:
    model = Least()
    assert model.units() == [*model.layers]
    model.layers[0].inner = nn.ModuleList([nn.Identity()])
    assert model.units() == [*model.layers, model.layers[0].inner[0]]


def test_activation_bytes_are_what_autograd_keeps() -> None:
    weight = nn.Parameter(torch.randn(4, 4))
    model = nn.ParameterList([weight])
    x = torch.randn(3, 4)
    # a product keeps x and the weight, tanh keeps its result: 3 x 4 numbers each, and the weight
    assert activation_bytes(model, lambda: (x @ weight).tanh().sum()) == 2 * 3 * 4 * 4
    # the same tensor twice is there once
    assert activation_bytes(model, lambda: (x @ weight + x @ weight.t()).sum()) == 3 * 4 * 4
    with torch.no_grad():
        assert activation_bytes(model, lambda: (x @ weight).tanh().sum()) == 0


@pytest.mark.parametrize("kernels", [True, False])
def test_activation_bytes_of_a_gpt_grow_by_the_sequence_and_cost_no_memory(kernels: bool) -> None:
    with torch.device("meta"):
        model = GPTConfig(n_layer=2, n_head=2, d_model=16).build(vocab_size=V, seq_len=32)
        model.use_kernels(kernels)

        def kept(n_sequences: int) -> int:
            tokens = torch.zeros(n_sequences, 32, dtype=torch.int64)
            return activation_bytes(model, lambda: model.loss(tokens, tokens))

        # of one sequence attention makes no copies where it does of several
        assert kept(4) - kept(3) == kept(3) - kept(2)
        each = (kept(3) - kept(2)) / 32  # bytes of a token
    assert 2 * 16 * 16 * 4 < each < 2 * 40 * 16 * 4  # 34 numbers of the width for each of 2 layers
