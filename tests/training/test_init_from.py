"""Runs that begin with trained weights: what they take over, record and refuse; LoRA; freezing."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import tinygpt
from tests.interchange.foreign import NanoGPT, random_weights, save_nanogpt
from tinygpt.components.models.parts.low_rank import LowRank
from tinygpt.config import compose
from tinygpt.corpus.prepared import prepare
from tinygpt.errors import UserError
from tinygpt.training.batches import eval_batches
from tinygpt.training.building import build_model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("init_from")


@pytest.fixture(scope="module")
def shared(text_file: Path, place: Path) -> list[str]:
    """The settings of every run here: the text, a tiny model's training, and where files go."""
    return [
        "dataset=text",
        f"dataset.path={text_file}",
        "dataset.separator='\\n\\n'",
        "optimizer=adamw",
        "device=cpu",
        "device.precision=fp32",
        "device.kernels=torch",
        "callback=[]",
        "trainer.micro_batch_size=4",
        "trainer.tokens_per_step=64",
        "trainer.eval_bytes=null",
        "trainer.eval_every=2",
        "trainer.log_every=1",
        f"cache_dir={place / 'cache'}",
    ]


@pytest.fixture(scope="module")
def source(shared: list[str], place: Path) -> tinygpt.Run:
    """A run of 20 steps with a tokenizer that was learned from its text."""
    model = ["tokenizer=char", "model=nano", "model.n_layer=2", "model.d_model=16"]
    model += ["model.n_head=2"]
    length = ["trainer.seq_len=16", "trainer.max_steps=20", "model.dropout=0.1"]
    return trained([*shared, *model, *length, f"output_dir={place / 'source'}"])


@pytest.fixture
def begin(shared: list[str], source: tinygpt.Run, tmp_path: Path) -> Callable[..., tinygpt.Run]:
    """Begins a run of four steps with the source's weights."""

    def run(*settings: str) -> tinygpt.Run:
        own = [f"init_from={source.path}", "trainer.max_steps=4", f"output_dir={tmp_path}"]
        return trained([*shared, *own, *settings])

    return run


@pytest.fixture(scope="module")
def begun(shared: list[str], source: tinygpt.Run, place: Path) -> tinygpt.Run:
    """A run of four steps that began with the source's weights."""
    own = [f"init_from={source.path}", "trainer.max_steps=4", f"output_dir={place / 'begun'}"]
    return trained([*shared, *own])


def trained(settings: list[str]) -> tinygpt.Run:
    return tinygpt.run(settings, quiet=True)


def record(run: tinygpt.Run) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.path / "run.json").read_bytes())
    return content


def newest(run: tinygpt.Run, name: str = "model") -> dict[str, Tensor]:
    """The tensors of the last checkpoint."""
    folder = max((run.path / "checkpoints").glob("step-*"))
    tensors: dict[str, Tensor] = load_file(folder / f"{name}.safetensors")
    return tensors


def best(run: tinygpt.Run) -> Path:
    return run.path / f"checkpoints/step-{run.summary['best_step']:08d}/model.safetensors"


# Weights of a run


def test_the_loss_at_step_0_is_that_of_the_source_and_model_and_tokenizer_come_along(
    begun: tinygpt.Run, source: tinygpt.Run
) -> None:
    run = begun
    first = run.metrics[0]
    assert (first["step"], first["tokens"]) == (0, 0)
    assert first["val/bpb"] == pytest.approx(source.summary["best_val_bpb"], abs=1e-6)
    assert run.config.model.n_layer == 2  # type: ignore[attr-defined]  # a GPT
    assert run.config.model.dropout == 0.0  # type: ignore[attr-defined]  # a setting of training
    assert run.config.trainer.seq_len == 16
    assert run.tokenizer.fingerprint() == source.tokenizer.fingerprint()
    assert run.summary["step"] == 4
    assert run.metrics[-1]["val/bpb"] < first["val/bpb"]


def test_a_run_records_where_its_weights_are_from(begun: tinygpt.Run, source: tinygpt.Run) -> None:
    run = begun
    assert record(run)["init_from"] == {
        "path": str(source.path),
        "kind": "run",
        "sha256": hashlib.sha256(best(source).read_bytes()).hexdigest(),
        "step": source.summary["best_step"],
    }
    assert run.config.init_from == str(source.path)
    assert run.record.flat["init_from"] == str(source.path)  # a column of compare


def test_a_resumed_run_equals_a_straight_one_and_needs_the_source_no_more(
    shared: list[str], source: tinygpt.Run, tmp_path: Path
) -> None:
    copy = shutil.copytree(source.path, tmp_path / "copy")
    own = [*shared, f"init_from={copy}", "model.dropout=0.2", "trainer.max_steps=6"]
    straight = trained([*own, f"output_dir={tmp_path / 'straight'}"])
    half = trained(
        [*own[:-1], "trainer.max_steps=3", "schedule=constant", f"output_dir={tmp_path}"]
    )
    whole = trained([*own, "schedule=constant", f"output_dir={tmp_path / 'whole'}"])
    shutil.rmtree(copy)
    resumed = trained([f"resume={half.path}", "trainer.max_steps=6"])
    assert straight.summary["step"] == resumed.summary["step"] == 6
    for name in ("model", "optimizer"):
        ours, theirs = newest(resumed, name), newest(whole, name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert [row["step"] for row in resumed.metrics] == [row["step"] for row in whole.metrics]


def test_other_weights_at_the_same_place_are_noticed_when_a_run_begins_again(
    shared: list[str], source: tinygpt.Run, tmp_path: Path
) -> None:
    copy = shutil.copytree(source.path, tmp_path / "copy")
    run = trained([*shared, f"init_from={copy}", "trainer.max_steps=1", f"output_dir={tmp_path}"])
    content = record(run)  # as if it had been killed before its first checkpoint
    content |= {"status": "failed", "first_checkpoint_at": None, "files": None}
    content["init_from"]["sha256"] = "0" * 64
    (run.path / "run.json").write_text(json.dumps(content))
    shutil.rmtree(run.path / "checkpoints")
    (run.path / "summary.json").unlink()
    with pytest.raises(UserError, match="has other weights than the run began with"):
        trained([f"resume={run.path}"])


def test_weights_that_training_makes_worse_stay_the_best_checkpoint(
    begin: Callable[..., tinygpt.Run], source: tinygpt.Run
) -> None:
    run = begin("optimizer.lr=1", "trainer.grad_clip=0")
    assert run.summary["best_step"] == 0
    assert run.summary["best_val_bpb"] == pytest.approx(source.summary["best_val_bpb"], abs=1e-6)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model=tiny", "model.n_layer=5 does not fit init_from=.*: the model comes from init_from"),
        ("model.n_layer=3", "whose weights have n_layer=2; leave model= out"),
        ("tokenizer=byte", "tokenizer=byte is not the tokenizer of init_from=.*; leave tokenizer="),
        (
            "trainer.seq_len=32 trainer.micro_batch_size=2",
            "is more than the 16 learned positions of .*=16$",
        ),
        (
            "trainer.freeze=[blocks.9]",
            r"trainer.freeze: blocks.9 matches no parameter of the model",
        ),
        ("trainer.freeze=['*']", "freezes all 28 parameters, and nothing is left to train"),
        ("trainer.lora_targets=[x]", "trainer.lora_targets: x matches no linear layer"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_folder_is_made(
    setting: str, words: str, begin: Callable[..., tinygpt.Run], tmp_path: Path
) -> None:
    more = ["trainer.lora_rank=2"] if "lora" in setting else []
    with pytest.raises(UserError, match=words):
        begin(*setting.split(), *more)
    assert not list(tmp_path.iterdir())


def test_a_shorter_context_keeps_the_first_positions(
    begin: Callable[..., tinygpt.Run], source: tinygpt.Run
) -> None:
    run = begin("trainer.seq_len=8", "trainer.freeze=[position_embedding]")
    kept = newest(run)["position_embedding.weight"]
    assert torch.equal(kept, load_file(best(source))["position_embedding.weight"][:8])


def test_the_same_config_file_begins_with_the_same_weights(
    begun: tinygpt.Run, tmp_path: Path
) -> None:
    run = begun
    again = trained([f"config_file={run.path / 'config.yaml'}", f"output_dir={tmp_path / 'again'}"])
    assert again.metrics[0]["val/bpb"] == run.metrics[0]["val/bpb"]
    assert torch.equal(newest(again)["norm.weight"], newest(run)["norm.weight"])


def test_a_run_without_a_checkpoint_is_refused(
    begin: Callable[..., tinygpt.Run], source: tinygpt.Run, tmp_path: Path
) -> None:
    copy = shutil.copytree(source.path, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(UserError, match="has no checkpoint yet; go on training it with"):
        begin(f"init_from={copy}")


# Weights of other tools


def test_the_loss_of_a_nanogpt_checkpoint_is_that_of_nanogpt(
    shared: list[str], tmp_path: Path
) -> None:
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 257}
    torch.manual_seed(0)
    model = NanoGPT(**sizes, bias=False)  # type: ignore[arg-type]  # whole numbers
    random_weights(model)
    save_nanogpt(model, tmp_path / "ckpt.pt", sizes | {"bias": False}, prefix="_orig_mod.")
    own = [*shared, f"init_from={tmp_path}", f"output_dir={tmp_path / 'out'}"]
    with pytest.raises(UserError, match=r"needs a tokenizer: meta.pkl may run code"):
        trained([*own, "trainer.max_steps=1"])
    with pytest.raises(
        UserError, match=r"257 tokens, and the tokenizer has \d+; it must be the one"
    ):
        trained([*own, "tokenizer=char", "trainer.max_steps=1"])
    run = trained([*own, "tokenizer=byte", "trainer.max_steps=1"])
    assert record(run)["init_from"]["kind"] == "nanoGPT"

    tokens = prepare(run.config, print).tokens("validation")
    nats, count = 0.0, 0
    for batch in eval_batches(tokens[:], seq_len=16, batch_size=1):
        window = torch.from_numpy(batch).long()
        with torch.no_grad():
            logits = model(window[:, :-1])
        nats += F.cross_entropy(logits[0], window[0, 1:], reduction="sum").item()
        count += window.numel() - 1
    assert run.metrics[0]["val/loss"] == pytest.approx(nats / count, abs=1e-4)


def small_gpt2(folder: Path) -> Any:
    """Make a folder of transformers: GPT-2 with one layer and a byte-level tokenizer; the model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 16, "vocab_size": 260}
    torch.manual_seed(0)
    model: Any = GPT2LMHeadModel(GPT2Config(**sizes))
    model.save_pretrained(folder)
    return model.eval()


def test_a_small_gpt2_of_transformers_is_fine_tuned_and_goes_back(
    shared: list[str], tmp_path: Path
) -> None:
    """nanoGPT's example, GPT-2 on a text, as small as it gets."""
    from transformers import AutoModelForCausalLM

    theirs = small_gpt2(tmp_path)
    run = trained(
        [
            *(*shared, f"init_from={tmp_path}", f"output_dir={tmp_path / 'out'}"),
            *("trainer.max_steps=30", "trainer.eval_every=30", "optimizer.lr=1e-2"),
        ]
    )
    prepared = prepare(run.config, lambda message: None)
    nats = 0.0
    with torch.no_grad():
        for batch in eval_batches(prepared.tokens("validation"), seq_len=16, batch_size=1):
            window = torch.from_numpy(batch)
            logits = theirs(window[:, :-1]).logits[0]
            nats += F.cross_entropy(logits, window[0, 1:], reduction="sum").item()
    n = len(prepared.tokens("validation")) - 1
    first, last = (row["val/loss"] for row in run.metrics if "val/loss" in row)
    # the three padded rows are cut, so their share of the probability is gone
    assert first == pytest.approx(nats / n, abs=0.03)
    assert last < first - 0.5
    out = run.export("hf", out=tmp_path / "back").path
    back = AutoModelForCausalLM.from_pretrained(out)
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        difference = (back(tokens).logits - run.model(tokens)).abs().max()
    assert difference < 1e-4


def test_a_folder_of_transformers_brings_its_tokenizer_and_padded_rows_are_cut(
    shared: list[str], tmp_path: Path
) -> None:
    small_gpt2(tmp_path)
    own = [f"init_from={tmp_path}", "trainer.max_steps=1", f"output_dir={tmp_path / 'out'}"]
    run = trained([*shared, *own, "trainer.freeze=[token_embedding]"])
    assert run.config.tokenizer.name == "hf"
    assert run.tokenizer.vocab_size == 257
    theirs = load_file(tmp_path / "model.safetensors")["transformer.wte.weight"]
    assert torch.equal(newest(run)["token_embedding.weight"], theirs[:257])
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer\.json: download it too, or type"):
        trained([*shared, *own])


def test_characters_of_nanogpt_get_their_rows_and_new_ones_the_mean(
    shared: list[str], source: tinygpt.Run, tmp_path: Path
) -> None:
    n_characters = source.tokenizer.vocab_size - 17  # end of text and half bytes are ours alone
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 16, "vocab_size": n_characters}
    model = NanoGPT(**sizes, bias=True)  # type: ignore[arg-type]  # whole numbers
    save_nanogpt(model, tmp_path / "ckpt.pt", sizes, prefix="")
    own = [f"init_from={tmp_path}", "tokenizer=char", "trainer.max_steps=1"]
    run = trained([*shared, *own, "optimizer.lr=1e-9", f"output_dir={tmp_path / 'out'}"])
    rows, theirs = newest(run)["token_embedding.weight"], model.lm_head.weight.detach()
    torch.testing.assert_close(rows[17:], theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(rows[:17], theirs.mean(0).expand(17, -1), rtol=0, atol=1e-6)


# LoRA and frozen parameters


def test_low_rank_updates_train_alone_and_are_merged_where_the_run_is_used(
    begin: Callable[..., tinygpt.Run], source: tinygpt.Run
) -> None:
    run = begin("trainer.lora_rank=2", "trainer.lora_alpha=3", "optimizer.lr=5e-2")
    stored, before = newest(run), load_file(best(source))
    assert run.metrics[0]["val/bpb"] == pytest.approx(source.summary["best_val_bpb"], abs=1e-6)
    trainable = 2 * 2 * (16 + 48 + 16 + 16 + 16 + 64 + 64 + 16)
    assert record(run)["derived"]["n_trainable"] == trainable
    merged = tinygpt.load(run.path, checkpoint="latest").model.state_dict()
    assert merged.keys() - {"head.weight"} == before.keys()
    for name, tensor in before.items():
        layer = name.removesuffix(".weight")
        if f"{layer}.base" not in stored:
            assert torch.equal(stored[name], tensor), name
            continue
        assert torch.equal(stored[f"{layer}.base"], tensor)
        update = 1.5 * stored[f"{layer}.up"] @ stored[f"{layer}.down"]
        assert update.any()
        torch.testing.assert_close(merged[name], tensor + update)
    assert newest(run, "optimizer").keys() == {
        f"{name}/{key}"
        for name in stored
        if name.endswith((".up", ".down"))
        for key in ("step", "exp_avg", "exp_avg_sq")
    }
    assert run.generate("Ann", max_new_tokens=5)
    chained = begin(f"init_from={run.path}", "trainer.max_steps=1")  # begins with merged weights
    assert chained.metrics[0]["val/bpb"] == pytest.approx(run.summary["best_val_bpb"], abs=1e-5)


def test_a_low_rank_layer_computes_the_formula_and_its_gradients() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(5, 3).double()
    weight, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    layer = LowRank(linear, rank=2, alpha=6.0).double()
    torch.nn.init.normal_(layer.up)
    x = torch.randn(4, 5, dtype=torch.float64)
    expected = x @ weight.T + bias + 3.0 * (x @ layer.down.T) @ layer.up.T
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.merged().double()(x), expected)
    parameters = [layer.up, layer.down]
    torch.testing.assert_close(
        torch.autograd.grad(layer(x).square().sum(), parameters),
        torch.autograd.grad(expected.square().sum(), parameters),
    )
    assert [n for n, p in layer.named_parameters() if p.requires_grad] == ["down", "up"]


def test_a_resumed_run_with_low_rank_updates_equals_a_straight_one(
    begin: Callable[..., tinygpt.Run], tmp_path: Path
) -> None:
    own = [
        "trainer.lora_rank=2",
        "schedule=constant",
        "model.dropout=0.1",
        "trainer.freeze=['*.0.*']",
    ]
    straight = begin(*own)
    half = begin(*own, "trainer.max_steps=2")
    resumed = trained([f"resume={half.path}", "trainer.max_steps=4"])
    for name in ("model", "optimizer"):
        ours, theirs = newest(resumed, name), newest(straight, name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    with pytest.raises(UserError, match=r"trainer\.lora_rank=4 would make resume="):
        trained([f"resume={half.path}", "trainer.lora_rank=4"])


@pytest.mark.gcc
def test_kernels_see_the_updated_weights(begin: Callable[..., tinygpt.Run]) -> None:
    own = ["trainer.lora_rank=2", "optimizer.lr=1e-2"]
    plain, fused = begin(*own), begin(*own, "device.kernels=fused")
    assert record(fused)["derived"]["hardware"]["kernels"].startswith("fused")
    for a, b in zip(fused.metrics, plain.metrics, strict=True):
        assert a.get("train/loss") == pytest.approx(b.get("train/loss"), abs=1e-5)
        assert a.get("val/bpb") == pytest.approx(b.get("val/bpb"), abs=1e-5)


def test_frozen_parameters_keep_their_values_and_the_others_train(
    begin: Callable[..., tinygpt.Run], source: tinygpt.Run
) -> None:
    run = begin("trainer.freeze=[token_embedding,blocks.0.*]")
    before, after = load_file(best(source)), newest(run)
    frozen = {n for n in before if n.startswith(("token_embedding", "blocks.0."))}
    assert {name for name in before if torch.equal(before[name], after[name])} == frozen
    derived = record(run)["derived"]
    assert derived["n_trainable"] == sum(t.numel() for n, t in before.items() if n not in frozen)


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "muon", "sgd"])
def test_every_optimizer_leaves_frozen_parameters_out(optimizer: str, shared: list[str]) -> None:
    frozen = ["trainer.freeze=[blocks.*]", "model=nano", "trainer.seq_len=16"]
    cfg = compose.compose("train", [*shared, f"optimizer={optimizer}", *frozen])
    model = build_model(cfg, 30)
    groups = cfg.optimizer.build(model).param_groups
    held = {id(p) for group in groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in held}
    assert names == {n for n, _ in model.named_parameters() if not n.startswith("blocks.")}
