"""HTTP/1.1 on threads that block: one pool of sockets for all threads, and the exchanges over them.

The same promises as `async_connection`: nothing is sent a second time, no redirect is followed, no exception leaves.
Its coroutines are run by `drivers.blocking`.
"""

import socket
import ssl
import time
from collections import deque
from contextlib import suppress
from math import inf
from typing import Self
from weakref import ref

from stormbreak.drivers.blocking import READ, WRITE, Signal, SocketWait, running_strand
from stormbreak.drivers.fork_safety import reset_in_child
from stormbreak.drivers.locks import LiveSet, new_lock
from stormbreak.http.h1.address import Address, address_of
from stormbreak.http.h1.blocking_connect import BlockingResolver, connect
from stormbreak.http.h1.connection import KEEP_ALIVE, MAX_AGE, MAX_IDLE, SPARE, ExchangeResult
from stormbreak.http.h1.exchange import BAD_HEADER, LOST, SMALL, Exchange, head_of
from stormbreak.http.h1.failures import NOT_SENT, PoolClosedError, connect_outcome
from stormbreak.http.h1.proxy_tunnel import Proxy
from stormbreak.http.h1.response_body import SocketResponse, open_response, whole_response
from stormbreak.http.models import PreparedRequest
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
                while not self.over:
                    if not self._take():
                        self.fail(LOST)
                return
            until = time.monotonic() + self._idle
            if not await SocketWait((sock, READ | WRITE), until=until):
                self.silent()
            else:
                self._take()

    async def wait(self) -> None:
        """Wait until something has come, if nothing has. Cancelling closes the connection."""
        if self.parser.unread or self.over:  # then another thread may use the socket
            return
        self._enter()
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
        finally:
            self._rest()

    def _take(self) -> bool:
        """Take what has come; whether there was something, or an end."""
        if self.over:
            return True
        try:
            data = self.socket.sock.recv(_CHUNK)
        except _NOT_NOW:
            return False
        except (OSError, ValueError):
            self.lost(cleanly=False)
            return True
        if data:
            self.received(data)
        else:
            self.lost(cleanly=not self._is_shut_here)
        return True

    @property
    def _is_shut_here(self) -> bool:
        """Whether another thread of ours has ended it, and not the server."""
        strand = running_strand()
        return self.socket.closed or (strand is not None and strand.is_interrupted)

    def close(self, outcome: Outcome) -> None:
        """Close the connection; on another thread, wake the one that reads, which closes it."""
        with self.socket.lock:
            if self.over:
                return
            if self.failure is None:
                self.failure = outcome
            if self.socket.in_use:
                self.socket.shut()
            else:
                self.fail(outcome)

    def _enter(self) -> None:
        """Use the socket, unless it is closed, or no longer ours."""
        with self.socket.lock:
            if not self.over and not self.socket.enter():
                self.fail(LOST)

    def _rest(self) -> None:
        """Use the socket no longer, for now."""
        with self.socket.lock:
            if not self.over:
                self.socket.rest()

    def _leave(self) -> None:
        with self.socket.lock:
            super()._leave()

    def limit_silence(self, seconds: float) -> None:
        """Wait no longer than so many seconds for each of the bytes that are still to come."""
        self._idle = min(self._idle, seconds)

    def drop(self) -> None:
        """Close the connection."""
        self.fail(LOST)


class _Place:
    """A place for one socket in a pool. It is free again when nobody holds it, also where an interrupt lost it."""

    __slots__ = ("__weakref__", "_pool")

    def __init__(self, pool: "Pool") -> None:
        self._pool = ref(pool)
        pool.places.add(self)

    def __del__(self) -> None:
        # an interrupt may have come before it was made
        if hasattr(self, "_pool") and (pool := self._pool()) is not None:
            pool.free(self)


class PooledSocket:
    """A connected socket. The thread that uses it closes it: another one only shuts it. One that is lost is closed.

    Under its lock it passes from one exchange, or from one thread, to the next.
    """

    def __init__(self, pool: "Pool", place: _Place, sock: socket.socket) -> None:
        self._pool = ref(pool)
        self._place: _Place | None = place
        self.lock = new_lock()
        self.sock = sock
        self.opened_at = self.idle_since = time.monotonic()
        self.closed = False
        self.in_use = True  # a thread sends or reads, or waits for it
        self.spent = False  # may carry no other request
        pool.sockets.add(self)

    def enter(self) -> bool:
        """Use it; False: it is closed."""
        with self.lock:
            self.in_use = not self.closed
            return self.in_use

    def rest(self) -> bool:
        """Use it no longer, for now; False: another thread shut it meanwhile, and it is closed."""
        with self.lock:
            self.in_use = False
            if self.closed:
                self.sock.close()
            return not self.closed

    def free(self, *, reusable: bool) -> None:
        """The exchange is over: wait for another one, or close."""
        pool = self._pool()
        if pool is None or self.spent or not reusable or not self.rest():
            self.abort()
        else:
            pool.put(self)

    def abort(self) -> None:
        """Close at once, by the thread that uses it, or where none does."""
        with self.lock:
            self.closed = True
            self.in_use = False
            self.sock.close()
            place, self._place = self._place, None
        del place

    def shut(self) -> None:
        """Close it, from any thread: a thread that uses it wakes."""
        with self.lock:
            if not self.in_use:
                self.abort()
            elif not self.closed:
                self.closed = True
                with suppress(OSError):
                    # an SSLSocket's own drops its TLS
                    socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def leave_behind(self) -> None:
        """In a child: close this copy of the parent's socket, which stays open there."""
        self.closed = True
        self.sock.close()

    def __del__(self) -> None:
        if not getattr(self, "closed", True):  # an interrupt may have come before it was made
            self.abort()

    def pause(self) -> None:
        """Nothing is read before it is asked for."""

    resume = pause

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


class _Turn(Signal):
    """A thread in the queue of a pool, and what it got there: a free socket, or a place for a new one."""

    got: PooledSocket | _Place | None = None


class Pool:
    """The sockets of all threads to one origin: at most `limit`, those used last are used first.

    Threads that find none queue, and are served first come first served.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.resolver = BlockingResolver()
        self.streams: LiveSet[SocketResponse] = LiveSet()
        self.sockets: LiveSet[PooledSocket] = LiveSet()
        self.places: LiveSet[_Place] = LiveSet()
        self.closed = False
        self._lock = new_lock()
        self._idle: deque[PooledSocket] = deque()
        self._waiting: deque[_Turn] = deque()

    def idle(self) -> PooledSocket | None:
        """A socket that is free. While threads wait for one, there is none."""
        while True:
            try:
                found = self._idle.pop()
            except IndexError:
                return None
            if _is_fit(found):
                return found

    async def take(
        self, address: Address, proxy: Proxy | None, tls: ssl.SSLContext | None, seconds: float
    ) -> PooledSocket:
        """A free socket, or a new one within `seconds`; waits while `limit` are in use.

        Raises:
            PoolClosedError: the pool was closed meanwhile.
            OSError, RuntimeError: as `connect` does.
        """
        while not isinstance(got := await self._next(), _Place):
            if got is not None and _is_fit(got):
                return got
        until = time.monotonic() + seconds
        try:
            made = PooledSocket(self, got, await connect(self.resolver, address, proxy, tls, until))
        finally:
            del got  # the traceback of an interrupt would hold it
        if self.closed:
            made.abort()
            raise PoolClosedError
        return made

    async def _next(self) -> PooledSocket | _Place | None:
        """A free socket, or a place for a new one, at once or in turn; None: it was woken for another reason."""
        with self._lock:
            if self.closed:
                raise PoolClosedError
            with suppress(IndexError):  # `idle` takes one without the lock
                return self._idle.pop()
            if len(self.places) < self.limit:
                return _Place(self)
            turn = _Turn()
            self._waiting.append(turn)
        try:
            await turn.wait()
            got, turn.got = turn.got, None
        finally:
            self._leave_queue(turn)
        return got

    def _leave_queue(self, turn: _Turn) -> None:
        with self._lock, suppress(ValueError):
            self._waiting.remove(turn)
        unused, turn.got = turn.got, None
        if isinstance(unused, PooledSocket):
            self.put(unused)

    def put(self, free: PooledSocket) -> None:
        """Keep a socket that nobody uses for the next request, and none too many, or idle for too long."""
        free.idle_since = now = time.monotonic()
        old = []
        with self._lock:
            if self.closed:
                old.append(free)
            else:
                self._idle.append(free)
                self._hand_out()
            while self._idle and now - self._idle[0].idle_since >= (
                SPARE if len(self._idle) > MAX_IDLE else KEEP_ALIVE
            ):
                old.append(self._idle.popleft())
        for each in old:
            each.abort()

    def free(self, place: _Place) -> None:
        """A socket was closed: another may be opened."""
        self.places.discard(place)
        if self._waiting:
            with self._lock:
                self._hand_out()

    def _hand_out(self) -> None:
        """Give what is free to those who wait, under the lock. An interrupt, or a finalizer, may come in anywhere."""
        while not self.closed and (self._idle or len(self.places) < self.limit):
            try:
                turn = self._waiting[0]
            except IndexError:
                return
            if turn.got is None:
                try:
                    turn.got = self._idle.pop()
                except IndexError:
                    if len(self.places) >= self.limit:
                        return
                    turn.got = _Place(self)
            turn.set()
            with suppress(ValueError):
                self._waiting.remove(turn)

    def close(self) -> None:
        """Close every socket; whoever reads or waits is woken. From any thread."""
        with self._lock:
            self.closed = True
            self._idle.clear()
            waiting = list(self._waiting)
        for response in self.streams:
            response.close()
        for each in self.sockets:
            each.shut()
        for turn in waiting:
            turn.set()

    def leave_behind(self) -> None:
        """In a child: close its copies of the parent's sockets."""
        for response in self.streams:
            response.abandon()
        for each in self.sockets:
            each.leave_behind()


def _is_fit(free: PooledSocket) -> bool:
    """Use a free socket, if it can carry another request; else close it."""
    now = time.monotonic()
    if (
        free.enter()
        and now - free.idle_since < KEEP_ALIVE
        and now - free.opened_at < MAX_AGE
        and free.is_quiet
    ):
        return True
    free.abort()
    return False


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
            used.abort()
            raise
        return exchange

    def _leave_behind(self) -> None:
        self._pool.leave_behind()
        self._pool = Pool(self._pool.limit)
