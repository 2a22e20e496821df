"""Server-sent events from chunks of bytes of any size (WHATWG HTML, 9.2).

Lines end with LF, CR or CRLF, also when CR and LF arrive apart; comments are skipped; the `data` lines of an event are
joined with LF. Two differences from browsers. All invisible bytes before the first line are skipped, not only one byte
order mark. An event without a blank line at the end of the stream is still yielded; if it has no data, `cut` is set.
"""

from collections.abc import Iterator
from typing import NamedTuple

LINE_LIMIT = 16 * 2**20  # bytes; a generated image is one line of some MiB
_NAME, _DATA = b"event: ", b"data: "
_BLANK = b"\n\n"  # ends an event
INVISIBLE = b"\xef\xbb\xbf \t\r\n"  # the bytes of a byte order mark, and white space


class Event(NamedTuple):
    """One event: its name (empty if it has none) and its data."""

    name: bytes
    data: bytes


class LineTooLongError(Exception):
    """A line is longer than LINE_LIMIT."""


class EventReader:
    """Cut a stream of bytes into events."""

    def __init__(self) -> None:
        self.cut = False
        self._pending = bytearray()  # the line that has not ended yet
        self._after_cr = False
        self._at_start = True
        self._in_event = False
        self._name = b""
        self._data: list[bytes] = []

    def is_idle(self) -> bool:
        """Whether the bytes so far are whole events, without a part of the next one."""
        return not (self._pending or self.is_open)

    @property
    def is_open(self) -> bool:
        """Whether an event has begun and not ended. Comments do not count."""
        begun = self._pending and not self._pending.startswith(b":")
        return bool(begun or self._in_event or self._after_cr or self._data)

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Take a chunk and yield the events it completes; raise LineTooLongError."""
        whole = self.split(chunk)
        if whole is not None:
            yield from map(Event._make, whole)
            return
        for line in self._lines(chunk):
            if line:
                self._take(line)
            else:
                yield from self._dispatch()

    def split(self, chunk: bytes) -> list[tuple[bytes, bytes]] | None:
        """Take a chunk of whole events in their usual form; return their names and data. None: pass it to `feed`."""
        if not chunk.endswith(_BLANK) or chunk.find(b"\r") >= 0 or not self.is_idle():
            return None
        events = []
        for event in chunk[: -len(_BLANK)].split(_BLANK):
            name = b""
            if event.startswith(_NAME):
                name, _, event = event[len(_NAME) :].partition(b"\n")  # noqa: PLW2901 - the rest of it
            # `find` takes half the time of `in`
            if not event.startswith(_DATA) or event.find(b"\n") >= 0 or event == _DATA:
                return None
            events.append((name, event[len(_DATA) :]))
        if len(chunk) >= LINE_LIMIT:
            return None
        self._at_start = False
        return events

    def end(self) -> Iterator[Event]:
        """Yield the event that is still open at the end of the stream, if any."""
        line = self._visible(bytes(self._pending))
        self._pending.clear()
        if line:
            self._take(line)
        was_open = self._in_event
        left = list(self._dispatch())
        whole = line.startswith((b"data:", b":")) or not line
        self.cut = not whole or (was_open and not left)
        yield from left

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        self._pending += chunk
        if b"\n" in chunk or b"\r" in chunk:
            lines = self._pending.splitlines(keepends=True)
            ended = lines[-1].endswith((b"\n", b"\r"))
            self._after_cr = lines[-1].endswith(b"\r")
            self._pending = bytearray() if ended else lines.pop()
            for line in lines:
                if len(line) > LINE_LIMIT:
                    raise LineTooLongError
                yield self._visible(bytes(line.rstrip(b"\r\n")))
        if len(self._pending) > LINE_LIMIT:
            raise LineTooLongError

    def _visible(self, line: bytes) -> bytes:
        if not self._at_start:
            return line
        line = line.lstrip(INVISIBLE)
        self._at_start = not line
        return line

    def _take(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        if not field:
            return  # a comment
        self._in_event = True
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ")
        elif field == b"error" and value.lstrip().startswith(b"{"):  # llama.cpp, until 2025
            self._name, self._data = b"error", [value]

    def _dispatch(self) -> Iterator[Event]:
        event = Event(self._name, b"\n".join(self._data))
        self._name, self._data, self._in_event = b"", [], False
        if event.data:
            yield event
