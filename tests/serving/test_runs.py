"""The list of runs, one run, and what is told of it as it happens."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runs_on_disk import evaluated, make_run
from tinygpt.comparison.curves import POINTS
from tinygpt.config import overrides
from tinygpt.interchange import starting
from tinygpt.records.folder import freeze
from tinygpt.serving import watching
from tinygpt.serving.recent import Recent
from tinygpt.serving.rows import MOST_ROWS
from tinygpt.sweeps.folder import SweepFolder


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "outputs"
    for seed in range(2):
        make_run(folder / f"2026_r{seed}", seed=seed, rows=10)
    evaluated(folder / "2026_r0", 0.5)
    make_run(
        folder / "2026_named",
        config={"name": "<b>bold</b>", "tags": ["paper"], "notes": "with \x1b[31m"},
        started_at="2026-02-01T00:00:00+00:00",
    )
    make_run(folder / "2026_sweep/0", status="failed", error="loss is nan", bpb=None)
    make_run(folder / "2026_sweep/10", bpb=1.2)
    make_run(folder / "2026_sweep/9", status="paused", bpb=None)
    (folder / "2026_sweep/sweep.yaml").write_text(
        "settings: []\nswept: [optimizer.lr]\n"
        "sweep: {search: {name: grid}, stopping: {name: asha}, launcher: {name: local},"
        " objective: val/bpb}\n"
    )
    return folder


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any], outputs: Path) -> Iterator[Any]:
    with serve(outputs) as running:
        yield running


def test_commands_of_the_page_name_the_folders_that_are_served(serve, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serve(Path("outputs")) as running:
        assert running.get("/api/info").json["settings"] == {}
    with serve(Path("my runs"), cache_dir=Path("c")) as running:
        found = running.get("/api/info").json["settings"]
    assert found == {"output_dir": "'output_dir=my runs'", "cache_dir": "cache_dir=c"}


def test_the_list_has_every_run_newest_first_with_its_numbers(server):
    found = server.get("/api/runs").json
    assert found["total"] == 6
    assert found["runs"][0]["id"] == "2026_named"
    run = next(run for run in found["runs"] if run["id"] == "2026_r1")
    assert run["metric"] == {"name": "val/bpb", "value": 1.5, "best": 0.3}
    assert (run["status"], run["progress"], run["tokens"]) == ("finished", 1.0, 4000)
    assert len(run["sparkline"]) == 10
    assert run["can"] == {"stop": False, "resume": False, "generate": False}


def test_a_sweep_lists_its_runs_its_rungs_and_why_some_failed(server):
    (sweep,) = server.get("/api/runs").json["sweeps"]
    assert sweep["runs"] == ["2026_sweep/0", "2026_sweep/9", "2026_sweep/10"]
    assert sweep["counts"] == {"failed": 1, "paused": 1, "finished": 1}
    assert sweep["failures"] == [{"run": "2026_sweep/0", "reason": "loss is nan"}]
    assert [rung["step"] for rung in sweep["rungs"]] == [4, 13]
    assert sweep["best"] == "2026_sweep/10"
    assert sweep["resume_command"].endswith("2026_sweep")
    assert sweep["can"] == {"stop": False, "resume": True, "retry_failed": False}


def test_a_sweep_is_stopped_as_by_ctrl_c_once_and_one_without_a_process_says_so(serve, tmp_path):
    made = make_run(tmp_path / "x_sweep/0", status="queued", bpb=None)
    (made.parent / "sweep.yaml").write_text(
        "settings: []\nswept: [seed]\nsweep: {search: {name: grid}, stopping: {name: none},"
        " launcher: {name: local}, objective: val/bpb}\n"
    )
    ask, received = {"id": "x_sweep", "confirm": True}, []
    with serve(tmp_path) as running:
        answer = running.post("/api/stop", {"id": "x_sweep"})
        assert (answer.status, "to stop x_sweep" in answer.message) == (400, True)
        answer = running.post("/api/stop", ask)
        assert (answer.status, "x_sweep is not running" in answer.message) == (409, True)
        before = signal.signal(signal.SIGTERM, lambda *_: received.append("SIGTERM"))
        try:
            folder = SweepFolder(made.parent)  # held by this process from now on
            assert running.post("/api/stop", ask).json["pid"] == os.getpid()
            time.sleep(0.01)
            answer = running.post("/api/stop", ask)  # would kill the runs while they save
            assert (answer.status, "told to stop" in answer.message) == (409, True)
        finally:
            signal.signal(signal.SIGTERM, before)
            folder.close()
        assert received == ["SIGTERM"]
        found = running.get("/api/runs").json["sweeps"][0]["can"]
        assert found == {"stop": False, "resume": True, "retry_failed": False}


def test_a_sweep_with_failed_runs_offers_to_try_them_again(serve, tmp_path):
    make_run(tmp_path / "x_sweep/0", status="failed", bpb=None)
    make_run(tmp_path / "x_sweep/1")
    (tmp_path / "x_sweep/sweep.yaml").write_text(
        "settings: []\nsweep: {search: {name: grid}, stopping: {name: none},"
        " launcher: {name: local}, objective: val/bpb}\n"
    )
    with serve(tmp_path) as running:
        (sweep,) = running.get("/api/runs").json["sweeps"]
    assert sweep["status"] == "finished"
    assert sweep["can"] == {"stop": False, "resume": True, "retry_failed": True}
    assert sweep["resume_command"].endswith("x_sweep retry_failed=true")


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("seed=1", ["2026_r1"]),
        ("tags=paper", ["2026_named"]),
        ("BOLD", ["2026_named"]),
        ("status=unfinished", ["2026_sweep/9"]),
        ("val/bpb%3C1.4", ["2026_sweep/10"]),
        ("nothing-like-it", []),
    ],
)
def test_a_filter_chooses_runs_as_the_command_does(server, words, ids):
    assert [run["id"] for run in server.get(f"/api/runs?q={words}").json["runs"]] == ids


def test_a_filter_on_a_field_that_is_not_there_says_which_is_meant(server):
    answer = server.get("/api/runs?q=optimizer.lrr=1")
    assert answer.status == 400
    assert "did you mean optimizer.lr?" in answer.message


def test_one_run_has_its_config_log_samples_and_evaluations(server, outputs):
    run = outputs / "2026_r0"
    (run / "train.log").write_text("first\nsecond <script>\n")
    (run / "samples").mkdir()
    (run / "samples/step-00000005.txt").write_text("Once <b>upon</b>")
    (run / "config.yaml").write_text("seed: 0\n")
    found = server.get("/api/run?id=2026_r0").json
    assert found["log_tail"] == ["first", "second <script>"]
    assert found["samples"] == [{"step": 5, "text": "Once <b>upon</b>"}]
    assert found["config"]["optimizer.lr"] == 0.001
    assert found["config_yaml"] == "seed: 0\n"
    assert found["evaluations"][0]["numbers"][0]["value"] == 0.5
    assert set(found["columns"]) == {"step", "tokens", "elapsed_s", "train/loss", "val/bpb"}


def test_rows_after_a_place_are_those_that_were_added(server, outputs):
    path = make_run(outputs / "2026_grows", rows=3) / "metrics.jsonl"
    first = server.get("/api/rows?id=2026_grows").json
    assert [row["step"] for row in first["rows"]] == [1, 2, 3]
    with path.open("a") as file:
        file.write('{"step": 4, "train/loss": null}\n{"step": 5')
    more = server.get(f"/api/rows?id=2026_grows&after={first['next']}").json
    assert more["rows"] == [{"step": 4, "train/loss": None}]
    assert not more["reset"]
    path.write_text('{"step": 1}\n')  # as a run that goes on from an earlier checkpoint
    again = server.get(f"/api/rows?id=2026_grows&after={more['next']}").json
    assert (again["reset"], again["rows"]) == (True, [{"step": 1}])


def test_long_runs_are_thinned_and_keep_evaluations_peaks_and_both_ends(server, outputs):
    path = make_run(outputs / "2026_long") / "metrics.jsonl"
    rows = [{"step": step, "train/loss": 5 - step / 1e4} for step in range(1, 20_001)]
    rows[12_344]["train/loss"] = 99.0
    for row in rows[499::500]:
        row["val/bpb"] = 1.0
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = server.get("/api/rows?id=2026_long").json
    steps = [row["step"] for row in found["rows"]]
    assert MOST_ROWS / 2 < len(steps) <= MOST_ROWS
    assert steps == sorted(set(steps))
    assert (found["thinned"], found["n_rows"]) == (True, 20_000)
    assert {1, 20_000, 12_345, *range(500, 20_001, 500)} <= set(steps)
    shown = server.get("/api/run?id=2026_long").json["summary"]  # from samples of the file
    assert 50 < len(shown["sparkline"]) <= 60
    assert shown["sparkline"][::30] == pytest.approx([5.0, 4.0], abs=0.05)
    assert (shown["loss"], shown["step"]) == (3.0, 20_000)


def test_curves_come_thinned_as_lines_and_only_what_is_added_is_read_again(server, outputs):
    path = make_run(outputs / "2026_curve", rows=0) / "metrics.jsonl"
    row = '{{"step": {0}, "elapsed_s": {0}, "train/loss": {1}}}\n'.format
    path.write_text("".join(row(step, 10_000 + step) for step in range(1000, 6000)))

    def curve():
        answer = server.get("/api/curves?id=2026_curve&id=2026_sweep&metric=train/loss")
        assert answer.status == 200
        curves = {
            (one := json.loads(line))["id"]: one["curve"] for line in answer.body.splitlines()
        }
        assert next(iter(curves)) == "2026_curve"
        assert curves["2026_sweep/0"]["value"] == [3.0, 1.5, 1.0, 0.75, 0.6]
        return curves["2026_curve"]

    first = curve()
    assert len(first["step"]) <= POINTS
    assert (first["step"][0], first["step"][-1]) == (1000, 5999)
    with path.open("r+") as file:  # as if the beginning was lost: it is not read again
        file.write(row(1000, 99_999))
        file.seek(0, 2)
        file.write(row(6000, 50_000))
    second = curve()
    assert max(second["value"]) == second["value"][-1] == 50_000
    with path.open("r+") as file:  # an edit that leaves the size as it was
        file.write(row(1000, 99_999))
    os.utime(path, (1, 1))
    assert curve()["value"][0] == 99_999
    answer = server.get("/api/curves?id=2026_curve&metric=loss")
    assert (answer.status, "train/loss" in answer.message) == (400, True)


def test_a_comparison_leaves_the_curves_to_another_request_and_says_which_there_are(server):
    found = server.get("/api/compare?id=2026_sweep").json
    assert [run["curves"] for run in found["runs"]] == [{}, {}, {}]
    assert found["metrics"] == ["val/bpb", "train/loss"]


def test_the_answers_that_are_kept_are_those_asked_for_last(tmp_path):
    read = []

    class Reader:
        def read(self, path):
            read.append(path.name)
            return True

    recent = Recent(2, lambda key: Reader(), lambda reader: len(read))
    for name in "abc":
        (tmp_path / name).write_text(name)
    for name in "abacabb":
        recent.get(tmp_path / name)
    assert "".join(read) == "abcb"


def test_new_rows_logs_samples_and_states_are_told_as_they_come(server, outputs):
    run = make_run(outputs / "2026_live", rows=2, bpb=None, status="paused")
    (run / "samples").mkdir()
    (run / "train.log").write_text("old\n")
    place = server.get("/api/rows?id=2026_live").json["next"]
    with server.stream("GET", f"/api/events?id=2026_live&after={place}") as events:
        assert next(events)[0] == "runs"
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 3, "train/loss": 0.5}\n')
        with (run / "train.log").open("a") as file:
            file.write("new\n")
        (run / "samples/step-3.txt").write_text("text")
        seen, losses = dict[str, Any](), {}
        for name, data in events:
            seen[name] = data
            losses |= {shown["id"]: shown["loss"] for shown in data.get("runs", ())}
            if seen.keys() >= {"rows", "log", "sample"} and losses.get("2026_live") == 0.5:
                break
    assert seen["rows"]["rows"] == [{"step": 3, "train/loss": 0.5}]
    assert watching.TICK_S <= 1  # a new row is looked for within a second
    assert seen["log"]["lines"] == ["new"]
    assert seen["sample"] == {"id": "2026_live", "step": 3, "text": "text"}
    end = time.monotonic() + 5
    while server.services.watcher.n_clients and time.monotonic() < end:
        time.sleep(0.05)
    assert server.services.watcher.n_clients == 0


def test_more_pages_than_the_server_tells_are_refused(server, monkeypatch):
    monkeypatch.setattr(watching, "MOST_CLIENTS", 2)
    with server.stream("GET", "/api/events"), server.stream("GET", "/api/events"):
        answer = server.get("/api/events")
    assert (answer.status, "2 pages watch already" in answer.message) == (503, True)


def test_what_is_not_a_run_is_not_found(server, outputs, tmp_path):
    secret = tmp_path / "secret"
    make_run(secret)
    (outputs / "link").symlink_to(secret)
    for run_id in ("..", "../secret", "/etc", "a/../../b", "", "link", "2026_r0/%00", "%2e%2e"):
        for door in ("run", "rows", "events", "compare", "curves"):
            answer = server.get(f"/api/{door}?id={run_id}")
            assert answer.status == 404, (door, run_id, answer.body)
    assert "link" not in [run["id"] for run in server.get("/api/runs").json["runs"]]


def test_files_that_lead_out_of_the_folder_are_not_read(server, outputs, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text('{"step": 7, "train/loss": 1}\nsecret\n')
    run = make_run(outputs / "2026_leads", bpb=None)
    (run / "samples").mkdir()
    for name in ("train.log", "config.yaml", "overrides.yaml", "samples/step-1.txt"):
        (run / name).symlink_to(secret)
    assert server.get("/api/compare?id=2026_leads&id=2026_r0").status == 403
    text = server.get("/api/run?id=2026_leads").body.decode()
    assert "secret" not in text.replace("secret.txt", "")
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(secret)
    assert server.get("/api/rows?id=2026_leads").json["rows"] == []
    curves = server.get("/api/curves?id=2026_leads&metric=train/loss").json
    assert curves == {"id": "2026_leads", "curve": None}
    (run / "run.json").unlink()
    os.mkfifo(run / "run.json")
    time.sleep(1.1)
    (shown,) = [r for r in server.get("/api/runs").json["runs"] if r["id"] == "2026_leads"]
    assert shown["status"] == "damaged"


def test_stopping_needs_a_yes_and_a_process_of_this_run(server, outputs):
    make_run(outputs / "2026_ended")
    asked = server.post("/api/stop", {"id": "2026_ended"})
    assert (asked.status, asked.json["error"]["code"]) == (400, "confirm")
    answer = server.post("/api/stop", {"id": "2026_ended", "confirm": True})
    assert (answer.status, "is not running" in answer.message) == (409, True)
    answer = server.post("/api/resume", {"id": "2026_ended", "confirm": True})
    assert (answer.status, "cannot be resumed" in answer.message) == (409, True)


@pytest.fixture
def queued(tmp_path, tiny_in):
    """A run that has not begun, and would take long."""
    settings = [*tiny_in(tmp_path), "trainer.max_steps=1000000"]
    (typed,) = overrides.jobs(settings, multirun=False)
    path = tmp_path / "outputs" / "2026_queued"
    path.mkdir(parents=True)
    cfg = starting.compose_run(typed)
    freeze(path, cfg=cfg, overrides=typed, run_id=path.name, group=None)
    return path


@pytest.mark.slow
def test_a_run_is_resumed_in_a_process_of_its_own_and_stopped(serve, queued):
    with serve(queued.parent) as running:
        ask = {"id": queued.name, "confirm": True}
        resumed = running.post("/api/resume", ask)
        assert (resumed.status, resumed.json["id"]) == (200, queued.name)
        assert running.post("/api/resume", ask).status == 409
        assert running.get(f"/api/run?id={queued.name}").json["summary"]["can"]["stop"]
        end = time.monotonic() + 30
        while not running.get(f"/api/rows?id={queued.name}").json["n_rows"]:
            assert time.monotonic() < end
            time.sleep(0.1)
        stopped = running.post("/api/stop", ask)
        assert stopped.json["pid"] == resumed.json["pid"]
        while time.monotonic() < end:
            found = running.get(f"/api/run?id={queued.name}").json["summary"]
            if found["status"] == "interrupted":
                break
            time.sleep(0.1)
        assert (found["status"], found["can"]["resume"]) == ("interrupted", True)
        assert running.post("/api/stop", ask).status == 409


@pytest.mark.slow
def test_a_run_that_cannot_go_on_says_what_the_command_says(serve, queued):
    (queued / "config.yaml").write_text("seed: 0\n")
    with serve(queued.parent) as running:
        answer = running.post("/api/resume", {"id": queued.name, "confirm": True})
    assert answer.status == 400
    assert "config.yaml is damaged" in answer.message
