"""`python -m tinygpt.export`, and `run.export` from Python."""

import json
from pathlib import Path

import pytest

import tinygpt
from tinygpt import export
from tinygpt.api import Run
from tinygpt.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("exported")
    settings = ["model=llama_nano", "model.n_layer=2", "model.d_model=16", "model.n_head=2"]
    settings += ["dataset=storyworld", "dataset.train_stories=50", "dataset.validation_stories=5"]
    settings += ["tokenizer=byte", "device=cpu", "device.compile=never", "callback=[]"]
    settings += ["trainer.seq_len=32", "trainer.micro_batch_size=2", "trainer.tokens_per_step=64"]
    settings += ["trainer.max_steps=5", f"output_dir={folder}", f"cache_dir={folder / 'cache'}"]
    return tinygpt.run(settings, quiet=True)


def test_the_command_writes_checks_and_replaces_an_export(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        export.main([f"run={run.path}", "to=llama2c"])
        out = capsys.readouterr().out
        assert out.startswith(f"{run.path}/exports/llama2c\n")
        assert "greedy text equal for" in out
    folder = run.path / "exports" / "llama2c"
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.bin", "tokenizer.bin", "tinygpt_tokenizer", "tinygpt_export.json"}
    assert json.loads((folder / "tinygpt_export.json").read_text())["run"] == run.path.name
    assert [path.name for path in folder.parent.iterdir()] == ["llama2c"]


def test_a_folder_that_is_no_export_is_never_replaced(run: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(
        UserError, match=r"exists and is a folder that is no export; use another out="
    ):
        run.export("llama2c", out=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ([], "type the format: to=hf, to=gguf, to=llama2c, to=onnx"),
        (["to=ggml"], "to=ggml is not a choice; did you mean to=gguf"),
        (["to=hf", "dtype=bf16"], "dtype=bf16 is not a choice"),
        (["to=onnx", "dtype=fp16"], "dtype=fp16 is not offered for to=onnx; use dtype=fp32"),
        (["to=gguf", "license=mit"], "license=mit has no effect with to=gguf"),
        (["to=hf", "checkpoint=first"], "checkpoint=first is not a choice"),
        (["to=hf", "ot=x"], "ot"),
    ],
)
def test_a_wrong_setting_is_named(settings: list[str], error: str) -> None:
    with pytest.raises(UserError, match=error):
        export.parse(["run=latest", *settings])
