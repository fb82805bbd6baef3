"""A small hub on this machine, over real HTTP, with the faults that a real one may have.

The library reads its settings when it is imported, so a user of it is a process of its own.
"""

import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests import processes

ROOT = Path(__file__).parents[3]
COMMIT = "c0ffee" * 6 + "cafe"
NOWHERE = "http://127.0.0.1:9"  # nothing listens there
WARM_UP = {"repo": "some one"}  # imports the library and reads nothing
# Says what a user would get for each case; all of them are opened before the first is read.
CLIENT = """
import json, sys, time
from tinygpt.components.datasets.hub import client
from tinygpt.components.datasets.hub.config import HubConfig
from tinygpt.errors import UserError
client.WAITS_S = (0.01,) * len(client.WAITS_S)
cases = json.loads(sys.argv[1])
sources = [HubConfig(**case).open() for case in cases]
identities = [source.identity for source in sources]
assert "datasets" not in sys.modules, "the identity must be quick"
answers = []
for source, identity in zip(sources, identities):
    started = time.monotonic()
    answer = {"identity": identity}
    try:
        for split in ("train", "validation"):
            answer[split] = list(source.documents(split))
        answer["n_documents"] = [source.n_documents(s) for s in ("train", "validation")]
        answer["provenance"] = source.provenance()
        answer["estimate"] = source.utf8_bytes_estimate()
    except UserError as error:
        answer["error"] = str(error)
    answer["dropped"] = {split: source.dropped(split) for split in ("train", "validation")}
    answer["elapsed_s"] = time.monotonic() - started
    answers.append(answer)
print(json.dumps(answers))
"""


class HubHandler(BaseHTTPRequestHandler):
    """The part of the hub's HTTP interface that loading a dataset uses."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms between its head and its body
    server: "Hub"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def reply(
        self, status: int, body: bytes = b"", length: int | None = None, **headers: str
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.calls.append(f"{self.command} {path}")
        call = re.fullmatch(
            r"(?P<cdn>/cdn)?(?P<api>/api)?/datasets/(?P<repo>[^/]+/[^/]+)"
            r"/(?P<what>revision|tree|resolve)/(?P<revision>[^/]+)/?(?P<name>.*)",
            path,
        )
        if not call:
            self.reply(404)
        elif call["repo"] == "someone/down":
            self.reply(500)
        elif call["repo"] == "someone/gated" and not call["api"]:
            self.reply(403, X_Error_Code="GatedRepo")
        elif call["repo"] not in self.server.repos:
            self.reply(401, X_Error_Code="RepoNotFound")
        elif call["revision"] not in ("main", "v1.0", COMMIT):
            self.reply(404, X_Error_Code="RevisionNotFound")
        elif call["what"] == "revision":
            self.reply(200, json.dumps({"id": call["repo"], "sha": COMMIT}).encode())
        elif call["what"] == "tree":
            self.tree(self.server.repos[call["repo"]], call["name"])
        elif call["name"] not in self.server.repos[call["repo"]]:
            self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            self.content(call["repo"], call["name"], is_cdn=bool(call["cdn"]))

    def content(self, repo: str, name: str, *, is_cdn: bool) -> None:
        """A file, or the part of it that is asked for; a large one stands on another server."""
        body = self.server.repos[repo][name]
        about = {"X_Repo_Commit": COMMIT, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
        if name.endswith(".parquet") and not is_cdn:
            location = f"{self.server.url}/cdn{self.path}"
            linked = {"X_Linked_Size": str(len(body)), "X_Linked_ETag": about["ETag"]}
            self.reply(302, Location=location, **about, **linked)
            return
        whole = body
        status, asked = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            stop = min(len(body), int(asked[2]) + 1 if asked[2] else len(body))
            about["Content_Range"] = f"bytes {asked[1]}-{stop - 1}/{len(body)}"
            status, body = 206, body[int(asked[1]) : stop]
        faults = self.server.faults.get(repo, repeat(None))
        match next(faults) if self.command == "GET" else None:
            case "cut":
                self.reply(status, body[: len(body) // 2], length=len(body), **about)
                self.close_connection = True
            case "whole":
                self.reply(200, whole)
            case int(refused):
                self.reply(refused)
            case _:
                self.reply(status, body, **about)
                self.server.served[repo] += len(body) if self.command == "GET" else 0

    def tree(self, files: Mapping[str, bytes], folder: str) -> None:
        entries: list[dict[str, Any]] = [
            {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
            for name, body in files.items()
            if name.rpartition("/")[0] == folder
        ]
        if folder and not entries:
            self.reply(404, X_Error_Code="EntryNotFound")
            return
        if not folder:
            folders = {name.partition("/")[0] for name in files if "/" in name}
            entries += [{"type": "directory", "path": f, "size": 0, "oid": ""} for f in folders]
        self.reply(200, json.dumps(entries).encode())


class Hub(ThreadingHTTPServer):
    """The server, and the calls that it got."""

    commit = COMMIT

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repos: dict[str, Mapping[str, bytes]] = {}
        self.calls: list[str] = []
        self.served: Counter[str] = Counter()  # bytes of the contents of each repo's files
        # what becomes of a repo's next requests for contents: a status, "cut" in the middle,
        # "whole" (the range is ignored), or None
        self.faults: dict[str, Iterator[int | str | None]] = {}
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@dataclass
class Machine:
    """A user's machine: a cache of its own, with or without the hub in reach."""

    home: Path
    hub: Hub

    def another(self, home: Path) -> "Machine":
        """A machine that has read nothing."""
        return Machine(home, self.hub)

    def load(
        self, *cases: dict[str, Any], network: bool = True, offline: bool = False
    ) -> list[dict[str, Any]]:
        """What a user gets for each case: documents and provenance, or an error."""
        environment = {
            **{name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"},
            "HF_ENDPOINT": self.hub.url if network else NOWHERE,
            "HF_HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            **({"HF_HUB_OFFLINE": "1"} if offline else {}),
        }
        process = processes.run(
            [sys.executable, "-c", CLIENT, json.dumps([WARM_UP, *cases])],
            env=environment,
            cwd=self.home,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        assert "Generating" not in process.stderr, "a progress bar without a terminal"
        answers: list[dict[str, Any]] = json.loads(process.stdout)[1:]
        return answers


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A hub without repos."""
    with Hub() as server:
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def machine(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine that has read nothing."""
    return Machine(tmp_path_factory.mktemp("home"), hub)
