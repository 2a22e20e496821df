"""One exchange over HTTP/1.1: a request, its response as it comes, and the socket that carries both.

The common part for event loops and blocked threads. Subclasses wait for the bytes.
"""

import time
from collections.abc import Sequence
from typing import Protocol

import msgspec

from stormbreak.http.h1.address import Address
from stormbreak.http.h1.connection import broken_body, silent_body
from stormbreak.http.h1.decompression import ACCEPTED
from stormbreak.http.h1.proxy import Proxy
from stormbreak.http.h1.response_parser import (
    CutResponseError,
    MalformedResponseError,
    ResponseParser,
    given_names,
    request_head,
)
from stormbreak.http.prepared_request import (
    IDEMPOTENCY_KEY,
    FixedHead,
    KeyedHeaders,
    PreparedRequest,
)
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.types import Outcome, Verdict

UNREAD = 256 * 1024  # unread bytes of a body; above this the server has to wait
SMALL = 1024 * 1024  # bytes; a body up to this size is sent together with the head
_ACCEPT = f"Accept-Encoding: {ACCEPTED}"
_WITHOUT_BODY = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})

LOST = Outcome(Verdict.RESET, detail="connection lost", maybe_processed=True)
BAD_HEADER = Outcome(Verdict.INVALID, detail="a header holds a line break or a NUL")
_SILENT = Outcome(Verdict.TIMEOUT, detail="went silent", maybe_processed=True)
_NOT_HTTP = Outcome(Verdict.BROKEN, detail="not HTTP", maybe_processed=True)
_EARLY = Outcome(
    Verdict.BROKEN, detail="answered before the whole request was sent", maybe_processed=True
)


class Carrier(Protocol):
    """The socket of an exchange."""

    spent: bool  # may carry no other request

    def free(self, *, reusable: bool) -> None:
        """Wait for another exchange if it is `reusable`, else close at once: this exchange is over."""

    def pause(self) -> None:
        """Read no more for now."""

    def resume(self) -> None:
        """Read again after a pause."""


class Exchange(msgspec.Struct, eq=False):  # its constructor is not written in Python
    """One request, and the received part of its response. `failure` is set when no more can come."""

    carrier: Carrier
    parser: ResponseParser
    failure: Outcome | None = None
    over: bool = False  # the exchange no longer has the connection
    received_at: float = 0.0

    __repr__ = object.__repr__  # shows no text
    __rich_repr__ = None  # type: ignore[assignment]  # rich would show the fields

    # ------------------------------------------------------------ left to subclasses

    @property
    def is_sent(self) -> bool:
        """Whether the whole request has left."""
        raise NotImplementedError

    async def wait(self) -> None:
        """Wait until data has come, the connection was lost, or the time is over; return at once if so already.

        Cancelling closes the connection.
        """
        raise NotImplementedError

    def limit_silence(self, seconds: float) -> None:
        """From now on wait at most `seconds` for the next bytes."""
        raise NotImplementedError

    def drop(self) -> None:
        """Close the connection, on whatever thread a finalizer runs."""
        raise NotImplementedError

    def leave(self, *, reusable: bool = False) -> None:
        """Free the connection for another request if it is `reusable`, else close it. Received bytes can still be read.

        Idempotent. Free it only if the whole response was read, and is an answer.
        """
        raise NotImplementedError

    def wake(self) -> None:
        """Wake the reader."""

    # ------------------------------------------------------------ from the socket

    def received(self, data: bytes) -> None:
        """Handle received data. No data may follow a complete response."""
        parser = self.parser
        if parser.complete:
            self.leave()
            return
        had_head = parser.status is not None
        try:
            parser.feed(data)
        except MalformedResponseError:
            self.fail(_NOT_HTTP if parser.status is None else broken_body(parser.status))
        if not had_head and parser.status is not None:
            self.received_at = time.time()
            if not self.is_sent:
                self._refuse_early()
        if parser.unread > UNREAD and not self._is_done:
            self.carrier.pause()
        self.wake()

    def lost(self, *, cleanly: bool) -> None:
        """Handle the end of the connection: announced by the server (`cleanly`), or a failure."""
        parser = self.parser
        try:
            parser.end(cleanly=cleanly)
        except CutResponseError:
            self.fail(LOST if parser.status is None else broken_body(parser.status))
        self.leave()
        self.wake()

    def silent(self) -> None:
        """Handle a server that was silent for too long."""
        status = self.parser.status
        self.fail(_SILENT if status is None else silent_body(status))

    def _refuse_early(self) -> None:
        """Handle a response to an incomplete request: a success is rejected; after an error the connection is spent."""
        self.parser.reusable = False
        self.carrier.spent = True
        if 200 <= (self.parser.status or 0) <= 299:
            self.fail(_EARLY)

    def fail(self, outcome: Outcome) -> None:
        """Close the connection; received bytes can still be read."""
        if self.failure is None:
            self.failure = outcome
        self.leave()

    @property
    def _is_done(self) -> bool:
        """Whether nothing more can come."""
        return self.over or self.parser.complete

    @property
    def _is_read(self) -> bool:
        """Whether the whole response has been received and taken."""
        return self.parser.complete and not self.parser.unread

    # ------------------------------------------------------------ from the reader
    # The reader holds the connection until it has judged the response: after a response that does not answer the
    # request, the next bytes on the connection are unknown.

    def close(self, outcome: Outcome) -> None:
        """Release the connection if the whole response was read; otherwise close it and wake the reader."""
        if self._is_read:
            self.leave(reusable=self.parser.reusable)
        else:
            self.fail(outcome)
        self.wake()

    async def head(self) -> HttpResponse | Outcome:
        """Wait for the head of the response."""
        parser = self.parser
        while parser.status is None:
            if self.failure is not None:
                return self.failure
            await self.wait()
        if self.failure is not None and self.failure.status is None:
            return self.failure
        return HttpResponse(parser.status, parser.headers, b"", self.received_at, parser.repeated)

    def take(self) -> bytes | Outcome | None:
        """Return the next bytes of the body, no bytes at its end; None: nothing has arrived yet."""
        parser = self.parser
        piece = parser.take()
        if piece:
            if not self.over:
                self.carrier.resume()
            return piece
        if self.failure is not None:
            return self.failure
        return b"" if parser.complete else None


def head_of(request: PreparedRequest, address: Address, proxy: Proxy | None) -> tuple[bytes, bool]:
    """Return the encoded head of a request, and whether its body is sent in chunks.

    Raises:
        ValueError: a header holds a line break or a NUL.
    """
    headers, body = request.headers, request.body
    if isinstance(headers, KeyedHeaders) and isinstance(body, bytes) and proxy is None:
        assert request.method == "POST", "only a POST has an idempotency key"
        key, fixed = headers[IDEMPOTENCY_KEY], headers.fixed
        if "\n" in key or "\r" in key or "\0" in key:
            raise ValueError("a header holds a line break or a NUL")
        last = f"{IDEMPOTENCY_KEY}: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
        first = fixed.encoded or _encoded(fixed, address)
        return first + last.encode("utf-8", "surrogateescape"), False
    given = given_names(tuple(headers))
    lines: list[str] = [] if "accept-encoding" in given else [_ACCEPT]
    target = address.target
    if proxy is not None and not address.secure:
        target = f"http://{address.authority}{address.target}"
        if proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
    framing = _framing(request, given)
    lines += framing
    head = request_head(request.method, target, address.authority, headers, given, lines)
    return head, bool(framing) and not isinstance(body, bytes)


def _encoded(fixed: FixedHead, address: Address) -> bytes:
    """Encode the common lines of all requests with these headers, which have one address."""
    given = given_names(tuple(fixed.headers))
    more = () if "accept-encoding" in given else (_ACCEPT,)
    head = request_head("POST", address.target, address.authority, fixed.headers, given, more)
    fixed.encoded = head.removesuffix(b"\r\n")
    return fixed.encoded


def _framing(request: PreparedRequest, given: frozenset[str]) -> Sequence[str]:
    """Return the header for the framing of the body, unless the caller's headers have it."""
    if isinstance(request.body, bytes):
        needed = bool(request.body) or request.method not in _WITHOUT_BODY
        return (f"Content-Length: {len(request.body)}",) if needed else ()
    return () if "content-length" in given else ("Transfer-Encoding: chunked",)
