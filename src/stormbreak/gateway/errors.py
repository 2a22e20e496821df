"""Errors of the gateway itself, in the format of the requested endpoint. Pure."""

from math import ceil

import msgspec

from stormbreak.http.h1.request_parser import Headers
from stormbreak.http.h1.server_connection import ServerResponse
from stormbreak.http.transports.sdk_response import error_body
from stormbreak.llm.endpoints import Shape

FINAL = ("x-should-retry", "false")
"""The header that keeps an SDK from sending the same request again."""


class RefusedError(Exception):
    """A request that the gateway refuses itself. `retry_after` is in seconds; a `final` one must not be retried."""

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


def error_event(shape: Shape, status: int, code: str, message: str) -> bytes:
    """Write an error as the last event of a stream in this format."""
    body = error_body(shape, status, code, message)
    if shape is Shape.RESPONSES:
        event = {"type": "error", "code": code, "message": message, "param": None}
        body = msgspec.json.encode(event | msgspec.json.decode(body))
    named = b"event: error\n" if shape in (Shape.MESSAGES, Shape.RESPONSES) else b""
    return b"%bdata: %b\n\n" % (named, body)


def refusal(shape: Shape, error: RefusedError) -> ServerResponse:
    headers: Headers = () if error.retry_after is None else (retry_after(error.retry_after),)
    if error.final:
        headers += (FINAL,)
    body = error_body(shape, error.status, error.code, str(error))
    return ServerResponse(error.status, body, headers)


def retry_after(seconds: float) -> tuple[str, str]:
    """Return the header with the time until a retry, at least a second."""
    return "retry-after", str(max(1, ceil(seconds)))
