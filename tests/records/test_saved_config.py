"""A saved config that was edited after the run began is refused, with file and field."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tinygpt import config
from tinygpt.config import RunConfig, compose
from tinygpt.errors import UserError
from tinygpt.records import folder as folder_module
from tinygpt.records.folder import RunFolder
from tinygpt.records.saved_config import load_config


@pytest.fixture(scope="module")
def cfg() -> RunConfig:
    settings = ["model=nano", "optimizer.lr=1e-5", "dataset=text", r"dataset.path='\${a} ü: #'"]
    cfg: RunConfig = compose.compose("train", settings)
    return cfg


@pytest.fixture
def run(tmp_path: Path, cfg: RunConfig) -> Path:
    path = tmp_path / "run"
    RunFolder.create(path, cfg=cfg, overrides=[], run_id="run", group=None).close("finished")
    return path


def edit(path: Path, before: str, after: str) -> None:
    text = (path / "config.yaml").read_text()
    assert re.search(before, text)
    (path / "config.yaml").write_text(re.sub(before, after, text))


def test_the_config_comes_back_as_it_was(run: Path, cfg: RunConfig) -> None:
    assert load_config(run) == cfg


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("\nseed: 0", "\nseed: 8", "seed is 8 there and was 0;"),
        ("n_head: \\d+", "n_head: 1", "model.n_head is 1 there and was"),
        ("grad_clip: [\\d.]+", "grad_clip: 7.5", "trainer.grad_clip is 7.5 there and was 1.0;"),
    ],
)
def test_an_edited_field_is_refused_by_file_and_name(
    run: Path, before: str, after: str, words: str
) -> None:
    edit(run, before, after)
    with pytest.raises(UserError) as error:
        load_config(run)
    file = run / "config.yaml"
    assert str(error.value).startswith(f"{file} was edited after the run began: {words}")
    assert str(error.value).endswith(f"\n  python -m tinygpt.train config_file={file}")


def test_a_field_that_is_not_valid_is_refused_with_the_file(run: Path) -> None:
    edit(run, "\nseed: 0", "\nseed: zero")
    with pytest.raises(UserError, match=re.escape(f"{run / 'config.yaml'}: seed=zero")):
        load_config(run)


@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_truncated_config_is_damaged_and_no_choice_is_asked_for(run: Path, kept: float) -> None:
    file = run / "config.yaml"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[: int(len(lines) * kept)]))
    with pytest.raises(UserError, match=re.escape(f"{file} is damaged: it has no ")) as error:
        load_config(run)
    assert "is not chosen" not in str(error.value)


def test_a_run_of_an_earlier_version_is_read_without_a_check(run: Path, cfg: RunConfig) -> None:
    record = folder_module.read_record(run)
    del record["config"]
    folder_module.write_json(run / "run.json", record)
    edit(run, "\nseed: 0", "\nseed: 8")
    assert load_config(run).seed == 8


@pytest.mark.parametrize("at", [0, 1])
def test_a_process_that_is_killed_while_it_resumes_leaves_a_config_that_is_accepted(
    run: Path, cfg: RunConfig, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """run.json and config.yaml are two files: a kill may come before, between and after them."""

    class Killed(BaseException):
        pass

    def killed(*arguments: Any, **options: Any) -> None:
        raise Killed

    changed = replace(cfg, cache_dir="elsewhere")
    target: tuple[Any, str] = ((RunFolder, "write_run"), (config, "save"))[at]
    locks: list[Callable[[], None]] = []
    release = RunFolder.__init__

    def noted(self: RunFolder, path: Path) -> None:
        release(self, path)
        locks.append(self._lock.release)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "__init__", noted)
        patch.setattr(*target, killed)
        with pytest.raises(Killed):
            RunFolder.reopen(run, cfg=changed, overrides=[], pause_at=None).begin()
    locks[0]()  # as the end of the process does
    assert load_config(run) == (cfg, changed)[at]
    folder = RunFolder.reopen(run, cfg=changed, overrides=[], pause_at=None)
    folder.begin()
    folder.close("finished")
    assert load_config(run) == config.load(run / "config.yaml") == changed
