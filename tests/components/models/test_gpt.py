"""Our GPT-2 against the published sizes, against transformers, and against itself."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tinygpt.components.models.gpt import GPTConfig
from tinygpt.components.models.gpt_torch import GPT
from tinygpt.errors import UserError
from tinygpt.kernels.loss import cross_entropy

CONF = Path(__file__).parents[3] / "conf" / "model"


def small_model(*, seq_len: int = 12) -> GPT:
    torch.manual_seed(0)
    return GPTConfig(n_layer=2, n_head=3, d_model=24).build(vocab_size=50, seq_len=seq_len)


def named_size(name: str) -> GPTConfig:
    fields = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    del fields["defaults"]
    return GPTConfig(**fields)


def n_params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# Sizes


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("gpt2", 124_439_808),
        ("gpt2_medium", 354_823_168),
        ("gpt2_large", 774_030_080),
        ("gpt2_xl", 1_557_611_200),
    ],
)
def test_the_gpt2_family_has_the_published_number_of_parameters(name: str, published: int) -> None:
    with torch.device("meta"):
        model = named_size(name).build(vocab_size=50257, seq_len=1024)
    assert n_params(model) == published


@pytest.mark.parametrize(
    ("name", "millions"), [("nano", 0.2), ("tiny", 1), ("small", 10), ("medium", 30)]
)
def test_our_sizes_have_their_parameters_beside_the_vocabulary(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = named_size(name).build(vocab_size=4096, seq_len=256)
    without_vocabulary = n_params(model) - model.token_embedding.weight.numel()
    assert without_vocabulary == pytest.approx(millions * 1e6, rel=0.1)


def test_flops_per_token_are_those_that_torch_counts() -> None:
    model, tokens = small_model(seq_len=16), torch.zeros(2, 16, dtype=torch.long)
    # plain matrix products: torch does not count those inside a fused attention on the CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens).sum().backward()
    assert counter.get_total_flops() == model.flops_per_token() * tokens.numel()


# Rules


def test_a_width_that_the_heads_do_not_share_names_the_nearest_that_they_do() -> None:
    with pytest.raises(UserError, match=r"model\.d_model=100 .* nearest are 96 and 102"):
        GPTConfig(n_head=6, d_model=100)
    with pytest.raises(UserError, match=r"model\.n_head=6; nearest is 6"):
        GPTConfig(n_head=6, d_model=4)


@pytest.mark.parametrize(
    ("field", "value"), [("n_layer", 0), ("n_head", 0), ("d_model", 0), ("dropout", 1.0)]
)
def test_values_out_of_range_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"model.{field}={value}"):
        GPTConfig(**{field: value})


def test_more_tokens_than_positions_are_refused() -> None:
    model = small_model(seq_len=12)
    with pytest.raises(ValueError, match="13 tokens do not fit into seq_len=12"):
        model(torch.zeros(1, 13, dtype=torch.long))
    cache = model.new_cache()
    model(torch.zeros(1, 12, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="13 tokens do not fit"):
        model(torch.zeros(1, 1, dtype=torch.long), cache)


# The same function as transformers' GPT-2


def both(*, n_head: int, d_model: int, seq_len: int, vocab_size: int, dropout: float) -> Any:
    """Our model and theirs, with the same random weights under their different names."""
    import transformers

    torch.manual_seed(1)
    shape: Any = {"n_embd": d_model, "n_head": n_head, "n_layer": 2, "n_positions": seq_len}
    dropouts: Any = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), dropout)
    theirs: Any = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**shape, **dropouts, vocab_size=vocab_size)
    )
    words = {
        "transformer.wte": "token_embedding",
        "transformer.wpe": "position_embedding",
        "transformer.h": "blocks",
        "transformer.ln_f": "norm",
        ".ln_1": ".attention_norm",
        ".ln_2": ".mlp_norm",
        ".attn.c_attn": ".attention.qkv",
        ".attn.c_proj": ".attention.out",
        ".mlp.c_fc": ".mlp.up",
        ".mlp.c_proj": ".mlp.down",
    }
    state = {}
    for name, parameter in theirs.named_parameters():  # tied weights come once
        # biases and norms are random too: zeros and ones would hide a missing one
        nn.init.normal_(parameter, std=0.2 if parameter.dim() == 1 else 0.05)
        transposed = parameter.dim() == 2 and ".h." in name  # their Conv1D, our Linear
        for word, our_word in words.items():
            name = name.replace(word, our_word)
        state[name] = parameter.detach().T if transposed else parameter.detach()
    config = GPTConfig(n_layer=2, n_head=n_head, d_model=d_model, dropout=dropout)
    ours = config.build(vocab_size=vocab_size, seq_len=seq_len)
    ours.load_state_dict(state)  # strict: every name, every shape
    return ours, theirs


@pytest.mark.parametrize(
    "shape",
    [
        {"n_head": 3, "d_model": 24, "seq_len": 20, "vocab_size": 61},
        {"n_head": 12, "d_model": 768, "seq_len": 32, "vocab_size": 512},
    ],
    ids=["small", "full-width"],
)
def test_logits_and_gradients_equal_those_of_transformers(shape: dict[str, int]) -> None:
    ours, theirs = both(**shape, dropout=0.0)
    tokens = torch.randint(shape["vocab_size"], (3, shape["seq_len"]))
    our_logits, their_logits = ours(tokens), theirs(tokens).logits
    torch.testing.assert_close(our_logits, their_logits, rtol=1e-4, atol=1e-5)

    def gradient(logits: Tensor, weight: Tensor) -> Tensor:
        loss = cross_entropy(logits[:, :-1], tokens[:, 1:])
        return torch.autograd.grad(loss, weight)[0]

    torch.testing.assert_close(
        gradient(our_logits, ours.token_embedding.weight),
        gradient(their_logits, theirs.transformer.wte.weight),
        rtol=1e-4,
        atol=1e-6,
    )


def test_dropout_is_where_transformers_has_it_and_off_in_evaluation() -> None:
    ours, theirs = both(n_head=2, d_model=16, seq_len=8, vocab_size=31, dropout=0.3)
    tokens = torch.randint(31, (4, 8))
    logits = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(2)  # the same masks, if they are drawn at the same places
        logits.append(getattr(out := model(tokens), "logits", out))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)
    ours, theirs = ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours(tokens), logits[0], atol=1e-2)


# What must hold of any such model


def test_a_token_changes_nothing_before_itself_and_something_from_there_on() -> None:
    model, tokens = small_model(), torch.randint(50, (2, 12))
    before = model(tokens)
    tokens[:, 7] = (tokens[:, 7] + 1) % 50
    after = model(tokens)
    torch.testing.assert_close(after[:, :7], before[:, :7], rtol=0, atol=0)
    assert (after[:, 7:] != before[:, 7:]).any(-1).all()


def test_sequences_of_a_batch_do_not_see_each_other() -> None:
    model, tokens = small_model(), torch.randint(50, (3, 12))
    together = model(tokens)
    alone = torch.cat([model(row[None]) for row in tokens])
    torch.testing.assert_close(together, alone)


def test_a_model_without_preference_has_the_loss_log_v() -> None:
    model = small_model()
    nn.init.zeros_(model.token_embedding.weight)
    tokens = torch.randint(50, (2, 12))
    loss = cross_entropy(model(tokens), tokens)
    assert loss.item() == pytest.approx(math.log(50), rel=1e-6)


def test_a_new_model_is_close_to_having_no_preference() -> None:
    model = GPTConfig(n_layer=2, n_head=2, d_model=128).build(vocab_size=512, seq_len=32)
    tokens, targets = torch.randint(512, (2, 4, 32))
    loss = cross_entropy(model(tokens), targets)
    assert loss.item() == pytest.approx(math.log(512), abs=0.1)


@pytest.mark.parametrize("lengths", [[1] * 12, [5, 1, 1, 5], [12], [4, 8]])
def test_decoding_piece_by_piece_equals_the_full_forward(lengths: list[int]) -> None:
    model, tokens = small_model(), torch.randint(50, (2, 12))
    cache = model.new_cache()
    pieces = [model(piece, cache) for piece in torch.split(tokens, lengths, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens))


def test_initial_weights_have_the_spread_of_gpt2() -> None:
    torch.manual_seed(0)
    model = GPTConfig(n_layer=8, n_head=4, d_model=128).build(vocab_size=500, seq_len=64)
    for name, parameter in model.named_parameters():
        residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
        if name.endswith("bias"):
            assert parameter.eq(0).all(), name
        elif "norm" in name:
            assert parameter.eq(1).all(), name
        else:
            expected = 0.02 / math.sqrt(2 * 8) if residual else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
            assert abs(parameter.mean().item()) < 0.05 * expected, name


def test_checkpoint_names_are_stable() -> None:
    block = [
        *("attention_norm.weight", "attention_norm.bias"),
        *("attention.qkv.weight", "attention.qkv.bias"),
        *("attention.out.weight", "attention.out.bias"),
        *("mlp_norm.weight", "mlp_norm.bias"),
        *("mlp.up.weight", "mlp.up.bias", "mlp.down.weight", "mlp.down.bias"),
    ]
    names = ["token_embedding.weight", "position_embedding.weight"]
    names += [f"blocks.{i}.{name}" for i in range(2) for name in block]
    assert list(small_model().state_dict()) == [*names, "norm.weight", "norm.bias"]


# Documents


@pytest.mark.parametrize("training", [True, False])
def test_a_document_does_not_depend_on_those_before_it_in_its_window(training: bool) -> None:
    model = small_model().train(training)
    tokens = torch.randint(50, (2, 12))
    documents = torch.tensor([[0] * 5 + [1] * 4 + [2] * 3, [0] * 12])
    other = tokens.clone()
    other[0, :5] = (other[0, :5] + 1) % 50
    ours, others = (model(t, documents=documents) for t in (tokens, other))
    assert torch.equal(ours[0, 5:], others[0, 5:])
    assert not torch.allclose(ours[0, :5], others[0, :5])
    assert not torch.allclose(model(tokens)[0, 5:], model(other)[0, 5:])
    torch.testing.assert_close(ours[1], model(tokens)[1])  # one document is what there was before


def test_a_document_that_is_masked_stays_at_its_positions_in_the_window() -> None:
    model = small_model()
    tokens = torch.randint(50, (1, 12))
    apart = model(tokens, documents=torch.tensor([[0] * 5 + [1] * 7]))[0, 5:]
    with torch.no_grad():
        model.position_embedding.weight.copy_(model.position_embedding.weight.roll(-5, 0))
    torch.testing.assert_close(apart, model(tokens[:, 5:])[0])


def test_the_loss_keeps_documents_apart_too() -> None:
    model = small_model()
    tokens, targets = torch.randint(50, (2, 2, 12))
    documents = torch.tensor([[0] * 5 + [1] * 7, [0] * 2 + [1] * 10])
    expected = cross_entropy(model(tokens, documents=documents), targets)
    torch.testing.assert_close(model.loss(tokens, targets, documents), expected)
