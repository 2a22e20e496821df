"""One connection of a client: bytes in, requests out to the desk; scripts played back, one at a time.

Pipelined requests wait until the answer before theirs is written. The connection knows nothing of scenarios.
"""

import asyncio
import select
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Protocol, cast

from stormbreak.provider.http1 import Reader, Request, UnreadableError
from stormbreak.provider.scripts import Ending, Idle, Piece, Script

_LINGER_NOTHING = struct.pack("ii", 1, 0)
_PARTING = 1.0  # seconds in which a client may read why its request was refused


class Desk(Protocol):
    """Whoever answers the requests."""

    def opened(self, connection: "Connection") -> int:
        """Welcome a connection and give it its number."""

    def begun(self, request: Request) -> Script | None:
        """Answer a request of which only the head has come, if at all; its body is then read for nobody."""

    def handle(self, connection: "Connection", request: Request) -> None:
        """See to it that, now or later, the connection plays an answer."""

    def unreadable(self, connection: "Connection", error: UnreadableError) -> None:
        """Answer something that is no request."""

    def lost(self, connection: "Connection") -> None:
        """Forget a connection, and whatever it was waiting for."""


def _has_arrived(transport: asyncio.Transport) -> bool:
    """Whether there is something from the client that nobody has read yet."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


class Connection(asyncio.Protocol):
    """Reads requests and plays scripts."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._reader = Reader()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._occupied = False  # a request is being answered
        self._reading = False
        self._parting = False  # nothing more is read; the connection ends
        self._answered_early = False  # the request that is being read is for nobody
        self._racing = False  # what comes next ends the connection
        self._full = False  # the client does not read what it is sent
        self._held = False  # an answer waits until it does
        self._pieces: Iterator[Piece] = iter(())
        self._ending = Ending.KEEP
        self._idle: Idle | None = None
        self._done: Callable[[], None] | None = None
        self.number = 0

    # ------------------------------------------------------------ what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by name
        self.number = self._desk.opened(self)

    def data_received(self, data: bytes) -> None:
        """Take in bytes; handle a request if none is being answered."""
        if self._parting:
            return
        if self._racing:
            self.drop()
            return
        if not self._occupied:
            self._stop_timer()
        try:
            self._reader.feed(data)
        except UnreadableError as error:
            self._refuse(error)
            return
        self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Close."""
        self._transport = None
        self._stop_timer()
        self._desk.lost(self)

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        self._full = True

    def resume_writing(self) -> None:
        """Go on with an answer that was held."""
        self._full = False
        if self._held:
            self._held = False
            self._go_on()

    # ------------------------------------------------------------ what the desk calls

    def play(self, script: Script, *, keep_alive: bool, done: Callable[[], None] | None) -> None:
        """Play an answer; `done` is called once it is written whole. A client that has left hears nothing."""
        close = script.ending is Ending.KEEP and not keep_alive
        self._pieces = iter(script.pieces)
        self._ending = Ending.CLOSE if close else script.ending
        self._idle = script.idle
        self._done = done
        self._go_on()

    def drop(self) -> None:
        """End the connection at once, without a word."""
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------ inside

    def _read_on(self) -> None:
        if self._reading:  # an answer that was written at once leads back here
            return
        self._reading = True
        try:
            while not self._occupied and not self._parting:
                request = self._reader.next()
                if request is None:
                    self._begin()
                    return
                if self._answered_early:
                    self._answered_early = False
                    continue
                self._occupied = True
                self._desk.handle(self, request)
        except UnreadableError as error:
            self._refuse(error)
        finally:
            self._reading = False

    def _begin(self) -> None:
        """Look at a request that has only begun to come."""
        request = self._reader.begun()
        script = None if request is None else self._desk.begun(request)
        if script is None:
            self._send_continue()
            return
        self._answered_early = self._occupied = True
        self.play(script, keep_alive=True, done=None)

    def _send_continue(self) -> None:
        if self._reader.continue_wanted and self._transport is not None:
            self._reader.continue_wanted = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse(self, error: UnreadableError) -> None:
        if self._occupied:  # far too much sent ahead, while an answer is being written
            self.drop()
            return
        self._parting = True
        self._occupied = True
        self._desk.unreadable(self, error)

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
                self._part(transport)
            case Ending.HALF:
                self._parting = True
                transport.write_eof()
            case Ending.RACE:
                self._racing = True
        if self._done is not None:
            self._done()
        self._occupied = False
        self._read_on()
        if self._idle is not None and not self._occupied and not self._parting:
            self._be_idle(self._idle)

    def _be_idle(self, idle: Idle) -> None:
        """Do something that nobody has asked for; whatever comes from the client before prevents it."""
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
        """Close with RST: linger switched on, with a time of zero."""
        self._parting = True
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOTHING)
        transport.abort()

    def _part(self, transport: asyncio.Transport) -> None:
        """Close so that the client can still read the answer, even if it is sending."""
        if not self._parting:
            self._parting = True
            transport.close()
            return
        self._timer = asyncio.get_running_loop().call_later(_PARTING, transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
