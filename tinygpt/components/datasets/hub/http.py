"""Parts of the hub's files over HTTP: a bounded number of attempts, then one clear error."""

import io
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tinygpt.errors import UserError

_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # before each further attempt
_PATIENCE_S = 30  # for bytes that do not come
_READ_AHEAD = 8 << 20  # bytes per request, where so many are wanted
T = TypeVar("T")


def causes(error: BaseException) -> list[BaseException]:
    """The error, the one that it came from, and so on to the root."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain


def reason(error: BaseException) -> str:
    """The first line of the error at the root."""
    root = causes(error)[-1]
    return (str(root).strip() or type(root).__name__).splitlines()[0]


def persistently(
    ask: Callable[[], T],
    *,
    passes: Callable[[Exception], bool],
    waits_s: Sequence[float] | None = None,
) -> T:
    """What `ask` returns, asked again after errors that may pass; the last error is raised."""
    for wait_s in _WAITS_S if waits_s is None else waits_s:
        try:
            return ask()
        except Exception as error:
            if not passes(error):
                raise
        time.sleep(wait_s)
    return ask()


def is_busy(error: BaseException) -> bool:
    """Whether the hub failed itself, or asks to wait."""
    from huggingface_hub import errors

    statuses = [
        e.response.status_code for e in causes(error) if isinstance(e, errors.HfHubHTTPError)
    ]
    return any(status >= 500 or status in (408, 429) for status in statuses)


def refusal(error: Exception, *, where: str) -> UserError | None:
    """What to type where the hub says no for good; None where it may say yes another time."""
    from huggingface_hub import errors

    if isinstance(error, UserError):
        return error
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if status in (401, 403):
        return UserError(f"{where} is refused: {reason(error)}; log in with: hf auth login")
    if status == 404:
        return UserError(
            f"{where} is not on the hub (404), though the repo lists it; "
            "try again later, or type another dataset.revision=COMMIT"
        )
    if status is not None and not is_busy(error):
        return UserError(f"{where} cannot be had from the hub: {reason(error)}")
    return None


class RemoteFile(io.RawIOBase):
    """A file of the hub that is read in parts, which are asked for when they are needed.

    Nothing at or after `limit` is read ahead.  Raises UserError when the hub does not give it.
    """

    def __init__(self, url: str, *, where: str) -> None:
        self.url = url
        self.where = where
        self.size = self._persistently(self._ask_size)
        self.limit = 0
        self._position = 0
        self._start, self._buffer = 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        start = self._position
        stop = self.size if size < 0 else min(self.size, start + size)
        if start >= stop:
            return b""
        if not self._start <= start <= stop <= self._start + len(self._buffer):
            ahead = max(stop, min(start + _READ_AHEAD, self.limit))
            self._buffer = self._persistently(lambda: self._ask(start, ahead))
            self._start = start
        self._position = stop
        return self._buffer[start - self._start : stop - self._start]

    def _ask_size(self) -> int:
        from huggingface_hub import get_hf_file_metadata

        size = get_hf_file_metadata(self.url, timeout=_PATIENCE_S).size
        if size is None:
            raise OSError("the hub does not tell the size of the file")
        return size

    def _ask(self, start: int, stop: int) -> bytes:
        from huggingface_hub import get_session
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public in its docs
            build_hf_headers,
            hf_raise_for_status,
        )

        headers = build_hf_headers() | {"Range": f"bytes={start}-{stop - 1}"}
        response = get_session().get(self.url, headers=headers, timeout=_PATIENCE_S)
        hf_raise_for_status(response)
        if response.status_code != 206:
            raise UserError(
                f"{self.where}: the hub, or a proxy before it, sends only whole files; leave out "
                "dataset.fraction and dataset.max_documents to download them"
            )
        data: bytes = response.content
        if len(data) != stop - start:
            raise OSError(f"asked for {stop - start} bytes, got {len(data)}")
        return data

    def _persistently(self, ask: Callable[[], T]) -> T:
        from huggingface_hub.constants import HF_HUB_OFFLINE

        if HF_HUB_OFFLINE:
            raise UserError(f"{self.where} is not in the local cache, and HF_HUB_OFFLINE is set")
        try:
            return persistently(ask, passes=lambda error: refusal(error, where=self.where) is None)
        except Exception as error:  # the HTTP library's own, which differ between versions
            raise refusal(error, where=self.where) or UserError(
                f"{self.where} cannot be had from the hub, asked {len(_WAITS_S) + 1} times: "
                f"{reason(error)}\n  what came before is kept, so try again"
            ) from None
