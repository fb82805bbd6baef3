"""What W&B receives: during training, and by the upload command afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests import processes
from tests.runs_on_disk import evaluated
from tests.wandb_server import Server, exit_codes, history, summary, upserts
from tinygpt import upload
from tinygpt.components.loggers.jsonl import read_rows

KEY = "0123456789abcdef0123456789abcdef01234567"


def words(name: str, arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", f"tinygpt.{name}", *arguments]


def environment(cwd: Path, url: str) -> dict[str, str]:
    """W&B's server and key, and folders of its own that end with the test."""
    homes = {f"WANDB_{kind}_DIR": str(cwd / "home" / kind) for kind in ("CACHE", "DATA", "CONFIG")}
    return os.environ | homes | {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY}


def command(name: str, arguments: list[str], cwd: Path, url: str) -> subprocess.CompletedProcess:
    sweep = [sys.executable, "-c", processes.FORKING_TRAIN, *arguments]
    return processes.run(
        sweep if arguments[0] == "-m" else words(name, arguments),
        cwd=cwd,
        env=environment(cwd, url),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "thorough", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["once", "thorough"]
)
def test_runs_reach_wandb_whole_while_they_train_and_from_their_folders_and_never_twice(
    tiny: list[str], tmp_path: Path, wandb_server: ThreadingHTTPServer, thorough: bool
) -> None:
    url = f"http://127.0.0.1:{wandb_server.server_port}"
    settings = [
        *tiny,
        "logger=wandb",
        "logger.wandb.tags=[lab]",
        "name=base",
        "tags=[paper]",
        "callback=[sample]",
        "callback.sample.max_new_tokens=5",
        "optimizer.lr=1e-3,1e30",
        "trainer.grad_clip=0",
        "launcher.jobs=2",
    ]
    done = command("train", ["-m", *settings], tmp_path, url)
    assert done.returncode == 1, done.stdout + done.stderr  # the second run diverges
    (sweep,) = (tmp_path / "outputs").iterdir()
    assert_all_is_there(sweep, tags=["paper", "lab"], project="tinygpt")
    tables = [content for name, content in Server.files.items() if name.endswith(".table.json")]
    assert any(json.loads(content)["columns"] == ["step", "text"] for content in tables)
    assert KEY not in json.dumps(Server.received)

    evaluated(sweep / "0", 0.75)  # after the run has ended
    again = command("upload", [f"run={sweep}"], tmp_path, url)
    assert again.returncode == 0, again.stderr
    assert "0 of 10 rows were new and are sent, and the evaluations choices" in again.stdout
    assert len(history(Server.received, f"{sweep.name}-0")) == 10
    numbers = summary(Server.received, f"{sweep.name}-0")
    assert numbers["evaluation/choices/name"] == 0.75
    assert numbers["evaluation/choices/checkpoint"] == "step-1"

    Server.received.clear()
    elsewhere = command("upload", [f"run={sweep}", "project=later", "tags=[a,b]"], tmp_path, url)
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert_all_is_there(sweep, tags=["paper", "a", "b"], project="later")
    rows = read_rows(sweep / "0" / "metrics.jsonl")
    sent = history(Server.received, f"{sweep.name}-0")
    apart = sent[-1]["_timestamp"] - sent[0]["_timestamp"]
    assert apart == pytest.approx(rows[-1]["elapsed_s"] - rows[0]["elapsed_s"], abs=1e-3)

    if not thorough:  # test_wandb.py shows what a run does without network
        return
    absent = command("upload", [f"run={sweep}"], tmp_path, "http://127.0.0.1:9")
    assert absent.returncode == 1
    assert absent.stderr.count("is out of reach") == 2
    assert "Traceback" not in absent.stderr


def assert_all_is_there(sweep: Path, *, tags: list[str], project: str) -> None:
    """The server has the config, rows, samples, summary and end of the first run of a sweep."""
    good, bad = (f"{sweep.name}-{number}" for number in (0, 1))
    first = upserts(Server.received, good)[0]
    assert (first["project"], first["groupName"]) == (project, sweep.name)
    assert (first["jobType"], first["tags"]) == ("train", tags)
    assert first["displayName"] == "base"
    config = json.loads(first["config"])
    assert config["optimizer"]["value"]["lr"] == 1e-3
    assert config["trainer"]["value"]["max_steps"] == 10
    run = json.loads((sweep / "0" / "run.json").read_text())
    assert config["n_params"]["value"] == run["derived"]["n_params"]
    rows = read_rows(sweep / "0" / "metrics.jsonl")
    sent = history(Server.received, good)
    assert [row["_step"] for row in sent] == [row["step"] for row in rows]
    assert [row["train/loss"] for row in sent] == [row["train/loss"] for row in rows]
    assert {row["_step"] for row in sent if "samples" in row} == {4, 8, 10}
    assert summary(Server.received, good)["val/bpb"] == rows[-1]["val/bpb"]
    assert exit_codes(Server.received, good) == [0]
    assert exit_codes(Server.received, bad) == [1]


@pytest.mark.slow
def test_a_run_that_was_killed_online_continues_its_curve(
    tiny: list[str], tmp_path: Path, wandb_server: ThreadingHTTPServer
) -> None:
    url = f"http://127.0.0.1:{wandb_server.server_port}"
    longer = [text for text in tiny if not text.startswith("trainer.max_steps")]
    longer += ["trainer.max_steps=100000", "trainer.save_every=50"]
    longer += ["trainer.log_every=10", "trainer.eval_every=100"]
    killed = processes.Forked(
        words("train", [*longer, "logger=wandb"]),
        cwd=tmp_path,
        env=environment(tmp_path, url) | {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "3"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    outputs = tmp_path / "outputs"

    def sent_and_saved() -> tuple[int, int]:
        """The last step that W&B has, and that of the last checkpoint; 0 for none."""
        sent = [row["_step"] for p in outputs.glob("*") for row in history(Server.received, p.name)]
        saved = [
            int(p.name.removeprefix("step-")) for p in outputs.glob("*/checkpoints/step-*[0-9]")
        ]
        return max(sent, default=0), max(saved, default=0)

    deadline = time.monotonic() + 60
    while True:  # until W&B has some rows, and lacks some of before the last checkpoint
        sent_step, saved_step = sent_and_saved()
        if 0 < sent_step < saved_step:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)  # with wandb's own process
    killed.wait()
    (run,) = outputs.iterdir()
    before = [row["_step"] for row in history(Server.received, run.name)]
    saved = sent_and_saved()[1]
    assert 0 < before[-1] < saved  # there is a gap to close

    end = saved + 30
    done = command("train", ["resume=latest", f"trainer.max_steps={end}"], tmp_path, url)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_rows(run / "metrics.jsonl")
    sent = history(Server.received, run.name)
    assert [row["_step"] for row in sent] == [row["step"] for row in rows]
    assert [row["train/loss"] for row in sent] == [row["train/loss"] for row in rows]
    last = upserts(Server.received, run.name)[-1]
    assert json.loads(last["config"])["max_steps"]["value"] == end
    assert exit_codes(Server.received, run.name) == [0]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["run=nowhere"], "nowhere holds no run"),
        (["outputs/x"], "type run=outputs/x"),
        (["run=latest", "projct=a"], "projct is not a field; did you mean project?"),
        (["project=a"], "type which run to send"),
        (["--run", "x"], "--run is not a flag"),
    ],
)
def test_a_mistyped_upload_gets_an_error_with_what_to_type(
    typed: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_info:
        upload.main(typed)
    assert exit_info.value.code == 2
    assert words in capsys.readouterr().err
