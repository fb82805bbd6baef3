"""The hub over real HTTP, from a server of our own: what is read, kept, refused and said.

The library reads its settings when it is imported, so each setting has a process of its own.
"""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pytest
from pyarrow import parquet

from tinygpt.datasets.hub import HubConfig
from tinygpt.errors import UserError

ROOT = Path(__file__).parents[2]
COMMIT = "c0ffee" * 6 + "cafe"
TRAIN = [f"Story {i}: once upon a time." for i in range(300)]
VALIDATION = [f"Unseen story {i}." for i in range(20)]
NOWHERE = "http://127.0.0.1:9"  # nothing listens there
WARM_UP = {"repo": "some one"}  # imports the library and reads nothing
# Says what a user would get for each case; all of them are opened before the first is read.
CLIENT = """
import json, sys, time
from tinygpt.datasets.hub import HubConfig
from tinygpt.errors import UserError
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
    except UserError as error:
        answer["error"] = str(error)
    answer["elapsed_s"] = time.monotonic() - started
    answers.append(answer)
print(json.dumps(answers))
"""


def table(texts: list[str]) -> bytes:
    """A parquet file with one story a row, and rows that hold none."""
    rows = [*texts, "", " \n", None]
    file = io.BytesIO()
    parquet.write_table(pa.table({"text": rows, "id": list(range(len(rows)))}), file)
    return file.getvalue()


def card(*subsets: str) -> bytes:
    """The README of a repo with subsets of one file each."""
    configs = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/train.parquet"}]}
        for name in subsets
    ]
    return f"---\nconfigs: {json.dumps(configs)}\n---\n".encode()


STORIES = {
    "data/train-00000-of-00001.parquet": table(TRAIN),
    "data/validation-00000-of-00001.parquet": table(VALIDATION),
}
REPOS: dict[str, dict[str, bytes]] = {
    "someone/stories": STORIES,
    "someone/subsets": {
        "README.md": card("en", "de"),
        "en/train.parquet": table(TRAIN),
        "de/train.parquet": table(["Anfang.", "Ende."]),
    },
    "someone/no_data": {"README.md": b"---\n---\n"},
    "someone/script": {**STORIES, "script.py": b"raise SystemExit"},
    "someone/corrupt": {"data/train.parquet": b"PAR1 and then nonsense"},
    "someone/large": STORIES,
    "someone/gated": STORIES,
    "someone/down": STORIES,
}


class HubHandler(BaseHTTPRequestHandler):
    """The part of the hub's HTTP interface that loading a dataset uses."""

    protocol_version = "HTTP/1.1"
    server: "Hub"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.calls.append(f"{self.command} {path}")
        call = re.fullmatch(
            r"(?P<api>/api)?/datasets/(?P<repo>[^/]+/[^/]+)"
            r"/(?P<what>revision|tree|resolve)/(?P<revision>[^/]+)/?(?P<name>.*)",
            path,
        )
        if not call:
            self.reply(404)
        elif call["repo"] == "someone/down":
            self.reply(500)
        elif call["repo"] == "someone/gated" and not call["api"]:
            self.reply(403, X_Error_Code="GatedRepo")
        elif call["repo"] not in REPOS:
            self.reply(401, X_Error_Code="RepoNotFound")
        elif call["revision"] not in ("main", "v1.0", COMMIT):
            self.reply(404, X_Error_Code="RevisionNotFound")
        elif call["what"] == "revision":
            self.reply(200, json.dumps({"id": call["repo"], "sha": COMMIT}).encode())
        elif call["what"] == "tree":
            self.tree(REPOS[call["repo"]], call["name"])
        elif call["name"] not in REPOS[call["repo"]]:
            self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            body = REPOS[call["repo"]][call["name"]]
            self.reply(200, body, X_Repo_Commit=COMMIT, ETag=f'"{hashlib.sha1(body).hexdigest()}"')

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

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.calls: list[str] = []
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@dataclass
class Machine:
    """A user's machine: a cache of its own, with or without the hub in reach."""

    home: Path
    hub: Hub

    def load(
        self, *cases: dict[str, Any], endpoint: str | None = None, offline: bool = False
    ) -> list[dict[str, Any]]:
        """What a user gets for each case: documents and provenance, or an error."""
        environment = {
            **{name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"},
            "HF_ENDPOINT": endpoint or self.hub.url,
            "HF_HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            **({"HF_HUB_OFFLINE": "1"} if offline else {}),
        }
        process = subprocess.run(
            [sys.executable, "-c", CLIENT, json.dumps([WARM_UP, *cases])],
            env=environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        assert "Generating" not in process.stderr, "a progress bar without a terminal"
        answers: list[dict[str, Any]] = json.loads(process.stdout)[1:]
        return answers


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def machine(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("home"), hub)


READ: dict[str, dict[str, Any]] = {
    "plain": {"repo": "someone/stories"},
    "fraction": {"repo": "someone/stories", "fraction": 0.1},
    "held out": {"repo": "someone/stories", "validation_split": None, "validation_fraction": 0.2},
    "subset": {"repo": "someone/subsets", "subset": "en"},
    "tag": {"repo": "someone/stories", "revision": "v1.0"},
}


@pytest.fixture(scope="module")
def read(machine: Machine) -> dict[str, dict[str, Any]]:
    """What is read while the hub is in reach; afterwards the machine has it in its cache."""
    answers = machine.load(*READ.values())
    others = [call for call in machine.hub.calls if "/datasets/someone/" not in call]
    assert not others, "the hub is told more than it must know"
    return dict(zip(READ, answers, strict=True))


def test_the_rows_that_hold_text_are_the_documents(read: dict[str, dict[str, Any]]) -> None:
    assert read["plain"]["train"] == TRAIN
    assert read["plain"]["validation"] == VALIDATION
    assert read["plain"]["n_documents"] == [300, 20]


def test_fraction_takes_the_first_rows_of_train_only(read: dict[str, dict[str, Any]]) -> None:
    assert read["fraction"]["train"] == TRAIN[:30]
    assert read["fraction"]["validation"] == VALIDATION
    assert read["fraction"]["n_documents"] == [30, 20]


@pytest.mark.parametrize(("case", "fraction"), [("held out", 0.2), ("subset", 0.05)])
def test_without_a_validation_split_a_part_of_train_is_held_out(
    read: dict[str, dict[str, Any]], case: str, fraction: float
) -> None:
    train, validation = read[case]["train"], read[case]["validation"]
    assert sorted(train + validation) == sorted(TRAIN)
    assert len(validation) == pytest.approx(300 * fraction, abs=20)
    assert read[case]["n_documents"] == [None, None]


def test_the_commit_is_recorded_and_not_part_of_what_is_asked(
    read: dict[str, dict[str, Any]],
) -> None:
    for answer in read.values():
        assert answer["provenance"]["commit"] == COMMIT
        assert COMMIT not in json.dumps(answer["identity"])
    assert read["plain"]["provenance"]["rows"] == {"train": 303, "validation": 23}


def test_what_was_read_once_is_read_again_without_network(
    machine: Machine, read: dict[str, dict[str, Any]]
) -> None:
    plain, fraction, tag, commit = machine.load(
        READ["plain"],
        READ["fraction"],
        READ["tag"],
        {"repo": "someone/stories", "revision": COMMIT},
        endpoint=NOWHERE,
    )
    assert plain["train"] == commit["train"] == TRAIN
    assert plain["provenance"] == read["plain"]["provenance"]
    assert fraction["train"] == TRAIN[:30]
    assert max(plain["elapsed_s"], commit["elapsed_s"]) < 2
    assert re.match(f"dataset.revision=v1.0 cannot be looked up.*\n.*={COMMIT}", tag["error"])


def test_hf_hub_offline_asks_nobody(machine: Machine, read: dict[str, dict[str, Any]]) -> None:
    calls = len(machine.hub.calls)
    cached, missing = machine.load(READ["plain"], {"repo": "someone/corrupt"}, offline=True)
    assert cached["train"] == read["plain"]["train"]
    assert "cannot be had from the hub: HF_HUB_OFFLINE is set" in missing["error"]
    assert len(machine.hub.calls) == calls


def test_without_network_the_error_comes_at_once_and_says_what_to_type(
    hub: Hub, tmp_path: Path
) -> None:
    [answer] = Machine(tmp_path, hub).load(READ["plain"], endpoint=NOWHERE)
    assert answer["elapsed_s"] < 2  # the library alone takes 23 s
    assert "dataset.repo=someone/stories is not in the local cache" in answer["error"]
    assert "refused" in answer["error"]
    assert "dataset.path=FOLDER" in answer["error"]
    assert "dataset=storyworld" in answer["error"]


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"repo": "someone/storys"}, "dataset.repo=someone/storys is not on the hub, or is private"),
    ({"repo": "some one"}, "dataset.repo=some one is no name; type dataset.repo=OWNER/NAME"),
    ({"repo": "someone/gated"}, "dataset.repo=someone/gated.* gated .*hf auth login"),
    ({"repo": "someone/no_data"}, "dataset.repo=someone/no_data has no data files"),
    ({"repo": "someone/script"}, "dataset.repo=someone/script.*scripts are no longer supported"),
    ({"repo": "someone/corrupt"}, "dataset.repo=someone/corrupt could not be loaded: Parquet"),
    ({"repo": "someone/down"}, "dataset.repo=someone/down .* from the hub: Server error '500"),
    ({"repo": "someone/stories", "revision": "v2"}, "dataset.revision=v2 is no branch, tag or"),
    ({"repo": "someone/subsets"}, "dataset.repo=someone/subsets has subsets; .*\n  .*: en, de"),
    (
        {"repo": "someone/subsets", "subset": "dee"},
        "dataset.subset=dee .*; did you mean dataset.subset=de.*\n  choices: de, en",
    ),
    (
        {"repo": "someone/large", "train_split": "trian"},
        "dataset.train_split=trian .*\n  choices: train, validation",
    ),
    (
        {"repo": "someone/stories", "validation_split": "test"},
        "dataset.validation_split=test .*\n  choices: train, validation",
    ),
    (
        {"repo": "someone/stories", "validation_fraction": 0.2},
        "dataset.validation_fraction=0.2 would be ignored.*dataset.validation_split=null",
    ),
    (
        {"repo": "someone/stories", "text_column": "story"},
        r"dataset.text_column=story is not a column\n  columns of .*: text \(string\), id \(int64",
    ),
    ({"repo": "someone/stories", "text_column": "id"}, "text_column=id holds int64, not text"),
    (
        {"repo": "someone/subsets", "subset": "de"},
        "dataset.validation_fraction=0.05 leaves no document for validation",
    ),
]


def test_every_mistake_is_named_with_its_way_out(machine: Machine) -> None:
    answers = machine.load(*(case for case, _ in MISTAKES))
    for answer, (case, message) in zip(answers, MISTAKES, strict=True):
        assert re.search(message, answer.get("error", "")), (case, answer.get("error"))
        assert answer["elapsed_s"] < 3
    downloads = [call for call in machine.hub.calls if call.endswith(".parquet") and "GET" in call]
    assert not any("someone/large" in call for call in downloads), "a typo costs no download"


# Without any hub


def test_a_config_that_cannot_work_is_refused() -> None:
    for fields, message in (
        ({}, "dataset.repo is missing; type dataset.repo=OWNER/NAME, or dataset.path=FOLDER"),
        ({"path": "x", "revision": "v1"}, "dataset.revision=v1 would be ignored"),
        ({"repo": "a/b", "fraction": 1.1}, r"dataset.fraction=1.1 must be at most 1"),
        ({"repo": "a/b", "validation_split": "train"}, "dataset.validation_split=train is the tr"),
    ):
        with pytest.raises(UserError, match=message):
            HubConfig(**fields)


@pytest.mark.parametrize(
    "change",
    [
        {"repo": "someone/else"},
        {"revision": "v1.0"},
        {"subset": "en"},
        {"text_column": "story"},
        {"train_split": "all"},
        {"validation_split": "test"},
        {"fraction": 0.5},
        {"validation_fraction": 0.2},
    ],
)
def test_every_field_that_changes_the_documents_changes_the_identity(
    change: dict[str, Any],
) -> None:
    plain: dict[str, Any] = {"repo": "someone/stories"}
    changed = HubConfig(**plain | change).open().identity
    assert json.dumps(changed) != json.dumps(HubConfig(**plain).open().identity)


def test_a_folder_typed_as_a_repo_is_pointed_to_the_right_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "someone/stories").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"type dataset\.path=someone/stories"):
        HubConfig(repo="someone/stories").open()
