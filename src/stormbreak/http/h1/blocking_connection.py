"""HTTP/1.1 on threads that block: one pool of sockets for all threads, and the exchanges over them.

The same promises as `async_connection`: nothing is sent a second time, no redirect is followed, no exception leaves.
Its coroutines are run by `drivers.blocking`.
"""

import socket
import ssl
import time
from collections import deque
from math import inf
from typing import Self
from weakref import ref

from stormbreak.drivers.blocking import READ, WRITE, Signal, SocketWait
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import LiveSet, new_lock
from stormbreak.http.h1.address import Address, Proxy, address_of
from stormbreak.http.h1.blocking_connect import BlockingResolver, connect
from stormbreak.http.h1.connection import KEEP_ALIVE, MAX_AGE, ExchangeResult
from stormbreak.http.h1.exchange import BAD_HEADER, LOST, SMALL, Exchange, head_of
from stormbreak.http.h1.failures import NOT_SENT, PoolClosedError, connect_outcome
from stormbreak.http.h1.response import SocketResponse, open_response, whole_response
from stormbreak.http.models import PreparedRequest
from stormbreak.llm.models import HttpResponse
from stormbreak.types import Outcome

_CHUNK = 64 * 1024  # bytes that are read at a time
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class BlockingExchange(Exchange):
    """One exchange on the thread that reads it; another thread may close it."""

    __slots__ = ("_idle", "_is_sent", "socket")

    def __init__(self, carrier: "PooledSocket", request: PreparedRequest) -> None:
        super().__init__(carrier, request)
        self.socket = carrier
        self._idle = inf if request.idle_timeout is None else request.idle_timeout
        self._is_sent = False

    @property
    def is_sent(self) -> bool:
        """Whether the whole request has left."""
        return self._is_sent

    async def send(self, request: PreparedRequest, head: bytes, *, chunked: bool) -> None:
        """Send the request, until an answer comes. Cancelling closes the connection."""
        body = request.body
        try:
            if not isinstance(body, bytes):
                async for piece in body:
                    if not piece:
                        continue
                    if not head and self._take() and self._has_answer:
                        return
                    framed = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
                    await self._write(head + framed)
                    head = b""
                await self._write(head + (b"0\r\n\r\n" if chunked else b""))
            elif len(body) <= SMALL:
                await self._write(head + body)
            else:
                await self._write(head)
                await self._write(body)
        except Exception:  # noqa: BLE001 - the owner of the body knows what it raised
            self.fail(LOST)
        except BaseException:
            self.fail(LOST)
            raise
        finally:
            self._rest()
        self._is_sent = not self._has_answer

    @property
    def _has_answer(self) -> bool:
        return self.over or self.parser.status is not None

    async def _write(self, data: bytes) -> None:
        """Send `data`, but no more of it once an answer has begun."""
        left, sock = memoryview(data), self.socket.sock
        while left and not self._has_answer:
            try:
                left = left[sock.send(left) :]
                continue
            except _NOT_NOW:
                pass
            except OSError:  # what came before the connection failed can still be read
                while self._take() and not self.over:
                    pass
                self.fail(LOST)
                return
            until = time.monotonic() + self._idle
            if not await SocketWait((sock, READ | WRITE), until=until):
                self.silent()
            else:
                self._take()

    async def wait(self) -> None:
        """Wait until something has come. Cancelling closes the connection."""
        sock, until = self.socket.sock, time.monotonic() + self._idle
        try:
            if isinstance(sock, ssl.SSLSocket) and sock.pending() and self._take():
                return
            while not self.over:
                if not await SocketWait((sock, READ), until=until):
                    self.silent()
                elif self._take():
                    return
        except BaseException:
            self.fail(LOST)
            raise

    def _take(self) -> bool:
        """Take what has come; whether there was something, or an end."""
        if self.over:
            return True
        try:
            data = self.socket.sock.recv(_CHUNK)
        except _NOT_NOW:
            return False
        except (OSError, ValueError):
            data = b""
        if data:
            self.received(data)
        else:
            self.lost()
        return True

    async def head(self) -> HttpResponse | Outcome:
        """Wait for the head of the response."""
        if self.over:
            return await super().head()
        self.socket.in_use = True
        try:
            return await super().head()
        finally:
            self._rest()

    async def read(self) -> bytes | Outcome:
        """Wait for the next bytes of the body: none at its end."""
        if self.over:
            return await super().read()
        self.socket.in_use = True
        try:
            return await super().read()
        finally:
            self._rest()

    def close(self, outcome: Outcome) -> None:
        """Close the connection; on another thread, wake the one that reads, which closes it."""
        if self.over or not self.socket.in_use:
            self.fail(outcome)
        else:
            self.failure = self.failure or outcome
            self.socket.abort()

    def _rest(self) -> None:
        """Use the socket no longer, for now."""
        if not self.over:  # else another thread may use it
            self.socket.in_use = False
        if self.socket.closed:
            self.socket.sock.close()

    def limit_silence(self, seconds: float) -> None:
        """Wait no longer than so many seconds for each of the bytes that are still to come."""
        self._idle = min(self._idle, seconds)

    def drop(self) -> None:
        """Close the connection."""
        self.fail(LOST)


class PooledSocket:
    """A connected socket. Another thread may close it: it shuts it, and the thread that uses it closes it."""

    def __init__(self, pool: "Pool", sock: socket.socket) -> None:
        self._pool = ref(pool)
        self.sock = sock
        self.opened_at = self.idle_since = time.monotonic()
        self.closed = False
        self.in_use = True  # a thread sends or reads, or waits for it
        self.spent = False  # may carry no other request

    def free(self, *, reusable: bool) -> None:
        """The exchange is over: wait for another one, or close."""
        pool = self._pool()
        if pool is None or pool.closed or self.closed or self.spent or not reusable:
            self.abort()
        else:
            pool.put(self)

    def abort(self) -> None:
        """Close at once."""
        if self.closed:
            return
        self.closed = True
        pool = self._pool()
        if pool is not None:
            pool.gone(self)
        if self.in_use:
            try:
                socket.socket.shutdown(
                    self.sock, socket.SHUT_RDWR
                )  # an SSLSocket's own drops its TLS
            except OSError:
                return
        else:
            self.sock.close()

    def discard(self) -> None:
        """Close it, by the thread that uses it."""
        self.in_use = False
        self.abort()
        self.sock.close()

    def resume(self) -> None:
        """Nothing is read before it is asked for."""

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has come, and the server has not left."""
        try:
            socket.socket.recv(self.sock, 1, socket.MSG_PEEK)  # an SSLSocket's own takes no flags
        except BlockingIOError:
            return True
        except (OSError, ValueError):
            return False
        return False


class Pool:
    """The sockets of all threads to one origin: at most `limit`, those used last are used first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.resolver = BlockingResolver()
        self.streams: LiveSet[SocketResponse] = LiveSet()
        self.closed = False
        self._lock = new_lock()
        self._sockets: set[PooledSocket] = set()
        self._connecting = 0
        self._idle: deque[PooledSocket] = deque()
        self._waiting: deque[Signal] = deque()

    def idle(self) -> PooledSocket | None:
        """A socket that is free."""
        while True:
            try:
                found = self._idle.pop()
            except IndexError:
                return None
            now = time.monotonic()
            found.in_use = True
            if (
                now - found.idle_since < KEEP_ALIVE
                and now - found.opened_at < MAX_AGE
                and found.is_quiet
            ):
                return found
            found.discard()

    async def take(
        self, address: Address, proxy: Proxy | None, tls: ssl.SSLContext | None, seconds: float
    ) -> PooledSocket:
        """A free socket, or a new one within `seconds`; waits while `limit` are in use.

        Raises:
            PoolClosedError: the pool was closed meanwhile.
            OSError, RuntimeError: as `connect` does.
        """
        while not self.closed:
            signal: Signal | None = None
            with self._lock:
                if not self._idle:
                    if len(self._sockets) + self._connecting < self.limit:
                        self._connecting += 1
                        break
                    signal = Signal()
                    self._waiting.append(signal)
            if signal is not None:
                try:
                    await signal.wait()
                finally:
                    self._stop_waiting(signal)
            found = self.idle()
            if found is not None:
                return found
        else:
            raise PoolClosedError
        made: PooledSocket | None = None
        try:
            until = time.monotonic() + seconds
            made = PooledSocket(self, await connect(self.resolver, address, proxy, tls, until))
        finally:
            self._connected(made)
        return made

    def _connected(self, made: PooledSocket | None) -> None:
        """Count the socket; raise PoolClosedError if the pool was closed meanwhile."""
        with self._lock:
            self._connecting -= 1
            if made is not None:
                self._sockets.add(made)
        if made is None:
            self._wake()
        elif self.closed:
            made.discard()
            raise PoolClosedError

    def put(self, free: PooledSocket) -> None:
        """Keep a socket for the next request, and none that was idle for too long."""
        free.idle_since = now = time.monotonic()
        free.in_use = False
        old = []
        with self._lock:
            self._idle.append(free)
            while self._idle and now - self._idle[0].idle_since >= KEEP_ALIVE:
                old.append(self._idle.popleft())
        for each in old:
            each.abort()
        self._wake()

    def gone(self, closed: PooledSocket) -> None:
        """A socket was closed: another may be opened."""
        with self._lock:
            self._sockets.discard(closed)
        self._wake()

    def close(self) -> None:
        """Close every socket; whoever reads or waits is woken. From any thread."""
        with self._lock:
            self.closed = True
            sockets, waiting = list(self._sockets), list(self._waiting)
            self._idle.clear()
        for response in self.streams:
            response.close()
        for each in sockets:
            each.abort()
        for signal in waiting:
            signal.set()

    def leave_behind(self) -> None:
        """In a child: close its copies of the parent's sockets, which stay open there."""
        for response in self.streams:
            response.abandon()
        for each in self._sockets:
            each.closed = True
            each.sock.close()

    def _stop_waiting(self, signal: Signal) -> None:
        with self._lock:
            if signal in self._waiting:
                self._waiting.remove(signal)
                return
        self._wake()  # it was set, and may not be able to use that

    def _wake(self) -> None:
        if self._waiting:
            with self._lock:
                signal = self._waiting.popleft() if self._waiting else None
            if signal is not None:
                signal.set()

    def __del__(self) -> None:
        for each in list(self._sockets):
            each.abort()


class BlockingConnection:
    """A pool of at most `limit` sockets for all threads. `tls` says whom to trust; it is needed for https only."""

    def __init__(self, *, limit: int, proxy: Proxy | None, tls: ssl.SSLContext | None) -> None:
        self._proxy = proxy
        self._tls = tls
        self._pool = Pool(limit)
        reset_in_child(self._leave_behind)

    @property
    def blocking(self) -> Self:
        """Itself."""
        return self

    async def exchange(self, request: PreparedRequest) -> ExchangeResult:
        """Send once and read the whole answer. Cancelling closes the connection."""
        pool = self._pool
        begun = await self._begin(pool, request)
        return begun if isinstance(begun, Outcome) else await whole_response(begun, request, pool)

    async def open(self, request: PreparedRequest) -> SocketResponse | Outcome:
        """Send once, and wait for no more than the head of the answer. Cancelling closes the connection."""
        pool = self._pool
        begun = await self._begin(pool, request)
        return begun if isinstance(begun, Outcome) else await open_response(begun, request, pool)

    async def close(self) -> None:
        """Close all sockets, on whichever thread; whoever reads is woken. Later requests connect anew."""
        closing, self._pool = self._pool, Pool(self._pool.limit)
        closing.close()

    async def _begin(self, pool: Pool, request: PreparedRequest) -> BlockingExchange | Outcome:
        proxy = self._proxy
        try:
            address = address_of(request.url)
            head, chunked = head_of(request, address, proxy)
        except UnicodeError as error:
            return connect_outcome(error, proxied=proxy is not None)
        except ValueError:  # its message may hold the header
            return BAD_HEADER
        try:
            used = pool.idle() or await pool.take(
                address, proxy, self._tls, request.connect_timeout
            )
        except PoolClosedError:
            return NOT_SENT
        except (OSError, UnicodeError, RuntimeError) as error:
            return connect_outcome(error, proxied=proxy is not None)
        try:
            exchange = BlockingExchange(used, request)
            await exchange.send(request, head, chunked=chunked)
        except BaseException:
            used.discard()
            raise
        return exchange

    def _leave_behind(self) -> None:
        self._pool.leave_behind()
        self._pool = Pool(self._pool.limit)
