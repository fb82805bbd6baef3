"""Averaged weights: what is averaged, evaluated, saved and resumed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tinygpt import api, train
from tinygpt.components.models.gpt import GPTConfig
from tinygpt.errors import UserError
from tinygpt.training import averaging
from tinygpt.training.checkpoint import Checkpoints
from tinygpt.training.trained import load_trained


def run(settings: list[str]) -> Path:
    with pytest.raises(SystemExit) as exit_info:
        train.main(settings)
    assert exit_info.value.code == 0
    outputs = Path(next(s for s in settings if s.startswith("output_dir=")).partition("=")[2])
    return max(outputs.iterdir(), key=lambda path: path.name)


def rows(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    return [{k: v for k, v in r.items() if k != "elapsed_s" and "perf" not in k} for r in kept]


def saved(folder: Path, step: int) -> dict[str, torch.Tensor]:
    files = (folder / "checkpoints" / f"step-{step:08}").glob("*.safetensors")
    return {f"{file.stem}/{k}": v for file in files for k, v in load_file(file).items()}


def test_an_average_is_the_mean_that_its_decay_says_without_the_initial_weights():
    torch.manual_seed(0)
    model = GPTConfig(n_layer=1, n_head=1, d_model=4).build(vocab_size=5, seq_len=4).double()
    average, seen = averaging.average_of(model), []
    for step in range(5):
        for p in model.parameters():
            torch.nn.init.normal_(p)
        seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
        averaging.update(average, model, decay=0.9, updates=step)
    shares = torch.tensor([0.9**age for age in (4, 3, 2, 1, 0)], dtype=torch.float64)
    for name, tensor in average.items():
        stacked = torch.stack([weights[name] for weights in seen])
        expected = (stacked.movedim(0, -1) * shares / shares.sum()).sum(-1)
        torch.testing.assert_close(tensor, expected)
    before = {name: tensor.clone() for name, tensor in average.items()}
    with averaging.swapped(average, model):
        assert torch.equal(model.get_parameter("norm.weight"), before["norm.weight"])
    for name, p in model.named_parameters():
        assert torch.equal(p, seen[-1][name])
        assert torch.equal(average[name], before[name])


@pytest.fixture(scope="module")
def plain(tiny_in, tmp_path_factory) -> Path:
    """A run of the tiny settings."""
    return run(tiny_in(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def averaged(tiny_in, tmp_path_factory) -> Path:
    """The same with averaged weights."""
    return run([*tiny_in(tmp_path_factory.mktemp("averaged")), "trainer.ema=0.7"])


def test_the_average_is_evaluated_beside_the_weights_and_changes_nothing_else(plain, averaged):
    own = [{k: v for k, v in row.items() if not k.endswith("_ema")} for row in rows(averaged)]
    assert own == rows(plain)
    evaluated = [row for row in rows(averaged) if "val/bpb" in row]
    assert all(row["val/bpb_ema"] != row["val/bpb"] for row in evaluated)
    summary = json.loads((averaged / "summary.json").read_text())
    assert summary["val/bpb_ema"] == evaluated[-1]["val/bpb_ema"]
    assert summary["best_val_bpb_ema"] == min(row["val/bpb_ema"] for row in evaluated)
    assert "averaged" in (averaged / "train.log").read_text()


def test_averaged_weights_are_those_that_were_evaluated(averaged):
    last = saved(averaged, 10)
    raw = load_trained(averaged, checkpoint="latest", warn=print).model
    ema = load_trained(averaged, checkpoint="latest", ema=True, warn=print).model
    for name, p in raw.named_parameters():
        assert torch.equal(p, last[f"model/{name}"])
        assert torch.equal(ema.get_parameter(name), last[f"ema/{name}"])
        assert not torch.equal(p, ema.get_parameter(name))
    bits = json.loads((averaged / "summary.json").read_text())
    text = "Ann has a kite."
    opened = [api.load(averaged, ema=ema, device="cpu") for ema in (False, True)]
    assert opened[0].logprobs(text) != opened[1].logprobs(text)
    assert bits["val/bpb_ema"] > bits["val/bpb"]  # of a run as short as this


def test_a_run_without_averages_says_which_weights_it_has(plain):
    with pytest.raises(UserError, match=r"the run has no trainer\.ema; type ema=false"):
        load_trained(plain, ema=True, warn=print)


def test_a_damaged_average_is_a_damaged_checkpoint(averaged, tmp_path):
    checkpoints = shutil.copytree(averaged / "checkpoints", tmp_path / "checkpoints")
    file = checkpoints / "step-00000010" / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    said: list[str] = []
    assert Checkpoints(checkpoints).latest(said.append) is None
    assert "ema.safetensors has another checksum" in said[0]


def test_schedule_free_saves_what_it_evaluates_however_often_it_does(tiny, tmp_path):
    choices = ["optimizer=schedule_free", "schedule=constant"]
    often = run([*tiny, *choices])
    rarely = run([*tiny, *choices, "trainer.eval_every=10", "trainer.save_every=10"])
    for name, tensor in saved(often, 10).items():
        assert torch.equal(tensor, saved(rarely, 10)[name])
    evaluated = api.load(often, checkpoint="latest", device="cpu")
    names = [name for name, _ in evaluated.model.named_parameters()]
    for name in names:
        assert torch.equal(
            evaluated.model.get_parameter(name), saved(often, 10)[f"optimizer/{name}/x"]
        )


@pytest.mark.parametrize(
    ("typed", "advice"),
    [
        (["schedule=cosine"], "type schedule=constant"),
        (["schedule=constant", "trainer.ema=0.9"], "type trainer.ema=null"),
    ],
)
def test_weights_are_averaged_once_and_instead_of_a_decay(tiny, capsys, typed, advice):
    with pytest.raises(SystemExit):
        train.main([*tiny, "optimizer=schedule_free", *typed])
    assert advice in capsys.readouterr().err


RESUMABLE = {
    "lion, averaged": ["optimizer=lion", "trainer.ema=0.9", "model.dropout=0.1"],
    "schedule_free": ["optimizer=schedule_free"],
}
# as these, whose state is one tensor for each weight too
SLOWLY_RESUMABLE = {
    "sgd": ["optimizer=sgd", "optimizer.nesterov=true", "optimizer.weight_decay=0.1"],
    "muon": ["optimizer=muon", "optimizer.momentum_warmup=8"],
}


@pytest.mark.parametrize(
    "choices",
    [
        *(pytest.param(choices, id=name) for name, choices in RESUMABLE.items()),
        *(
            pytest.param(choices, id=name, marks=pytest.mark.slow)
            for name, choices in SLOWLY_RESUMABLE.items()
        ),
    ],
)
def test_every_optimizer_and_average_goes_on_to_the_bit(tiny, tmp_path, choices):
    settings = [s for s in tiny if not s.startswith("output_dir")]
    # a schedule that is the same for both lengths
    settings += ["trainer.eval_every=5", "schedule=constant", "schedule.warmup_ratio=0", *choices]
    straight = run([*settings, f"output_dir={tmp_path / 'straight'}"])
    output_dir = f"output_dir={tmp_path / 'parts'}"
    run([*settings, output_dir, "trainer.max_steps=5"])
    parts = run(["resume=latest", output_dir, "trainer.max_steps=10"])
    assert rows(straight) == rows(parts)
    ours, expected = saved(parts, 10), saved(straight, 10)
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(ours[name], tensor), name


def test_a_sweep_by_averages_needs_runs_that_have_them(tiny, capsys):
    with pytest.raises(SystemExit) as exit_info:
        train.main(["-m", *tiny, "seed=0,1", "objective=val/bpb_ema"])
    assert exit_info.value.code == 2
    assert "type trainer.ema=0.999 too" in capsys.readouterr().err
