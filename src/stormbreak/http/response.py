"""Interpret a response, whole or assembled from a stream, and make the answer."""

from asyncio import CancelledError
from codecs import BOM_UTF8
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar

import msgspec

from stormbreak.cost.price_source import PriceOf
from stormbreak.http.h1.connection import FREE, MALFORMED, Held, ResponseStream, collect
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.http.pricing import cost_of
from stormbreak.http.redact import redact, repeats
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import HttpResponse, ParsedResponse, Value, without_mark
from stormbreak.llm.rate_limit_headers import parse_rate_limits
from stormbreak.llm.response_verdict import read_answer
from stormbreak.llm.stream_reader import FORMATS, StreamAssembler, StreamReader
from stormbreak.types import Answer, CallResult, Cost, Outcome, Target, Verdict

Reader = TypeVar("Reader", bound=StreamReader)

Parsed: TypeAlias = tuple[HttpResponse, ParsedResponse]
"""A response, its body assembled if it was a stream, and its meaning."""

GRACE = 0.25  # seconds that a body may go on after its answer's end, to reuse the connection
MAX_PIECES_AFTER_END = 16  # a server may never stop
_STREAM = "text/event-"


class Response(Value, frozen=True):
    """A response and its meaning; the body of a stream is assembled. Its repr shows no text.

    `original` is the received response with its headers. It may repeat the request: only the caller may see it. `value`
    is the parsed text, if a schema was checked.
    """

    status: int
    body: bytes
    parsed: ParsedResponse
    original: HttpResponse | None = None
    value: Any = None

    def __repr__(self) -> str:
        return f"Response({self.status}, {len(self.body)} bytes, {self.parsed.verdict})"


# ---------------------------------------------------------------- a whole body


def is_own(parsed: ParsedResponse, *, other_form: bool) -> bool:
    """Whether this can be the answer to its request. Unless it is an error, it must not be in the `other_form`."""
    verdict = parsed.verdict
    if not other_form:
        return verdict is not Verdict.BROKEN
    return verdict not in (Verdict.OK, Verdict.BROKEN) and parsed.finish_reason is None


class WholeAnswer(msgspec.Struct, eq=False):  # its constructor is not written in Python
    """A `Judge` that reads a response that came whole, and keeps the result."""

    request: PreparedRequest
    parsed: Parsed = None  # type: ignore[assignment]  # not before it was called

    def __call__(self, response: HttpResponse) -> bool:
        """Read a response; False: it may belong to another request."""
        request = self.request
        # A resource may be a file that begins with a byte order mark.
        if response.body.startswith(BOM_UTF8) and request.shape is not Shape.RESOURCE:
            response = response._replace(body=without_mark(response.body))
        parsed = read_answer(
            response, request.shape, choices=request.choices, inputs=request.inputs
        )
        media = response.headers.get("content-type", "").lower()
        is_stream = media.startswith(_STREAM) and response.succeeded
        if is_stream and parsed.verdict is Verdict.BROKEN and request.shape in FORMATS:
            # it was not requested: the server would send one again
            assembler = stream_reader(StreamAssembler, request, response)
            assembler.feed(response.body)
            parsed, body = assembler.end()
            response = response._replace(body=body)
        self.parsed = response, parsed
        return is_own(parsed, other_form=is_stream)


async def read_whole(stream: ResponseStream, request: PreparedRequest) -> Parsed | Outcome:
    answer = WholeAnswer(request)
    got = await collect(stream, answer)
    return got if isinstance(got, Outcome) else answer.parsed


async def read_failure(
    stream: ResponseStream, request: PreparedRequest, api_key: str | None, *, learn: bool
) -> Outcome:
    """Read a response with an error status."""
    result = await read_whole(stream, request)
    return (
        result if isinstance(result, Outcome) else outcome_of(result, request, api_key, learn=learn)
    )


def outcome_of(
    result: Parsed, request: PreparedRequest, api_key: str | None, *, learn: bool
) -> Outcome:
    """Make the outcome of an attempt, the key and the request's text redacted; `learn` reads rate-limit headers."""
    http, parsed = result
    assert isinstance(request.body, bytes)
    succeeded = parsed.verdict is Verdict.OK
    body = http.body
    if not succeeded:
        parsed, body = redact(parsed, body, api_key=api_key, request_body=request.body)
    elif parsed.request_id is not None and repeats(parsed.request_id, api_key, request.body):
        parsed = parsed._replace(request_id=None)
    usage = parsed.usage
    return Outcome(
        parsed.verdict,
        value=Response(http.status, body, parsed, http),
        status=http.status,
        code=parsed.code,
        detail=parsed.detail,
        retry_after=parsed.retry_after,
        maybe_processed=not succeeded and parsed.maybe_processed,
        forbidden=parsed.forbidden,
        usage=usage if usage.input_tokens or usage.output_tokens else None,
        rate_limits=parse_rate_limits(http.headers, http.received_at) if learn else None,
    )


def answer_of(target: Target, ended: CallResult, price_of: PriceOf | None) -> Answer:
    """Make the answer of a call that succeeded; `price_of` gives its cost."""
    response = ended.outcome.value
    assert isinstance(response, Response)
    parsed = response.parsed
    return Answer(
        text=parsed.text,
        usage=parsed.usage,
        target=target,
        attempts=ended.attempts,
        waited=ended.waited,
        raw=response.body,
        status=response.status,
        request_id=parsed.request_id,
        source=ended.source,
        detail=ended.outcome.detail,
        maybe_processed=ended.maybe_processed,
        parsed=response.value,
        costs=Cost(partial(cost_of, price_of, target, parsed.usage, ended.source)),
    )


# ---------------------------------------------------------------- a stream


def stream_reader(kind: type[Reader], request: PreparedRequest, head: HttpResponse) -> Reader:
    """Make the reader of a stream that begins with `head`."""
    return kind(
        request.shape,
        status=head.status,
        headers=head.headers,
        received_at=head.received_at,
        choices=request.choices,
        inputs=request.inputs,
    )


async def assemble_stream(
    stream: ResponseStream,
    request: PreparedRequest,
    stall_timeout: float | None,
    on_output: Callable[[], None] | None,
) -> tuple[Parsed | Outcome, CancelledError | None]:
    """Assemble a streamed answer. A cancel after its end is returned, not raised.

    `on_output` is called at the first output; after that, `stall_timeout` bounds silence.
    """
    if not stream.head.succeeded:
        return await read_whole(stream, request), None
    assembler = stream_reader(StreamAssembler, request, stream.head)
    body, is_answer = StreamedBody(stream), False
    try:
        ended = await _read_all(body, stream, assembler, stall_timeout, on_output)
        if isinstance(ended, Outcome):
            return ended, None
        parsed, whole = assembler.end()
        is_answer = is_own(parsed, other_form=assembler.is_plain)
        return (stream.head._replace(body=whole), parsed), ended
    finally:
        if not is_answer:
            stream.spoil()
        stream.close()
        body.release()


async def _read_all(
    body: "StreamedBody",
    stream: ResponseStream,
    assembler: StreamAssembler,
    stall_timeout: float | None,
    on_output: Callable[[], None] | None,
) -> Outcome | CancelledError | None:
    """Read until the answer is over or has failed; return a failed connection's outcome, or a cancel after the end."""
    has_output = False
    while not assembler.failed:
        try:
            chunk = await body.read_into(assembler)
        except CancelledError as cancel:
            if not assembler.whole:
                raise
            return cancel
        if isinstance(chunk, Outcome):
            return chunk
        if not chunk:
            break
        if not has_output and assembler.first_output:
            has_output = True
            if on_output is not None:
                on_output()
            if stall_timeout is not None:
                stream.limit_silence(stall_timeout)
    return None


class StreamedBody:
    """The body of a streamed answer, read until the answer is over, by one rule for all readers.

    An answer is over when its format says so, or when usage follows all finish reasons. After that, a missing last
    chunk, a lost connection or silence changes nothing; the rest is read only for `GRACE`, to reuse the connection.
    Finish reasons alone do not end an answer, since some relays write them into every chunk: then the body must end
    correctly. Bytes that cannot be decompressed break even an answer that is over: it may differ from what was sent.
    """

    def __init__(self, stream: ResponseStream) -> None:
        self._stream = stream
        self._after_end = 0  # pieces read after the end
        self._size = 0
        self._held = Held()

    async def read_into(self, reader: StreamReader) -> bytes | Outcome:
        """Read the next bytes and feed the reader; no bytes at the end of the answer, an outcome if it broke.

        The bytes count as memory until `release`. Cancelling closes the connection.
        """
        chunk = None
        while chunk is None:
            await self._stream.wait()
            chunk = self._take(reader)
        if isinstance(chunk, bytes) and chunk:
            self._size += len(chunk)
            if self._size > FREE:
                await self._held.grow_to(self._size)
            self._feed(chunk, reader)
        return chunk

    def take_into(self, reader: StreamReader) -> bytes | Outcome | None:
        """Do the same with bytes that have arrived, without keeping memory; None if there are none."""
        chunk = self._take(reader)
        if isinstance(chunk, bytes) and chunk:
            self._feed(chunk, reader)
        return chunk

    def release(self) -> None:
        self._held.release()

    def _take(self, reader: StreamReader) -> bytes | Outcome | None:
        chunk = self._stream.take()
        if isinstance(chunk, Outcome) and reader.whole and chunk.detail != MALFORMED:
            return b""
        return chunk

    def _feed(self, chunk: bytes, reader: StreamReader) -> None:
        if reader.feed(chunk):
            self._after_end += 1
            self._stream.limit_silence(GRACE)
            if self._after_end > MAX_PIECES_AFTER_END:
                self._stream.close()
