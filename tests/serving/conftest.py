"""A server in this process, and the smallest client."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tinygpt
from tinygpt import registry
from tinygpt.serving.app import create_app
from tinygpt.serving.counters import Counters
from tinygpt.serving.folders import Outputs
from tinygpt.serving.models import Models
from tinygpt.serving.server import Server, listen
from tinygpt.serving.services import Services
from tinygpt.serving.watching import Watcher


@dataclass
class Answer:
    """What the server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """The text of an error."""
        return str(self.json["error"]["message"])


@dataclass
class Serving:
    """A server that runs."""

    port: int
    services: Services

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, content: Any, **headers: str) -> Answer:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.send("POST", path, body, {"content_type": "application/json", **headers})

    def send(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        """A request; names of headers have _ for -."""
        with self.connection() as connection:
            named = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
            connection.request(method, path, body or None, named)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())

    @contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def stream(self, method: str, path: str, content: Any = None) -> Iterator[Iterator[Any]]:
        """The events of an answer: (name, data) of each."""
        with self.connection() as connection:
            body = None if content is None else json.dumps(content)
            connection.request(method, path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            assert response.status == 200, response.read()
            yield _events(response)


def _events(response: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in response:
        key, _, value = line.decode().rstrip("\n").partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            yield name, value if value == "[DONE]" else json.loads(value)
            name = ""


@contextmanager
def serving(
    output_dir: Path,
    *,
    token: str | None = None,
    ui: bool = True,
    cache_dir: Path = Path("~/.cache/tinygpt"),
) -> Iterator[Serving]:
    """A server on a free port, in a thread."""
    registry.import_all()
    outputs = Outputs(output_dir)
    counters = Counters()
    models = Models(counters, device="cpu")
    services = Services(outputs, Watcher(outputs), counters, models, cache_dir=str(cache_dir))
    socket = listen("127.0.0.1", 0)
    port = socket.getsockname()[1]
    begun = threading.Event()
    host = "127.0.0.1" if token is None else "0.0.0.0"
    app = create_app(services, ui=ui, host=host, port=port, token=token)
    server = Server(app, on_start=begun.set, on_end=services.close)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    assert begun.wait(10)
    try:
        yield Serving(port, services)
    finally:
        server.should_exit = True
        thread.join(10)
        socket.close()
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    return serving


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_in: Callable[[Path], list[str]]) -> Path:
    """A folder of runs with one that has learned for ten steps."""
    folder = tmp_path_factory.mktemp("trained")
    tinygpt.run([*tiny_in(folder), "tokenizer=byte"], quiet=True)
    return folder / "outputs"


@pytest.fixture(scope="session")
def model_server(trained: Path) -> Iterator[Serving]:
    """A server of that run."""
    with serving(trained) as running:
        yield running


@pytest.fixture(scope="session")
def model(trained: Path) -> str:
    """The id of that run."""
    (path,) = trained.iterdir()
    return path.name
