"""A strict HTTP/1.1 request parser for the embedded provider, for tests only.

It reads requests with a length or in chunks, keep-alive, pipelining and `Expect: 100-continue`. It bounds head and body,
and refuses every request that another parser might read differently.
"""

import re
import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

MAX_HEAD = 64 * 1024
MAX_BODY = 8 * 1024 * 1024

_CHUNK_LINE = 256
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # without the tab
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_ONCE = frozenset({b"host", b"transfer-encoding"})
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {
    498: "Capacity Exceeded",
    520: "Web Server Returned an Unknown Error",
    521: "Web Server Is Down",
    522: "Connection Timed Out",
    523: "Origin Is Unreachable",
    524: "A Timeout Occurred",
    529: "Overloaded",
}
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")

Headers = tuple[tuple[str, str], ...]


class UnreadableError(Exception):
    """A malformed request: the connection ends after a response with `status`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Request(NamedTuple):
    """One complete request. Header names are in lower case."""

    method: str
    path: str
    query: str
    headers: dict[bytes, bytes]
    body: bytes
    keep_alive: bool


class _Head(NamedTuple):
    method: str
    target: str
    headers: dict[bytes, bytes]
    keep_alive: bool
    length: int | None  # None: in chunks


class Reader:
    """Parses a stream of bytes into requests: `feed` it, then call `next` until it returns None."""

    __slots__ = ("_begun", "_body", "_buffer", "_ended", "_head", "_searched", "continue_wanted")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._begun = False  # `begun` has returned the head
        self._body = bytearray()
        self._ended = False  # the last request had `Connection: close`
        self._searched = 0  # bytes already searched for the end of the head or trailer
        self.continue_wanted = False

    def feed(self, data: bytes) -> None:
        """Add bytes. It buffers at most one request of the maximum size and its head."""
        if self._ended:
            return
        self._buffer += data
        if len(self._buffer) > MAX_BODY + 2 * MAX_HEAD:
            raise UnreadableError(413, "too much sent ahead")

    def next(self) -> Request | None:
        """Return the next complete request, or None. Bytes after `Connection: close` are ignored.

        Raises:
            UnreadableError: the request is malformed.
        """
        if self._ended:
            return None
        if self._head is None and not self._read_head():
            return None
        head = self._head
        assert head is not None
        body = self._read_chunks() if head.length is None else self._read_exactly(head.length)
        if body is None:
            return None
        self._head = None
        self._begun = False
        self._ended = not head.keep_alive
        return _request(head, body)

    def begun(self) -> Request | None:
        """Return a request of which only the head has arrived, once and without a body; None if there is none."""
        if self._head is None or self._begun:
            return None
        self._begun = True
        return _request(self._head, b"")

    def _read_head(self) -> bool:
        while self._buffer[:2] == b"\r\n":  # some clients end a body with an extra line
            del self._buffer[:2]
        end = self._find_end(0, MAX_HEAD)
        if end < 0:
            if len(self._buffer) >= MAX_HEAD:
                raise UnreadableError(431, "request head too large")
            return False
        lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        self._head = _parse_head(lines)
        self.continue_wanted = (
            self._head.headers.get(b"expect", b"").lower() == b"100-continue" and not self._buffer
        )
        return True

    def _find_end(self, start: int, stop: int) -> int:
        """Find the end of a head or trailer, from where the last search stopped; -1 if it is missing."""
        end = self._buffer.find(b"\r\n\r\n", max(start, self._searched), stop)
        self._searched = 0 if end >= 0 else max(0, min(len(self._buffer), stop) - 3)
        return end

    def _read_exactly(self, length: int) -> bytes | None:
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    def _read_chunks(self) -> bytes | None:
        while (end := self._buffer.find(b"\r\n", 0, _CHUNK_LINE)) >= 0:
            size = _chunk_size(bytes(self._buffer[:end]))
            if len(self._body) + size > MAX_BODY:
                raise UnreadableError(413, "request body too large")
            if size == 0:
                return self._read_trailer(end)
            if len(self._buffer) < end + 2 + size + 2:
                return None
            if self._buffer[end + 2 + size : end + 4 + size] != b"\r\n":
                raise UnreadableError(400, "chunk data is longer than its size")
            self._body += self._buffer[end + 2 : end + 2 + size]
            del self._buffer[: end + 4 + size]
        if len(self._buffer) >= _CHUNK_LINE:
            raise UnreadableError(400, "chunk size line too long")
        return None

    def _read_trailer(self, start: int) -> bytes | None:
        end = self._find_end(start, len(self._buffer))
        if end < 0:
            return None
        del self._buffer[: end + 4]
        body = bytes(self._body)
        self._body.clear()
        return body


def _request(head: _Head, body: bytes) -> Request:
    path, _, query = head.target.partition("?")
    return Request(head.method, path, query, head.headers, body, head.keep_alive)


def _parse_head(lines: list[bytes]) -> _Head:
    parts = lines[0].split(b" ")
    known = len(parts) == 3 and parts[0].isalpha() and parts[2] in {b"HTTP/1.1", b"HTTP/1.0"}
    if not known or not parts[1] or _CONTROL.search(parts[1]):
        raise UnreadableError(400, "malformed request line")
    headers: dict[bytes, bytes] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name or not _TOKEN.issuperset(name) or _CONTROL.search(value):
            raise UnreadableError(400, "malformed header line")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"content-length" and headers.get(name, value) != value:
            raise UnreadableError(400, "two lengths")
        if name in _ONCE and name in headers:
            raise UnreadableError(400, f"two {name.decode()} lines")
        headers[name] = value
    if parts[2] == b"HTTP/1.1" and b"host" not in headers:
        raise UnreadableError(400, "no host line")
    target = parts[1].decode("latin-1")
    connection = {
        word.strip(b" \t") for word in headers.get(b"connection", b"").lower().split(b",")
    }
    keep = b"close" not in connection and (parts[2] == b"HTTP/1.1" or b"keep-alive" in connection)
    return _Head(parts[0].decode("ascii"), target, headers, keep, _length(headers))


def _length(headers: dict[bytes, bytes]) -> int | None:
    coding = headers.get(b"transfer-encoding")
    given = headers.get(b"content-length")
    if coding is not None:
        if coding.lower() != b"chunked" or given is not None:
            raise UnreadableError(400, "unknown or contradictory transfer coding")
        return None
    if given is None:
        return 0
    if not given.isdigit() or len(given) > 18:
        raise UnreadableError(400, "malformed content-length")
    length = int(given)
    if length > MAX_BODY:
        raise UnreadableError(413, "request body too large")
    return length


def _chunk_size(line: bytes) -> int:
    digits = _CHUNK.fullmatch(line)
    if digits is None:
        raise UnreadableError(400, "malformed chunk size")
    return int(digits[1], 16)


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


@lru_cache(maxsize=64)
def _status_line(status: int, media: str) -> bytes:
    return f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {media}\r\n".encode()


def head(status: int, media: str, length: int | None, headers: Headers) -> bytes:
    """Encode the head of a response; a length of None means chunked."""
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    extra = "".join(f"\r\n{name}: {value}" for name, value in headers)
    rest = f"{framing}\r\ndate: {_date(int(time.time()))}{extra}\r\n\r\n"
    return _status_line(status, media) + rest.encode("latin-1")


def chunk(data: bytes) -> bytes:
    """Encode one chunk; the empty one ends a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
