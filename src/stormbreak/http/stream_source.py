"""The bytes of one streamed answer, checked as they pass: has it begun, stalled or failed, is it complete?

The bytes pass through unchanged. A scanner interprets them, or an assembler if the whole answer is wanted.
"""

from asyncio import CancelledError
from collections import deque
from collections.abc import Awaitable, Callable
from math import inf

from stormbreak.drivers.timeouts import AnsweredError
from stormbreak.http.h1.connection import Connection, ResponseStream
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.http.redact import repeats
from stormbreak.http.response import (
    Response,
    StreamedBody,
    is_own,
    outcome_of,
    read_failure,
    stream_reader,
)
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.llm.rate_limit_headers import parse_rate_limits
from stormbreak.llm.response_verdict import request_id_of
from stormbreak.llm.stream_reader import FORMATS, StreamAssembler, StreamScanner
from stormbreak.llm.whole_as_events import whole_as_events
from stormbreak.types import Outcome, Verdict

EVENT_STREAM = "text/event-stream"
_OF_BODY = frozenset({"etag", "content-md5", "digest", "content-digest", "repr-digest"})
KEPT = 16 * 1024  # last bytes that are kept, to explain a broken stream


class Source:
    """A streamed answer, read piece by piece.

    `last_events` are the types of the events that end it, besides the marker ``[DONE]``. `size` bytes have arrived so
    far. `held` has the bytes that arrived before anything was taken, unchanged.
    """

    def __init__(
        self,
        stream: ResponseStream,
        request: PreparedRequest,
        api_key: str | None,
        *,
        stall_timeout: float | None,
        learn: bool,
    ) -> None:
        self.head = stream.head
        self.size = 0
        self.held: list[bytes] = []
        self.failed = False  # the last bytes show that the answer is incomplete
        self.wait = stream.wait
        kind = FORMATS.get(request.shape)
        self.last_events = kind.last_events if kind else frozenset()
        self._stream = stream
        self._body = StreamedBody(stream)
        self._request = request
        self._api_key = api_key
        self._stall = stall_timeout
        self._learn = learn
        self._scanner: StreamScanner | StreamAssembler = stream_reader(
            StreamScanner, request, stream.head
        )
        self._kept: deque[bytes] = deque()
        self._kept_size = 0
        self._max_kept: float = KEPT

    @property
    def is_plain(self) -> bool:
        """Whether this is one body instead of an event stream."""
        return self._scanner.is_plain

    @property
    def request_id(self) -> str | None:
        """The provider's id of the request."""
        assert isinstance(self._request.body, bytes)
        name = request_id_of(self.head.headers)
        return None if name and repeats(name, self._api_key, self._request.body) else name

    @property
    def received(self) -> bytes:
        """The received bytes; of a long stream the last `KEPT`, rounded up to whole pieces."""
        return b"".join(self._kept)

    def take(self) -> bytes | Outcome | None:
        """Return the next bytes, or the outcome of the stream; None if neither has arrived: then `wait`.

        Cancelling a wait closes the connection.
        """
        if self.failed:
            return self._outcome()
        chunk = self._body.take_into(self._scanner)
        return None if chunk is None else self._checked(chunk)

    async def begin(self) -> Outcome:
        """Wait for the first output (`committed`, with this as its value), or for the outcome of the stream."""
        try:
            return await self._until_output()
        except CancelledError as cancel:
            outcome = self.complete()
            if outcome is None:
                raise
            raise AnsweredError(outcome, cancel) from None
        finally:
            self._body.release()

    async def _until_output(self) -> Outcome:
        scanner = self._scanner
        while not self.failed:
            chunk = self._checked(await self._body.read_into(scanner))
            if isinstance(chunk, Outcome):
                return chunk
            self.held.append(chunk)
            if scanner.first_output and not self.failed:
                if self._stall is not None:
                    self._stream.limit_silence(self._stall)
                return Outcome(Verdict.OK, value=self, status=self.head.status, committed=True)
        return self._outcome()

    def _checked(self, chunk: bytes | Outcome) -> bytes | Outcome:
        if not isinstance(chunk, bytes):
            return self._with_limits(chunk)
        if not chunk:
            outcome = self._outcome()
            if not is_own(outcome.value.parsed, other_form=self.is_plain):
                self._stream.spoil()
            self._stream.close()
            return outcome
        self._keep(chunk)
        scanner = self._scanner
        if scanner.failed:
            self._fail()
            if scanner.ends_falsely:
                return self._outcome()
        return chunk

    def complete(self) -> Outcome | None:
        """Return the success of an answer that is complete before its body ends; None if it is not complete."""
        return self._outcome() if self._scanner.whole and not self._scanner.failed else None

    def finished(self) -> Outcome | None:
        """Return the same for a reader that stops early: then all finish reasons are enough."""
        scanner = self._scanner
        return self._outcome() if scanner.finished and not scanner.failed else None

    def assemble(self) -> None:
        """Assemble the answer from held and later bytes; keep all bytes for `received`."""
        self._scanner = assembler = self._assembled()
        if assembler.failed:  # it checks more than a scanner
            self._fail()
        self._kept = deque(self.held)
        self._max_kept = inf

    def whole(self) -> Response:
        """Assemble an answer of which all bytes are held."""
        parsed, body = self._assembled().end()
        outcome = outcome_of(
            (self.head._replace(body=body), parsed), self._request, self._api_key, learn=False
        )
        return Response(self.head.status, outcome.value.body, outcome.value.parsed)

    def make_events(self, ended: Outcome) -> None:
        """Replace an answer in one piece by events, for a caller that passes on only events."""
        if self.is_plain and isinstance(ended.value, Response):
            came = ended.value.original or ended.value  # the body of a filtered answer is redacted
            events = whole_as_events(self._request.shape, came.body)
            if events is not None:
                self.held = [events]
                kept = {n: v for n, v in self.head.headers.items() if n not in _OF_BODY}
                headers = kept | {"content-type": EVENT_STREAM}
                self.head = self.head._replace(headers=headers)

    def malformed(self) -> Outcome:
        """Close the connection for an event that is not JSON, which the scanner missed; return the outcome."""
        self._fail()
        detail = "invalid json in an event"
        status = self.head.status
        outcome = Outcome(Verdict.BROKEN, status=status, detail=detail, maybe_processed=True)
        return self._with_limits(outcome)

    def close(self) -> None:
        """Close the connection, unless a complete answer was read to the end of its body. Wake a waiting reader."""
        if not self._scanner.finished:
            self._stream.spoil()
        self._stream.close()

    def _assembled(self) -> StreamAssembler:
        assembler = stream_reader(StreamAssembler, self._request, self.head)
        for chunk in self.held:
            assembler.feed(chunk)
        return assembler

    def _fail(self) -> None:
        self.failed = True
        self._stream.spoil()
        self._stream.close()

    def _keep(self, chunk: bytes) -> None:
        kept = self._kept
        kept.append(chunk)
        self.size += len(chunk)
        self._kept_size += len(chunk)
        while self._kept_size - len(kept[0]) >= self._max_kept:
            self._kept_size -= len(kept.popleft())

    def _outcome(self) -> Outcome:
        parsed, body = self._scanner.end()
        result = self.head._replace(body=body), parsed
        return outcome_of(result, self._request, self._api_key, learn=self._learn)

    def _with_limits(self, outcome: Outcome) -> Outcome:
        if not self._learn:
            return outcome
        return outcome._replace(
            rate_limits=parse_rate_limits(self.head.headers, self.head.received_at)
        )


class LocalSource:
    """A local answer, in one piece, with nothing to read or close."""

    failed = False
    is_plain = True
    request_id = None
    last_events: frozenset[str] = frozenset()

    def __init__(self, outcome: Outcome) -> None:
        response = self._response = outcome.value
        self.head = HttpResponse(response.status, {}, b"", 0.0)
        self.received: bytes = response.body
        self.held: list[bytes] = [response.body]
        self.size = len(response.body)

    def take(self) -> bytes | Outcome | None:
        raise AssertionError("a local answer has ended")

    def wait(self) -> Awaitable[None]:
        raise AssertionError("a local answer has ended")

    def assemble(self) -> None:
        """Do nothing: the answer is whole."""

    def whole(self) -> Response:
        response: Response = self._response
        return response

    def malformed(self) -> Outcome:
        raise AssertionError("a local answer is well-formed")

    def complete(self) -> Outcome | None:
        """Nothing to return: the call has ended."""

    def finished(self) -> Outcome | None:
        """Nothing to return: the call has ended."""

    def close(self) -> None:
        """Do nothing: no connection is open."""


async def open_source(
    connection: Connection,
    request: PreparedRequest,
    api_key: str | None,
    *,
    stall_timeout: float | None,
    learn: bool,
    on_cancelled: Callable[[Source], None],
) -> tuple[Outcome, Source | None]:
    """Send once, and wait for the first output or the end.

    `on_cancelled` gets an answer that was complete at the cancel. The connection is closed, unless the outcome is
    `committed`: then the source owns it.
    """
    stream = await connection.open(request)
    if isinstance(stream, Outcome):
        return stream, None
    if not stream.head.succeeded:
        return await read_failure(stream, request, api_key, learn=learn), None
    source = Source(stream, request, api_key, stall_timeout=stall_timeout, learn=learn)
    outcome: Outcome | None = None
    try:
        outcome = await source.begin()
    except AnsweredError:
        on_cancelled(source)
        raise
    finally:
        if outcome is None or not outcome.committed:
            source.close()
    return outcome, source
