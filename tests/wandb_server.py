"""A small W&B server that records the requests and files it receives."""

import gzip
import json
from http.server import BaseHTTPRequestHandler
from typing import Any


class Server(BaseHTTPRequestHandler):
    """Answers as W&B does; `received` has every request, `files` what was uploaded by name."""

    protocol_version = "HTTP/1.1"
    received: list[tuple[str, Any]]
    files: dict[str, bytes]

    def do_GET(self) -> None:
        self.reply({})

    def do_PUT(self) -> None:
        name = self.path.removeprefix("/storage/")
        self.files[name] = self.rfile.read(int(self.headers["Content-Length"]))
        self.reply({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        request = json.loads(body)
        self.received.append((self.path, request))
        query, variables = request.get("query", ""), request.get("variables", {})
        project = {"id": "p", "name": "tinygpt", "entity": {"id": "e", "name": "me"}}
        if "UpsertBucket" in query:
            name = variables["name"]
            bucket = {"id": "b", "name": name, "displayName": name, "project": project}
            self.reply({"data": {"upsertBucket": {"inserted": True, "bucket": bucket}}})
        elif "RunResumeStatus" in query:
            self.reply(
                {"data": {"model": {**project, "bucket": self.resumable(variables["name"])}}}
            )
        elif "query ArtifactType(" in query:  # a table is an artifact too
            self.reply({"data": {"project": {"artifact": None}}})
        elif "createArtifact(" in query:  # which has all of it already, so it is not uploaded
            sequence = {"id": "s", "latestArtifact": {"id": "a", "versionIndex": 0}}
            artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}
            self.reply({"data": {"createArtifact": {"artifact": artifact}}})
        elif "CreateRunFiles" in query:
            url = f"http://127.0.0.1:{self.server.server_address[1]}/storage/"
            files = [{"name": n, "uploadUrl": url + n} for n in variables["files"]]
            answer = {"runID": "b", "uploadHeaders": [], "files": files}
            self.reply({"data": {"createRunFiles": answer}})
        else:
            viewer = {
                "id": "v",
                "username": "me",
                "entity": "me",
                "flags": "{}",
                "teams": {"edges": []},
            }
            self.reply({"data": {"viewer": viewer} if "viewer" in query.lower() else {}})

    def resumable(self, run_id: str) -> dict[str, Any] | None:
        """What the server says of a run that it has rows of; None of one that it has not."""
        rows = history(self.received, run_id)
        if not rows:
            return None
        last = json.dumps(rows[-1])
        return {
            "id": "b",
            "name": run_id,
            "historyLineCount": len(rows),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([last]),
            "eventsTail": "[]",
            "summaryMetrics": last,
            "config": "{}",
            "displayName": run_id,
            "tags": [],
            "wandbConfig": '{"t": 1}',
        }

    def reply(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Keep the test's output clean."""


def streams(received: list[tuple[str, Any]], run_id: str) -> list[dict[str, Any]]:
    """What was streamed of a run, in order."""
    return [body for path, body in received if path.endswith(f"/{run_id}/file_stream")]


def history(received: list[tuple[str, Any]], run_id: str) -> list[dict[str, Any]]:
    """The rows of a run, as they arrived."""
    return [
        json.loads(line)
        for body in streams(received, run_id)
        for line in body.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
    ]


def summary(received: list[tuple[str, Any]], run_id: str) -> dict[str, Any]:
    """The last summary of a run."""
    found = [
        json.loads(line)
        for body in streams(received, run_id)
        for line in body.get("files", {}).get("wandb-summary.json", {}).get("content", [])
    ]
    return dict(found[-1])


def exit_codes(received: list[tuple[str, Any]], run_id: str) -> list[int]:
    """How a run ended, each time that it did."""
    return [body["exitcode"] for body in streams(received, run_id) if body.get("complete")]


def upserts(received: list[tuple[str, Any]], run_id: str) -> list[dict[str, Any]]:
    """What was said of a run itself: its config, group, tags and so on."""
    asked = [body for _, body in received if "UpsertBucket" in body.get("query", "")]
    return [body["variables"] for body in asked if body["variables"]["name"] == run_id]
