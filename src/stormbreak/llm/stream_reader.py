"""Read the bytes of a stream as events, or as a plain body in their place; and assemble the answer.

A server that answers a streaming request with a plain body (an error, JSON, a page of HTML) is read as
such: what opens with a brace, a bracket or a tag is no event stream, whatever its content type says.
What is kept of the events is for the consumer to say.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec

from stormbreak.llm.classify import is_media, read_answer, read_error, request_id_of
from stormbreak.llm.error_body import ProviderError
from stormbreak.llm.models import HttpResponse, ParsedResponse, Shape
from stormbreak.llm.sse import INVISIBLE, Event, EventReader, LineTooLongError
from stormbreak.llm.stream_deltas import EventConsumer, MalformedChunkError, expect_object
from stormbreak.llm.stream_formats import FORMATS, Format, StreamAssembly
from stormbreak.llm.surrogates import UNREADABLE, decoded
from stormbreak.types import Verdict

TOTAL_LIMIT = 64 * 1024 * 1024
_LOOKS = 64  # for the end behind the usage, and no more: each takes longer with each choice that a server makes up
UNREADABLE_EVENT = (*UNREADABLE, MalformedChunkError)


class _Form(Enum):
    UNKNOWN = "unknown"
    EVENTS = "events"
    PLAIN = "plain"


class StreamReader(ABC):
    """Take the bytes of one answer as they come.

    Args:
        shape: what the call asked for; chat completions, responses and messages may come as events.
        status: HTTP status of the answer.
        headers: its headers, by lower-case name.
        received_at: when the headers came, in unix epoch seconds.
        choices: how many choices the call asked for (`n`).
        inputs: how many inputs it gave to be embedded; None if that is not known.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        received_at: float = 0.0,
        choices: int = 1,
        inputs: int | None = None,
    ) -> None:
        self._shape = shape
        self._head = HttpResponse(status, headers or {}, b"", received_at)
        self._choices = choices
        self._inputs = inputs
        plain = not self._head.succeeded or is_media(self._head.headers)
        self._form = _Form.PLAIN if plain else _Form.UNKNOWN
        self._plain = bytearray()  # a plain body, or the start of one that is not known yet
        self._size = 0
        self._events = EventReader()
        self._format: Format | None = FORMATS.get(shape)
        self._consumer: EventConsumer | None = self._format and self._follow(self._format)
        self._done = False
        self._counted_up = False
        self._looks = 0
        self._failure: ParsedResponse | None = None
        self._error_body = b""

    @abstractmethod
    def _follow(self, kind: Format) -> EventConsumer:
        """Make what follows the events of this answer."""

    @property
    def first_output(self) -> bool:
        """Whether output has arrived: text, a refusal, reasoning or a tool call."""
        return self._consumer is not None and self._consumer.has_output

    @property
    def over(self) -> bool:
        """Whether nothing that may still come can change the result: the end was seen, or a failure."""
        return self._done or self._failure is not None

    @property
    def whole(self) -> bool:
        """Whether this is decided even if not a byte more comes: `over`, or all finish reasons, then usage, have come.

        Finish reasons alone do not decide it: some relays write one into every chunk, and may pause.
        """
        return self.over or (self._counted_up and not self._is_open())

    @property
    def finished(self) -> bool:
        """Whether it would be a complete answer if its body ended here."""
        follower = self._consumer
        return self.over or (
            follower is not None and follower.wrong() is None and not self._is_open()
        )

    @property
    def failed(self) -> bool:
        """Whether something has come that no complete answer has in it."""
        return self._failure is not None

    @property
    def is_plain(self) -> bool:
        """Whether this is no event stream, but a body like that of any other answer."""
        return self._form is not _Form.EVENTS

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; after a failure, and after the end, they are ignored."""
        if self.over:
            return
        self._size += len(chunk)
        if self._size > TOTAL_LIMIT:
            self._break(f"longer than {TOTAL_LIMIT} bytes")
        elif self._form is _Form.EVENTS:
            self._read_events(chunk)
        else:
            self._plain += chunk
            self._recognise()

    def _plain_body(self) -> bytes | None:
        """Give the body that is no stream; None if this is one, or has failed."""
        return bytes(self._plain) if self.is_plain and not self._failure else None

    def _finish(self) -> ParsedResponse | None:
        """Read what the end of the stream left, and tell what failed, or is missing."""
        if not self.over:
            self._read_rest()
        wrong = (
            self._consumer.wrong(done=self._done) if self._consumer and not self._failure else None
        )
        if wrong:
            self._break(wrong)
        return self._failure

    def _recognise(self) -> None:
        """Decide by the first visible character."""
        if self._form is _Form.PLAIN:
            return
        self._plain = self._plain.lstrip(INVISIBLE)
        if not self._plain:
            return
        if self._plain.startswith((b"{", b"[", b"<")):
            self._form = _Form.PLAIN
            return
        self._form = _Form.EVENTS
        if self._format:
            start, self._plain = bytes(self._plain), bytearray()
            self._read_events(start)
        else:  # final: to ask for this stream again would only pay for it again
            detail = f"a stream cannot be made into a {self._shape.value}"
            self._fail(ParsedResponse(Verdict.INVALID, detail=detail, maybe_processed=True))

    def _read_events(self, chunk: bytes) -> None:
        try:
            for event in self._events.feed(chunk):
                self._take(event)
                if self.over:
                    return
        except LineTooLongError:
            self._break("a line of the stream is too long")

    def _read_rest(self) -> None:
        for event in self._events.end():
            self._take(event)
        if self._events.cut and not self.over:
            self._break("stream cut inside an event")

    def _take(self, event: Event) -> None:
        assert self._format
        assert self._consumer
        if event.data.strip() == b"[DONE]":
            self._done = True
            return
        try:
            said: Any = decoded(event.data)
            complaint = self._format.find_error(said, is_error=event.name == b"error")
            if complaint:
                self._complain(event, complaint)
            else:
                self._consumer.add(expect_object(said))
                self._done = self._consumer.ended
                self._look_for_count(said)
        except MalformedChunkError:
            self._break(f"not a part of a {self._shape.value}")
        except UNREADABLE_EVENT:
            self._break("invalid json in an event")

    def _look_for_count(self, said: dict[str, Any]) -> None:
        """See whether this event counts the answer up: usage in an event of its own, behind all finish reasons."""
        if said.get("choices"):
            self._counted_up = False
        elif not self._counted_up and said.get("usage") and self._looks < _LOOKS:
            self._looks += 1
            self._counted_up = self._consumer is not None and self._consumer.wrong() is None

    def _is_open(self) -> bool:
        """Whether an event has begun that has not ended."""
        return self._events.is_open

    def _complain(self, event: Event, complaint: ProviderError) -> None:
        self._error_body = event.data
        self._fail(read_error(self._head, complaint))

    def _break(self, detail: str) -> None:
        self._fail(ParsedResponse(Verdict.BROKEN, detail=detail, maybe_processed=True))

    def _fail(self, reading: ParsedResponse) -> None:
        self._failure = reading._replace(request_id=request_id_of(self._head.headers))

    def _read(self, body: bytes) -> ParsedResponse:
        answer = self._head._replace(body=body)
        return read_answer(answer, self._shape, choices=self._choices, inputs=self._inputs)


# ---------------------------------------------------------------- assembler
# The assembled answer is classified like a plain one (law 15). A chat completion is complete when
# every choice has said why it finished. The closing ``[DONE]`` is not asked for where the body ends
# rightly, or usage follows in an event of its own: some providers omit it. Without either, silence
# or a cut after the finish reasons makes no answer: some relays write a finish reason into every
# chunk. A response is complete with ``response.completed`` (or ``incomplete``), a message with
# ``message_stop``.


class StreamAssembler(StreamReader):
    """Take the bytes of one answer as they come; `end` says what they were, and gives the whole."""

    _assembly: StreamAssembly

    def _follow(self, kind: Format) -> StreamAssembly:
        self._assembly = kind.assembly(self._choices)
        return self._assembly

    def end(self) -> tuple[ParsedResponse, bytes]:
        """Judge the stream that ended here, and give the body it amounts to.

        The body of a success is what the call would have got unstreamed; that of an error is the error as
        it came; there is none of a broken stream.
        """
        plain = self._plain_body()
        if plain is not None:
            return self._read(plain), plain
        failure = self._finish()
        return (failure, self._error_body) if failure else self._whole()

    def _whole(self) -> tuple[ParsedResponse, bytes]:
        try:
            body = msgspec.json.encode(self._assembly.result())
        except RecursionError:  # `end` may be called from deeper down than `feed` was
            return ParsedResponse(
                Verdict.BROKEN, detail="nested too deeply", maybe_processed=True
            ), b""
        reading = self._read(body)
        whole = reading.verdict is Verdict.OK or reading.finish_reason is not None
        return reading, body if whole else b""
