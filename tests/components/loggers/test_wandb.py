"""W&B: what the real client sends, and bounded waits without a network.

Each script runs in a process of its own, since the client reads its environment once.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import tinygpt
from tests import processes
from tests.wandb_server import Server, exit_codes, history
from tinygpt.components.loggers.wandb import WandbConfig, unreachable
from tinygpt.errors import UserError

SOURCES = str(Path(tinygpt.__file__).parents[1])
KEY = "0123456789abcdef0123456789abcdef01234567"
SOON_S = 30  # far below W&B's own limit of 90, and enough for a busy machine
PRELUDE = """
import logging, time
from pathlib import Path
from tinygpt.interfaces import RunInfo
from tinygpt.components.loggers.wandb import WandbConfig
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")

def begin(name, resumed_at=None, **fields):
    folder = Path(name)
    folder.mkdir()
    logger = WandbConfig(**fields).build()
    config = {"seed": 1, "model": {"name": "gpt", "n_layer": 2}, "callback": {}}
    derived = {"n_params": 5, "max_steps": 30}
    began_at = time.monotonic()
    logger.start(RunInfo(folder, f"id-{name}", "sweep-1", config, derived, resumed_at))
    print("start_s", time.monotonic() - began_at)
    return logger

def end(logger, status, summary):
    began_at = time.monotonic()
    logger.finish(status, summary)
    print("finish_s", time.monotonic() - began_at)
"""


def run(folder: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    homes = {
        f"WANDB_{kind}_DIR": str(folder / "home" / kind) for kind in ("CACHE", "DATA", "CONFIG")
    }
    done = processes.run(
        [sys.executable, "-c", PRELUDE + script],
        cwd=folder,
        env=os.environ | homes | environment | {"PYTHONPATH": SOURCES},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    done.check_returncode()
    return done


def seconds(done: subprocess.CompletedProcess[str], what: str) -> float:
    found = re.search(rf"{what} (\S+)", done.stdout)
    assert found
    return float(found[1])


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of the only W&B run in a run folder.

    Read by the program that `wandb leet inspect --json` starts, which alone takes a tenth of it.
    """
    (file,) = folder.glob("wandb/*run-*/*.wandb")
    wandb = find_spec("wandb")
    assert wandb
    assert wandb.origin
    program = str(Path(wandb.origin).parent / "bin" / "wandb-core")
    options = ["--no-observability", "--json", "--run-file", str(file), str(file.parent)]
    command = [program, "leet", "inspect", *options]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in lines.splitlines()]


def only(found: list[dict[str, Any]], kind: str) -> list[Any]:
    return [record[kind] for record in found if record["type"] == kind]


def rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was logged, without what the client adds."""
    items = [history["item"] for history in only(found, "history")]
    return [{k: v for k, v in i.items() if k == "_step" or k[0] != "_"} for i in items]


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Jobs of a multirun in one process, and what it said; the first ends without a word."""
    folder = tmp_path_factory.mktemp("offline")
    script = """
fields = dict(mode="offline", project="lab", tags=["a", "b"], notes="why")
first = begin("first", **fields)
for step in (10, 20):
    first.log(step, {"train/loss": 1 / step, "tokens": 8 * step})
first.samples(20, ["Once upon a time", "There was a cat"])
second = begin("second", **fields)  # although the first was not finished
second.log(30, {"train/loss": 0.25, "tokens": 240})
end(second, "finished", {"val/bpb": 1.25})
for status in ("failed", "interrupted"):
    logger = begin(status, **fields)
    logger.log(1, {"train/loss": float("nan")})
    end(logger, status, {"val/bpb": 1.5})
"""
    script += """
logger = begin("model", checkpoint=True, **fields)
best = Path("model/checkpoints/step-00000020")
best.mkdir(parents=True)
(best / "model.safetensors").write_bytes(b"weights")
end(logger, "finished", {"val/bpb": 1.25, "best_step": 20})
end(begin("resumed", resumed_at=5, mode="offline"), "finished", {})

logger = begin("broken", mode="offline")
import wandb
def broken(*args, **kwargs):
    raise RuntimeError("no space left")
wandb.Run.log = broken
for step in range(1, 6):
    logger.log(step, {"train/loss": 1.0})
end(logger, "finished", {})
"""
    return folder, run(folder, script).stderr


@pytest.fixture(scope="module")
def offline_runs(offline: tuple[Path, str]) -> Path:
    return offline[0]


def test_two_jobs_in_one_process_are_two_runs(offline_runs: Path) -> None:
    runs = [only(records(offline_runs / n), "run")[0] for n in ("first", "second")]
    assert [r["run_id"] for r in runs] == ["id-first", "id-second"]
    assert [r["display_name"] for r in runs] == ["id-first", "id-second"]
    for r in runs:
        assert (r["run_group"], r["project"], r["tags"]) == ("sweep-1", "lab", ["a", "b"])
        assert r["notes"] == "why"


def test_rows_keep_their_steps_and_the_table_stands_at_its_own(offline_runs: Path) -> None:
    first, last = rows(records(offline_runs / "first"))
    assert first == {"_step": 10, "train/loss": 0.1, "tokens": 80}
    assert (last["_step"], last["train/loss"]) == (20, 0.05)
    assert (last["samples.nrows"], last["samples._type"]) == (2, "table-file")
    assert rows(records(offline_runs / "second")) == [
        {"_step": 30, "train/loss": 0.25, "tokens": 240}
    ]
    (table,) = offline_runs.glob("first/wandb/*run-*/files/media/table/*.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["step", "text"]
    assert content["data"] == [[20, "Once upon a time"], [20, "There was a cat"]]


def test_every_chart_is_over_tokens(offline_runs: Path) -> None:
    metrics = only(records(offline_runs / "first"), "metric")
    (everything,) = [m for m in metrics if m.get("glob_name") == "*"]
    assert everything["step_metric"] == "tokens"


def test_the_best_checkpoint_is_sent_as_an_artifact_if_that_is_wanted(offline_runs: Path) -> None:
    (artifact,) = only(records(offline_runs / "model"), "artifact")
    assert (artifact["name"], artifact["type"]) == ("checkpoint-id-model", "model")
    (entry,) = artifact["manifest"]["contents"]
    assert (entry["path"], entry["size"]) == ("model.safetensors", "7")


def test_the_config_holds_everything_resolved_and_derived(offline_runs: Path) -> None:
    config = only(records(offline_runs / "first"), "run")[0]["config"]["update"]
    del config["_wandb"]
    assert config == {
        "seed": 1,
        "model": {"name": "gpt", "n_layer": 2},
        "callback": {},
        "n_params": 5,
        "max_steps": 30,
    }


def test_the_second_run_ends_with_its_own_status_and_summary(offline_runs: Path) -> None:
    found = records(offline_runs / "second")
    assert only(found, "exit")[0].get("exit_code", 0) == 0
    assert {"val/bpb": 1.25} in [summary["update"] for summary in only(found, "summary")]


@pytest.mark.parametrize(("status", "code"), [("failed", 1), ("interrupted", 130)])
def test_a_run_that_did_not_finish_says_so(offline_runs: Path, status: str, code: int) -> None:
    found = records(offline_runs / status)
    assert only(found, "exit") == [{"exit_code": code}]
    assert [row["_step"] for row in rows(found)] == [1]


def test_rows_survive_a_kill_after_two_seconds(tmp_path: Path) -> None:
    script = """
import os, signal
logger = begin("one", mode="offline")
for step in range(1, 6):
    logger.log(step, {"train/loss": 1 / step})
time.sleep(2)
os.killpg(0, signal.SIGKILL)  # the client's helper process too
"""
    with pytest.raises(subprocess.CalledProcessError, match="SIGKILL"):
        run(tmp_path, "import os; os.setpgrp()\n" + script)
    assert [row["_step"] for row in rows(records(tmp_path / "one"))] == [1, 2, 3, 4]


LOST = """
logger = begin("one", **FIELDS)
logger.log(1, {"train/loss": 0.5})
end(logger, "finished", {})
"""


def assert_fell_back(folder: Path, done: subprocess.CompletedProcess[str], reason: str) -> None:
    """One warning with the reason and the ways out, and all data in the folder."""
    (warning,) = re.findall(r"^WARNING .*", done.stderr, re.MULTILINE)
    assert reason in warning
    assert "logger.wandb.mode=offline" in warning
    synced = re.search(r"wandb sync (\S+)", warning)
    assert synced
    assert synced[1].startswith("one/wandb/offline-run-")
    assert list((folder / synced[1]).glob("*.wandb"))


def test_a_resumed_offline_run_is_sent_from_its_folder_which_has_all_steps(
    offline: tuple[Path, str],
) -> None:
    said = offline[1]
    assert "send the run later: python -m tinygpt.upload run=resumed" in said
    assert "wandb sync first/" in said
    assert "wandb sync resumed/" not in said


def test_without_network_a_run_starts_offline_within_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    patient = "FIELDS = dict(timeout_s=60.0)" + LOST
    done = run(tmp_path, patient, WANDB_BASE_URL=url, WANDB_API_KEY=KEY)
    assert seconds(done, "start_s") < SOON_S  # about 1, most of it the import
    assert seconds(done, "finish_s") < SOON_S
    assert_fell_back(tmp_path, done, "Connection refused")
    assert [row["train/loss"] for row in rows(records(tmp_path / "one"))] == [0.5]


def test_a_network_that_swallows_everything_costs_timeout_s(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = run(
            tmp_path, "FIELDS = dict(timeout_s=1.0)" + LOST, WANDB_BASE_URL=url, WANDB_API_KEY=KEY
        )
    assert 1 <= seconds(done, "start_s") < SOON_S
    assert_fell_back(tmp_path, done, "did not answer within 1 s")


def test_online_rows_and_status_reach_the_server_and_the_key_is_not_in_the_folder(
    tmp_path: Path, wandb_server: ThreadingHTTPServer
) -> None:
    url = f"http://127.0.0.1:{wandb_server.server_port}"
    done = run(tmp_path, "FIELDS = {}" + LOST, WANDB_BASE_URL=url, WANDB_API_KEY=KEY)
    assert f"wandb: {url}/me/tinygpt/runs/id-one" in done.stderr
    rows_there = history(Server.received, "id-one")
    assert [(row["_step"], row["train/loss"]) for row in rows_there] == [(1, 0.5)]
    assert exit_codes(Server.received, "id-one") == [0]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 3
    assert not [file for file in files if KEY.encode() in file.read_bytes()]


def test_without_a_key_and_a_terminal_a_run_starts_offline_and_says_how_to_log_in(
    tmp_path: Path, wandb_server: ThreadingHTTPServer
) -> None:
    url = f"http://127.0.0.1:{wandb_server.server_port}"
    done = run(tmp_path, "FIELDS = {}" + LOST, WANDB_BASE_URL=url)
    assert seconds(done, "start_s") < SOON_S
    assert_fell_back(tmp_path, done, "wandb login")


# as fast as a network that swallows everything, of which a test above is
@pytest.mark.slow
def test_a_server_that_answers_and_refuses_costs_timeout_s(
    tmp_path: Path, wandb_server: ThreadingHTTPServer
) -> None:
    class Broken(Server):
        def do_POST(self) -> None:
            self.send_error(500)

    wandb_server.RequestHandlerClass = Broken
    url = f"http://127.0.0.1:{wandb_server.server_port}"
    script = "FIELDS = dict(timeout_s=1.0)" + LOST
    done = run(tmp_path, script, WANDB_BASE_URL=url, WANDB_API_KEY=KEY)
    assert 1 <= seconds(done, "start_s") < SOON_S
    (warning,) = re.findall(r"^WARNING .*", done.stderr, re.MULTILINE)
    assert "logger.wandb.mode=offline" in warning
    (file,) = tmp_path.glob("one/wandb/offline-run-*/*.wandb")
    assert file.stat().st_size > 500


@pytest.mark.slow  # a network that swallows all is tried too
def test_a_server_lost_on_the_way_costs_timeout_s_at_the_end_and_no_row(
    tmp_path: Path, wandb_server: ThreadingHTTPServer
) -> None:
    script = """
logger = begin("one", timeout_s=1.5)
import urllib.request
urllib.request.urlopen("URL/die", data=b"{}")
for step in range(1, 101):
    logger.log(step, {"train/loss": 1 / step})
end(logger, "finished", {"val/bpb": 1.5})
"""
    lost = threading.Event()

    class Dying(Server):
        def do_POST(self) -> None:
            if self.path == "/die":
                lost.set()
                self.reply({})
            elif lost.is_set():
                self.close_connection = True
            else:
                super().do_POST()

    wandb_server.RequestHandlerClass = Dying
    url = f"http://127.0.0.1:{wandb_server.server_port}"
    done = run(tmp_path, script.replace("URL", url), WANDB_BASE_URL=url, WANDB_API_KEY=KEY)
    assert 1.5 <= seconds(done, "finish_s") < SOON_S
    assert re.search(
        r"WARNING wandb could not finish: .*: wandb sync one/wandb/run-\S+", done.stderr
    )
    assert [row["_step"] for row in rows(records(tmp_path / "one"))] == list(range(1, 101))


def test_an_exception_in_wandb_is_the_only_warning_and_ends_no_run(
    offline: tuple[Path, str],
) -> None:
    folder, said = offline
    assert said.count("WARNING") == said.count("no space left") == 1
    assert "WARNING wandb could not log a row: no space left" in said
    assert only(records(folder / "broken"), "exit")


def test_disabled_writes_nothing_and_does_not_import_wandb(tmp_path: Path) -> None:
    script = """
import sys
logger = begin("one", mode="disabled")
logger.log(1, {"train/loss": 0.5})
logger.samples(1, ["text"])
end(logger, "finished", {})
print("imported", "wandb" in sys.modules)
"""
    assert "imported False" in run(tmp_path, script).stdout
    assert not list((tmp_path / "one").iterdir())


def test_finish_without_start_is_harmless() -> None:
    WandbConfig().build().finish("failed", {})


def test_an_address_that_refuses_with_a_status_is_reachable(
    wandb_server: ThreadingHTTPServer,
) -> None:
    class Refusing(Server):
        def do_GET(self) -> None:
            self.send_error(403)

    wandb_server.RequestHandlerClass = Refusing
    assert unreachable(f"http://127.0.0.1:{wandb_server.server_port}", timeout_s=5) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mode": "ofline"}, r"logger.wandb.mode=ofline is not a choice; did you mean .*=offline"),
        ({"timeout_s": 0.0}, r"logger.wandb.timeout_s=0.0 must be above 0"),
        ({"project": "a/b"}, r"logger.wandb.project=a/b must have"),
        ({"project": ""}, r"logger.wandb.project= must have"),
        ({"tags": ["x" * 65]}, r"logger.wandb.tags: 'x+' must have 1 to 64"),
    ],
)
def test_a_field_that_breaks_a_rule_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        WandbConfig(**fields)
