"""A streamed chat completion, read to its end and judged like a plain one (law 15).

A stream is complete when every choice has said why it finished. The closing ``[DONE]`` is not asked for:
some providers omit it, and with the finish reasons nothing of the answer can be missing. What a cut after
the last finish reason may cost is the usage, which then reads 0.

A server that answers a streaming request with a plain body (an error, JSON, a page of HTML) is read as
such: what opens with a brace, a bracket or a tag is no event stream, whatever its content type says.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec

from stormbreak.llm.assembly import ChatAssembly
from stormbreak.llm.classify import read_answer, read_error, request_id_of
from stormbreak.llm.complaint import Complaint, complaint_in
from stormbreak.llm.halves import mended
from stormbreak.llm.pieces import MalformedChunkError
from stormbreak.llm.reading import HttpAnswer, Reading, Shape
from stormbreak.llm.sse import Event, EventReader, LineTooLongError
from stormbreak.types import Verdict

TOTAL_LIMIT = 64 * 1024 * 1024
_INVISIBLE = b"\xef\xbb\xbf \t\r\n"  # white space and the bytes of a byte order mark
_UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)


class _Form(Enum):
    UNKNOWN = "unknown"
    EVENTS = "events"
    PLAIN = "plain"


class StreamAssembler:
    """Take the bytes of one answer as they come; `end` says what they were.

    Args:
        shape: what the call asked for; only chat completions can be assembled from events.
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
        self._head = HttpAnswer(status, headers or {}, b"", received_at)
        self._choices = choices
        self._inputs = inputs
        self._form = _Form.UNKNOWN if 200 <= status <= 299 else _Form.PLAIN
        self._plain = bytearray()  # a plain body, or the start of one that is not known yet
        self._size = 0
        self._events = EventReader()
        self._chat = ChatAssembly()
        self._done = False
        self._failure: Reading | None = None
        self._error_body = b""

    @property
    def first_output(self) -> bool:
        """Whether output has arrived: text, a refusal, reasoning or a tool call."""
        return self._chat.has_output

    @property
    def over(self) -> bool:
        """Whether nothing that may still come can change the result: `[DONE]` was seen, or a failure."""
        return self._done or self._failure is not None

    @property
    def failed(self) -> bool:
        """Whether something has come that no complete answer has in it."""
        return self._failure is not None

    @property
    def is_plain(self) -> bool:
        """Whether this is no event stream, but a body like that of any other answer."""
        return self._form is not _Form.EVENTS

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; after a failure, and after `[DONE]`, they are ignored."""
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

    def end(self) -> tuple[Reading, bytes]:
        """Judge the stream that ended here, and give the body it amounts to.

        The body of a success is what the call would have got unstreamed; that of an error is the error as
        it came; there is none of a broken stream.
        """
        if self._form is not _Form.EVENTS and not self._failure:
            body = bytes(self._plain)
            return self._read(body), body
        if not self.over:
            self._read_rest()
        if not self._failure and not self._chat.finished(self._choices):
            self._break("stream ended without finish_reason")
        return (self._failure, self._error_body) if self._failure else self._whole()

    def _recognise(self) -> None:
        """Decide by the first visible character."""
        if self._form is _Form.PLAIN:
            return
        self._plain = self._plain.lstrip(_INVISIBLE)
        if not self._plain:
            return
        if self._plain.startswith((b"{", b"[", b"<")):
            self._form = _Form.PLAIN
            return
        self._form = _Form.EVENTS
        if self._shape is Shape.CHAT:
            self._read_events(bytes(self._plain))
        else:  # final: to ask for this stream again would only pay for it again
            detail = f"a stream cannot be made into a {self._shape.value}"
            self._fail(Reading(Verdict.INVALID, detail=detail, maybe_processed=True))

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
        if event.data.strip() == b"[DONE]":
            self._done = True
            return
        try:
            said = _decoded(event.data)
            complaint = complaint_in(said, is_error=event.name == b"error")
            if complaint:
                self._complain(event, complaint)
            else:
                self._chat.add(_object(said))
        except _UNREADABLE:
            self._break("invalid json in an event")
        except MalformedChunkError:
            self._break("not a chunk of a chat completion")

    def _complain(self, event: Event, complaint: Complaint) -> None:
        self._error_body = event.data
        self._fail(read_error(self._head, complaint))

    def _break(self, detail: str) -> None:
        self._fail(Reading(Verdict.BROKEN, detail=detail, maybe_processed=True))

    def _fail(self, reading: Reading) -> None:
        self._failure = reading._replace(request_id=request_id_of(self._head.headers))

    def _whole(self) -> tuple[Reading, bytes]:
        try:
            body = msgspec.json.encode(self._chat.result())
        except RecursionError:  # `end` may be called from deeper down than `feed` was
            return Reading(Verdict.BROKEN, detail="nested too deeply", maybe_processed=True), b""
        reading = self._read(body)
        return reading, body if reading.verdict is Verdict.OK else b""

    def _read(self, body: bytes) -> Reading:
        answer = self._head._replace(body=body)
        return read_answer(answer, self._shape, choices=self._choices, inputs=self._inputs)


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except _UNREADABLE:
        whole = mended(data)
        if whole == data:
            raise
        return msgspec.json.decode(whole)


def _object(said: object) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise MalformedChunkError
    return said
