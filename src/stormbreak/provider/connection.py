"""One connection of a client: it parses requests for the handler, and plays response scripts one at a time.

Pipelined requests wait until the response before theirs is written. The connection knows nothing of scenarios.
"""

import asyncio
import select
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Protocol, cast

from stormbreak.http.h1.request_parser import CONTINUE, Request, RequestParser, UnreadableError
from stormbreak.provider.scripts import Ending, Idle, Piece, Script

MAX_BODY = 256 * 1024 * 1024  # of a message batch; of a file 200 MB

_LINGER_NOTHING = struct.pack("ii", 1, 0)
_CLOSE_DELAY = 1.0  # seconds for a client to read why its request was refused


class RequestHandler(Protocol):
    """Answers the requests of connections."""

    def opened(self, connection: "Connection") -> int:
        """Register a connection and return its number."""

    def begun(self, request: Request) -> Script | None:
        """Return a response to a request from its head alone, or None. With a response, the body is ignored."""

    def handle(self, connection: "Connection", request: Request) -> None:
        """Make the connection play a response, now or later."""

    def unreadable(self, connection: "Connection", error: UnreadableError) -> None:
        """Respond to a malformed request."""

    def lost(self, connection: "Connection") -> None:
        """Remove a connection, and its waiting request."""


def _has_arrived(transport: asyncio.Transport) -> bool:
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


class Connection(asyncio.Protocol):
    """Reads requests and plays scripts."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler = handler
        self._parser = RequestParser(max_body=MAX_BODY)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._occupied = False  # a request is being answered
        self._reading = False
        self._closing = False  # read nothing more; the connection ends
        self._answered_early = False  # the request that is being read is already answered
        self._racing = False  # the next bytes end the connection
        self._full = False  # the client does not read
        self._held = False  # a response waits until it does
        self._pieces: Iterator[Piece] = iter(())
        self._ending = Ending.KEEP
        self._idle: Idle | None = None
        self._done: Callable[[], None] | None = None
        self.number = 0

    # ------------------------------------------------------------ called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self.number = self._handler.opened(self)

    def data_received(self, data: bytes) -> None:
        """Parse bytes; handle a request if none is being answered."""
        if self._closing:
            return
        if self._racing:
            self.drop()
            return
        if not self._occupied:
            self._stop_timer()
        try:
            self._parser.feed(data)
        except UnreadableError as error:
            self._refuse(error)
            return
        self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None
        self._stop_timer()
        self._parser.close()
        self._handler.lost(self)

    def pause_writing(self) -> None:
        """Stop writing: the client does not read."""
        self._full = True

    def resume_writing(self) -> None:
        """Continue a response that was held."""
        self._full = False
        if self._held:
            self._held = False
            self._go_on()

    # ------------------------------------------------------------ called by the handler

    def play(self, script: Script, *, keep_alive: bool, done: Callable[[], None] | None) -> None:
        """Play a response; `done` is called once it is complete. Nothing is sent to a client that has disconnected."""
        close = script.ending is Ending.KEEP and not keep_alive
        self._pieces = iter(script.pieces)
        self._ending = Ending.CLOSE if close else script.ending
        self._idle = script.idle
        self._done = done
        self._go_on()

    def drop(self) -> None:
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    def _read_on(self) -> None:
        if self._reading:  # a response written at once leads back here
            return
        self._reading = True
        try:
            while not self._occupied and not self._closing:
                request = self._parser.next()
                if request is None:
                    self._begin()
                    return
                if self._answered_early:
                    self._answered_early = False
                    continue
                self._occupied = True
                self._handler.handle(self, request)
        except UnreadableError as error:
            self._refuse(error)
        finally:
            self._reading = False

    def _begin(self) -> None:
        """Handle a request after its head has arrived."""
        request = self._parser.begun()
        script = None if request is None else self._handler.begun(request)
        if script is None:
            self._send_continue()
            return
        self._answered_early = self._occupied = True
        self.play(script, keep_alive=True, done=None)

    def _send_continue(self) -> None:
        if self._parser.continue_wanted and self._transport is not None:
            self._parser.continue_wanted = False
            self._transport.write(CONTINUE)

    def _refuse(self, error: UnreadableError) -> None:
        if self._occupied:  # too many bytes sent ahead, while a response is written
            self.drop()
            return
        self._closing = True
        self._occupied = True
        self._handler.unreadable(self, error)

    def _go_on(self, data: bytes = b"") -> None:
        self._timer = None
        while self._transport is not None:
            if data:
                self._transport.write(data)
            if self._full:
                self._held = True
                return
            piece = next(self._pieces, None)
            if piece is None:
                self._end(self._transport)
                return
            data = piece.data
            if piece.pause > 0:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(piece.pause, self._go_on, data)
                return

    def _end(self, transport: asyncio.Transport) -> None:
        match self._ending:
            case Ending.HANG:
                return
            case Ending.RESET:
                self._reset(transport)
            case Ending.CLOSE:
                self._close(transport)
            case Ending.HALF:
                self._closing = True
                transport.write_eof()
            case Ending.RACE:
                self._racing = True
        if self._done is not None:
            self._done()
        self._occupied = False
        self._read_on()
        if self._idle is not None and not self._occupied and not self._closing:
            self._be_idle(self._idle)

    def _be_idle(self, idle: Idle) -> None:
        """Schedule an unsolicited action; bytes from the client before it prevent it."""
        self._idle = None
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(idle.pause, self._interrupt, idle)

    def _interrupt(self, idle: Idle) -> None:
        self._timer = None
        transport = self._transport
        if transport is None or _has_arrived(transport):
            return
        transport.write(idle.data)
        if idle.closes:
            transport.close()

    def _reset(self, transport: asyncio.Transport) -> None:
        """Close with RST: SO_LINGER with a time of zero."""
        self._closing = True
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOTHING)
        transport.abort()

    def _close(self, transport: asyncio.Transport) -> None:
        """Close so that the client can still read the response, even while it sends."""
        if not self._closing:
            self._closing = True
            transport.close()
            return
        self._timer = asyncio.get_running_loop().call_later(_CLOSE_DELAY, transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
