"""Damaged run folders: a resume names or refuses the damage, and loses nothing."""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from tinygpt import sample, train
from tinygpt.records.read import read_run


def main(command: Callable[[list[str]], None], arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as exit_info:
        command(arguments)
    code = exit_info.value.code
    assert isinstance(code, int)
    return code


@pytest.fixture(scope="module")
def finished(
    tiny_in: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert main(train.main, tiny_in(folder)) == 0
    (path,) = (found.parent for found in (folder / "outputs").glob("*/run.json"))
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A finished run of 10 steps with a row for each."""
    return shutil.copytree(finished, tmp_path / "outputs" / finished.name)


def steps(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


@pytest.mark.parametrize("damage", [shutil.rmtree, replace_by_file])
def test_without_readable_checkpoints_a_resume_is_refused_and_nothing_changes(
    run: Path, capfd: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    damage(run / "checkpoints")
    names = ("run.json", "config.yaml", "metrics.jsonl", "summary.json")
    before = [(run / name).read_bytes() for name in names[1:]]
    assert main(train.main, [f"resume={run}", "trainer.max_steps=12"]) == 1
    said = capfd.readouterr().err
    assert f"{run / 'checkpoints'} has no checkpoint that can be read" in said
    assert f"python -m tinygpt.train config_file={run / 'config.yaml'}" in said
    assert [(run / name).read_bytes() for name in names[1:]] == before
    assert read_run(run).status == "finished"


def test_a_typed_time_does_not_hide_that_the_checkpoint_is_damaged(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (state,) = (run / "checkpoints").glob("*/state.json")
    state.write_text("{")
    changes = ["trainer.max_steps=null", "trainer.max_time=1h"]
    assert main(train.main, [f"resume={run}", *changes]) == 1
    said = capfd.readouterr().err
    assert f"every checkpoint in {run / 'checkpoints'} is damaged" in said
    assert "Traceback" not in said


def test_a_longer_run_goes_on_if_its_derived_numbers_are_lost(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    del record["derived"]
    (run / "run.json").write_text(json.dumps(record))
    assert main(train.main, [f"resume={run}", "trainer.max_steps=12"]) == 0
    assert steps(run)[-1] == 12


@pytest.mark.parametrize(
    ("damage", "words", "left"),
    [
        (Path.unlink, "10 of 10 rows up to step 10 are missing: metrics.jsonl has no row", []),
        (lambda path: path.write_text(""), "metrics.jsonl has no row", []),
        (
            lambda path: path.write_text("".join(path.read_text().splitlines(True)[:4])),
            "6 of 10 rows up to step 10 are missing: metrics.jsonl has rows up to step 4",
            [1, 2, 3, 4],
        ),
    ],
)
def test_missing_rows_are_damage_and_named_when_the_run_goes_on(
    run: Path,
    capfd: pytest.CaptureFixture[str],
    damage: Callable[[Path], Any],
    words: str,
    left: list[int],
) -> None:
    damage(run / "metrics.jsonl")
    assert read_run(run).status == "damaged"
    assert main(train.main, [f"resume={run}", "trainer.max_steps=12"]) == 0
    assert f"{words}; the run goes on without them" in capfd.readouterr().err
    assert steps(run) == [*left, 11, 12]
    record = read_run(run)
    assert record.status == "finished"
    assert record.error is not None
    assert words in record.error


def test_a_broken_row_is_refused_by_its_line(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(True)
    path.write_text("".join([*lines[:3], "}{\n", *lines[4:]]))
    assert main(train.main, [f"resume={run}", "trainer.max_steps=12"]) == 1
    assert "line 4 is not a row of metrics; delete that line" in capfd.readouterr().err
    assert read_run(run).status == "damaged"
    path.write_text("".join([*lines[:3], *lines[4:]]))
    assert main(train.main, [f"resume={run}", "trainer.max_steps=12"]) == 0
    assert "1 of 10 rows up to step 10 are missing" in capfd.readouterr().err


def test_an_edited_config_is_refused_by_resume_and_sample(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = run / "config.yaml"
    path.write_text(re.sub("n_head: 2", "n_head: 1", path.read_text()))
    words = f"{path} was edited after the run began: model.n_head is 1 there and was 2"
    for command, arguments in ((train.main, [f"resume={run}"]), (sample.main, [f"run={run}"])):
        assert main(command, arguments) == 2
        assert words in capfd.readouterr().err


def test_a_changed_tokenizer_is_refused_by_sample_and_restored_by_a_resume(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (file,) = (run / "tokenizer").iterdir()
    before = file.read_bytes()
    characters = json.loads(before)["characters"]
    characters[0] = "\t"
    fingerprint = hashlib.sha256(json.dumps(["char", characters]).encode()).hexdigest()
    content = {"name": "char", "fingerprint": fingerprint, "characters": characters}  # consistent
    file.write_text(json.dumps(content))
    assert main(sample.main, [f"run={run}"]) == 2
    assert "is not the tokenizer that the run was trained with" in capfd.readouterr().err
    assert main(train.main, [f"resume={run}", "trainer.max_steps=12"]) == 0
    assert f"{run / 'tokenizer'} is damaged; it is restored" in capfd.readouterr().err
    assert file.read_bytes() == before


class FullAtStep7(io.TextIOWrapper):
    """A file whose disk has no room left for the row of step 7."""

    def write(self, text: str) -> int:
        if text.startswith('{"step": 7,'):
            with Path("/dev/full").open("wb") as full:
                os.dup2(full.fileno(), self.fileno())
        return super().write(text)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_at_a_row_is_one_line_and_the_run_is_failed(
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    open_file = Path.open

    def opened(path: Path, mode: str = "r", **settings: Any) -> IO[Any]:
        if path.name == "metrics.jsonl" and mode == "a":
            return FullAtStep7(open_file(path, "ab"))
        return open_file(path, mode, **settings)

    monkeypatch.setattr(Path, "open", opened)
    assert main(train.main, tiny) == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "No space left on device" in said
    (path,) = (found.parent for found in (tmp_path / "outputs").glob("*/run.json"))
    assert read_run(path).status == "failed"
    monkeypatch.undo()
    assert main(train.main, [f"resume={path}"]) == 0
    assert steps(path) == list(range(1, 11))
