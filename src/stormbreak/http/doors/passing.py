"""Requests that pass: sent once, as they are, and answered with what comes."""

import asyncio
import time
from collections.abc import AsyncIterable, Mapping
from math import inf
from urllib.parse import urljoin

from stormbreak.http.doors.inner_body import LATE, seconds_to
from stormbreak.http.doors.replies import Failure, failure_of
from stormbreak.http.doors.request import SdkRequest, without_hops
from stormbreak.http.doors.uploads import Upload, WrongLengthError
from stormbreak.http.origin import same_origin
from stormbreak.http.wire import CONNECT_TIMEOUT, HttpRequest, ResponseStream, Wire
from stormbreak.llm.reading import HttpResponse
from stormbreak.types import Outcome

_ONCE = ("location", "content-length")  # what was looked at is what is passed on


async def passed(
    wire: Wire, seen: SdkRequest, body: AsyncIterable[bytes], *, until: float | None
) -> tuple[HttpResponse, ResponseStream] | Failure:
    """Send `body` once, piece by piece, and wait for the head of the answer, made ready for the SDK.

    No longer than `until`, on the monotonic clock. What the body raises is raised.
    """
    if until is not None and time.monotonic() >= until:
        return LATE
    length = seen.headers.get("content-length")
    upload = Upload(body, int(length) if length is not None and length.isdecimal() else None)
    try:
        async with asyncio.timeout(seconds_to(until)):
            incoming = await wire.open(_request(seen, upload))
            await upload.finish()
    except TimeoutError:
        return LATE
    if upload.failure is not None and (isinstance(incoming, Outcome) or incoming.head.succeeded):
        if not isinstance(incoming, Outcome):
            incoming.close()
        if isinstance(upload.failure, WrongLengthError):
            return Failure("LocalProtocolError", str(upload.failure), None)
        raise upload.failure
    if isinstance(incoming, Outcome):
        return failure_of(incoming, None)
    head = incoming.head
    passing = without_hops(head.headers.items())
    if "content-encoding" in passing and seen.method != "HEAD":
        del passing["content-encoding"]  # it is unpacked
    elif "content-length" in head.headers:
        passing["content-length"] = head.headers["content-length"]
    if redirects_to_other_origin(passing, seen.url):
        del passing["location"]
    several = {name: head.repeated[name] for name in head.repeated if name not in _ONCE}
    return head._replace(headers=passing, repeated=several), incoming


def _request(seen: SdkRequest, upload: Upload) -> HttpRequest:
    headers = seen.forwarded_headers()
    has_body = {"content-length", "transfer-encoding"} & seen.headers.keys()
    if "content-length" in seen.headers:
        headers["content-length"] = seen.headers["content-length"]
    return HttpRequest(
        seen.url,
        headers,
        upload if has_body else b"",
        seen.spans.read,
        connect_timeout=seen.spans.connect or CONNECT_TIMEOUT,
        method=seen.method,
        most=inf,
    )


def redirects_to_other_origin(headers: Mapping[str, str], url: str) -> bool:
    """Whether an answer from `url` sends whoever follows to another origin: the key would go there, too."""
    location = headers.get("location")
    if location is None:
        return False
    try:
        return not same_origin(urljoin(url, location), url)
    except ValueError:  # it is no URL
        return True
