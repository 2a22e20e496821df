"""HTTP/1.1 for clients as bytes, without a socket: the head of a request out, one response in.

llhttp (by httptools) parses, strictly. This module also rejects versions other than 1.0 and 1.1, transfer codings other
than `chunked`, blank lines before the answer, and unbounded heads (RFC 9112, sections 2.2, 6.1, 11.2).
"""

import re
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NoReturn

import msgspec
from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpResponseParser,
)

MAX_HEAD = 64 * 1024  # bytes before the body, interim (1xx) responses included
MAX_HEADERS = 200
NAMES: dict[bytes, str] = {}
"""Cache of the lower-case names of headers, since the same names come again and again."""

_MAX_NAMES = 500
_START = b"HTTP/"
_FRAMING = ("content-length", "transfer-encoding")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class MalformedResponseError(ValueError):
    """The data is not the HTTP response to one request."""


class CutResponseError(ValueError):
    """The connection ended before the response."""


class ResponseParser(msgspec.Struct, eq=False):  # its constructor is not written in Python
    """One response to a request with `method`: `feed` it the server's data, and `take` the body.

    `status` is None until the head is complete. `body` holds the pieces that were not taken yet. After `complete`,
    `reusable` says whether the connection may carry another request; it may not if bytes followed the response.
    At the end set `llhttp` to None: it refers to this object.
    """

    method: str = "POST"
    llhttp: HttpResponseParser | None = None  # made with the first bytes
    status: int | None = None
    headers: dict[str, str] = {}
    repeated: dict[str, tuple[str, ...]] = {}
    body: list[bytes] = []
    unread: int = 0  # bytes of the body
    complete: bool = False
    reusable: bool = False
    _start: bytes = b""
    _outside: int = 0  # consecutive bytes outside the body
    _count: int = 0
    _size: int = 0
    _interim: bool = False
    _until_close: bool = False
    _refused: bool = False  # by a callback

    __repr__ = object.__repr__  # shows no text
    __rich_repr__ = None  # type: ignore[assignment]  # rich would show the fields

    def feed(self, data: bytes) -> None:
        """Parse received bytes. Data before invalid bytes is kept.

        Raises:
            MalformedResponseError: the bytes cannot belong to the response to one request.
        """
        if self.complete:
            self.reusable = False
            return
        if len(self._start) < len(_START):  # llhttp skips blank lines, and accepts RTSP as HTTP
            self._start += data[: len(_START)]
            if self._start[: len(_START)] != _START[: len(self._start)]:
                raise MalformedResponseError
        unread = self.unread
        self._outside += len(data)
        if self.llhttp is None:
            self.llhttp = HttpResponseParser(self)
        failure = None
        try:
            self.llhttp.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            failure = error
        if failure is not None:
            try:
                self._fail(failure)
            finally:
                del failure  # its traceback refers to this frame
        if self.unread > unread:
            self._outside = 0
        elif self._outside > MAX_HEAD and not self.complete:  # a head, chunk extension or trailer
            raise MalformedResponseError

    def _fail(self, error: Exception) -> None:
        """Raise the exception of a signal handler that ended a callback, or MalformedResponseError."""
        self.reusable = False
        if isinstance(error, HttpParserCallbackError) and not self._refused:
            cause = error.__context__
            if cause is None or cause is sys.exception():  # lost, since a caller handles that one
                raise KeyboardInterrupt from error
            raise cause from None
        if not self.complete:
            raise MalformedResponseError from None

    def end(self, *, cleanly: bool = True) -> None:
        """Handle the end of the connection; not `cleanly`: it was reset, or TLS did not announce the end.

        Raises:
            CutResponseError: the response is incomplete.
        """
        self.reusable = False
        if not self.complete:
            if not (self._until_close and cleanly):  # RFC 9112, section 9.8
                raise CutResponseError
            self.complete = True

    def take(self) -> bytes:
        """Return the bytes of the body that were not taken yet."""
        piece = b"".join(self.body)  # a single piece is not copied
        self.body.clear()
        self.unread = 0
        return piece

    # ------------------------------------------------------------ called by llhttp

    def on_message_begin(self) -> None:
        """Detect bytes after the response, of any kind."""
        if self.complete:
            self.reusable = False

    def on_status(self, reason: bytes) -> None:
        if _CONTROL.search(reason):
            self._refuse()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; a trailer is dropped."""
        if self.status is not None:  # a trailer, or bytes after the response
            return
        key = NAMES.get(name) or lower_name(name)
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("utf-8", "surrogateescape")
        headers = self.headers
        if key in headers:
            self.repeated[key] = (*self.repeated.get(key, (headers[key],)), text)
        headers[key] = text
        self._count += 1
        self._size += len(name) + len(value)
        if self._count > MAX_HEADERS or self._size > MAX_HEAD:
            self._refuse()

    def on_headers_complete(self) -> None:
        """Check the head, and skip an interim response."""
        if self.complete:
            return
        llhttp = self.llhttp
        assert llhttp is not None
        if llhttp.get_http_version() not in ("1.1", "1.0"):
            self._refuse()
        status = llhttp.get_status_code()
        if status < 200:
            self._interim = True
            self.headers, self.repeated = {}, {}
            if status < 100 or status == 101:  # invalid, or not requested
                self._refuse()
            return
        coding = self.headers.get("transfer-encoding")
        if coding is not None and (
            coding.lower() != "chunked" or "transfer-encoding" in self.repeated
        ):
            self._refuse()
        # a server that sends 408 closes the connection, perhaps before our request came (RFC 9110, section 15.5.9)
        self.reusable = llhttp.should_keep_alive() and status != 408
        self._until_close = (
            coding is None and "content-length" not in self.headers and status not in (204, 304)
        )
        self.status = status
        if self.method == "HEAD":  # the head describes a body that does not come
            self.reusable = False
            self.complete = True

    def on_body(self, piece: bytes) -> None:
        if self._interim:  # it has no body (RFC 9110, section 15.2)
            self._refuse()
        if not self.complete:
            self.body.append(piece)
            self.unread += len(piece)

    def on_message_complete(self) -> None:
        """Handle the end of the response."""
        if self._interim:
            self._interim = False
        else:
            self.complete = True

    def _refuse(self) -> NoReturn:
        self._refused = True
        raise MalformedResponseError


def lower_name(name: bytes) -> str:
    """Return the lower-case name of a header, and cache it."""
    text = name.decode("latin-1").lower()
    if len(NAMES) < _MAX_NAMES:
        NAMES[name] = text
    return text


@lru_cache(maxsize=256)
def given_names(names: tuple[str, ...]) -> frozenset[str]:
    """Return the lower-case names of a request's headers."""
    return frozenset(name.lower() for name in names)


def request_head(
    method: str,
    target: str,
    host: str,
    headers: Mapping[str, str],
    given: frozenset[str],
    more: Iterable[str],
) -> bytes:
    """Return the head of a request; `given` are the lower-case names of its headers, `more` are further lines.

    The framing of the body is in `more`, and in `headers` only if just the caller knows the length.

    Raises:
        ValueError: a header has a line break or a NUL.
    """
    lines = [f"{method} {target} HTTP/1.1"]
    if "host" not in given:
        lines.append(f"Host: {host}")
    if "transfer-encoding" in given or (
        "content-length" in given and any("Content-L" in line for line in more)
    ):
        headers = {name: value for name, value in headers.items() if name.lower() not in _FRAMING}
    lines += map(": ".join, headers.items())
    lines += more
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1 or "\0" in head:
        raise ValueError("a header holds a line break or a NUL")
    return f"{head}\r\n\r\n".encode("utf-8", "surrogateescape")
