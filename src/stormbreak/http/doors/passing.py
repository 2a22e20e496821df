"""Requests that pass: sent once, as they are, and answered with what comes."""

from collections.abc import AsyncIterable, AsyncIterator
from math import inf

from stormbreak.http.doors.replies import Failure, failure_of
from stormbreak.http.doors.request import DoorRequest, without_hops
from stormbreak.http.origin import same_origin
from stormbreak.http.wire import CONNECT_TIMEOUT, HttpRequest, Incoming, Wire
from stormbreak.llm.reading import HttpAnswer
from stormbreak.types import Outcome


async def passed(
    wire: Wire, seen: DoorRequest, body: AsyncIterable[bytes]
) -> tuple[HttpAnswer, Incoming] | Failure:
    """Send `body` once, piece by piece, and wait for the head of the answer, made ready for the SDK."""
    headers = seen.passed_on()
    length = seen.headers.get("content-length")
    if length is not None:
        headers["content-length"] = length
        body = _of_length(body, int(length)) if length.isdecimal() else body
    has_body = {"content-length", "transfer-encoding"} & seen.headers.keys()
    incoming = await wire.open(
        HttpRequest(
            seen.url,
            headers,
            body if has_body else b"",
            seen.spans.read,
            connect_timeout=seen.spans.connect or CONNECT_TIMEOUT,
            method=seen.method,
            most=inf,
        )
    )
    if isinstance(incoming, Outcome):
        return failure_of(incoming, None)
    head = incoming.head
    passing = without_hops(head.headers.items())
    passing.pop("content-encoding", None)
    elsewhere = passing.get("location", "")
    if "//" in elsewhere and not same_origin(elsewhere, seen.url):
        del passing["location"]  # else the key would go there, too
    return head._replace(headers=passing), incoming


async def _of_length(body: AsyncIterable[bytes], length: int) -> AsyncIterator[bytes]:
    """The pieces until so many bytes have come, and no look for more: a server may answer before that has been taken."""
    if length:
        async for piece in body:
            yield piece
            length -= len(piece)
            if length <= 0:
                break
