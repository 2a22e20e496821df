"""Pass requests through: send each once, unchanged, and return its response."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from math import inf
from urllib.parse import urljoin

from stormbreak.drivers.blocking import LateError, in_time
from stormbreak.http.endpoint import same_origin
from stormbreak.http.h1.connection import Connection, ResponseStream
from stormbreak.http.prepared_request import CONNECT_TIMEOUT, PreparedRequest
from stormbreak.http.transports.sdk_request import SdkRequest, without_hops
from stormbreak.http.transports.sdk_response import Failure, failure_of
from stormbreak.http.transports.wrapped_body import LATE
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.types import Outcome

# ---------------------------------------------------------------- upload
# Sent once, chunk by chunk, with exactly the announced length.


class WrongLengthError(Exception):
    """A body is not as long as its `Content-Length`."""


class Upload:
    """The chunks of a body that is being sent.

    When the announced length is reached, the last chunk is sent without a check for more, since the server may answer
    first; `finish` checks. `failure` is the error of the body: the connection would only report a lost connection.
    """

    def __init__(self, chunks: AsyncIterable[bytes], length: int | None) -> None:
        """`length` is the announced length, if any."""
        self.failure: Exception | None = None
        self._pieces = chunks
        self._length = length
        self._sent: AsyncIterator[bytes] | None = None  # the announced bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._pieces)
        try:
            async for chunk in chunks if self._length is None else _measured(chunks, self._length):
                yield chunk
            if self._length:
                self._sent = chunks
        except Exception as error:
            self.failure = error
            raise
        finally:
            if self._sent is None:
                await _close(chunks)

    async def finish(self) -> None:
        """Read the end of a body that was sent completely; further bytes are a `failure`."""
        chunks, self._sent = self._sent, None
        if chunks is None:
            return
        try:
            async for chunk in chunks:
                if chunk:
                    self.failure = _longer()
                    break
        except Exception as error:  # noqa: BLE001 - the caller raises it
            self.failure = error
        finally:
            await _close(chunks)


async def _measured(chunks: AsyncIterator[bytes], left: int) -> AsyncIterator[bytes]:
    while left:
        chunk = await anext(chunks, None)
        if chunk is None:
            raise WrongLengthError("the body is shorter than its Content-Length says")
        left -= len(chunk)
        if left < 0:
            raise _longer()
        yield chunk


def _longer() -> WrongLengthError:
    return WrongLengthError("the body is longer than its Content-Length says")


async def _close(chunks: AsyncIterator[bytes]) -> None:
    if isinstance(chunks, AsyncGenerator):
        await chunks.aclose()


# ---------------------------------------------------------------- pass through

_ONCE = ("location", "content-length")  # passed on as checked, without repeats


async def pass_through(
    connection: Connection,
    sdk_request: SdkRequest,
    body: AsyncIterable[bytes],
    *,
    until: float | None,
) -> tuple[HttpResponse, ResponseStream] | Failure:
    """Send `body` once, chunk by chunk, and wait for the head of the response, prepared for the SDK.

    It ends at the latest at `until`, on the monotonic clock. An exception of the body is raised.
    """
    length = sdk_request.headers.get("content-length")
    upload = Upload(body, int(length) if length is not None and length.isdecimal() else None)
    try:
        stream = await in_time(_open(connection, _request(sdk_request, upload)), until)
    except LateError:
        return LATE
    if upload.failure is not None and (isinstance(stream, Outcome) or stream.head.succeeded):
        if not isinstance(stream, Outcome):
            stream.close()
        if isinstance(upload.failure, WrongLengthError):
            return Failure("LocalProtocolError", str(upload.failure), None)
        raise upload.failure
    if isinstance(stream, Outcome):
        return failure_of(stream, None)
    head = stream.head
    passing = without_hops(head.headers)
    if "content-encoding" in passing and sdk_request.method != "HEAD":
        del passing["content-encoding"]  # the body is unpacked
    elif "content-length" in head.headers:
        passing["content-length"] = head.headers["content-length"]
    if redirects_to_other_origin(passing, sdk_request.url):
        del passing["location"]
    several = {name: head.repeated[name] for name in head.repeated if name not in _ONCE}
    return head._replace(headers=passing, repeated=several), stream


async def _open(connection: Connection, request: PreparedRequest) -> ResponseStream | Outcome:
    stream = await connection.open(request)
    if isinstance(request.body, Upload):
        await request.body.finish()
    return stream


def _request(sdk_request: SdkRequest, upload: Upload) -> PreparedRequest:
    headers = without_hops(sdk_request.headers)
    has_body = {"content-length", "transfer-encoding"} & sdk_request.headers.keys()
    if "content-length" in sdk_request.headers:
        headers["content-length"] = sdk_request.headers["content-length"]
    return PreparedRequest(
        sdk_request.url,
        headers,
        upload if has_body else b"",
        sdk_request.timeouts.read,
        connect_timeout=sdk_request.timeouts.connect or CONNECT_TIMEOUT,
        method=sdk_request.method,
        max_bytes=inf,
    )


def redirects_to_other_origin(headers: Mapping[str, str], url: str) -> bool:
    """Whether a response from `url` redirects to another origin, where the key would go, too."""
    location = headers.get("location")
    if location is None:
        return False
    try:
        return not same_origin(urljoin(url, location), url)
    except ValueError:  # not a URL
        return True
