"""A run can be resumed after its data moved, and from another working folder."""

import json
import shutil
from pathlib import Path

import pytest

from tinygpt import config, train

SETTINGS = [
    "dataset=text", "tokenizer=byte", "model=tiny", "model.n_layer=1", "model.d_model=16",
    "model.n_head=2", "trainer.seq_len=16", "trainer.micro_batch_size=4", "callback=[]",
    "trainer.tokens_per_step=64", "device=cpu", "device.kernels=torch",
]  # fmt: skip


def trained(*settings: str) -> int:
    try:
        train.main(list(settings))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of four steps that began in the folder `began`, with relative paths."""
    began = tmp_path / "began"
    began.mkdir()
    (began / "a.txt").write_text("some words to learn " * 100)
    monkeypatch.chdir(began)
    paths = ["dataset.path=a.txt", "cache_dir=cache", "output_dir=out"]
    assert trained(*SETTINGS, *paths, "trainer.max_steps=4") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return next((began / "out").iterdir())


def step(run: Path) -> int:
    return int(json.loads((run / "summary.json").read_bytes())["step"])


def test_relative_paths_are_looked_up_where_the_run_began(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(f"resume={run}", "trainer.max_steps=6") == 0
    assert "'prompt=some words to learn'" in capsys.readouterr().out  # not one of another text
    assert step(run) == 6
    assert not list(Path.cwd().iterdir()), "the tokens of the run were found"


def test_a_run_whose_folder_moved_with_its_data_looks_in_the_current_folder(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = run.parents[1].rename(Path.cwd() / "moved")
    monkeypatch.chdir(moved)
    before = config.load(moved / "out" / run.name / "config.yaml").dataset
    assert trained(f"resume=out/{run.name}", "trainer.max_steps=6") == 0
    assert config.load(moved / "out" / run.name / "config.yaml").dataset == before


def test_the_same_text_at_another_path_is_the_same_run_and_other_text_is_not(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = run.parents[1]
    shutil.move(began / "a.txt", "b.txt")  # a file alone has its name in the identity
    (began / "other").mkdir()
    shutil.move("b.txt", began / "other/a.txt")
    Path("a.txt").write_text("other words to learn " * 100)
    before = (run / "config.yaml").read_bytes()
    assert trained(f"resume={run}", "dataset.path=a.txt", "trainer.max_steps=6") != 0
    assert "dataset.path=a.txt holds other text than resume=" in capsys.readouterr().err
    assert (run / "config.yaml").read_bytes() == before
    typed = f"dataset.path={began}/other/a.txt"
    assert trained(f"resume={run}", typed, "trainer.max_steps=6") == 0
    assert step(run) == 6
