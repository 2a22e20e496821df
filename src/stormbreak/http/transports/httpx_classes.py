"""The classes of httpx or httpx2, and the response bodies made from them: buffered, streamed, passed through."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any, TypeVar

from stormbreak.drivers.blocking import LateError, in_time, run
from stormbreak.drivers.explain import KEPT_AS, AttemptHistory
from stormbreak.errors import StreamBrokenError
from stormbreak.http.h1.connection import (
    MALFORMED,
    RepeatableHeaders,
    ResponseStream,
    repeated_headers,
)
from stormbreak.http.h1.response_parser import NAMES, lower_name
from stormbreak.http.stream import Stream
from stormbreak.http.transports.sdk_request import OURS, SdkRequest, read_timeouts
from stormbreak.http.transports.sdk_response import Failure, failure_of
from stormbreak.http.transports.wrapped_body import LATE, WrappedBody, parser_of
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.types import Outcome, Verdict

T = TypeVar("T")

# ---------------------------------------------------------------- buffered body
# Read in one step; the HTTP library takes many (45 us).


class BufferedBody:
    """A mixin for the library's response class: `read` returns the ready body without its stream.

    Iterating works as in the library, and so does closing it unread.
    """

    ready: tuple[bytes, object] | None = None  # the body, and the stream in its place

    async def aread(self) -> bytes:
        """Read the body, and close the response."""
        response: Any = self
        if self.ready is not None and self._use_ready(response):
            await response.aclose()
        body: bytes = await super().aread()  # type: ignore[misc]  # of the library
        return body

    def read(self) -> bytes:
        response: Any = self
        if self.ready is not None and self._use_ready(response):
            response.close()
        body: bytes = super().read()  # type: ignore[misc]  # of the library
        return body

    def _use_ready(self, response: Any) -> bool:
        """Set the ready body as the content, if reading has not begun, and no code has wrapped our stream."""
        (content, ours), self.ready = self.ready, None  # type: ignore[misc]
        stream = response.stream
        # The library's client wraps our stream in its own.
        bound = stream is ours or getattr(stream, "_stream", None) is ours
        if not bound or response.is_stream_consumed or response.is_closed:
            return False
        response._content = content  # noqa: SLF001 - where httpx2 and httpx keep it
        response.is_stream_consumed = True
        return True


# ---------------------------------------------------------------- library classes

_TIMEOUTS = ("connect", "read", "write", "pool")
_OURS = OURS.encode()


class Library:
    """An HTTP library, by its module."""

    def __init__(self, module: ModuleType, buffered: type[BufferedBody]) -> None:
        """`buffered` is the response class for a ready body."""
        self._module: Any = module
        self.name = module.__name__
        self._extensions = lru_cache(maxsize=64)(self._extensions_of)
        reading, blocking = self._module.AsyncByteStream, self._module.SyncByteStream
        self._buffered: Any = buffered
        self._wrapped = _subclass(WrappedBody, blocking, reading)
        self.stream_bodies = {
            True: _subclass(StreamBody, SyncBody, blocking),
            False: _subclass(StreamBody, AsyncBody, reading),
        }
        """The class of a streamed body, by whether a blocked thread reads it."""
        self.pass_through_bodies = {
            True: _subclass(PassThroughBody, SyncBody, blocking),
            False: _subclass(PassThroughBody, AsyncBody, reading),
        }

    def _extensions_of(self, status: int) -> dict[str, Any]:
        """Make the extensions that the library's own transport gives to a response."""
        reason = self._module.codes.get_reason_phrase(status).encode()
        return {"http_version": b"HTTP/1.1", "reason_phrase": reason}

    def read(self, request: Any) -> SdkRequest:
        """Read a request except for its body."""
        timeouts = read_timeouts(request.extensions)
        headers = _headers_in(request.headers.raw, "latin-1")
        return SdkRequest(request.method.upper(), str(request.url), headers, timeouts)

    def request(self, method: str, url: str, headers: Mapping[str, str], **more: Any) -> Any:
        return self._module.Request(method, url, headers=_as_sent(headers), **more)

    def wrap_response(
        self,
        response: Any,
        until: float | None = None,
        late: Callable[[], Exception] | None = None,
        *,
        held: bool = False,
    ) -> Any:
        """Return the response of an inner transport, with its body bounded or held (see `WrappedBody`)."""
        parser = parser_of(response)
        if parser is not None or until is not None or held:
            response.stream = self._wrapped(response, parser, until, late, held=held)
        return response

    def head_of(self, response: Any, received_at: float) -> HttpResponse:
        """Return the head of an inner transport's response; non-UTF-8 bytes are escaped, as on our own connections."""
        raw = response.headers.raw
        headers = _headers_in(raw)
        head = HttpResponse(response.status_code, headers, b"", received_at)
        if len(headers) == len(raw):
            return head
        lines = ((name.decode("latin-1"), _escaped(value)) for name, value in raw)
        return head._replace(repeated=repeated_headers(lines))

    def without_our_headers(self, request: Any) -> Any:
        """Return the request without the headers for us."""
        headers = request.headers.raw
        kept = [each for each in headers if not each[0].lower().startswith(_OURS)]
        if len(kept) == len(headers):
            return request
        more = {"stream": request.stream, "extensions": request.extensions}
        return self._module.Request(request.method, request.url, headers=kept, **more)

    def with_timeout(self, request: Any, seconds: float) -> Any:
        """Return the request with its timeouts limited to `seconds`."""
        given = request.extensions.get("timeout") or {}
        timeouts = {name: min(given.get(name) or seconds, seconds) for name in _TIMEOUTS}
        extensions = {**request.extensions, "timeout": timeouts}
        headers, stream = request.headers.raw, request.stream
        return self._module.Request(
            request.method, request.url, headers=headers, stream=stream, extensions=extensions
        )

    def response(
        self,
        status: int,
        headers: RepeatableHeaders,
        *,
        history: AttemptHistory | None = None,
        **body: Any,
    ) -> Any:
        """Make a response; its body is `content` or `stream`."""
        extensions = self._extensions(status)
        if history is not None:
            extensions = extensions | {KEPT_AS: history}
        content, kind = body.get("content"), self._module.Response
        if content is not None:
            kind, body = self._buffered, {"stream": self._module.ByteStream(content)}
            headers = {**headers, "content-length": str(len(content))}
        sent = _as_sent(headers)
        made = kind(status, headers=sent, extensions=extensions, **body)
        if content is not None:
            made.ready = content, made.stream
        if b"".join([value for _, value in sent]).isascii():
            made.headers.encoding = "ascii"  # otherwise the library tries several encodings
        return made

    def error(self, failure: Failure, request: Any) -> Exception:
        """Make the exception; its notes list the attempts."""
        error: Exception = getattr(self._module, failure.kind)(failure.message, request=request)
        for line in failure.notes():
            error.add_note(line)
        setattr(error, KEPT_AS, failure.history)
        return error

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """The exceptions of its transports for failures of a server or a network."""
        return (self._module.RequestError,)

    def outcome_of(self, error: Exception, status: int | None) -> Outcome:
        """Return the outcome of a transport's exception. The exception refers to the request, so it is not kept."""
        kinds = self._module
        if isinstance(error, kinds.ConnectTimeout | kinds.ConnectError | kinds.ProxyError):
            return Outcome(Verdict.CONNECT_FAILED, detail="no connection")
        if isinstance(error, kinds.UnsupportedProtocol | kinds.LocalProtocolError):
            return Outcome(Verdict.INVALID, detail="request cannot be sent")
        verdict, detail = Verdict.RESET, "connection lost"
        if isinstance(error, kinds.TimeoutException):
            verdict, detail = Verdict.TIMEOUT, "went silent"
        elif isinstance(error, kinds.DecodingError):
            verdict, detail = Verdict.BROKEN, MALFORMED
        elif status is not None:
            verdict, detail = Verdict.BROKEN, "body was cut"
        elif isinstance(error, kinds.RemoteProtocolError) and _is_of_parser(error):
            verdict, detail = Verdict.BROKEN, "not HTTP"
        return Outcome(verdict, status=status, detail=detail, maybe_processed=True)


def _is_of_parser(error: Exception) -> bool:
    """Whether httpcore could not parse the response; if not, the connection ended before it."""
    below = getattr(error.__cause__, "__context__", None)  # httpcore's pool drops the cause
    return type(below).__module__.partition(".")[0] == "h11"


def _as_sent(headers: RepeatableHeaders) -> list[tuple[bytes, bytes]]:
    """Return headers for the library: as bytes, since it encodes only ASCII."""
    return [
        (name.encode("ascii"), each.encode("utf-8", "surrogateescape"))
        for name, value in headers.items()
        for each in ((value,) if isinstance(value, str) else value)
    ]


def _headers_in(raw: Sequence[tuple[bytes, bytes]], otherwise: str = "") -> dict[str, str]:
    """Return headers by lower-case name, repeated ones joined. The library's own function is slow.

    A value that is not UTF-8 is decoded by the encoding `otherwise`, if given; if not, its bytes are escaped.
    """
    headers: dict[str, str] = {}
    for name, value in raw:
        key = NAMES.get(name) or lower_name(name)
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode(otherwise) if otherwise else _escaped(value)
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _escaped(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


# ---------------------------------------------------------------- streamed bodies
# Each body owns its connection, and a stream also its permits. They are byte streams of the HTTP library, read on a
# loop or by a blocked thread.


class Body(ABC):
    """A body that is read on a loop or by a thread."""

    @abstractmethod
    async def next_chunk(self) -> bytes | None:
        """Wait for the next bytes; None at the end. Raise the library's exception for a broken body."""

    def run(self, reading: Coroutine[Any, Any, T]) -> T:
        """Run a read on the blocked thread."""
        return run(reading)

    @abstractmethod
    async def free(self) -> None:
        """Close the connection, and free what the call holds. A second time does nothing."""


class AsyncBody(Body):
    """Reads the body on the running loop."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self.next_chunk()) is not None:
            yield chunk

    async def aclose(self) -> None:
        """Close the connection, and free what the call holds. A second time does nothing."""
        await self.free()


class SyncBody(Body):
    """Reads the body on the calling thread, which blocks. Another thread may close it."""

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self.run(self.next_chunk())) is not None:
            yield chunk

    def close(self) -> None:
        """Close the connection, and free what the call holds. A second time does nothing."""
        run(self.free())


class StreamBody(Body):
    """A stream that has begun, with unchanged bytes. If it breaks, it raises the library's exception."""

    def __init__(
        self, stream: Stream, history: AttemptHistory, library: Library, request: Any
    ) -> None:
        stream.raw()
        self._stream = stream
        self._history = history
        self._library = library
        self._request = request

    async def next_chunk(self) -> bytes | None:
        try:
            return await self._stream.next_chunk()
        except StreamBrokenError as broken:
            failed, message = broken, str(broken)
        self._history.end(failed.ended)
        outcome = failed.ended.outcome
        failure = failure_of(outcome, self._history)._replace(message=message)
        raise self._library.error(failure, self._request) from outcome.error

    def run(self, reading: Coroutine[Any, Any, T]) -> T:
        """Run a read on the blocked thread, until the deadline of the call."""
        return self._stream.run(reading)

    async def free(self) -> None:
        await self._stream.aclose()


class PassThroughBody(Body):
    """The body of a pass-through response, read at the latest until `until`."""

    def __init__(
        self, stream: ResponseStream, library: Library, request: Any, until: float | None
    ) -> None:
        self._until = until
        self._stream = stream
        self._library = library
        self._request = request

    async def next_chunk(self) -> bytes | None:
        try:
            chunk = await in_time(self._stream.read(), self._until)
        except LateError:
            raise self._library.error(LATE, self._request) from None
        if not isinstance(chunk, bytes):
            raise self._library.error(failure_of(chunk, None), self._request) from chunk.error
        return chunk or None

    async def free(self) -> None:
        """Close the connection, unless the body was read to its end."""
        self._stream.close()


def _subclass(*bases: type) -> Any:
    """Make a class of the library that reads its body in our way."""
    return type(bases[0].__name__, bases, {})
