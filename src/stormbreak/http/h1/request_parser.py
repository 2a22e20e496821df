"""HTTP/1.1 for servers as bytes, without a socket: requests in, the heads and chunks of responses out.

llhttp (by httptools) reads headers and bodies, strictly. This module rejects what llhttp allows and another parser may
read differently. It requires:

- a request line of exactly three parts: a method, a path, HTTP/1.0 or HTTP/1.1;
- exactly one `Host`;
- `Transfer-Encoding` is exactly `chunked`, once, and in HTTP/1.1 only;
- a body only with POST; no CONNECT, and no `Upgrade`;
- at most one of each header that a server decides by (RFC 9112, sections 3, 3.2, 6.1).

A request is parsed after the one before has been taken; after an error nothing is parsed. Clients repeat the same head,
except for the length of the body: such a head is not parsed again.
"""

import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

import msgspec
from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

MAX_HEAD = 64 * 1024  # bytes of the request line and the headers
MAX_HEADERS = 200
_OVERHEAD = 16  # maximum bytes on the wire for each byte of a body in chunks, besides MAX_HEAD
_END = b"\r\n\r\n"  # the end of a head, and of a body in chunks
_LINE = re.compile(  # the target is visible ASCII without a fragment
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!-\"$-~]*) HTTP/(1\.[01])"
)
_HOST = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]+", re.ASCII)  # RFC 3986, section 3.2.2
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})\r\n", re.IGNORECASE)
_MAX_LENGTH = 9  # digits
_LEARNED = 4  # after this many new heads in a row, heads are not remembered
_ONCE = frozenset(
    {
        b"host", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding", b"expect",
        b"authorization", b"x-api-key", b"api-key", b"idempotency-key",
    }
)  # fmt: skip

Headers = tuple[tuple[str, str], ...]


class UnreadableError(Exception):
    """An unreadable request: the connection ends after a response with `status`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Request(msgspec.Struct, frozen=True):  # its constructor is not written in Python
    """One request. Header names are lower-case; the body's length is left out. The repr shows neither key nor prompt.

    Requests with the same head share one object as their `headers`.
    """

    method: str
    path: str
    query: str
    version: str  # "1.1" or "1.0"
    headers: dict[bytes, bytes]
    body: bytes
    keep_alive: bool

    __rich_repr__ = None  # type: ignore[assignment]  # rich would show the fields

    def __repr__(self) -> str:
        return f"Request({self.method} {self.path!r}, {len(self.body)} bytes)"


class RequestParser:
    """The requests of one connection: `feed` it, then call `next` until it returns None.

    `continue_wanted`: the client waits for an interim response before it sends the body. Reset it after sending that
    response.
    """

    __slots__ = (
        "_announced", "_at", "_body", "_body_size", "_count", "_data", "_ended", "_error", "_fed", "_head", "_headers",
        "_host", "_known", "_learned", "_left", "_line", "_llhttp", "_max_body", "_parsed", "_tail", "_whole",
        "continue_wanted",
    )  # fmt: skip

    def __init__(self, *, max_body: int) -> None:
        self._llhttp: HttpRequestParser | None = HttpRequestParser(self)
        self._max_body = max_body
        self._data, self._at = b"", 0  # unparsed from `_at` on
        self._error: UnreadableError | None = None
        self._ended = False  # the last request had `Connection: close`
        self._host = b""  # the last good one: clients repeat it
        # a head with a body: the bytes before and after its length, and the request
        self._known: tuple[bytes, bytes, Request] | None = None
        self._learned = 0  # heads since one came again
        self._line = b""  # the received part of the request line
        self._parsed: tuple[str, str, str, str] | None = None  # the request line
        self._headers: dict[bytes, bytes] = {}
        self._count = 0
        self._tail = b""  # the last parsed bytes, since `_END` may come in parts
        self._fed = 0  # bytes of this head, or of this body
        self._head: Request | None = None  # of a request with an incomplete body
        self._announced = False  # `begun` has returned it
        self._left: int | None = None  # missing bytes of its body; None: in chunks
        self._body: list[bytes] = []
        self._body_size = 0
        self._whole: Request | None = None
        self.continue_wanted = False

    def feed(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            UnreadableError: more than one request of the maximum size waits to be parsed.
        """
        if self._ended or self._error is not None:
            return
        if self._at < len(self._data):
            data = self._data[self._at :] + data
            if len(data) > self._max_body + 2 * MAX_HEAD:
                raise self._refuse(413, "too much was sent ahead")
        self._data, self._at = data, 0

    def next(self) -> Request | None:
        """Return the next complete request, or None. Bytes after `Connection: close` are ignored.

        Raises:
            UnreadableError: the next bytes are not a request.
        """
        if self._error is not None:
            raise self._error
        data = self._data
        size = len(data)
        if self._known is not None and not self._fed and self._head is None:
            again = self._again(*self._known)
            if again is not None:
                return again
        while self._at < size:
            if self._head is None and not self._fed and not self._begins(data):
                return None
            start = self._at
            end = self._at = self._end_of_part(start, size)
            self._parse(data if end - start == size else data[start:end])
            whole = self._whole
            if whole is not None:
                self._whole = None
                if self._ended:
                    self._data, self._at = b"", 0
                return whole
        return None

    def _again(self, before: bytes, after: bytes, request: Request) -> Request | None:
        """Return the next request, if it has the known head and is complete."""
        data = self._data
        if not data.startswith(before, self._at):
            return None
        start = self._at + len(before)
        stop = data.find(b"\r", start, start + _MAX_LENGTH + 1)
        digits = data[start : max(stop, start)]
        if not (digits.isdigit() and data.startswith(after, stop)):
            return None
        start, size = stop + len(after), int(digits)
        end = start + size
        if end > len(data) or size > self._max_body:
            return None
        body = data[start:end]
        if end == len(data):
            self._data, self._at = b"", 0
        else:
            self._at = end
        self._learned = 0
        return Request(
            request.method, request.path, request.query, request.version, request.headers, body, keep_alive=True
        )  # fmt: skip

    def _learn(self, head: bytes) -> None:
        """Remember a head that came in one piece, if later requests may differ only in the length of their body."""
        request, found = self._head or self._whole, _LENGTH.search(head)
        assert request is not None
        is_plain = request.method == "POST" and request.keep_alive
        if found is not None and is_plain and b"expect" not in request.headers:
            self._learned += 1
            self._known = head[: found.start(1)], head[found.end(1) :], request

    def begun(self) -> Request | None:
        """Return, once and without a body, a request of which only the head has arrived; None if there is none."""
        if self._head is None or self._announced:
            return None
        self._announced = True
        return self._head

    @property
    def path(self) -> str:
        """The path of the incoming request; empty if not known yet."""
        return "" if self._parsed is None else self._parsed[1]

    @property
    def is_between(self) -> bool:
        """Whether no byte of a further request has arrived."""
        return self._at == len(self._data) and not self._fed and self._head is None

    @property
    def in_body(self) -> bool:
        """Whether a head is complete, and its body is not."""
        return self._head is not None

    @property
    def held(self) -> int:
        """The number of bytes of bodies and of unparsed data that are held."""
        return self._body_size + len(self._data) - self._at

    def close(self) -> None:
        """Release all data, and llhttp's parser, which refers to this object."""
        self._llhttp = None
        self._ended = True
        self._data, self._at = b"", 0
        self._body, self._body_size = [], 0

    def _begins(self, data: bytes) -> bool:
        """Skip blank lines, with which some clients end a body; return whether a request follows."""
        while data.startswith(b"\r\n", self._at):
            self._at += 2
        rest = len(data) - self._at
        return rest > 1 or (rest == 1 and data[self._at :] != b"\r")

    def _end_of_part(self, start: int, size: int) -> int:
        """Return the end of the part to parse, so that nothing of a further request is parsed."""
        data = self._data
        if self._head is not None and self._left is not None:
            return min(size, start + self._left - self._body_size)
        tail = self._tail
        if tail:
            end = (tail + data[start : start + 3]).find(_END)
            if end >= 0:
                return start + end + 4 - len(tail)
        end = data.find(_END, start)
        return size if end < 0 else end + 4

    def _parse(self, piece: bytes) -> None:
        in_head = self._head is None
        self._fed += len(piece)
        self._tail = (self._tail + piece[-3:])[-3:]
        if in_head and self._parsed is None:
            self._read_line(piece)
        assert self._llhttp is not None
        try:
            self._llhttp.feed_data(piece)
        except HttpParserCallbackError as error:
            if error.__context__ is not self._error:  # a bug of ours
                raise
        except (HttpParserError, HttpParserUpgrade) as error:
            self._refuse(400, f"malformed request: {error}")
        if self._error is not None:
            raise self._error
        if in_head and self._fed > MAX_HEAD:
            raise self._refuse(431, "the request head is too large")
        if (in_head and self._head is not None) or self._whole is not None:
            if in_head and self._fed == len(piece) and self._learned < _LEARNED:
                self._learn(piece)
            self._fed, self._tail = 0, b""
        elif not in_head and self._fed > MAX_HEAD + _OVERHEAD * self._body_size:
            raise self._refuse(400, "the body has more framing than data")

    def _read_line(self, piece: bytes) -> None:
        line = self._line + piece
        end = line.find(b"\r\n")
        if end >= 0:
            try:
                self._parsed = _request_line(line[:end])
            except UnreadableError as error:
                self._error = error
                raise
            self._line = b""
        elif not b"A" <= line[:1] <= b"Z" or b"\n" in piece:
            raise self._refuse(400, _NO_LINE)
        else:
            self._line = line

    def _refuse(self, status: int, message: str) -> UnreadableError:
        self._error = UnreadableError(status, message)
        return self._error

    # ------------------------------------------------------------ called by llhttp

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; a trailer is dropped."""
        if self._head is not None:
            return
        headers, name = self._headers, name.lower()
        if name in headers:
            if name in _ONCE:
                raise self._refuse(400, f"two {name.decode()} headers")
            value = headers[name] + b", " + value
        headers[name] = value
        self._count += 1
        if self._count > MAX_HEADERS:
            raise self._refuse(431, f"more than {MAX_HEADERS} headers")

    def on_headers_complete(self) -> None:
        assert self._parsed is not None
        assert self._llhttp is not None
        method, _, _, version = self._parsed
        headers = self._headers
        host = headers.get(b"host")
        if not host or host != self._host:
            if not host or not _HOST.fullmatch(host):
                raise self._refuse(400, "exactly one Host header with a host is needed")
            self._host = host
        if b"upgrade" in headers:
            raise self._refuse(400, "no other protocol is spoken here: send no Upgrade header")
        left = self._length(headers, version)
        if left != 0 and method != "POST":
            raise self._refuse(400, f"a {method} request has no body here")
        self._left = left
        keep_alive = self._llhttp.should_keep_alive()
        self._head = Request(*self._parsed, headers, b"", keep_alive=keep_alive)
        self._announced = False
        self.continue_wanted = left != 0 and headers.get(b"expect", b"").lower() == b"100-continue"

    def on_body(self, piece: bytes) -> None:
        self._body_size += len(piece)
        if self._body_size > self._max_body:
            raise self._refuse(413, self._too_large)
        self._body.append(piece)
        self.continue_wanted = False

    def on_message_complete(self) -> None:
        """Keep the whole request for `next`."""
        request, body = self._head, self._body
        assert request is not None
        if body:
            whole = body[0] if len(body) == 1 else b"".join(body)
            request = msgspec.structs.replace(request, body=whole)
            self._body = []
        self._whole = request
        self._ended = not request.keep_alive
        self._head = self._parsed = None
        self._headers = {}
        self._count = self._body_size = 0
        self.continue_wanted = False

    def _length(self, headers: dict[bytes, bytes], version: str) -> int | None:
        """Check the framing of the body; return its length, None for chunks. llhttp refuses both together."""
        coding = headers.get(b"transfer-encoding")
        if coding is not None:
            if coding.lower() != b"chunked" or version != "1.1":
                raise self._refuse(400, "the only transfer coding is chunked, in HTTP/1.1")
            return None
        length = int(headers.pop(b"content-length", b"0"))  # llhttp has checked it
        if length > self._max_body:
            raise self._refuse(413, self._too_large)
        return length

    @property
    def _too_large(self) -> str:
        return f"the request body is larger than {self._max_body >> 20} MiB"


_NO_LINE = "the request line must be a method, a path, and HTTP/1.1 or HTTP/1.0"


def _request_line(line: bytes) -> tuple[str, str, str, str]:
    """Return method, path, query and version."""
    return _known_line(line) if b"?" not in line else _split(line)


def _split(line: bytes) -> tuple[str, str, str, str]:
    found = _LINE.fullmatch(line)
    if found is None:
        raise UnreadableError(400, _NO_LINE)
    method, target, version = (part.decode("ascii") for part in found.groups())
    path, _, query = target.partition("?")
    return method, path, query, version


_known_line = lru_cache(maxsize=64)(_split)  # not for lines with a query, which may contain a key


# ---------------------------------------------------------------- responses

_REASONS = {status.value: status.phrase for status in HTTPStatus} | {
    498: "Capacity Exceeded",
    520: "Web Server Returned an Unknown Error",
    521: "Web Server Is Down",
    522: "Connection Timed Out",
    523: "Origin Is Unreachable",
    524: "A Timeout Occurred",
    529: "Overloaded",
}

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


@lru_cache(maxsize=64)
def _status_line(status: int, media: str) -> str:
    return f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\ncontent-type: {media}\r\n"


CHUNKED = "transfer-encoding: chunked\r\n"
UNTIL_CLOSE = ""


def response_head(
    status: int, media: str, framing: int | str, headers: Iterable[tuple[str, str]]
) -> bytes:
    """Encode the head of a response; `framing` has the length of the body, or is `CHUNKED` or `UNTIL_CLOSE`.

    Raises:
        ValueError: a header holds a line break or a NUL.
    """
    if isinstance(framing, int):
        framing = f"content-length: {framing}\r\n"
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    extra = "".join(lines)
    if extra.count("\n") != len(lines) or extra.count("\r") != len(lines) or "\0" in extra:
        raise ValueError("a header holds a line break or a NUL")
    text = f"{_status_line(status, media)}{framing}date: {_date(int(time.time()))}\r\n{extra}\r\n"
    return text.encode("utf-8", "surrogateescape")


def chunk(data: bytes) -> bytes:
    """Encode one chunk; an empty chunk ends a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
