"""One attempt at an LLM API: a request built, sent, and its answer read for what it means."""

from asyncio import CancelledError
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias, TypeVar

from stormbreak.cost.price_table import PriceOf
from stormbreak.drivers.timeouts import AnsweredError
from stormbreak.http.endpoint import Origin
from stormbreak.http.h1.connection import (
    CONNECT_TIMEOUT,
    FREE,
    MALFORMED,
    ExchangeResult,
    Held,
    HttpRequest,
    ResponseStream,
    Wire,
    collected,
)
from stormbreak.http.pricing import LazyCost
from stormbreak.http.redact import redact
from stormbreak.llm.classify import read_answer
from stormbreak.llm.models import BOM, HttpResponse, ParsedResponse, Shape, without_mark
from stormbreak.llm.rate_limit_headers import parse_rate_limits
from stormbreak.llm.stream_formats import FORMATS
from stormbreak.llm.stream_reader import StreamAssembler, StreamReader
from stormbreak.types import Answer, CallResult, Outcome, Target, Verdict

Reader = TypeVar("Reader", bound=StreamReader)

_Came: TypeAlias = tuple[
    HttpResponse, ParsedResponse
]  # as it came, assembled where it was a stream

GRACE = 0.25  # seconds from the end of an answer to that of its body; longer, and the connection is not used again
_ANYTHING = "application/json, */*;q=0.5"  # of an endpoint that may give a file
PROXY_STATUSES = 16  # pieces of a body behind the end of its answer: a server may never stop
CONNECT_SHARE = 0.9  # of an attempt's time; the rest shows that it was the connection that failed


class Asked(NamedTuple):
    """What is to be sent: where, a JSON object as bytes, and what its answer should look like.

    `choices` were asked for, or embeddings of so many `inputs` (None: that is not known). `headers` go instead of
    those of the origin.
    """

    url: str
    body: bytes
    shape: Shape
    streamed: bool
    choices: int
    idempotency_key: str
    inputs: int | None = None
    headers: Mapping[str, str] | None = None
    method: str = "POST"
    connect_timeout: float = CONNECT_TIMEOUT

    def __repr__(self) -> str:
        return f"Asked({self.url.partition('?')[0]!r}, {len(self.body)} bytes)"


class Received(NamedTuple):
    """An answer and its reading; `body` is assembled where it came as a stream. Its repr shows no text.

    `sent` is what came, headers included, with all that it may repeat of the request: for the caller alone.
    """

    status: int
    body: bytes
    reading: ParsedResponse
    sent: HttpResponse | None = None

    def __repr__(self) -> str:
        return f"Received({self.status}, {len(self.body)} bytes, {self.reading.verdict})"


async def attempt(
    wire: Wire,
    origin: Origin,
    asked: Asked,
    *,
    idle_timeout: float | None,
    stall_timeout: float | None = None,
    within: float | None = None,
    first: Callable[[], None] | None = None,
    learn: bool = False,
) -> Outcome:
    """Send once and say what came of it; the outcome's value is what was `Received`, if anything was.

    Somebody else ends the attempt `within` so many seconds; what has no connection shortly before has failed
    to connect, and nothing can have been processed. `first` is called when the first output of a stream comes; from then
    on it may be silent for `stall_timeout`. With `learn`, headers are read for limits, too.
    """
    request = request_of(origin, asked, idle_timeout, within)
    cancel: CancelledError | None = None
    if asked.streamed:
        came, cancel = await _assembled(wire, request, asked, stall_timeout, first)
    else:
        came = _plain(await wire.exchange(request), asked)
    if isinstance(came, Outcome):
        return came
    outcome = _classified(origin, asked, came, learn=learn)
    if cancel is not None:
        raise AnsweredError(outcome, cancel)
    return outcome


async def refused(
    incoming: ResponseStream, origin: Origin, asked: Asked, *, learn: bool
) -> Outcome:
    """Read an answer that is no success, and say what it means."""
    came = _plain(await collected(incoming), asked)
    return came if isinstance(came, Outcome) else _classified(origin, asked, came, learn=learn)


def _classified(origin: Origin, asked: Asked, came: _Came, *, learn: bool) -> Outcome:
    sent, reading = came
    reading, body = redact(reading, sent.body, api_key=origin.api_key, asked=asked.body)
    return outcome_of(sent, reading, body, learn=learn)


def _plain(answer: ExchangeResult, asked: Asked) -> _Came | Outcome:
    if isinstance(answer, Outcome):
        return answer
    if asked.shape is not Shape.RESOURCE and answer.body.startswith(BOM):  # that may be a file
        answer = answer._replace(body=without_mark(answer.body))
    reading = read_answer(answer, asked.shape, choices=asked.choices, inputs=asked.inputs)
    if reading.verdict is Verdict.BROKEN and _is_stream(answer) and asked.shape in FORMATS:
        assembler = reader_of(StreamAssembler, asked, answer)
        assembler.feed(answer.body)
        reading, body = assembler.end()
        answer = answer._replace(body=body)
    return answer, reading


def _is_stream(answer: HttpResponse) -> bool:
    """Whether a server streams that was not asked to: it would again."""
    return answer.succeeded and answer.headers.get("content-type", "").startswith("text/event-")


async def _assembled(
    wire: Wire,
    request: HttpRequest,
    asked: Asked,
    stall_timeout: float | None,
    first: Callable[[], None] | None,
) -> tuple[_Came | Outcome, CancelledError | None]:
    """Put a streamed answer together; with the cancel that came behind it, when it was whole."""
    incoming = await wire.open(request)
    if isinstance(incoming, Outcome):
        return incoming, None
    if not incoming.head.succeeded:
        return _plain(await collected(incoming), asked), None
    assembler = reader_of(StreamAssembler, asked, incoming.head)
    body = StreamBody(incoming)
    body.is_kept = True
    cancel: CancelledError | None = None
    try:
        broke = await _read_all(body, incoming, assembler, stall_timeout, first)
    except CancelledError as error:
        if assembler.failed or not assembler.whole:
            raise
        broke, cancel = None, error
    finally:
        incoming.close()
        body.release()
    if broke is not None:
        return broke, None
    reading, whole = assembler.end()
    return (incoming.head._replace(body=whole), reading), cancel


async def _read_all(
    body: "StreamBody",
    incoming: ResponseStream,
    assembler: StreamAssembler,
    stall_timeout: float | None,
    first: Callable[[], None] | None,
) -> Outcome | None:
    """Read until the answer is over, or has failed; an outcome where it broke."""
    begun = False
    while not assembler.failed:
        got = await body.read_into(assembler)
        if isinstance(got, Outcome):
            return got
        if not got:
            break
        if not begun and assembler.first_output:
            begun = True
            if first is not None:
                first()
            if stall_timeout is not None:
                incoming.hurry(stall_timeout)
    return None


class StreamBody:
    """The body of a streamed answer, read until the answer is over: the one rule for all paths that read one.

    Once the format says that the answer is over, nothing that comes, or fails to come, can change it: a missing last chunk,
    a lost connection, silence. The same holds behind the usage that follows all finish reasons. The rest is waited for
    only as long as it takes to see whether the connection can be used again; then the
    connection is closed. Finish reasons alone say less: some relays write them into every chunk, so only
    the right end of the body makes that an answer. Only bytes that cannot be unpacked spoil an answer that is over: it may not be what was sent.
    """

    is_kept = False  # what came so far is: it takes memory

    def __init__(self, incoming: ResponseStream) -> None:
        self._incoming = incoming
        self._behind = 0  # pieces that came behind the end
        self._size = 0
        self._held = Held()

    async def read_into(self, reader: StreamReader) -> bytes | Outcome:
        """Wait for the next bytes, and have the reader take them: none where the answer is over, an outcome where it broke.

        Cancelling closes the connection.
        """
        if self._behind > PROXY_STATUSES:
            self._incoming.close()
            return b""
        got = await self._incoming.read()
        if not isinstance(got, bytes):
            return b"" if reader.whole and got.detail != MALFORMED else got
        if got:
            self._size += len(got)
            if self.is_kept and self._size > FREE:
                await self._held.grow_to(self._size)
            reader.feed(got)
            if reader.whole:
                self._behind += 1
                self._incoming.hurry(GRACE)
        return got

    def release(self) -> None:
        """Give back the memory of what was kept."""
        self.is_kept = False
        self._held.release()


def request_of(
    origin: Origin,
    asked: Asked,
    idle_timeout: float | None,
    within: float | None,
) -> HttpRequest:
    """Write the request of an attempt that somebody else ends `within` so many seconds."""
    connect = asked.connect_timeout
    if within is not None:
        connect = min(connect, CONNECT_SHARE * within)
    headers = _headers(origin, asked) if asked.headers is None else asked.headers
    return HttpRequest(
        asked.url, headers, asked.body, idle_timeout, connect, asked.method, within=within
    )


def reader_of(kind: type[Reader], asked: Asked, head: HttpResponse) -> Reader:
    """Make what reads the streamed answer to `asked` that begins with `head`."""
    return kind(
        asked.shape,
        status=head.status,
        headers=head.headers,
        received_at=head.received_at,
        choices=asked.choices,
        inputs=asked.inputs,
    )


def answer_of(target: Target, ended: CallResult, price_of: PriceOf | None) -> Answer:
    """Make the answer out of how a call ended well; by `price_of` it will say what it costs."""
    received = ended.outcome.value
    assert isinstance(received, Received)
    reading = received.reading
    return Answer(
        text=reading.text,
        usage=reading.usage,
        target=target,
        attempts=ended.attempts,
        waited=ended.waited,
        raw=received.body,
        status=received.status,
        request_id=reading.request_id,
        source=ended.source,
        detail=ended.outcome.detail,
        maybe_processed=ended.maybe_processed,
        costs=LazyCost(price_of, target, reading.usage, ended.source),
    )


def cancelled_outcome(outcome: Outcome, timeout: float | None, usual: float | None) -> Outcome:
    """The outcome; as of our own deadline where `timeout`, less than the `usual` time to connect, was too short for that."""
    short = (
        outcome.verdict is Verdict.CONNECT_FAILED
        and isinstance(outcome.error, TimeoutError)
        and timeout is not None
        and CONNECT_SHARE * timeout < CONNECT_TIMEOUT
        and (usual is None or timeout < usual)
    )
    return outcome._replace(own_deadline=True) if short else outcome


def _headers(origin: Origin, asked: Asked) -> dict[str, str]:
    headers = origin.headers[asked.shape].copy()
    plain = _ANYTHING if asked.shape is Shape.JSON else "application/json"
    headers["Accept"] = "text/event-stream" if asked.streamed else plain
    headers["Idempotency-Key"] = asked.idempotency_key
    return headers


def outcome_of(
    answer: HttpResponse, reading: ParsedResponse, body: bytes, *, learn: bool
) -> Outcome:
    """Tell what `answer` came to, and keep it; with `learn`, tell what its headers say of limits, too."""
    return Outcome(
        reading.verdict,
        value=Received(answer.status, body, reading, answer),
        status=answer.status,
        code=reading.code,
        detail=reading.detail,
        retry_after=reading.retry_after,
        maybe_processed=reading.verdict is not Verdict.OK and reading.maybe_processed,
        forbidden=reading.forbidden,
        usage=reading.usage if reading.usage.total else None,
        rate_limits=parse_rate_limits(answer.headers, answer.received_at) if learn else None,
    )
