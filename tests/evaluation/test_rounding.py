"""What rounded weights cost, as `tinygpt.sample` states it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import tinygpt
from tinygpt.api import Run
from tinygpt.evaluation import rounding
from tinygpt.evaluation.subject import Subject
from tinygpt.sample import SampleConfig, write

pytestmark = pytest.mark.gcc


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("rounding")
    settings = ["dataset=storyworld", "dataset.train_stories=100", "dataset.validation_stories=4"]
    settings += ["model=nano", "model.n_layer=1", "model.d_model=32", "tokenizer=byte"]
    settings += ["trainer.max_steps=5", "trainer.seq_len=64", "device=cpu", "callback=[]"]
    settings += ["device.precision=fp32"]  # as the decoder that is compared
    settings += [f"output_dir={folder}", f"cache_dir={folder}"]
    return tinygpt.run(settings, quiet=True)


def stated(run: Run, capsys: pytest.CaptureFixture[str], weights: str) -> str:
    write(SampleConfig(run=str(run.path), device="cpu", weights=weights, max_new_tokens=1))
    return "\n".join(
        line for line in capsys.readouterr().err.splitlines() if line.startswith("weights=")
    )


def test_sample_states_what_int8_costs_and_measures_a_checkpoint_once(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    first = stated(run, capsys, "int8")
    found = json.loads((run.path / rounding.FILE).read_text())["int8"]
    assert first.startswith(f"weights=int8: {found['bpb']:.4f} bits per byte, fp32 ")
    assert first.endswith("on the first 2,048 tokens of the validation text")
    changed = {"int8": found | {"bpb": 9.0}}
    (run.path / rounding.FILE).write_text(json.dumps(changed))
    assert stated(run, capsys, "int8").startswith("weights=int8: 9.0000 bits per byte")
    for name, value in (("checkpoint", "step-00000020 another"), ("kernels", "earlier ones")):
        other = {"int8": changed["int8"] | {name: value}}
        (run.path / rounding.FILE).write_text(json.dumps(other))
        assert stated(run, capsys, "int8") == first
    (run.path / rounding.FILE).write_text("{")
    assert stated(run, capsys, "bf16").startswith("weights=bf16: ")


def test_the_numbers_are_those_of_the_text_and_the_difference_is_of_rounding(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounding, "N_TOKENS", 10**9)  # all of the split, as training evaluates
    (run.path / rounding.FILE).unlink(missing_ok=True)
    subject = Subject(run.path, device="cpu", say=print, warn=print)
    for weights, most in (("fp32", 1e-6), ("bf16", 1e-3), ("int8", 1e-2)):
        decoder = subject.model.decoder(1, weights=weights)
        found = rounding.rounding_of(subject.trained, decoder, weights=weights)
        assert found
        assert found.fp32_bpb == pytest.approx(subject.pinned_bpb(), rel=1e-5)
        assert abs(found.bpb - found.fp32_bpb) < most
        assert 0 < found.half_width < most


def test_a_decoder_of_other_weights_has_another_number(run: Run) -> None:
    (run.path / rounding.FILE).unlink(missing_ok=True)
    subject = Subject(run.path, device="cpu", say=print, warn=print)
    other = subject.cfg.model.build(vocab_size=subject.tokenizer.vocab_size, seq_len=64).eval()
    with torch.no_grad():
        other.load_state_dict(subject.model.state_dict())
        other.token_embedding.weight.mul_(3)
    decoder = other.decoder(1, weights="int8")
    found = rounding.rounding_of(subject.trained, decoder, weights="int8")
    assert found
    assert abs(found.bpb - found.fp32_bpb) > 3 * found.half_width > 0


def test_tokens_that_are_gone_are_said_to_be_gone_with_a_command_that_makes_them(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (run.path / rounding.FILE).unlink(missing_ok=True)
    prepared = Path(run.record.run["data"]["prepared"])
    shutil.move(prepared, tmp_path / "away")
    said = stated(run, capsys, "int8")
    shutil.move(tmp_path / "away", prepared)
    assert "is not known, because the run's prepared tokens are gone" in said
    assert not (run.path / rounding.FILE).exists()
