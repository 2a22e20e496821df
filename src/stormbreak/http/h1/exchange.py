"""One exchange over HTTP/1.1: a request, its response as it comes, and the socket that carries both.

What is the same on an event loop and on a thread that blocks. How it waits for bytes is left to the two kinds.
"""

import time
from collections.abc import Sequence
from typing import Protocol

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
from stormbreak.http.prepared_request import KeyedHeaders, PreparedRequest
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.types import Outcome, Verdict

UNREAD = 256 * 1024  # bytes of a body that wait to be read; beyond it the server has to wait
SMALL = 1024 * 1024  # bytes of a body that are sent together with the head
_ADDRESSES = 64  # of which a head is remembered
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
        """The exchange is over: wait for another one, or close."""

    def abort(self) -> None:
        """Close at once."""

    def pause(self) -> None:
        """Read no more for now."""

    def resume(self) -> None:
        """Read again, if it was too much."""


class Exchange:
    """One request, and what has come of the response. `failure` is set when no more can come."""

    __slots__ = ("carrier", "failure", "over", "parser", "received_at")

    def __init__(self, carrier: Carrier, request: PreparedRequest) -> None:
        self.carrier = carrier
        self.parser = ResponseParser(request.method)
        self.failure: Outcome | None = None
        self.over = False  # the connection is no longer this exchange's
        self.received_at = 0.0

    # ------------------------------------------------------------ what the two kinds differ in

    @property
    def is_sent(self) -> bool:
        """Whether the whole request has left."""
        raise NotImplementedError

    async def wait(self) -> None:
        """Wait until something has come, was lost, or the time is over; not if so already.

        Cancelling closes the connection.
        """
        raise NotImplementedError

    def limit_silence(self, seconds: float) -> None:
        """Wait no longer than so many seconds for each of the bytes that are still to come."""
        raise NotImplementedError

    def drop(self) -> None:
        """Close the connection, on whatever thread a finalizer runs."""
        raise NotImplementedError

    def wake(self) -> None:
        """Wake the reader."""

    # ------------------------------------------------------------ from the socket

    def received(self, data: bytes) -> None:
        """Take what came. Behind a whole response nothing may come."""
        parser = self.parser
        if parser.complete:
            self.spoil()
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
        """The connection has ended: the server said so (`cleanly`), or it failed."""
        parser = self.parser
        try:
            parser.end(cleanly=cleanly)
        except CutResponseError:
            self.fail(LOST if parser.status is None else broken_body(parser.status))
        self.spoil()
        self.wake()

    def silent(self) -> None:
        """The server has said nothing for too long."""
        status = self.parser.status
        self.fail(_SILENT if status is None else silent_body(status))

    def _refuse_early(self) -> None:
        """A good response to a request that was not sent whole is none; of an error the connection is spent."""
        self.parser.reusable = False
        self.carrier.spent = True
        if 200 <= (self.parser.status or 0) <= 299:
            self.fail(_EARLY)

    def fail(self, outcome: Outcome) -> None:
        """Close the connection; what came before can still be read."""
        if self.failure is None:
            self.failure = outcome
        self.spoil()

    def _leave(self) -> bool:
        """Have no more to do with the connection; False: so it was before."""
        if self.over:
            return False
        self.over = True
        self.parser.close()
        return True

    @property
    def _is_done(self) -> bool:
        """Whether nothing more can come."""
        return self.over or self.parser.complete

    @property
    def _is_read(self) -> bool:
        """Whether the whole response has come, and was taken."""
        return self.parser.complete and not self.parser.unread

    # ------------------------------------------------------------ from the reader
    # It holds the connection until it has judged the response: of one that is no answer to the request nobody knows
    # what comes next on it.

    def release(self) -> None:
        """The whole response was read, and is an answer: the connection is free for another request, or closed."""
        if self._leave():
            self.carrier.free(reusable=self.parser.reusable)

    def spoil(self) -> None:
        """Close the connection; what came can still be read."""
        if self._leave():
            self.carrier.abort()

    def close(self, outcome: Outcome) -> None:
        """Release the connection if the whole response was read; else close it, and wake the reader."""
        if self._is_read:
            self.release()
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
        """Return the next bytes of the body, none at its end; None: they have not come."""
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
    """The head of a request as it is sent, and whether its body is sent in chunks.

    Raises:
        ValueError: a header holds a line break or a NUL.
    """
    headers, body = request.headers, request.body
    if isinstance(headers, KeyedHeaders) and isinstance(body, bytes) and proxy is None:
        assert request.method == "POST", "what has a key of its own is sent"
        return _keyed_head(headers, address, len(body)), False
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


def _keyed_head(headers: KeyedHeaders, address: Address, length: int) -> bytes:
    heads, own = headers.fixed.heads, headers.own
    head = heads.get(address)
    if head is None:
        fixed = headers.fixed.headers
        given = given_names(tuple(fixed))
        more = () if "accept-encoding" in given else (_ACCEPT,)
        head = request_head("POST", address.target, address.authority, fixed, given, more)
        if len(heads) >= _ADDRESSES:
            heads.clear()
        head = heads[address] = head.removesuffix(b"\r\n")
    if own.count("\n") != 1 or own.count("\r") != 1 or "\0" in own:
        raise ValueError("a header holds a line break or a NUL")
    return head + f"{own}Content-Length: {length}\r\n\r\n".encode("utf-8", "surrogateescape")


def _framing(request: PreparedRequest, given: frozenset[str]) -> Sequence[str]:
    """The line that says how the body is sent, where the caller's headers do not."""
    if isinstance(request.body, bytes):
        needed = bool(request.body) or request.method not in _WITHOUT_BODY
        return (f"Content-Length: {len(request.body)}",) if needed else ()
    return () if "content-length" in given else ("Transfer-Encoding: chunked",)
