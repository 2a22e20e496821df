"""Read the bytes of a stream as events, or as a plain body in their place; and assemble the answer.

A server may answer a streaming request with a plain body (an error, JSON, a page of HTML): what opens with a brace, a
bracket or a tag is no event stream, whatever its content type. A watcher takes the events; one that assembles the answer keeps them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

import msgspec

from stormbreak.llm.chat import ChatAssembly, ChatWatcher, CompletionWatcher, TextAssembly
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.error_fields import ProviderError, find_error
from stormbreak.llm.messages import END, MessageAssembly, MessagesWatcher
from stormbreak.llm.parsed_response import HttpResponse, ParsedResponse
from stormbreak.llm.response_verdict import is_media, read_answer, read_error, request_id_of
from stormbreak.llm.responses import ENDS, ResponseAssembly, ResponsesWatcher, error_in_event
from stormbreak.llm.sse import INVISIBLE, Event, EventReader, LineTooLongError
from stormbreak.llm.stream_deltas import (
    MalformedChunkError,
    StreamAssembly,
    StreamWatcher,
    expect_object,
)
from stormbreak.llm.surrogates import UNREADABLE, decoded
from stormbreak.types import Verdict

# ---------------------------------------------------------------- formats


class Format(NamedTuple):
    """How answers of one shape are streamed. `assembly` and `watcher` get the number of choices.

    `last_events` are the types of the events that end a stream, beside ``[DONE]``: what comes after is not part of it.
    """

    assembly: Callable[[int], StreamAssembly]
    watcher: Callable[[int], StreamWatcher]
    find_error: Callable[..., ProviderError | None] = find_error
    last_events: frozenset[str] = frozenset()


FORMATS: Mapping[Shape, Format] = {
    Shape.CHAT: Format(ChatAssembly, ChatWatcher),
    Shape.COMPLETION: Format(TextAssembly, CompletionWatcher),
    Shape.RESPONSES: Format(ResponseAssembly, ResponsesWatcher, error_in_event, frozenset(ENDS)),
    Shape.MESSAGES: Format(MessageAssembly, MessagesWatcher, last_events=frozenset({END})),
}

# ---------------------------------------------------------------- reader

TOTAL_LIMIT = 64 * 1024 * 1024
_MAX_USAGE_CHECKS = 64  # each takes longer with each choice that a server invents
UNREADABLE_EVENT = (*UNREADABLE, MalformedChunkError)


class _Form(Enum):
    UNKNOWN = "unknown"
    EVENTS = "events"
    PLAIN = "plain"


class StreamReader(ABC):
    """Takes the bytes of one answer as they come.

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
        self._progress: StreamWatcher | None = self._format and self._make_watcher(self._format)
        self._done = False
        self.failed = False  # something came that no complete answer contains
        self.over = False  # nothing that may still come can change the result
        self._has_final_usage = False
        self._usage_checks = 0
        self._failure: ParsedResponse | None = None
        self._error_body = b""

    @abstractmethod
    def _make_watcher(self, kind: Format) -> StreamWatcher:
        """Make what takes the events of this answer."""

    @property
    def first_output(self) -> bool:
        """Whether output has arrived: text, a refusal, reasoning or a tool call."""
        return self._progress is not None and self._progress.has_output

    @property
    def whole(self) -> bool:
        """Whether the result is final even if nothing more comes: `over`, or usage came after all finish reasons.

        Finish reasons alone are not enough: some relays write one into every chunk, and may pause.
        """
        return self.over or (self._has_final_usage and not self._is_open())

    @property
    def finished(self) -> bool:
        """Whether it would be a complete answer if its body ended here."""
        progress = self._progress
        return self.over or (
            progress is not None and progress.missing() is None and not self._is_open()
        )

    @property
    def ends_falsely(self) -> bool:
        """Whether the end was marked, and the answer is not complete: a caller who gets the marker would believe it."""
        return self._done and self.failed

    @property
    def is_plain(self) -> bool:
        """Whether this is no event stream, but one body."""
        return self._form is not _Form.EVENTS

    def feed(self, chunk: bytes) -> bool:
        """Take the next bytes, and return whether the result is final (`whole`): then they are ignored."""
        if self.over:
            return True
        self._size += len(chunk)
        if self._size > TOTAL_LIMIT:
            self._break(f"longer than {TOTAL_LIMIT} bytes")
        elif self._form is _Form.EVENTS:
            self._read_events(chunk)
        else:
            self._plain += chunk
            self._detect_form()
        return self.whole

    def _plain_body(self) -> bytes | None:
        """Return the body that is no stream; None if this is one, or has failed."""
        return bytes(self._plain) if self.is_plain and not self._failure else None

    def _finish(self) -> ParsedResponse | None:
        """Read what the end of the stream left; return what failed, or is missing."""
        if not self.over:
            self._read_rest()
        if not self._failure:
            self._check_missing()
        return self._failure

    def _check_missing(self) -> None:
        """Fail if a part of a complete answer is missing."""
        missing = self._progress and self._progress.missing(done=self._done)
        if missing:
            self._break(missing)

    def _detect_form(self) -> None:
        """Detect the form by the first visible character."""
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
        else:  # final: another attempt would only pay for the stream again
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
        assert self._progress
        if event.data.strip() == b"[DONE]":
            self._done = self.over = True
            self._check_missing()
            return
        try:
            data: Any = decoded(event.data)
            error = self._format.find_error(data, is_error=event.name == b"error")
            if error:
                self._error_body = event.data
                self._fail(read_error(self._head, error))
            else:
                self._progress.add(expect_object(data))
                was_done, self._done = self._done, self._progress.ended
                if self._done and not was_done:  # once: it looks at all that has come
                    self.over = True
                    self._check_missing()
                self._check_usage(data)
        except MalformedChunkError:
            self._break(f"not a part of a {self._shape.value}")
        except UNREADABLE_EVENT:
            self._break("invalid json in an event")

    def _check_usage(self, data: dict[str, Any]) -> None:
        """Check whether this event has the final usage: without choices, after all finish reasons."""
        if data.get("choices"):
            self._has_final_usage = False
        elif (
            not self._has_final_usage
            and data.get("usage")
            and self._usage_checks < _MAX_USAGE_CHECKS
        ):
            self._usage_checks += 1
            self._has_final_usage = self._progress is not None and self._progress.missing() is None

    def _is_open(self) -> bool:
        """Whether an event has begun that has not ended."""
        return self._events.is_open

    def _break(self, detail: str) -> None:
        self._fail(ParsedResponse(Verdict.BROKEN, detail=detail, maybe_processed=True))

    def _fail(self, parsed: ParsedResponse) -> None:
        self.failed = self.over = True
        self._failure = parsed._replace(request_id=request_id_of(self._head.headers))

    def _read(self, body: bytes) -> ParsedResponse:
        answer = self._head._replace(body=body)
        return read_answer(answer, self._shape, choices=self._choices, inputs=self._inputs)


# ---------------------------------------------------------------- assembler
# The assembled answer is classified like a plain one (law 15). A chat completion is complete when every choice has a
# finish reason. The closing ``[DONE]`` is not required if the body ends correctly, or usage follows in an event of its
# own: some providers omit it. Without either, silence or a cut after the finish reasons is no complete answer: some
# relays write a finish reason into every chunk. A response is complete with ``response.completed`` (or ``incomplete``),
# a message with ``message_stop``.


class StreamAssembler(StreamReader):
    """Takes the bytes of one answer as they come; `end` returns what they mean, and the assembled body."""

    _assembly: StreamAssembly

    def _make_watcher(self, kind: Format) -> StreamAssembly:
        self._assembly = kind.assembly(self._choices)
        return self._assembly

    def end(self) -> tuple[ParsedResponse, bytes]:
        """Return what the stream means, and its body.

        The body of a success is that of the same answer without streaming; that of an error is the error as it came; a
        broken stream has none.
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
        parsed = self._read(body)
        whole = parsed.verdict is Verdict.OK or parsed.finish_reason is not None
        return parsed, body if whole else b""
