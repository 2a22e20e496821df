"""Read the bytes of a stream as events, or as a plain body instead; assemble the answer, or watch it pass.

A server may answer a streaming request with a plain body: an error, JSON, a page of HTML. A body that starts with a
brace, a bracket or a tag is not an event stream, whatever its content type. A watcher takes the events; an assembly
also keeps them.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from stormbreak.llm.chat import ChatAssembly, ChatWatcher, CompletionWatcher, TextAssembly
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.error_fields import ProviderError, find_error
from stormbreak.llm.finish_reasons import FinishMeaning, refused
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
from stormbreak.llm.success_body import broken, refused_by
from stormbreak.llm.surrogates import UNREADABLE, decoded
from stormbreak.llm.tokens import usage_of
from stormbreak.types import Verdict

# ---------------------------------------------------------------- formats


class Format(NamedTuple):
    """The stream format of one shape. `assembly` and `watcher` get the number of choices.

    `last_events` are the types of events that end a stream, like ``[DONE]``: later bytes are not part of it.
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
_MAX_USAGE_CHECKS = 64  # a check takes longer with each choice, and a server may invent choices
UNREADABLE_EVENT = (*UNREADABLE, MalformedChunkError)


class StreamReader(ABC):
    """Takes the bytes of one answer as they come.

    Arguments as in `HttpResponse` and `read_answer`. Chat completions, responses and messages may come as events.
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
        self._is_plain: bool | None = plain or None  # None: not known yet
        self._plain = bytearray()  # a plain body, or a start of unknown form
        self._size = 0
        self._events = EventReader()
        self._format: Format | None = FORMATS.get(shape)
        self._progress: StreamWatcher | None = self._format and self._make_watcher(self._format)
        self._done = False
        self.failed = False  # the bytes cannot be part of a complete answer
        self.over = False  # no further bytes can change the result
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
        """Whether the answer needs no more bytes: `over`, or usage came after all finish reasons.

        Finish reasons alone are not enough: some relays write one into every chunk, and may pause.
        """
        return self.over or (self._has_final_usage and not self._is_open())

    @property
    def finished(self) -> bool:
        """Whether the answer would be complete if the body ended here."""
        progress = self._progress
        return self.over or (
            progress is not None and progress.missing() is None and not self._is_open()
        )

    @property
    def ends_falsely(self) -> bool:
        """Whether the end marker came although the answer is incomplete: a caller would trust the marker."""
        return self._done and self.failed

    @property
    def is_plain(self) -> bool:
        """Whether this is one body instead of an event stream."""
        return self._is_plain is not False

    def feed(self, chunk: bytes) -> bool:
        """Take the next bytes, and return whether the result is final (`whole`)."""
        if self.over:
            return True
        self._size += len(chunk)
        if self._size > TOTAL_LIMIT:
            self._break(f"longer than {TOTAL_LIMIT} bytes")
        elif self._is_plain is False:
            self._read_events(chunk)
        else:
            self._plain += chunk
            self._detect_form()
        return self.whole

    def end(self) -> tuple[ParsedResponse, bytes]:
        """Return the meaning of the answer, and its body.

        The body of a success is that of the same answer without streaming, or empty if the stream was only watched. An
        error, or an answer that is not a stream, has its body unchanged. A broken stream has none.
        """
        if self.is_plain and not self._failure:
            plain = bytes(self._plain)
            return self._read(plain), plain
        if not self.over:
            self._read_rest()
        if not self._failure:
            self._check_missing()
        return (self._failure, self._error_body) if self._failure else self._whole()

    @abstractmethod
    def _whole(self) -> tuple[ParsedResponse, bytes]:
        """Return the meaning of a whole stream, and its body."""

    def _check_missing(self) -> None:
        """Fail if a part of a complete answer is missing."""
        missing = self._progress and self._progress.missing(done=self._done)
        if missing:
            self._break(missing)

    def _detect_form(self) -> None:
        """Detect the form by the first visible character."""
        if self._is_plain:
            return
        self._plain = self._plain.lstrip(INVISIBLE)
        if self._plain:
            self._is_plain = self._plain.startswith((b"{", b"[", b"<"))
        if self._is_plain is not False:
            return
        if self._format:
            start, self._plain = bytes(self._plain), bytearray()
            self._read_events(start)
        else:  # final: a retry would only pay for the stream again
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
                if self._done and not was_done:  # only once, since it examines everything so far
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
        elif data.get("usage") and not self._has_final_usage:
            self._usage_checks += 1
            if self._usage_checks <= _MAX_USAGE_CHECKS and self._progress is not None:
                self._has_final_usage = self._progress.missing() is None

    def _is_open(self) -> bool:
        return self._events.is_open

    def _break(self, detail: str) -> None:
        self._fail(broken(detail, None))

    def _fail(self, parsed: ParsedResponse) -> None:
        self.failed = self.over = True
        self._failure = parsed._replace(request_id=request_id_of(self._head.headers))

    def _read(self, body: bytes) -> ParsedResponse:
        answer = self._head._replace(body=body)
        return read_answer(answer, self._shape, choices=self._choices, inputs=self._inputs)


# ---------------------------------------------------------------- assembler
# The assembled answer is classified like a plain one (law 15). A chat completion is complete when every choice has a
# finish reason. Some providers omit the closing ``[DONE]``: it is not required if the body ends correctly, or if usage
# follows in a separate event. Otherwise silence or a cut after the finish reasons makes the answer incomplete, because
# some relays write a finish reason into every chunk. A response is complete with ``response.completed`` (or
# ``incomplete``), a message with ``message_stop``.


class StreamAssembler(StreamReader):
    """Takes the bytes of one answer as they come; `end` returns their meaning and the assembled body."""

    _assembly: StreamAssembly

    def _make_watcher(self, kind: Format) -> StreamAssembly:
        self._assembly = kind.assembly(self._choices)
        return self._assembly

    def _whole(self) -> tuple[ParsedResponse, bytes]:
        try:
            body = msgspec.json.encode(self._assembly.result())
        except RecursionError:  # `end` may be called deeper in the stack than `feed`
            return broken("nested too deeply", None), b""
        parsed = self._read(body)
        whole = parsed.verdict is Verdict.OK or parsed.finish_reason is not None
        return parsed, body if whole else b""


# ---------------------------------------------------------------- scanner
# Until the first output, every event is decoded: an error there can still be retried. After it, whole events are only
# searched for signs of more than output: JSON keys (`"finish_reason":` with a value; in a text the quotes would be
# escaped), names of events, `[DONE]`. Only events with a match are decoded. So the verdict equals that of
# `StreamAssembler` if all events are well-formed; an output event that is not JSON is left to the caller, which reads
# every event. Usage may come with every event: the last one is kept as bytes, and decoded at the end.

MAX_UNPARSED = 2**20  # bytes of events that are only searched; longer ones are decoded

_WHOLE = (b"}\n\n", b"}\r\n\r\n")  # the end of nearly every event
_BLANK = (b"\n\n", b"\r\r", b"\r\n\r\n")  # the longest last
HAS_USAGE = re.compile(rb'"usage"\s*:\s*\{')


class StreamScanner(StreamReader):
    """Watches the bytes of one answer as they pass; `end` returns their meaning."""

    _watcher: StreamWatcher
    _skims = False
    _counted = b""  # the last quiet events with usage

    def _make_watcher(self, kind: Format) -> StreamWatcher:
        self._watcher = kind.watcher(self._choices)
        self._open = bytearray()  # an event that has not ended yet, while skimming
        return self._watcher

    def feed(self, chunk: bytes) -> bool:
        size = self._size + len(chunk)
        if self._skims and not self._open and size <= TOTAL_LIMIT and self._is_quiet(chunk):
            self._size = size
            return self.over or self._has_final_usage
        return super().feed(chunk)

    def _read_rest(self) -> None:
        if self._skims:
            self._decode(bytes(self._open))
            self._open.clear()
        if not self.over:
            super()._read_rest()

    def _check_missing(self) -> None:
        """Fail also if the server aborted the answer: with the end marker, the caller would take it as complete."""
        super()._check_missing()
        if not self.failed and self._watcher.has_output and (unusable := self._refused()):
            self._fail(unusable)

    def _refused(self) -> ParsedResponse | None:
        """Return the failure if the finish reasons make the answer one, else None."""
        watcher, request_id = self._watcher, request_id_of(self._head.headers)
        reason = refused(watcher.reasons, has_output=watcher.has_output)
        if reason is not None and reason.meaning is FinishMeaning.ERROR:
            return read_error(self._head, ProviderError())._replace(request_id=request_id)
        return None if reason is None else refused_by(reason, self._usage(), request_id)

    def _whole(self) -> tuple[ParsedResponse, bytes]:
        complete = ParsedResponse(
            Verdict.OK,
            usage=usage_of(self._usage()),
            finish_reason=self._watcher.finish_reason,
            request_id=request_id_of(self._head.headers),
        )
        return self._refused() or complete, b""

    def _read_events(self, chunk: bytes) -> None:
        at = self._start_pass_through(chunk) if self._watcher.has_output and not self._skims else 0
        if self._skims:
            self._pass_through(chunk[at:])
        elif not self.over:
            self._decode(chunk[at:])

    def _start_pass_through(self, chunk: bytes) -> int:
        """Read to the end of the first event; return its position."""
        ends = [chunk.find(blank) + len(blank) for blank in _BLANK if chunk.find(blank) >= 0]
        at = min(ends, default=0)
        self._decode(chunk[:at])
        return at

    def _decode(self, events: bytes) -> None:
        super()._read_events(events)
        self._skims = self._watcher.has_output and self._events.is_idle() and not self.over

    def _pass_through(self, chunk: bytes) -> None:
        """Cut after the last whole event; decode the events that are not quiet."""
        start = max(0, len(self._open) - len(_BLANK[-1]) + 1)
        self._open += chunk
        blanks = _BLANK if self._open.find(b"\r", start) >= 0 else _BLANK[:1]
        found = [(self._open.rfind(blank, start), len(blank)) for blank in blanks]
        at = max(end + size if end >= 0 else 0 for end, size in found)
        if len(self._open) - at > MAX_UNPARSED:  # unusually long: the reader bounds its lines
            at = len(self._open)
        block = bytes(self._open[:at])
        del self._open[:at]
        if not self._is_quiet(block):
            self._decode(block)

    def _is_quiet(self, block: bytes) -> bool:
        """Whether whole events are only output; keep their usage."""
        if not (
            block.endswith(_WHOLE) and len(block) <= MAX_UNPARSED and self._watcher.quiet(block)
        ):
            return not block
        if block.find(b'"usage"') >= 0 and HAS_USAGE.search(block):
            if self._watcher.finish_reason is not None:  # it may be the last event needed
                return False
            self._counted = block
        return True

    def _is_open(self) -> bool:
        return bool(self._open) or super()._is_open()

    def _take(self, event: Event) -> None:
        before = self._watcher.usage
        super()._take(event)
        if self._watcher.usage is not before:
            self._counted = b""

    def _usage(self) -> Any:
        """Decode the last usage that came with output."""
        usage = self._watcher.usage
        for event in EventReader().feed(self._counted):
            try:
                usage = self._watcher.usage_in(expect_object(decoded(event.data))) or usage
            except UNREADABLE_EVENT:
                continue
        return usage
