"""Requests that pass: sent once, as they are, and answered with what comes."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from math import inf
from urllib.parse import urljoin

from stormbreak.http.doors.replies import Failure, failure_of
from stormbreak.http.doors.request import DoorRequest, without_hops
from stormbreak.http.origin import same_origin
from stormbreak.http.wire import CONNECT_TIMEOUT, HttpRequest, Incoming, Wire
from stormbreak.llm.reading import HttpAnswer
from stormbreak.types import Outcome

_ONCE = ("location", "content-length")  # what was looked at is what is passed on


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
    if "content-encoding" in passing and seen.method != "HEAD":
        del passing["content-encoding"]  # it is unpacked
    elif "content-length" in head.headers:
        passing["content-length"] = head.headers["content-length"]
    if leads_elsewhere(passing, seen.url):
        del passing["location"]
    several = {name: head.repeated[name] for name in head.repeated if name not in _ONCE}
    return head._replace(headers=passing, repeated=several), incoming


def leads_elsewhere(headers: Mapping[str, str], url: str) -> bool:
    """Whether an answer from `url` sends whoever follows to another origin: the key would go there, too."""
    location = headers.get("location")
    if location is None:
        return False
    try:
        return not same_origin(urljoin(url, location), url)
    except ValueError:  # it is no URL
        return True


async def _of_length(body: AsyncIterable[bytes], length: int) -> AsyncIterator[bytes]:
    """The pieces until so many bytes have come, and no look for more: a server may answer before that has been taken."""
    if length:
        async for piece in body:
            yield piece
            length -= len(piece)
            if length <= 0:
                break
