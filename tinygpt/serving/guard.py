"""What every request must pass, and the headers that every answer has.

- Host must name this machine: a page whose name was made to lead here (DNS rebinding) is refused.
- Origin, where a browser sends one, must be the server itself; so must Sec-Fetch-Site.
- With a token, the link that was printed sets a cookie; programs send `Authorization: Bearer`.
- A body has at most MOST_BODY bytes.
"""

import hmac
import ipaddress
import platform
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinygpt.serving.counters import Counters
from tinygpt.serving.errors import answer

MOST_BODY = 1 << 20  # bytes
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "content-security-policy": POLICY,
}


class Guard:
    """The outermost layer of the app."""

    def __init__(
        self, app: ASGIApp, *, host: str, token: str | None, port: int, counters: Counters
    ) -> None:
        self.app, self.token, self.counters = app, token, counters
        self.cookie = f"tinygpt_{port}"  # cookies are shared by the ports of a host
        self.names = {"localhost", host.lower()}
        if token is not None:  # others may reach it by the names of this machine
            self.names |= {platform.node().lower(), f"{platform.node().lower()}.local"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    own.setdefault(name, value)
                self.counters.answered(message["status"])
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        await self.app(scope, _bounded(receive), send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return answer(
                403, f"Host {_quoted(hosts)} is not this server; type its address as it was printed"
            )
        origin = headers.get("origin")
        if origin is not None and not _same_place(origin, hosts[0]):
            return answer(403, f"a page of {_quoted([origin])} may not use this server")
        site = headers.get("sec-fetch-site", "none")
        opens_page = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("none", "same-origin") and not (opens_page and _is_page(headers)):
            return answer(403, "a page of another site may not use this server")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 15 or int(length) > MOST_BODY:
            return answer(413, f"a request has at most {MOST_BODY:,} bytes")
        return self._without_token(scope, headers) if self.token is not None else None

    def _is_ours(self, host: str) -> bool:
        """Whether the Host header names this server: a name of it, or an address.

        An address cannot be made to lead elsewhere.  With no token only loopback ones count.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.token is not None or address.is_loopback

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        """None if the request has the token; else what to answer."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        typed = dict(query).get("token")
        if typed is not None and scope["method"] == "GET" and self._is_token(typed):
            rest = urlencode([(key, value) for key, value in query if key != "token"])
            path = "/" + scope["path"].lstrip("/")  # //evil.example would be another host
            there = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
            there.set_cookie(self.cookie, typed, httponly=True, samesite="lax", path="/")
            return there
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(value.strip()):
            return None
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except CookieError:  # a header that is no list of cookies
            cookies = SimpleCookie()
        if self.cookie in cookies and self._is_token(cookies[self.cookie].value):
            return None
        return answer(
            401,
            "this server wants its token: open the link that it printed, or send the header "
            "Authorization: Bearer TOKEN (api_key=TOKEN with OpenAI's client)",
            {"www-authenticate": "Bearer"},
        )

    def _is_token(self, text: str) -> bool:
        assert self.token is not None
        return hmac.compare_digest(text.encode("utf-8", "replace"), self.token.encode())


async def on_fault(request: Request, error: Exception) -> Response:
    """Answer a fault of this program, which the server's log holds; it passes no Guard."""
    message = f"the server failed: {type(error).__name__}; its log says where"
    return answer(500, message, _HEADERS)


def _same_place(origin: str, host: str) -> bool:
    scheme, _, rest = origin.partition("://")
    return scheme in ("http", "https") and rest.lower() == host.lower()


def _is_page(headers: Mapping[str, str]) -> bool:
    """Whether a browser opens a page in a tab, and not in a frame of another site."""
    return headers.get("sec-fetch-dest") == "document"


def _quoted(values: list[str]) -> str:
    return ", ".join(value[:100] for value in values) or "(none)"


def _bounded(receive: Receive) -> Receive:
    """Receive a body of at most MOST_BODY bytes."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MOST_BODY:
            raise HTTPException(413, f"a request has at most {MOST_BODY:,} bytes")
        return message

    return bounded
