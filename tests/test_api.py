"""tinygpt from Python: the same runs, numbers and errors as on the command line."""

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tinygpt
from tinygpt import sample
from tinygpt.errors import UserError, visible

TEXT = "Tom had a red ball. He ran and ran.\n\nMia saw a bird. The bird sang.\n\n" * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two finished runs and one that failed, which becomes the working folder."""
    path = tmp_path_factory.mktemp("api")
    (path / "text.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for seed in (0, 1):
            tinygpt.run(settings(f"seed={seed}"))
        with pytest.raises(UserError, match=r"the loss is not finite at step[\s\S]*run folder"):
            tinygpt.run(settings("optimizer.lr=1e30"))
        yield path


def settings(*more: str) -> list[str]:
    """A run of some steps on a text of one document, in characters."""
    return [
        *("dataset=text", "dataset.path=text.txt", "tokenizer=char", "cache_dir=cache"),
        *("model=nano", "model.n_layer=1", "model.d_model=16", "model.n_head=2"),
        *("trainer.seq_len=32", "trainer.micro_batch_size=4", "trainer.tokens_per_step=128"),
        *("trainer.max_steps=4", "trainer.eval_bytes=null", "device=cpu", "device.threads=1"),
        *more,
    ]


@pytest.fixture
def run(folder: Path) -> tinygpt.Run:
    return next(iter(tinygpt.find(status="finished")))


def test_importing_tinygpt_is_quick_and_lists_its_names() -> None:
    code = "import sys, tinygpt; assert 'load' in dir(tinygpt); print(len(sys.modules))"
    printed = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    assert "torch" not in printed.stderr
    assert "hydra" not in printed.stderr


def test_no_name_of_the_api_is_a_module_of_the_package() -> None:
    modules = {path.stem for path in Path(tinygpt.__file__).parent.iterdir()}
    assert not modules.intersection(tinygpt.__all__)


def test_a_run_is_loaded_with_its_config_summary_and_rows(folder: Path, run: tinygpt.Run) -> None:
    assert run.status == "finished"
    assert run.config.trainer.seq_len == 32
    assert run.summary["val/bpb"] == run.metrics[-1]["val/bpb"]
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4]
    assert "finished, val/bpb" in repr(run)


def test_log_probabilities_add_up_to_the_loss_that_the_run_reports(run: tinygpt.Run) -> None:
    text = TEXT[-len(TEXT) // 10 :]  # the last tenth is the validation split: one document
    nats = -sum(token.logprob for token in run.logprobs(text))
    tokens = len(run.logprobs(text))
    # the run's own number also counts the end of text behind the document
    assert nats / tokens == pytest.approx(run.summary["val/loss"], rel=0.01)
    assert "".join(token.text for token in run.logprobs(text)) == text


def test_logits_and_log_probabilities_agree(run: tinygpt.Run) -> None:
    logits = run.logits("Tom had")
    tokens = run.logprobs("Tom had")
    assert logits.shape == (8, run.tokenizer.vocab_size)
    log_p = logits.log_softmax(-1)
    for t, token in enumerate(tokens):
        assert log_p[t, token.id].item() == pytest.approx(token.logprob, abs=1e-5)
    assert all(token.logprob < 0 and math.isfinite(token.logprob) for token in tokens)
    with pytest.raises(UserError, match=r"has 40 tokens, and logits takes at most 31"):
        run.logits("a" * 40)


def test_generated_text_is_that_of_the_command_and_streams(
    run: tinygpt.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: dict[int, str] = {}
    texts = run.generate("Tom", num_samples=2, max_new_tokens=9, on_text=heard.__setitem__)
    assert list(heard.values()) == [text for text in texts if text]
    assert texts == run.generate("Tom", num_samples=2, max_new_tokens=9)
    capsys.readouterr()
    sample.main([f"run={run.path}", "prompt=Tom", "num_samples=2", "max_new_tokens=9"])
    printed = capsys.readouterr().out
    assert printed.strip() == "\n".join(
        f"{'' if n == 1 else chr(10)}--- sample {n}\nTom{visible(text)}"
        for n, text in enumerate(texts, 1)
    )


def test_a_mistake_is_an_exception_with_the_words_of_the_command_line(run: tinygpt.Run) -> None:
    with pytest.raises(UserError, match=r"temprature is not a field .* did you mean temperature"):
        run.generate("Tom", temprature=1)
    with pytest.raises(UserError, match=r"model=smal is not a choice; did you mean model=small\?"):
        tinygpt.run(["model=smal"])
    with pytest.raises(UserError, match="pass settings as key=value, without flags"):
        tinygpt.run(["-m", "seed=0,1"])
    with pytest.raises(UserError, match="num_samples=0 must be at least 1"):
        run.generate("Tom", num_samples=0)
    with pytest.raises(UserError, match="is not the folder of a run"):
        tinygpt.load("outputs/nothing")


def test_runs_are_found_by_status_and_resumed_and_ranked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [run.status for run in tinygpt.find("outputs")] == ["finished", "finished", "failed"]
    runs = list(tinygpt.find("outputs", status="finished"))
    ranking = tinygpt.rank(runs)
    (row,) = ranking.rows
    assert row["seeds"] == 2
    assert row["val/bpb"] == pytest.approx(sum(run.summary["val/bpb"] for run in runs) / 2)
    assert "| rank |" in str(ranking)
    capsys.readouterr()
    longer = tinygpt.run([f"resume={runs[0].path}", "trainer.max_steps=6"], quiet=True)
    assert not capsys.readouterr().out
    assert longer.path == runs[0].path
    assert longer.metrics[-1]["step"] == 6
