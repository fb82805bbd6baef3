"""What the server refuses, and what it bounds."""

import contextlib
import http.client
import platform
import re
import shutil
import socket
import time

import pytest

from tests.runs_on_disk import make_run
from tinygpt.serving import guard, server


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded") / "outputs"
    make_run(folder / "2026_run", config={"name": "<script>alert(1)</script>"})
    return folder


@pytest.fixture(scope="module")
def open_server(serve, outputs):
    with serve(outputs) as running:
        yield running


@pytest.fixture(scope="module")
def closed_server(serve, outputs):
    with serve(outputs, token="secret-token") as running:
        yield running


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example:80", "10.0.0.7", "", "[::ffff", "localhost.evil"],
)
def test_a_host_that_is_not_this_machine_is_refused(open_server, host):
    answer = open_server.get("/api/runs", host=host)
    assert answer.status in (400, 403)
    assert b"2026_run" not in answer.body


@pytest.mark.parametrize("host", ["localhost:9", "127.0.0.1", "[::1]:8321", "LOCALHOST"])
def test_names_of_this_machine_are_taken_with_any_port(open_server, host):
    assert open_server.get("/api/info", host=host).status == 200


def test_pages_of_other_sites_cannot_use_it(open_server):
    mine = f"127.0.0.1:{open_server.port}"
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "cors"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
    ):
        assert open_server.get("/api/runs", **headers).status == 403, headers
        stop = open_server.post("/api/stop", {"id": "2026_run", "confirm": True}, **headers)
        assert stop.status == 403
    assert open_server.get("/api/runs", origin=f"http://{mine}", host=mine).status == 200
    form = {"content_type": "application/x-www-form-urlencoded"}
    assert open_server.post("/api/stop", b'{"id": "2026_run"}', **form).status == 415


def test_every_answer_forbids_scripts_and_frames_of_others(open_server):
    for path in ("/", "/api/runs", "/nothing", "/docs", "/page/main.js"):
        answer = open_server.get(path)
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert not re.search(
        r"<script(?![^>]*src=)|<style| style=| on\w+=", open_server.get("/").body.decode()
    )
    assert open_server.get("/api/runs").headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "path",
    [
        "/page/../../serve.py",
        "/page/%2e%2e/%2e%2e/serve.py",
        "/page//etc/passwd",
        "/page/..%2f..%2fserve.py",
        "/page-report/../report.py",
        "/v1/models/..%2f..%2fetc",
    ],
)
def test_paths_do_not_lead_out(open_server, path):
    answer = open_server.get(path)
    assert answer.status == 404
    assert b"import" not in answer.body
    assert b"root:" not in answer.body


def test_bodies_are_bounded_whether_they_say_their_size_or_not(open_server):
    with open_server.connection() as connection:
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("Content-Length", str(guard.MOST_BODY + 1))
        connection.endheaders()
        assert connection.getresponse().status == 413
    with open_server.connection() as connection:
        piece = b"x" * (1 << 16)
        count = guard.MOST_BODY // len(piece) + 1
        headers = {"content-type": "application/json"}
        connection.request(
            "POST", "/v1/completions", iter([piece] * count), headers, encode_chunked=True
        )
        assert connection.getresponse().status == 413
    nested = b'{"a": ' * 100_000
    assert open_server.post("/v1/completions", nested).status == 400
    assert open_server.post("/v1/completions", b"[1]").status == 400


def test_without_its_token_a_server_for_others_says_nothing(closed_server):
    for path in ("/", "/api/runs", "/v1/models", "/metrics", "/?token=wrong", "/?token="):
        answer = closed_server.get(path)
        assert answer.status == 401, path
        assert b"2026_run" not in answer.body
    assert closed_server.get("/api/runs", authorization="Bearer secret-token").status == 200
    assert closed_server.get("/api/runs", authorization="Bearer secret-toke").status == 401
    link = closed_server.get("/?token=secret-token&x=1")
    cookie = link.headers["set-cookie"]
    assert (link.status, link.headers["location"]) == (303, "/?x=1")
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert closed_server.get("/api/runs", cookie=cookie.partition(";")[0]).status == 200
    post = closed_server.send("POST", "/?token=secret-token")
    assert post.status == 401
    name = platform.node()
    assert closed_server.get("/api/info", host=f"{name}:1", authorization="Bearer x").status == 401
    assert closed_server.get("/api/info", host="evil.example").status == 403


def test_without_the_page_only_the_api_is_there(serve, outputs):
    with serve(outputs, ui=False) as running:
        for path in ("/", "/page/main.js", "/api/runs", "/api/events"):
            assert running.get(path).status == 404
        assert running.get("/v1/models").status == 200
        assert "/api/runs" not in running.get("/openapi.json").json["paths"]


def test_half_open_connections_keep_nobody_out_and_are_ended(serve, outputs, monkeypatch):
    monkeypatch.setattr(server, "REQUEST_S", 0.5)
    monkeypatch.setattr(server, "MOST_WAITING", 20)
    with serve(outputs) as running:
        waiting = []
        head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n"
        for begun in (b"", head, head + b"Content-Type: application/json\r\n\r\n{"):
            for _ in range(server.MOST_WAITING):
                made = socket.create_connection(("127.0.0.1", running.port))
                made.sendall(begun)
                waiting.append(made)
        assert running.get("/health").status == 200
        begun = time.monotonic()
        for made in waiting:
            made.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                assert made.recv(1) == b""
            made.close()
        assert time.monotonic() - begun < 5
        assert running.get("/health").status == 200


def test_a_reader_that_reads_nothing_is_cut_off(serve, outputs, monkeypatch):
    monkeypatch.setattr(server, "STALLED_S", 0.3)
    run = outputs / "2026_run"
    (run / "train.log").write_text("x" * 100_000 + "\n")
    (run / "config.yaml").write_text("y" * 900_000)
    with serve(outputs) as running:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.connect(("127.0.0.1", running.port))
        ask = b"GET /api/run?id=2026_run HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        made.sendall(ask * 20)
        time.sleep(0.8)
        received = 0
        made.settimeout(5)
        try:
            while data := made.recv(1 << 16):
                received += len(data)
        except ConnectionResetError:
            pass
        made.close()
        assert received < 20 * 900_000
        assert running.get("/health").status == 200


def test_a_server_that_ends_leaves_nothing(serve, outputs):
    before = sorted(path for path in outputs.rglob("*"))
    with serve(outputs) as running:
        assert running.get("/api/runs").status == 200
        port = running.port
    assert sorted(path for path in outputs.rglob("*")) == before
    with pytest.raises(OSError):  # noqa: PT011
        http.client.HTTPConnection("127.0.0.1", port, timeout=2).connect()


def test_malformed_requests_are_refused(open_server):
    for data in (b"\x00\xff\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 100_000):
        with socket.create_connection(("127.0.0.1", open_server.port)) as made:
            made.sendall(data)
            made.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert re.match(rb"HTTP/1.1 40[03] ", made.recv(100))
    assert open_server.get("/health").status == 200


def test_runs_that_are_deleted_or_damaged_while_it_serves(serve, tmp_path):
    outputs = tmp_path / "outputs"
    for number in range(3):
        make_run(outputs / f"2026_{number}")
    with serve(outputs) as running:
        assert running.get("/api/runs").json["total"] == 3
        shutil.rmtree(outputs / "2026_0")
        (outputs / "2026_1/run.json").write_text('{"status": "\\u0000<b>')
        (outputs / "2026_2/metrics.jsonl").write_bytes(
            b"\xff\x00not json\n{}\n[1]\n" + b"x" * 600_000
        )
        time.sleep(1.1)
        found = {run["id"]: run["status"] for run in running.get("/api/runs").json["runs"]}
        assert found == {"2026_1": "damaged", "2026_2": "finished"}
        assert running.get("/api/rows?id=2026_2").json["rows"] == []
        assert running.get("/api/run?id=2026_1").status == 200
