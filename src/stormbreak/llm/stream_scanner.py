"""Watch a stream that passes through to its caller, without assembling it.

Until the first output, every event is decoded: an error there can still be retried. From then on whole events are only
searched for what could be more than output: keys, as they stand in JSON (`"finish_reason":` with a value; in a text its
quotes would be escaped), names of events, `[DONE]`. Only events with such a match are decoded. So the verdict is that of
`StreamAssembler` wherever the events are well-formed; the caller, who reads each event, finds a single output event that
is no JSON.

Usage may come with every event: the last one is kept as it came, and decoded at the end.
"""

import re
from typing import Any

from stormbreak.llm.error_fields import ProviderError
from stormbreak.llm.finish_reasons import FinishMeaning, refused
from stormbreak.llm.parsed_response import ParsedResponse
from stormbreak.llm.response_verdict import read_error, request_id_of
from stormbreak.llm.sse import Event, EventReader
from stormbreak.llm.stream_deltas import StreamWatcher, expect_object
from stormbreak.llm.stream_reader import (
    TOTAL_LIMIT,
    UNREADABLE_EVENT,
    Format,
    StreamReader,
)
from stormbreak.llm.success_body import refused_by
from stormbreak.llm.surrogates import decoded
from stormbreak.llm.tokens import usage_of
from stormbreak.types import Verdict

MAX_UNPARSED = 2**20  # bytes of events that are only searched; longer ones are decoded

_WHOLE = (b"}\n\n", b"}\r\n\r\n")  # how nearly every event ends
_BLANK = (b"\n\n", b"\r\r", b"\r\n\r\n")  # the longest last
_USAGE = re.compile(rb'"usage"\s*:\s*\{')


class StreamScanner(StreamReader):
    """Watches the bytes of one answer as they pass; `end` returns what they mean."""

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

    def end(self) -> tuple[ParsedResponse, bytes]:
        """Return what the stream means, and the body of an error, or of an answer that is no stream.

        The body of a stream has passed: there is none, and no text.
        """
        plain = self._plain_body()
        if plain is not None:
            return self._read(plain), plain
        if self._skims:
            self._decode(bytes(self._open))
            self._open.clear()
        failure = self._finish()
        return (failure, self._error_body) if failure else (self._complete(), b"")

    def _check_missing(self) -> None:
        """Fail also if the server aborted the answer: a caller who gets the end marker would take it for a whole one."""
        super()._check_missing()
        if not self.failed and self._watcher.has_output:
            unusable = self._refused()
            if unusable is not None:
                self._fail(unusable)

    def _refused(self) -> ParsedResponse | None:
        """Return what the finish reasons mean, if they make the answer no success."""
        watcher, request_id = self._watcher, request_id_of(self._head.headers)
        reason = refused(watcher.reasons, has_output=watcher.has_output)
        if reason is not None and reason.meaning is FinishMeaning.ERROR:
            return read_error(self._head, ProviderError())._replace(request_id=request_id)
        return None if reason is None else refused_by(reason, self._usage(), request_id)

    def _complete(self) -> ParsedResponse:
        return self._refused() or ParsedResponse(
            Verdict.OK,
            usage=usage_of(self._usage()),
            finish_reason=self._watcher.finish_reason,
            request_id=request_id_of(self._head.headers),
        )

    def _read_events(self, chunk: bytes) -> None:
        at = self._start_pass_through(chunk) if self._watcher.has_output and not self._skims else 0
        if self._skims:
            self._pass_through(chunk[at:])
        elif not self.over:
            self._decode(chunk[at:])

    def _start_pass_through(self, chunk: bytes) -> int:
        """Read to the end of the first event; return where that is."""
        ends = [chunk.find(blank) + len(blank) for blank in _BLANK if chunk.find(blank) >= 0]
        at = min(ends, default=0)
        self._decode(chunk[:at])
        return at

    def _decode(self, events: bytes) -> None:
        super()._read_events(events)
        self._skims = self._watcher.has_output and self._events.is_idle() and not self.over

    def _pass_through(self, chunk: bytes) -> None:
        """Cut after the last event that is whole; what is not quiet is read."""
        start = max(0, len(self._open) - len(_BLANK[-1]) + 1)
        self._open += chunk
        blanks = _BLANK if self._open.find(b"\r", start) >= 0 else _BLANK[:1]
        found = [(self._open.rfind(blank, start), len(blank)) for blank in blanks]
        at = max(end + size if end >= 0 else 0 for end, size in found)
        if len(self._open) - at > MAX_UNPARSED:  # no common event: the reader bounds its lines
            at = len(self._open)
        block = bytes(self._open[:at])
        del self._open[:at]
        if not self._is_quiet(block):
            self._decode(block)

    def _is_quiet(self, block: bytes) -> bool:
        """Whether whole events are output only; their usage is kept."""
        if not (
            block.endswith(_WHOLE) and len(block) <= MAX_UNPARSED and self._watcher.quiet(block)
        ):
            return not block
        if block.find(b'"usage"') >= 0 and _USAGE.search(block):
            if self._watcher.finish_reason is not None:  # it may be the last that is needed
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
        """Decode the last usage, where it came with output."""
        usage = self._watcher.usage
        for event in EventReader().feed(self._counted):
            try:
                usage = self._watcher.usage_in(expect_object(decoded(event.data))) or usage
            except UNREADABLE_EVENT:
                continue
        return usage
