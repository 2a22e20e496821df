"""What is played on the wire for one answer: pieces of bytes with pauses between them, and an ending.

Every answer is such a script, good ones and spoilt ones alike; the connection that plays it knows nothing of
troubles. Scripts are values and can be tested without a socket. Pauses are real seconds.
"""

import math
from collections.abc import Callable, Mapping
from email.utils import formatdate
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from stormbreak.provider.answers import Asked, Refusal, body_of, error_body, events_of
from stormbreak.provider.http1 import Headers, chunk, head
from stormbreak.provider.kinds import Form, Kind

JSON = "application/json"
_EVENTS = "text/event-stream; charset=utf-8"
_LONGEST_WAIT = 1e9  # seconds; no date can be written for much more
_FLUSHED = 0.02  # so that what was written has left before the connection is reset
_PIECES = 10
_HTML = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    b"<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n"
)
_REFUSALS: Mapping[Kind, Refusal] = MappingProxyType(
    {
        Kind.S400: Refusal(400, "the request is not acceptable", code="invalid_value"),
        Kind.S401: Refusal(401, "the key was not accepted", code="invalid_api_key"),
        Kind.S404: Refusal(404, "there is no such model", code="model_not_found"),
        Kind.S429: Refusal(429, "too many requests", "requests", "rate_limit_exceeded"),
        Kind.QUOTA: Refusal(
            429, "the credit is used up", "insufficient_quota", "insufficient_quota"
        ),
        Kind.S500: Refusal(500, "the server had an error", "server_error"),
        Kind.S502: Refusal(502, "bad gateway", "server_error"),
        Kind.S503: Refusal(503, "no capacity", "service_unavailable_error", "server_is_overloaded"),
        Kind.DOWN: Refusal(
            503, "out of service", "service_unavailable_error", "server_is_overloaded"
        ),
        Kind.S504: Refusal(504, "the server did not answer in time", "timeout_error"),
        Kind.S529: Refusal(529, "overloaded", "overloaded_error", "overloaded"),
    }
)


class Ending(StrEnum):
    """What becomes of the connection."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"


class Piece(NamedTuple):
    """Bytes to write after a pause."""

    pause: float
    data: bytes


class Script(NamedTuple):
    """One answer as it is played."""

    pieces: list[Piece]
    ending: Ending
    status: int | None  # None: no status ever reaches the client


def wait_headers(form: Form, wait: float | None, now: float) -> tuple[Headers, float | None]:
    """Write down a wait of real seconds from the wall-clock time `now`.

    Returns the headers and the seconds that they really ask for, which rounding only makes longer.
    """
    if wait is None or form is Form.BARE:
        return (), None
    wait = min(wait, _LONGEST_WAIT)
    if form is Form.MS:
        milliseconds = math.ceil(wait * 1000)
        return (("retry-after-ms", str(milliseconds)),), milliseconds / 1000
    if form is Form.DATE:
        second = math.ceil(now + wait)
        return (("retry-after", formatdate(second, usegmt=True)),), second - now
    seconds = max(1, math.ceil(wait))
    return (("retry-after", str(seconds)),), float(seconds)


def plain(status: int, body: bytes, headers: Headers, media: str = JSON) -> Script:
    """Answer with a body and keep the connection."""
    whole = head(status, media, len(body), headers) + body
    return Script([Piece(0, whole)], Ending.KEEP, status)


def refused(kind: Kind, headers: Headers) -> Script:
    """Play a refusal."""
    if kind is Kind.RESET:
        return Script([], Ending.RESET, None)
    if kind is Kind.S502:
        return plain(502, _HTML, headers, "text/html")
    refusal = _REFUSALS[kind]
    return plain(refusal.status, error_body(refusal), headers)


def answered(asked: Asked, headers: Headers, kind: Kind | None, slower: float) -> Script:
    """Play a plain answer, spoilt as `kind` says; slow ones take `slower` seconds more."""
    body = body_of(asked)
    if kind is None:
        return plain(200, body, headers)
    return _SPOILT[kind](body, headers, slower)


def _slow_headers(body: bytes, headers: Headers, slower: float) -> Script:
    whole = head(200, JSON, len(body), headers) + body
    cut = whole.index(b"\r\n") + 2
    return Script([Piece(0, whole[:cut]), Piece(slower, whole[cut:])], Ending.KEEP, 200)


def _slow_body(body: bytes, headers: Headers, slower: float) -> Script:
    size = math.ceil(len(body) / _PIECES)
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    pieces = [Piece(slower / len(parts), part) for part in parts]
    return Script([Piece(0, head(200, JSON, len(body), headers)), *pieces], Ending.KEEP, 200)


def _cut_body(body: bytes, headers: Headers, _: float) -> Script:
    whole = head(200, JSON, len(body), headers) + body[: len(body) // 2]
    return Script([Piece(0, whole)], Ending.CLOSE, 200)


def _empty_body(_: bytes, headers: Headers, __: float) -> Script:
    return plain(200, b"", headers)


def _invalid_json(body: bytes, headers: Headers, _: float) -> Script:
    return plain(200, body[: len(body) * 2 // 3], headers)


def _error_in_200(_: bytes, headers: Headers, __: float) -> Script:
    return plain(200, _LATE_ERROR, headers)


_LATE_ERROR = b'{"error":{"message":"the upstream provider failed","code":502}}'
_SPOILT: Mapping[Kind, Callable[[bytes, Headers, float], Script]] = MappingProxyType(
    {
        Kind.SLOW_HEADERS: _slow_headers,
        Kind.SLOW_BODY: _slow_body,
        Kind.CUT_BODY: _cut_body,
        Kind.EMPTY_BODY: _empty_body,
        Kind.INVALID_JSON: _invalid_json,
        Kind.ERROR_IN_200: _error_in_200,
    }
)


def streamed(
    asked: Asked, headers: Headers, kind: Kind | None, *, lasting: float, slower: float
) -> Script:
    """Play a streamed answer over `lasting` seconds, spoilt as `kind` says."""
    events = events_of(asked)
    opening = head(200, _EVENTS, None, headers)
    if kind is Kind.SLOW_HEADERS:
        cut = opening.index(b"\r\n") + 2
        spread = _spread(opening[cut:], events, lasting)
        first = Piece(slower, spread[0].data)
        return _whole([Piece(0, opening[:cut]), first, *spread[1:]])
    if kind is Kind.SLOW_BODY:
        return _whole(_spread(opening, events, lasting + slower))
    if kind is None:
        return _whole(_spread(opening, events, lasting))
    return _spoilt_stream(opening, events, kind, lasting)


def _spoilt_stream(opening: bytes, events: list[bytes], kind: Kind, lasting: float) -> Script:
    half = _spread(opening, events[: len(events) // 2], lasting / 2)
    match kind:
        case Kind.CUT_STREAM:
            return _whole(half)
        case Kind.STREAM_RESET:
            return Script([*half, Piece(_FLUSHED, b"")], Ending.RESET, 200)
        case Kind.CUT_BODY:
            return Script(half, Ending.CLOSE, 200)
        case Kind.EMPTY_BODY:
            return _whole([Piece(0, opening)])
        case Kind.INVALID_JSON:
            return _whole([*half, Piece(0, chunk(events[1][: len(events[1]) // 2] + b"\n\n"))])
        case _:
            return _whole([*half, Piece(0, chunk(b"data: %b\n\n" % _LATE_ERROR))])


def _spread(opening: bytes, events: list[bytes], lasting: float) -> list[Piece]:
    """Send the first event with the head, the others evenly over the time."""
    pause = lasting / max(1, len(events) - 1)
    if pause < 0.001:
        return [Piece(0, opening + b"".join(map(chunk, events)))]
    first, *rest = map(chunk, events)
    return [Piece(0, opening + first), *(Piece(pause, data) for data in rest)]


def _whole(pieces: list[Piece]) -> Script:
    return Script([*pieces, Piece(0, chunk(b""))], Ending.KEEP, 200)
