"""Run folders: unique, locked by one process, with a correct record of the run and its end."""

import itertools
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

import tinygpt
from tests.runs_on_disk import make_run
from tinygpt import config, console
from tinygpt.components.datasets.text import TextConfig
from tinygpt.config import RunConfig, compose
from tinygpt.errors import UserError
from tinygpt.records.find import find_run, find_runs, has_no_checkpoint, has_no_result
from tinygpt.records.folder import RunFolder, new_run_id


@pytest.fixture(scope="module")
def cfg() -> RunConfig:
    cfg: RunConfig = compose.compose("train", ["model=nano", "seed=7"])
    return cfg


@pytest.fixture
def create(cfg: RunConfig) -> Callable[..., RunFolder]:
    def make(path: Path, **fields: Any) -> RunFolder:
        arguments = {"cfg": cfg, "overrides": [], "run_id": path.name, "group": None, **fields}
        return RunFolder.create(path, **arguments)

    return make


def record(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
    return content


# Names and contents


def test_a_thousand_ids_made_at_once_are_different_and_sort_by_time() -> None:
    ids = [new_run_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    times = [text[:26] for text in ids]
    assert times == sorted(times)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{6}_[0-9a-f]{4}", ids[0])
    began = datetime.strptime(times[0], "%Y-%m-%d_%H-%M-%S-%f")
    assert abs((datetime.now() - began).total_seconds()) < 60


def test_a_new_folder_says_what_is_going_to_run(
    tmp_path: Path,
    cfg: RunConfig,
    create: Callable[..., RunFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door = str(Path(tinygpt.__file__).with_name("train.py"))
    monkeypatch.setattr(sys, "argv", [door, "model=nano", "x=a b"])
    path = tmp_path / "outputs" / "a"
    folder = create(path, overrides=["model=nano", "x='Ünï: #'"], run_id="id-1", group="sweep-1")
    assert config.load(path / "config.yaml") == cfg
    overrides = (path / "overrides.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(overrides) == ["model=nano", "x='Ünï: #'"]
    assert all((path / name).is_dir() for name in ("samples", "tokenizer"))
    run = record(path)
    assert (run["id"], run["group"]) == ("id-1", "sweep-1")
    assert (run["status"], run["error"], run["ended_at"]) == ("running", None, None)
    assert run["command"] == "python -m tinygpt.train model=nano 'x=a b'"
    assert run["versions"]["tinygpt"] == tinygpt.__version__
    assert run["versions"]["torch"] == version("torch")
    assert run["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    began = datetime.fromisoformat(run["started_at"])
    assert abs((datetime.now(began.tzinfo) - began).total_seconds()) < 60
    folder.close("finished")


def test_the_console_script_is_recorded_as_typed(
    tmp_path: Path, create: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/tinygpt", "train", "prompt=¿qué? 🙂", "b=\udcff"])
    create(tmp_path / "a").close("finished")
    assert record(tmp_path / "a")["command"] == "tinygpt train 'prompt=¿qué? 🙂' 'b=\udcff'"
    assert "¿qué? 🙂" in (tmp_path / "a" / "run.json").read_text(encoding="utf-8")


def test_nothing_depends_on_the_encoding_of_the_machine(tmp_path: Path) -> None:
    """In a locale of ASCII, a text of any language is written as UTF-8 all the same."""
    code = f"""
import locale, logging, sys
from pathlib import Path
from tinygpt.config import compose
from tinygpt.records.folder import RunFolder
assert locale.getpreferredencoding(False) != "UTF-8"
sys.argv = ["tinygpt", "\\u732b"]
cfg = compose.compose("train", ["dataset=text", "dataset.path=x"])
cfg.dataset.path = "\\u732b"
path = Path({str(tmp_path)!r}) / "a"
folder = RunFolder.create(path, cfg=cfg, overrides=["\\u732b"], run_id="a", group=None)
logging.getLogger("tinygpt").error("\\u732b")
folder.write_summary({{"stop_reason": "\\u732b"}})
folder.close("failed", "\\u732b")
"""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = os.environ | {"PYTHONPATH": str(Path(tinygpt.__file__).parents[1])} | ascii_only
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    path = tmp_path / "a"
    assert (record(path)["error"], record(path)["command"]) == ("猫", "tinygpt '猫'")
    assert json.loads((path / "summary.json").read_bytes()) == {"stop_reason": "猫"}
    assert (path / "train.log").read_text(encoding="utf-8").endswith(" ERROR 猫\n")
    assert yaml.safe_load((path / "overrides.yaml").read_text(encoding="utf-8")) == ["猫"]
    assert config.load(path / "config.yaml").dataset == TextConfig(path="猫")


def test_a_status_goes_from_running_to_how_it_ended_and_back_when_it_is_resumed(
    tmp_path: Path, cfg: RunConfig, create: Callable[..., RunFolder]
) -> None:
    path = tmp_path / "a"
    folder = create(path)
    folder.write_run(derived={"n_params": 3})
    folder.close("failed", "no luck")
    first = record(path)
    assert (first["status"], first["error"], first["resumed"]) == ("failed", "no luck", [])
    assert first["started_at"] <= first["ended_at"]

    longer = config.resolve(
        config.to_dict(cfg) | {"seed": 8},
        RunConfig,
    )
    folder = RunFolder.reopen(path, cfg=longer, overrides=["seed=8"], pause_at=None)
    again = record(path)
    assert (again["status"], again["error"], again["ended_at"]) == ("running", None, None)
    assert [part["overrides"] for part in again["resumed"]] == [["seed=8"]]
    assert config.load(path / "config.yaml").seed == 7
    folder.begin()
    assert config.load(path / "config.yaml").seed == 8
    folder.close("interrupted", "SIGINT")
    RunFolder.reopen(path, cfg=cfg, overrides=[], pause_at=None).close("finished")
    last = record(path)
    assert (last["status"], last["error"], len(last["resumed"])) == ("finished", None, 2)
    kept = ("id", "group", "started_at", "command", "git", "versions", "derived")
    assert [last[key] for key in kept] == [{**first, "derived": {"n_params": 3}}[k] for k in kept]


def test_what_is_said_is_in_the_log_of_the_run_at_hand_and_in_no_other(
    tmp_path: Path, create: Callable[..., RunFolder]
) -> None:
    logging.getLogger("tinygpt").setLevel(logging.INFO)
    first = create(tmp_path / "a")
    console.say("one ü 🙂")
    first.close("finished")
    console.say("between")
    second = create(tmp_path / "b")
    console.warn("two")
    second.close("finished")
    logs = [(tmp_path / name / "train.log").read_text(encoding="utf-8") for name in "ab"]
    assert re.fullmatch(r"\d{4}-.* INFO one ü 🙂\n", logs[0])
    assert re.fullmatch(r"\d{4}-.* WARNING two\n", logs[1])


def test_a_reader_sees_the_old_record_or_the_new_one(
    tmp_path: Path, create: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create(tmp_path / "a")
    before = record(tmp_path / "a")

    def die(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            folder.write_run(status="finished")
    assert record(tmp_path / "a") == before
    folder.close("finished")
    assert not list((tmp_path / "a").glob("run.json.*"))


# One run, one process


def test_a_folder_with_a_run_in_it_is_refused_and_left_as_it_is(
    tmp_path: Path, create: Callable[..., RunFolder]
) -> None:
    path = tmp_path / "a"
    create(path).close("finished")
    before = (path / "run.json").read_bytes()
    with pytest.raises(UserError) as error:
        create(path)
    assert str(error.value).endswith(f"it holds a run; go on with it by resume={path}")
    assert (path / "run.json").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named_with_the_way_out(
    tmp_path: Path, create: Callable[..., RunFolder]
) -> None:
    (tmp_path / "outputs").touch()
    with pytest.raises(UserError) as error:
        create(tmp_path / "outputs" / "a")
    assert str(error.value) == (
        f"{tmp_path / 'outputs' / 'a'} cannot be made: Not a directory; type output_dir=FOLDER"
    )


def hold(path: Path, cfg: RunConfig, ready: Any) -> None:
    folder = RunFolder.reopen(path, cfg=cfg, overrides=[], pause_at=None)
    ready.set()
    signal.pause()
    folder.close("finished")


def test_a_second_process_is_refused_and_a_killed_one_frees_the_folder(
    tmp_path: Path, cfg: RunConfig, create: Callable[..., RunFolder]
) -> None:
    path = tmp_path / "a"
    create(path).close("failed")
    processes = multiprocessing.get_context("fork")
    ready = processes.Event()
    holder = processes.Process(target=hold, args=(path, cfg, ready), daemon=True)
    holder.start()
    assert ready.wait(30)
    before = (path / "run.json").read_bytes()
    with pytest.raises(UserError) as error:
        RunFolder.reopen(path, cfg=cfg, overrides=[], pause_at=None)
    assert str(error.value) == f"{path} is in use by another process; wait or stop it"
    assert (path / "run.json").read_bytes() == before

    holder.kill()
    holder.join()
    folder = RunFolder.reopen(path, cfg=cfg, overrides=[], pause_at=None)
    with pytest.raises(UserError, match="is in use"):
        RunFolder.reopen(path, cfg=cfg, overrides=[], pause_at=None)
    folder.close("finished")
    RunFolder.reopen(path, cfg=cfg, overrides=[], pause_at=None).close("finished")


# Which code ran


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`git` in a repository of which the package seems to be imported."""
    source = tmp_path / "source"
    (source / "tinygpt").mkdir(parents=True)
    (source / "tinygpt" / "__init__.py").write_text("# one\n")
    (source / ".gitignore").write_text("*.log\n")
    monkeypatch.setattr(tinygpt, "__file__", str(source / "tinygpt" / "__init__.py"))
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(source), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout.decode().strip()

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    return git


def test_the_commit_of_the_code_and_what_differs_from_it_are_recorded(
    tmp_path: Path, create: Callable[..., RunFolder], checkout: Callable[..., str]
) -> None:
    source = tmp_path / "source"
    count = itertools.count()

    def recorded() -> tuple[Any, Path]:
        path = tmp_path / "outputs" / str(next(count))
        create(path).close("finished")
        return record(path)["git"], path / "git.diff"

    commit = checkout("rev-parse", "HEAD")
    (source / "a.log").touch()  # ignored
    (source / "notes.txt").touch()  # not of the package
    git, diff = recorded()
    assert git == {"commit": commit, "dirty": False}
    assert not diff.exists()

    (source / "tinygpt" / "lion.py").touch()  # new code counts too
    git, diff = recorded()
    assert git == {"commit": commit, "dirty": True}
    assert diff.read_text() == "tinygpt/lion.py\n"

    (source / "tinygpt" / "__init__.py").write_bytes(b"# caf\xe9\r\n")  # not UTF-8
    checkout("config", "color.ui", "always")
    git, diff = recorded()
    assert git == {"commit": commit, "dirty": True}
    (source / "tinygpt" / "lion.py").unlink()
    checkout("checkout", "tinygpt/__init__.py")
    checkout("apply", str(diff))
    assert (source / "tinygpt" / "__init__.py").read_bytes() == b"# caf\xe9\r\n"

    checkout("add", ".")
    git, diff = recorded()
    assert git["dirty"]
    checkout("commit", "-m", "second")
    git, diff = recorded()
    assert git == {"commit": checkout("rev-parse", "HEAD"), "dirty": False}
    assert git["commit"] != commit


def test_code_without_a_repository_of_its_own_has_no_commit(
    tmp_path: Path, create: Callable[..., RunFolder], checkout: Callable[..., str]
) -> None:
    """As when the package is installed in an environment that lies in somebody's repository."""
    source = tmp_path / "source"
    (source / "site").mkdir()
    shutil.move(source / "tinygpt", source / "site" / "tinygpt")
    tinygpt.__file__ = str(source / "site" / "tinygpt" / "__init__.py")
    create(tmp_path / "a").close("finished")
    assert record(tmp_path / "a")["git"] is None
    shutil.rmtree(source / ".git")
    create(tmp_path / "b").close("finished")
    assert record(tmp_path / "b")["git"] is None


# Finding a run again


@pytest.fixture
def outputs(tmp_path: Path, create: Callable[..., RunFolder]) -> Path:
    """Three runs: alone, then two in a sweep of which the second is the newest of all."""
    folder = tmp_path / "a-long-way-from-home" / "outputs"
    for name in (
        "2026-01-01_11-00-00",
        "2026-01-02_12-00-00_sweep/9",
        "2026-01-02_12-00-00_sweep/10",
    ):
        create(folder / name).close("finished")
    return folder


def test_latest_is_the_run_that_was_started_last(
    outputs: Path, cfg: RunConfig, create: Callable[..., RunFolder]
) -> None:
    def latest() -> str:
        run = find_run("latest", field="run", output_dir=outputs)
        return str(run.relative_to(outputs))

    assert latest() == "2026-01-02_12-00-00_sweep/10"
    for name in ("zzzz", "0000", "aaaa"):  # by its time to the microsecond, not by its name
        create(outputs / name).close("finished")
        assert latest() == name
    RunFolder.reopen(outputs / "2026-01-01_11-00-00", cfg=cfg, overrides=[], pause_at=None).close(
        "finished"
    )
    assert latest() == "aaaa"
    (outputs / "not-a-run").mkdir()
    assert latest() == "aaaa"


def test_latest_is_one_run_for_every_command_also_beside_a_sweep_that_goes_on(
    tmp_path: Path,
) -> None:
    """The sweep's folder is older by its name, but its last run began after the single run."""
    times = ("10:00", "11:00", "12:00")
    sweep = tmp_path / "2026-01-01_sweep"
    first, alone, second = (
        make_run(path, started_at=f"2026-01-01T{time}:00+00:00")
        for path, time in zip(
            (sweep / "0", tmp_path / "2026-01-02_a", sweep / "1"), times, strict=True
        )
    )
    assert find_run("latest", field="run", output_dir=tmp_path) == second
    assert find_runs(["latest"], output_dir=tmp_path) == [first, second]
    shutil.rmtree(second)
    assert find_run("latest", field="run", output_dir=tmp_path) == alone
    assert find_runs(["latest"], output_dir=tmp_path) == [alone]


def test_latest_passes_over_what_a_command_cannot_use_and_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = make_run(tmp_path / "a", started_at="2026-01-01T00:00:00+00:00")
    (good / "checkpoints" / "step-00000001").mkdir(parents=True)
    failed = make_run(
        tmp_path / "b", status="failed", bpb=None, started_at="2026-01-02T00:00:00+00:00"
    )
    (make_run(tmp_path / "c") / "run.json").write_text("{")
    logging.getLogger("tinygpt").propagate = True
    outputs = tmp_path
    found = find_run("latest", field="run", output_dir=outputs, obstacle=has_no_checkpoint)
    assert found == good
    assert find_runs(["latest"], output_dir=outputs, obstacle=has_no_result) == [good]
    assert find_run("latest", field="resume", output_dir=outputs) == failed
    assert f"{failed} is newer and left out: it is failed and has no checkpoint" in caplog.text
    assert f"{tmp_path / 'c'} is damaged and left out: run.json cannot be read" in caplog.text
    shutil.rmtree(good)
    with pytest.raises(UserError, match=f"run=latest: no run in {tmp_path} can be used"):
        find_run("latest", field="run", output_dir=outputs, obstacle=has_no_checkpoint)


def test_a_run_is_found_by_its_path_or_by_its_name_in_output_dir(
    outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(text: str) -> Path:
        return find_run(text, field="run", output_dir=outputs)

    run = outputs / "2026-01-01_11-00-00"
    assert found(str(run)) == found(run.name) == found(f"{run}/") == run
    assert found("2026-01-02_12-00-00_sweep/9") == outputs / "2026-01-02_12-00-00_sweep" / "9"
    monkeypatch.chdir(outputs.parent)
    assert found(f"outputs/{run.name}").resolve() == run
    monkeypatch.setenv("HOME", str(outputs))
    assert found(f"~/{run.name}") == run


def test_a_run_that_is_not_there_is_refused_with_the_nearest_one(outputs: Path) -> None:
    def refused(text: str, output_dir: Path = outputs) -> str:
        with pytest.raises(UserError) as error:
            find_run(text, field="resume", output_dir=output_dir)
        return str(error.value)

    for typo in ("2026-01-01_11-00-01", str(outputs / "2026-01-01_11-0-00")):
        assert refused(typo) == (
            f"resume={typo} is not the folder of a run (it has no run.json); "
            f"did you mean resume={outputs / '2026-01-01_11-00-00'}?"
        )
    assert f"did you mean resume={outputs / '2026-01-02_12-00-00_sweep/9'}?" in refused(
        "2026-01-02_12-00-00_sweep/8"
    )
    assert refused("zzz").endswith("(it has no run.json); latest is the newest run")
    assert refused("latest", outputs / "none") == (
        f"resume=latest: there is no run in {outputs / 'none'}; train one first"
    )


def test_a_folder_of_several_runs_is_refused_with_one_of_them(outputs: Path) -> None:
    sweep = outputs / "2026-01-02_12-00-00_sweep"
    for text in (str(sweep), sweep.name):
        with pytest.raises(UserError) as error:
            find_run(text, field="run", output_dir=outputs)
        assert str(error.value) == f"run={text} holds several runs; choose one: run={sweep / '9'}"


def test_a_password_in_an_error_stays_out_of_the_folder_and_the_console(
    create: Callable[..., RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = create(tmp_path / "run")
    console.log_to_console()
    try:
        raise RuntimeError("no answer from https://user:hunter2@proxy:8080")
    except RuntimeError as error:
        console.log_error("the run failed", traceback=True)
        console.warn(str(error))
        folder.close("failed", str(error))
    said = "no answer from https://***@proxy:8080"
    printed = "".join(capsys.readouterr())
    assert printed.count(said) == 3  # the source line, the error and the warning
    assert record(folder.path)["error"] == said
    log = (folder.path / "train.log").read_text()
    assert log.count(said) == 3
    assert "Traceback" in log
    assert "hunter2" not in printed + log
