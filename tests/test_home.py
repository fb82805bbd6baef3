"""Every command and every path field expands ~."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.runs_on_disk import make_run
from tinygpt import compare, data, prepare, runs, sample, train
from tinygpt.sweeps.folder import find_sweep


def done(main: Callable[[Sequence[str]], None], *typed: str) -> None:
    """Run a command that must succeed."""
    code: object = None
    try:
        main(list(typed))
    except SystemExit as end:
        code = end.code
    assert not code, typed


def test_every_command_and_every_path_expands_the_home_folder(
    tiny: list[str], text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.mkdir()
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    shutil.copy(text_file, home / "text.txt")
    (home / "mine.yaml").write_text("seed: 3\n")
    own = [
        text for text in tiny if not text.startswith(("dataset.path", "output_dir", "cache_dir"))
    ]
    own += ["dataset.path=~/text.txt", "cache_dir=~/cache"]
    of_data = [text for text in own if text.startswith(("dataset", "cache_dir"))]

    done(prepare.main, *of_data)
    assert (home / "cache").is_dir()
    done(data.main, *of_data, "candidates=[]", "out=~/picture.png")
    assert (home / "picture.png").is_file()
    done(train.main, *own, "output_dir=~/runs", "config_file=~/mine.yaml")
    (run,) = (home / "runs").iterdir()
    assert "seed: 3" in (run / "config.yaml").read_text()
    done(train.main, f"resume=~/runs/{run.name}")
    done(train.main, "resume=latest", "output_dir=~/runs")
    done(sample.main, f"run=~/runs/{run.name}", "max_new_tokens=1")
    done(sample.main, "run=latest", "output_dir=~/runs", "max_new_tokens=1")
    done(compare.main, "~/runs", "out=~/page.html", f"baseline=~/runs/{run.name}")
    assert (home / "page.html").is_file()
    make_run(home / "runs" / "b")
    done(runs.main, "~/runs/*")
    done(runs.main, "output_dir=~/runs")
    (home / "runs" / "a_sweep").mkdir()
    (home / "runs" / "a_sweep" / "sweep.yaml").touch()
    assert find_sweep("~/runs/a_sweep", output_dir=Path("outputs")).is_relative_to(home)
    assert not list(elsewhere.iterdir())
