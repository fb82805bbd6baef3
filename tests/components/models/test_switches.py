"""What every architecture of the transformer keeps, and each part against its formula."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tinygpt import kernels
from tinygpt.components.models.gpt import GPTConfig
from tinygpt.components.models.gpt_torch import GPT, Block, is_gpt2
from tinygpt.components.models.parts.attention import Attention, attention_mask
from tinygpt.components.models.parts.embeddings import NgramEmbedding
from tinygpt.components.models.parts.feedforward import MLP
from tinygpt.components.models.parts.norms import norm_of
from tinygpt.components.models.parts.positions import rotate, rotation
from tinygpt.errors import UserError
from tinygpt.kernels.loss import cross_entropy, linear_cross_entropy
from tinygpt.language_model import Role

V, T = 50, 12
SWITCHES: dict[str, dict[str, Any]] = {
    "rope": {"positions": "rope", "rope_base": 100.0},
    "no positions": {"positions": "none"},
    "rmsnorm": {"norm": "rmsnorm"},
    "no gain": {"norm_gain": False},
    "sandwich": {"sandwich_norm": True},
    "no bias": {"bias": False},
    "qk norm": {"qk_norm": True},
    "grouped queries": {"n_kv_head": 1},
    "window": {"window": 4},
    "gelu erf": {"feedforward": "gelu_erf"},
    "relu2": {"feedforward": "relu2"},
    "swiglu": {"feedforward": "swiglu", "d_ff": 20},
    "untied": {"tied": False},
    "embedding norm": {"embedding_norm": True},
    "softcap": {"logit_softcap": 5.0},
    "x0": {"x0_shortcut": True},
    "value residual": {"value_residual": True},
    "value embeddings": {"value_embeddings": True},
    "ngram": {"ngram": 3, "ngram_rows": 97},
}
SWITCHES["all"] = {name: value for fields in SWITCHES.values() for name, value in fields.items()}
SWITCHES["all"] |= {"positions": "rope", "n_kv_head": 2, "zero_init": True}
every_switch = pytest.mark.parametrize("fields", SWITCHES.values(), ids=SWITCHES)


def built(**fields: Any) -> GPT:
    """A model in float64 whose weights are all random: what begins at zero or one hides nothing."""
    torch.manual_seed(0)
    shape = {"n_layer": 3, "n_head": 4, "d_model": 24}
    model = GPTConfig(**{**shape, **fields}).build(vocab_size=V, seq_len=T).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def some_tokens(batch: int = 2) -> Tensor:
    return torch.randint(V, (batch, T))


@every_switch
def test_a_token_changes_nothing_before_itself_and_something_at_itself(fields) -> None:
    model, tokens = built(**fields), some_tokens()
    before = model(tokens)
    tokens[:, 7] = (tokens[:, 7] + 1) % V
    after = model(tokens)
    assert torch.equal(after[:, :7], before[:, :7])
    assert (after[:, 7] != before[:, 7]).any(-1).all()


@every_switch
@pytest.mark.parametrize("lengths", [[1] * T, [5, 1, 6]])
def test_decoding_piece_by_piece_equals_the_full_forward(fields, lengths) -> None:
    model, tokens = built(**fields), some_tokens()
    cache = model.new_cache()
    pieces = [model(piece, cache) for piece in torch.split(tokens, lengths, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens))


@every_switch
def test_a_document_does_not_depend_on_those_before_it(fields) -> None:
    model, tokens = built(**fields), some_tokens()
    documents = torch.tensor([[0] * 5 + [1] * 4 + [2] * 3, [0] * T])
    other = tokens.clone()
    other[0, :5] = (other[0, :5] + 1) % V
    ours, others = (model(t, documents=documents) for t in (tokens, other))
    assert torch.equal(ours[0, 5:], others[0, 5:])
    assert not torch.allclose(ours[0, :5], others[0, :5])
    torch.testing.assert_close(ours[1], model(tokens)[1])  # one document is what there was before


@every_switch
def test_the_loss_and_its_gradients_are_those_of_the_logits(fields) -> None:
    model, tokens, targets = built(**fields), some_tokens(), some_tokens()
    documents = torch.tensor([[0] * 5 + [1] * 7, [0] * 2 + [1] * 10])

    def gradients(loss: Tensor) -> list[Tensor]:
        return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]

    logits = model(tokens, documents=documents)
    expected = gradients(F.cross_entropy(logits.flatten(0, 1), targets.flatten()))
    found = gradients(model.loss(tokens, targets, documents))
    torch.testing.assert_close(found, expected)
    named = zip(model.named_parameters(), found[1:], strict=True)
    # learned, and so used; keys' biases are added to all scores of a query alike
    assert not [name for (name, _), gradient in named if not gradient.any()]


@every_switch
def test_flops_are_those_that_torch_counts(fields) -> None:
    fields = {**fields, "window": None}  # with a window a CPU multiplies what it masks
    model, tokens = built(**fields), some_tokens()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens).sum().backward()
    assert counter.get_total_flops() == model.flops_per_token() * tokens.numel()


@every_switch
def test_every_parameter_has_a_role_and_blocks_say_what_has_no_kernels(fields) -> None:
    model = built(**fields)
    roles = model.roles()
    assert roles.keys() == dict(model.named_parameters()).keys()
    assert (Role.HEAD in roles.values()) is not model.config.tied
    for name, rows in model.stacked().items():
        assert roles[name] is Role.HIDDEN
        assert sum(rows) == model.get_parameter(name).size(0)
    lacking = fields.keys() & {"value_residual", "value_embeddings"}
    if fields.get("feedforward") == "gelu_erf":
        lacking = lacking | {"feedforward"}
    words = model.use_kernels(True)
    assert bool(words) is bool(lacking)
    assert all(f"model.{name}={str(fields[name]).lower()}" in words[0] for name in lacking)
    assert model.use_kernels(False) == []


@pytest.mark.parametrize(
    "fields", [SWITCHES["x0"], {"positions": "none", "d_ff": 40}, {"window": 5}], ids=str
)
def test_what_surrounds_a_block_of_gpt2_leaves_it_its_formulas(fields) -> None:
    model, tokens = built(**fields), some_tokens()
    plain = model(tokens)
    assert model.use_kernels(True) == []
    by_formulas = model(tokens)
    assert not torch.equal(plain, by_formulas)  # another order of additions
    torch.testing.assert_close(by_formulas, plain)


@every_switch
def test_without_fused_kernels_autograd_runs_any_other_block(fields) -> None:
    model, tokens = built(**fields), some_tokens()
    plain = model(tokens)
    model.use_kernels(True)
    assert torch.equal(model(tokens), plain) is not is_gpt2(model.config)


# Parts against their formulas


def test_a_rotation_turns_pairs_by_halves_by_the_angles_of_the_paper() -> None:
    d_head, base, positions = 6, 50.0, torch.arange(3, 8)
    heads = torch.randn(2, 4, 5, d_head, dtype=torch.float64)
    rotated = rotate(heads, rotation(positions, d_head=d_head, base=base))
    for t, position in enumerate(positions.tolist()):
        for i in range(3):
            turn = torch.polar(torch.tensor(1.0), torch.tensor(position * base ** (-2 * i / 6)))
            pair = torch.complex(heads[..., t, i], heads[..., t, i + 3]) * turn
            torch.testing.assert_close(rotated[..., t, i], pair.real, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(rotated[..., t, i + 3], pair.imag, rtol=1e-5, atol=1e-5)


def test_rotated_scores_depend_on_distances_only() -> None:
    q, k = torch.randn(2, 1, 8, dtype=torch.float64)

    def score(at_q: int, at_k: int) -> Tensor:
        by_q, by_k = (
            rotation(torch.tensor([position]), d_head=8, base=1e4) for position in (at_q, at_k)
        )
        return (rotate(q, by_q) * rotate(k, by_k)).sum()

    torch.testing.assert_close(score(7, 3), score(104, 100), rtol=1e-4, atol=1e-5)
    assert abs(score(7, 3) - score(7, 4)) > 1e-3


@pytest.mark.parametrize("gain", [True, False])
def test_rmsnorm_divides_by_the_root_mean_square(gain: bool) -> None:
    norm = norm_of("rmsnorm", gain=gain, shift=True, eps=0.1)(5).double()
    x, weight = torch.randn(3, 5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    if gain:
        weight = nn.init.normal_(norm.weight)
    assert len([*norm.parameters()]) == gain
    torch.testing.assert_close(norm(x), weight * x / (x.square().mean(-1, True) + 0.1).sqrt())


def test_a_window_shows_a_query_its_newest_positions_of_its_document() -> None:
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    mask = attention_mask(7, 7, window=3, documents=documents, device=torch.device("cpu"))
    for query in range(7):
        for key in range(7):
            sees = query - 3 < key <= query and (query < 3) == (key < 3)
            assert mask[0, 0, query, key].item() is sees
    newest = attention_mask(2, 7, window=3, device=torch.device("cpu"))
    assert newest.int().tolist() == [[[[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1]]]]


@pytest.mark.parametrize("first", [True, False])
def test_attention_with_all_that_changes_values_is_its_formula(first: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(
        d_model=8,
        n_head=4,
        n_kv_head=2,
        bias=True,
        dropout=0.0,
        qk_norm=norm_of("layernorm", gain=True, shift=False, eps=1e-3),
        mixes_values=not first,
        value_vocab=V,
    ).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    x, before = torch.randn(5, 8, dtype=torch.float64), torch.randn(2, 5, 2, dtype=torch.float64)
    tokens = torch.randint(V, (5,))
    rows = F.linear(x, attention.qkv.weight, attention.qkv.bias)
    values, out = [], torch.zeros(5, 8, dtype=torch.float64)
    for head in range(2):
        v = rows[:, 12 + 2 * head :][:, :2]
        values.append(v)
        if not first:
            v = attention.value_mix[0] * v + attention.value_mix[1] * before[head]
        gate = 2 * torch.sigmoid(x @ attention.value_gate.weight[head])
        v = v + gate[:, None] * attention.value_embedding.weight[tokens][:, 2 * head :][:, :2]
        k = F.layer_norm(rows[:, 8 + 2 * head :][:, :2], (2,), attention.k_norm.weight, None, 1e-3)
        for query_head in (2 * head, 2 * head + 1):
            q = rows[:, 2 * query_head :][:, :2]
            q = F.layer_norm(q, (2,), attention.q_norm.weight, None, 1e-3)
            for t in range(5):
                p = torch.softmax(k[: t + 1] @ q[t] / math.sqrt(2), 0)
                out[t, 2 * query_head : 2 * query_head + 2] = p @ v[: t + 1]
    expected = F.linear(out, attention.out.weight, attention.out.bias)
    found, own = attention(x[None], tokens=tokens[None], first_values=before[None])
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(own[0], torch.stack(values))


def test_a_block_with_sandwich_norms_and_a_shortcut_is_its_formula() -> None:
    torch.manual_seed(0)
    config = GPTConfig(n_layer=2, n_head=2, d_model=8, sandwich_norm=True, x0_shortcut=True)
    block = Block(config, layer=1, vocab_size=V).double()
    assert block.shortcut.tolist() == [1.0, 0.0]
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x, x0 = torch.randn(2, 1, 5, 8, dtype=torch.float64)
    y = block.shortcut[0] * x + block.shortcut[1] * x0
    y = y + block.attention_post_norm(block.attention(block.attention_norm(y))[0])
    y = y + block.mlp_post_norm(block.mlp(block.mlp_norm(y)))
    torch.testing.assert_close(block(x, x0=x0)[0], y)


def test_gelu_erf_is_the_input_times_the_probability_of_a_smaller_normal_number() -> None:
    mlp = MLP(d_model=1, d_ff=1, activation="gelu_erf", bias=False, dropout=0.0).double()
    for weight in (mlp.up.weight, mlp.down.weight):
        nn.init.ones_(weight)
    x = torch.tensor([[-3.0], [-0.5], [0.0], [2.0]], dtype=torch.float64)
    expected = [value / 2 * (1 + math.erf(value / 2**0.5)) for value in x.flatten().tolist()]
    torch.testing.assert_close(mlp(x).flatten().tolist(), expected)


def test_relu2_is_the_square_of_what_is_positive() -> None:
    mlp = MLP(d_model=1, d_ff=1, activation="relu2", bias=False, dropout=0.0)
    nn.init.ones_(mlp.up.weight)
    nn.init.ones_(mlp.down.weight)
    assert mlp(torch.tensor([[-2.0], [0.0], [3.0]])).flatten().tolist() == [0, 0, 9]


def test_an_ngram_has_the_row_of_its_hash_and_none_reaches_into_another_document() -> None:
    embedding = NgramEmbedding(n=3, rows=97, d_model=2).double()
    for parameter in embedding.parameters():
        nn.init.normal_(parameter)
    tokens, documents = [5, 7, 7, 0, 9, 5], [0, 0, 0, 1, 1, 1]

    def row(n: int, *ngram: int) -> Tensor:
        value = 0
        for token in ngram:  # the newest first; none is 0, and token 0 is 1
            value = value * 1_000_003 + token
        return embedding.tables[n - 2].weight[value % 97]

    expected = []
    for t in range(6):
        newest = [
            tokens[s] + 1 if s >= 0 and documents[s] == documents[t] else 0
            for s in (t, t - 1, t - 2)
        ]
        expected.append(row(2, *newest[:2]) + row(3, *newest))
    found = embedding(torch.tensor([tokens]), None, torch.tensor([documents]))
    torch.testing.assert_close(found[0], torch.stack(expected))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_loss_with_a_softcap_is_that_of_the_capped_logits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = (3 * torch.randn(rows, 6, dtype=torch.float64) for rows in (30, 17))
    targets = torch.randint(17, (30,))

    def gradients(own: bool) -> list[Tensor]:
        leaves = [t.to(dtype).requires_grad_() for t in (x, weight)]
        if own:
            loss = linear_cross_entropy(*leaves, targets, softcap=4.0)
        else:
            capped = 4 * (F.linear(*(t.double() for t in leaves)) / 4).tanh()
            loss = F.cross_entropy(capped, targets)
        return [loss.detach().double(), *(g.double() for g in torch.autograd.grad(loss, leaves))]

    near = {} if dtype == torch.float64 else {"rtol": 0.05, "atol": 0.01}
    torch.testing.assert_close(gradients(True), gradients(False), **near)


# What begins how


def test_extras_begin_where_they_change_nothing() -> None:
    fields = {"zero_init": True, "x0_shortcut": True, "ngram": 3}
    torch.manual_seed(0)
    config = GPTConfig(n_layer=2, n_head=2, d_model=8)
    model = replace(config, **fields).build(vocab_size=V, seq_len=T)
    tokens = some_tokens()
    embedded = model.token_embedding(tokens) + model.position_embedding.weight
    torch.testing.assert_close(model.hidden(tokens), model.norm(embedded))


@pytest.mark.parametrize("tied", [True, False])
def test_copy_init_makes_tokens_that_were_seen_more_likely(tied: bool) -> None:
    shape = {"n_layer": 2, "n_head": 2, "d_model": 128, "tied": tied}
    config = GPTConfig(**shape, positions="rope", embedding_std=0.3, zero_init=True)
    tokens = torch.tensor([[3, 5, 3, 7, 9]])

    def logits(copy_init: float) -> Tensor:
        torch.manual_seed(0)
        model = replace(config, copy_init=copy_init).build(vocab_size=V, seq_len=T)
        return model(tokens)[0, -1]

    likeliest = logits(1.0).topk(4).indices.tolist()
    assert likeliest[:2] == [9, 3]  # the token itself is in the stream; 3 was seen twice
    assert set(likeliest) == {3, 5, 7, 9}
    assert set(logits(0.0).topk(4).indices.tolist()) != {3, 5, 7, 9}


def test_embedding_std_changes_token_embeddings_alone() -> None:
    def weights(**fields: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        config = GPTConfig(n_layer=1, n_head=2, d_model=8, tied=False, **fields)
        return config.build(vocab_size=V, seq_len=T).state_dict()

    before, after = weights(), weights(embedding_std=0.2)
    for name, weight in before.items():
        factor = 10 if name == "token_embedding.weight" else 1
        torch.testing.assert_close(after[name], factor * weight)


# Values


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"positions": "rotary"}, "model.positions=rotary is not a choice"),
        ({"norm": "batchnorm"}, "model.norm=batchnorm is not a choice"),
        ({"feedforward": "silu"}, "model.feedforward=silu is not a choice"),
        ({"n_kv_head": 4}, r"model\.n_kv_head=4 does not divide .*; use one of 1, 2, 3, 6"),
        ({"n_kv_head": 0}, "model.n_kv_head=0 must be"),
        ({"window": 0}, "model.window=0 must be"),
        ({"d_ff": 0}, "model.d_ff=0 must be"),
        ({"logit_softcap": 0.0}, "model.logit_softcap=0.0 must be"),
        ({"norm_eps": 0.0}, "model.norm_eps=0.0 must be"),
        ({"ngram": 9}, "model.ngram=9 must be"),
        ({"embedding_std": 0.0}, "model.embedding_std=0.0 must be"),
        ({"copy_init": -1.0}, "model.copy_init=-1.0 must be"),
        ({"copy_init": 1.0, "n_kv_head": 3}, "use model.n_kv_head=null"),
        ({"ngram_rows": 100}, r"model\.ngram_rows=100 has no effect .*; use model\.ngram=2"),
        (
            {"rope_base": 5e5},
            r"model\.rope_base=500000 has no effect .*; use model\.positions=rope",
        ),
        ({"value_residual": True, "n_layer": 1}, "model.value_residual=true has no effect"),
        ({"positions": "rope", "d_model": 18}, r"18 / 6 = 3 is odd; use another model\.n_head"),
    ],
    ids=str,
)
def test_values_that_cannot_be_or_would_be_ignored_are_refused(fields, words) -> None:
    with pytest.raises(UserError, match=words):
        GPTConfig(**fields)


def test_the_width_of_the_feed_forward_layer_follows_from_its_kind() -> None:
    assert GPTConfig(n_head=4, d_model=64).ff_width == 256
    assert GPTConfig(n_head=4, d_model=64, feedforward="swiglu").ff_width == 176
    assert GPTConfig(n_head=6, d_model=384, feedforward="swiglu").ff_width == 1024
    assert GPTConfig(d_ff=7).ff_width == 7


def test_a_model_without_preference_has_the_loss_log_v() -> None:
    model = built(**SWITCHES["all"])
    nn.init.zeros_(model.output_weight)
    loss = cross_entropy(model(some_tokens()), some_tokens())
    assert loss.item() == pytest.approx(math.log(V), rel=1e-6)


@pytest.mark.gcc
def test_the_table_of_switches_names_all_of_them_and_no_error_is_larger() -> None:
    """docs/kernels.md: the loss and gradients in fp32, by kernels where there are some."""
    text = (Path(__file__).parents[3] / "docs" / "kernels.md").read_text("utf-8")
    lines = text.partition("## Switches")[2].partition("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    stated = {name: float(error) for name, _, _, error in cells[2:]}
    assert stated.keys() == SWITCHES.keys()
    kernels.choose(torch.float32)
    try:
        found = {name: _largest_error(fields) for name, fields in SWITCHES.items()}
    finally:
        kernels.choose(None)
    assert not {name: error for name, error in found.items() if not 0 < error <= stated[name]}, (
        found
    )


def _largest_error(fields: dict[str, Any]) -> float:
    """Of loss and gradients in fp32, relative to each tensor's largest element in float64."""
    tokens, targets = some_tokens(), some_tokens()
    documents = torch.tensor([[0] * 5 + [1] * 7, [0] * 2 + [1] * 10])
    exact = built(**fields)
    ours = copy.deepcopy(exact).float()
    ours.use_kernels(True)
    both = []
    for model in (ours, exact):
        loss = model.loss(tokens, targets, documents)
        both.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    pairs = [(a.double(), b) for a, b in zip(*both, strict=True)]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs if b.abs().max() > 1e-9)
