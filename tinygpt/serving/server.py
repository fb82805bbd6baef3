"""Listens, and bounds what connections cost: half-open ones, slow ones, and too many.

- A request must arrive whole within REQUEST_S seconds.  When MOST_WAITING connections have sent no
  whole request, a new one takes the place of the oldest, so that they keep nobody out.
- A client that reads nothing for STALLED_S seconds is cut off.
- At most MOST_REQUESTS requests are answered at a time; one more is refused by 503.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.h11_impl import H11Protocol

from tinygpt import signals
from tinygpt.errors import UserError

REQUEST_S = 20.0
HEAD_BYTES = 1 << 16
STALLED_S = 30.0
MOST_WAITING = 128
MOST_REQUESTS = 256
IDLE_S = 30  # that a connection is kept between two requests
LAST_WORDS_S = 2  # that answers may take to end when the server ends


class Connection(H11Protocol):
    """A connection of uvicorn with the bounds above."""

    waiting: dict["Connection", None]  # for a whole request; those of this server, oldest first

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._stalled: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        if len(self.waiting) >= MOST_WAITING:
            oldest = next(iter(self.waiting))
            oldest._has_request()
            oldest.transport.abort()
        self._wait()

    def _wait(self) -> None:
        self.waiting[self] = None
        self._deadline = self.loop.call_later(REQUEST_S, self.transport.abort)

    def _has_request(self) -> None:
        self.waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _is_waiting(self) -> bool:
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body

    def data_received(self, data: bytes) -> None:
        """Bytes of a request have come."""
        if self._deadline is None and self._is_waiting():
            self._wait()
        super().data_received(data)
        if not self._is_waiting() or self.transport.is_closing():
            self._has_request()

    def on_response_complete(self) -> None:
        """An answer has been written; the next request may be here already."""
        super().on_response_complete()
        if self.transport.is_closing() or not self._is_waiting():
            return
        if self.cycle.response_complete:
            self.waiting[self] = None  # until IDLE_S
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left, or was cut off."""
        self._has_request()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads more slowly than it is written to."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()


class _Bounded:
    """Refuses a request when MOST_REQUESTS are being answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.n = app, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.n >= MOST_REQUESTS:
            await service_unavailable(scope, receive, send)
            return
        self.n += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.n -= 1


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; raises UserError if the address is not to be had.  Port 0 is any."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise UserError(
            f"host={host} is no address of this machine; type host=127.0.0.1 for this machine "
            "only, or host=0.0.0.0 for all that can reach it"
        ) from None
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
        made.listen(512)
    except OSError as error:
        made.close()
        raise UserError(
            f"{host}:{port} cannot be listened on ({error.strerror}); type another, such as "
            f"port={port + 1 if port < 65535 else 8321}"
        ) from None
    return made


class Server(uvicorn.Server):
    """uvicorn's server; `on_start` is called when it listens, `on_end` when it is to end.

    `on_end` ends the streams, which would go on forever.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        on_start: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        connection = type("Connection", (Connection,), {"waiting": {}})
        super().__init__(
            uvicorn.Config(
                _Bounded(app),
                http=connection,
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=IDLE_S,
                timeout_graceful_shutdown=LAST_WORDS_S,
                h11_max_incomplete_event_size=HEAD_BYTES,
            )
        )
        self._on_start, self._on_end = on_start, on_end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self.started:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End; what is not answered within LAST_WORDS_S is cancelled, which is no fault."""
        await asyncio.to_thread(self._on_end)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)


def run_server(server: Server, listening: socket.socket) -> None:
    """Serve on a socket until a signal asks for the end."""

    def end(signal_name: str) -> None:
        server.should_exit = True

    with signals.handled(end), listening:
        server.run(sockets=[listening])
