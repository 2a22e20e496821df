"""One attempt at an LLM API: a request built, sent, and its answer read for what it means."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from stormbreak.http.echoes import without_echoes
from stormbreak.http.origin import Origin
from stormbreak.http.wire import CONNECT_TIMEOUT, HttpRequest, OpenSink, Sink, Wire
from stormbreak.llm.classify import read_answer
from stormbreak.llm.limits import limits_of
from stormbreak.llm.reading import HttpAnswer, Reading, Shape
from stormbreak.llm.stream import StreamAssembler
from stormbreak.llm.stream_reader import StreamReader
from stormbreak.types import Answer, Ended, Outcome, Target, Verdict

Reader = TypeVar("Reader", bound=StreamReader)

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
    reading: Reading
    sent: HttpAnswer | None = None

    def __repr__(self) -> str:
        return f"Received({self.status}, {len(self.body)} bytes, {self.reading.verdict})"


class _Stream:
    """The assembler of one streamed answer, made when its head has come; `first` hears of its first output."""

    def __init__(self, asked: Asked, first: Callable[[], None] | None) -> None:
        self._asked = asked
        self._first = first
        self.assembler: StreamAssembler | None = None

    def open(self, head: HttpAnswer) -> Sink:
        self.assembler = reader_of(StreamAssembler, self._asked, head)
        return self._feed

    def _feed(self, chunk: bytes) -> bool:
        assert self.assembler is not None
        self.assembler.feed(chunk)
        if self._first is not None and self.assembler.first_output:
            self._first()
            self._first = None
        return self.assembler.failed


async def attempt(
    wire: Wire,
    origin: Origin,
    asked: Asked,
    *,
    idle_timeout: float | None,
    within: float | None = None,
    first: Callable[[], None] | None = None,
    learn: bool = False,
) -> Outcome:
    """Send once and say what came of it; the outcome's value is what was `Received`, if anything was.

    Somebody else ends the attempt `within` so many seconds; what has no connection shortly before has failed
    to connect, and nothing can have been processed. `first` is called when the first output of a stream comes.
    With `learn`, headers are read for limits, too.
    """
    stream = _Stream(asked, first) if asked.streamed else None
    request = request_of(
        origin, asked, idle_timeout, within, open_sink=stream.open if stream else None
    )
    result = await wire.exchange(request)
    if isinstance(result, Outcome):
        return result
    if stream is not None and stream.assembler is not None:
        reading, body = stream.assembler.end()
    else:
        body = result.body
        reading = read_answer(result, asked.shape, choices=asked.choices, inputs=asked.inputs)
    sent = result._replace(body=body)
    reading, body = without_echoes(reading, body, api_key=origin.api_key, asked=asked.body)
    return outcome_of(sent, reading, body, learn=learn)


def request_of(
    origin: Origin,
    asked: Asked,
    idle_timeout: float | None,
    within: float | None,
    *,
    open_sink: OpenSink | None = None,
) -> HttpRequest:
    """Write the request of an attempt that somebody else ends `within` so many seconds."""
    connect = asked.connect_timeout
    if within is not None:
        connect = min(connect, CONNECT_SHARE * within)
    headers = _headers(origin, asked) if asked.headers is None else asked.headers
    return HttpRequest(
        asked.url, headers, asked.body, idle_timeout, open_sink, connect, asked.method
    )


def reader_of(kind: type[Reader], asked: Asked, head: HttpAnswer) -> Reader:
    """Make what reads the streamed answer to `asked` that begins with `head`."""
    return kind(
        asked.shape,
        status=head.status,
        headers=head.headers,
        received_at=head.received_at,
        choices=asked.choices,
        inputs=asked.inputs,
    )


def answer_of(target: Target, ended: Ended) -> Answer:
    """Make the answer out of how a call ended well."""
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
    )


def if_cut_short(outcome: Outcome, timeout: float | None, usual: float | None) -> Outcome:
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
    headers["Accept"] = "text/event-stream" if asked.streamed else "application/json"
    headers["Idempotency-Key"] = asked.idempotency_key
    return headers


def outcome_of(answer: HttpAnswer, reading: Reading, body: bytes, *, learn: bool) -> Outcome:
    """Tell what `answer` came to, and keep it; with `learn`, tell what its headers say of limits, too."""
    return Outcome(
        reading.verdict,
        value=Received(answer.status, body, reading, answer),
        status=answer.status,
        code=reading.code,
        detail=reading.detail,
        retry_after=reading.retry_after,
        maybe_processed=reading.verdict is not Verdict.OK and reading.maybe_processed,
        used=(reading.usage.input_tokens + reading.usage.output_tokens) or None,
        told=limits_of(answer.headers, answer.received_at) if learn else None,
    )
