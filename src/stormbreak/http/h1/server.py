"""An HTTP/1.1 server on the running event loop: it listens, enforces the bounds of its connections, and drains."""

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress

from stormbreak.errors import ConfigurationError
from stormbreak.http.h1.server_connection import LINGER, Application, ServerBounds, ServerConnection

BACKLOG = 4096
_TURNS = 3  # turns of an event loop until an accepted socket is a connection
_LAST_WORDS = 5.0  # seconds in which cancelled answers can inform their clients


class HttpServer:
    """Serves one application. `held` counts the bytes of held requests."""

    def __init__(self, application: Application, bounds: ServerBounds | None = None) -> None:
        self.application = application
        self.bounds = bounds or ServerBounds()
        self.draining = False
        self.held = 0
        self.port = 0
        self._connections: set[ServerConnection] = set()
        self._empty = asyncio.Event()
        self._sockets: list[socket.socket] = []
        self._listeners: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 picks a free one.

        Raises:
            ConfigurationError: the port or the address is not available.
        """
        await self.serve(listen(host, port))

    async def serve(self, sockets: Sequence[socket.socket]) -> None:
        """Listen on the sockets from `listen`; other processes may do so, too."""
        loop = asyncio.get_running_loop()
        for each in sockets:
            # An event loop may accept the whole backlog at once; accepting one at a time spreads connections over
            # processes.
            self._listeners.append(
                await loop.create_server(lambda: ServerConnection(self), sock=each, backlog=1)
            )
            each.listen(BACKLOG)
        self._sockets += sockets
        self.port = sockets[0].getsockname()[1]
        self._watch()

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def busy(self) -> int:
        """The number of requests that are being answered."""
        return sum(connection.busy for connection in self._connections)

    async def drain(self, grace: float) -> None:
        """Stop listening, let answers end for `grace` seconds, then cancel them; close every connection.

        An idle connection may send one more request within a second, since the client could not know. So may
        connections in the backlog, since the system would reset them.
        """
        self.draining = True
        await self._stop_listening()
        if not await self._emptied(grace):
            for connection in tuple(self._connections):
                connection.expire()
            await self._emptied(_LAST_WORDS)
        await self.close()

    async def close(self) -> None:
        """Stop listening, and end every connection at once."""
        self.draining = True
        if self._timer is not None:
            self._timer.cancel()
        for connection in tuple(self._connections):
            connection.abort()
        for listener in self._listeners:
            listener.close()
            await listener.wait_closed()

    # ------------------------------------------------------------ called by connections

    def admit(self, connection: ServerConnection) -> bool:
        """Register a new connection; return whether there is room for it."""
        self._connections.add(connection)
        self._empty.clear()
        return len(self._connections) <= self.bounds.max_connections

    def gone(self, connection: ServerConnection) -> None:
        """Forget a connection that is closed, and whose last request is answered."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    # ------------------------------------------------------------ internal

    async def _stop_listening(self) -> None:
        """Stop listening, and accept the waiting connections.

        All are accepted before any is answered, since clients that return at once would keep the backlog full. At most
        one full backlog is accepted, since other clients may keep it full anyway.
        """
        loop = asyncio.get_running_loop()
        clients: list[socket.socket] = []
        for listening in self._sockets:
            with suppress(OSError):  # no more, no descriptor left, or closed by an earlier drain
                while len(clients) < BACKLOG:
                    clients.append(listening.accept()[0])
        for listener in self._listeners:
            listener.close()
        for client in clients:
            client.setblocking(False)
            with suppress(OSError):  # the client has left
                await loop.connect_accepted_socket(lambda: ServerConnection(self), client)
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    async def _emptied(self, seconds: float) -> bool:
        """Wait at most `seconds` until no connection is left; return whether none is."""
        if self._connections:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
        return not self._connections

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in tuple(self._connections):
            connection.check(now)
        self._timer = loop.call_later(self._pause, self._watch)

    @property
    def _pause(self) -> float:
        """Return the seconds between two checks of all connections."""
        bounds = self.bounds
        return min(LINGER, bounds.head_timeout, bounds.idle_timeout) / 4


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on each address of `host`; port 0 picks a free one. Close the sockets, or give them to a server.

    Raises:
        ConfigurationError: the port or the address is not available.
    """
    found: list[socket.socket] = []
    try:
        for family, _, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            where = (address[0], found[0].getsockname()[1] if found else port, *address[2:])
            found.append(socket.create_server(where, family=family, backlog=BACKLOG))
    except (OSError, OverflowError) as error:
        for each in found:
            each.close()
        number = getattr(error, "errno", None)
        why = os.strerror(number) if number and number > 0 else "no such address or port"
        raise ConfigurationError(f"cannot listen on {host} port {port}: {why}") from error
    return found


def new_loop() -> asyncio.AbstractEventLoop:
    """Make the fastest installed event loop."""
    with suppress(ImportError):
        import uvloop  # noqa: PLC0415

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()
