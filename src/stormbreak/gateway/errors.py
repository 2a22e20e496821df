"""Errors of the gateway itself, in the format of the endpoint that was asked. Pure."""

from collections.abc import Mapping
from math import ceil
from types import MappingProxyType

import msgspec

from stormbreak.http.h1.server_connection import ServerResponse
from stormbreak.http.h1.server_message import Headers
from stormbreak.llm.models import Shape

FINAL = ("x-should-retry", "false")
"""The header that keeps an SDK from sending the same request again."""

_TYPES: Mapping[int, str] = MappingProxyType(
    {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        405: "invalid_request_error",
        408: "timeout_error",
        413: "request_too_large",
        429: "rate_limit_error",
        431: "invalid_request_error",
        503: "overloaded_error",
        504: "timeout_error",
    }
)
_ENCODE = msgspec.json.encode


class RefusedError(Exception):
    """A request that the gateway answers itself. `retry_after` is in seconds; a `final` one is not sent again."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after: float | None = None,
        final: bool = True,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.final = final


def error_body(shape: Shape, status: int, code: str, message: str) -> bytes:
    """Write an error as the API of this shape does."""
    kind = _TYPES.get(status, "api_error")
    if shape is Shape.MESSAGES:
        return _ENCODE({"type": "error", "error": {"type": kind, "message": message}})
    return _ENCODE({"error": {"message": message, "type": kind, "param": None, "code": code}})


def error_event(shape: Shape, status: int, code: str, message: str) -> bytes:
    """Write an error as the last event of a stream of this shape."""
    kind = _TYPES.get(status, "api_error")
    error = {"message": message, "type": kind, "param": None, "code": code}
    if shape is Shape.MESSAGES:
        data: dict[str, object] = {
            "type": "error",
            "error": {"type": kind, "message": message},
        }
    elif shape is Shape.RESPONSES:
        data = {"type": "error", "code": code, "message": message, "param": None, "error": error}
    else:
        return b"data: %b\n\n" % _ENCODE({"error": error})
    return b"event: error\ndata: %b\n\n" % _ENCODE(data)


def refusal(shape: Shape, error: RefusedError) -> ServerResponse:
    """Answer a request that is refused."""
    headers: Headers = () if error.retry_after is None else (retry_after(error.retry_after),)
    if error.final:
        headers += (FINAL,)
    body = error_body(shape, error.status, error.code, str(error))
    return ServerResponse(error.status, body, headers)


def retry_after(seconds: float) -> tuple[str, str]:
    """Return the header that names the time to come back, at least a second."""
    return "retry-after", str(max(1, ceil(seconds)))
