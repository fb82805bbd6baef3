"""Errors as the server answers them, in OpenAI's form."""

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from tinygpt.errors import UserError


class ApiError(Exception):
    """An answer that says what is wrong with a request."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def content(self) -> dict[str, Any]:
        """The body: `{"error": {"message", "type", "param", "code"}}`."""
        return error_body(self.status, self.message, param=self.param, code=self.code)


def error_body(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The body of an answer with an error."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def answer(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An answer with an error."""
    return JSONResponse(error_body(status, message), status, headers)


async def on_api_error(request: Request, error: Exception) -> JSONResponse:
    """Answer an ApiError."""
    assert isinstance(error, ApiError)
    return JSONResponse(error.content, error.status)


async def on_user_error(request: Request, error: Exception) -> JSONResponse:
    """Answer a mistake that a command would print."""
    assert isinstance(error, UserError)
    return answer(400, str(error))


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer what Starlette refuses, such as a path that is not there."""
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code == 404 and message == "Not Found":
        message = f"there is nothing at {request.url.path}; /docs lists what there is"
    return answer(error.status_code, message, error.headers)


async def on_left(request: Request, error: Exception) -> JSONResponse:
    """An answer for the log: the client left before it had sent its whole request."""
    return answer(400, "the request was not whole")
