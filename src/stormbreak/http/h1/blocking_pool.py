"""A pool of sockets to one origin, for all threads."""

import socket
import ssl
import time
from collections import deque
from contextlib import suppress
from weakref import ref

from stormbreak.drivers.blocking import Signal
from stormbreak.drivers.locks import LiveSet, new_lock
from stormbreak.http.h1.address import Address
from stormbreak.http.h1.blocking_connect import BlockingResolver, connect
from stormbreak.http.h1.connection import KEEP_ALIVE, MAX_AGE, MAX_IDLE, SPARE
from stormbreak.http.h1.failures import PoolClosedError
from stormbreak.http.h1.proxy import Proxy
from stormbreak.http.h1.socket_response import SocketResponse


class _Place:
    """A place for one socket in a pool. It becomes free when unreferenced, even if an interrupt lost it."""

    __slots__ = ("__weakref__", "_pool")

    def __init__(self, pool: "BlockingPool") -> None:
        self._pool = ref(pool)
        pool.places.add(self)

    def __del__(self) -> None:
        # an interrupt may have come before it was set
        if hasattr(self, "_pool") and (pool := self._pool()) is not None:
            pool.free(self)


class PooledSocket:
    """A connected socket. Only the thread that uses it closes it; other threads shut it down. A lost one is closed.

    Its lock guards the change from one exchange, or one thread, to the next.
    """

    def __init__(self, pool: "BlockingPool", place: _Place, sock: socket.socket) -> None:
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
        """Begin to use it; False: it is closed."""
        with self.lock:
            self.in_use = not self.closed
            return self.in_use

    def rest(self) -> bool:
        """Stop using it for now; False: another thread shut it meanwhile, and it is closed."""
        with self.lock:
            self.in_use = False
            if self.closed:
                self.sock.close()
            return not self.closed

    def free(self, *, reusable: bool) -> None:
        pool = self._pool()
        if pool is None or self.spent or not reusable or not self.rest():
            self.abort()
        else:
            pool.put(self)

    def abort(self) -> None:
        """Close it at once, on the thread that uses it, or if none does."""
        with self.lock:
            self.closed = True
            self.in_use = False
            self.sock.close()
            place, self._place = self._place, None
        del place

    def shut(self) -> None:
        """Close it from any thread, and wake the thread that uses it."""
        with self.lock:
            if not self.in_use:
                self.abort()
            elif not self.closed:
                self.closed = True
                with suppress(OSError):
                    # the method of SSLSocket drops its TLS state
                    socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def leave_behind(self) -> None:
        """Close this copy of the parent's socket in a child process; it stays open in the parent."""
        self.closed = True
        self.sock.close()

    def __del__(self) -> None:
        if not getattr(self, "closed", True):  # an interrupt may have come before it was made
            self.abort()

    def pause(self) -> None:
        """Do nothing: data is read only on request."""

    resume = pause

    @property
    def is_quiet(self) -> bool:
        """Whether neither data nor the end has come."""
        try:
            socket.socket.recv(self.sock, 1, socket.MSG_PEEK)  # SSLSocket's method accepts no flags
        except BlockingIOError:
            return True
        except (OSError, ValueError):
            return False
        return False


class _Turn(Signal):
    """A thread in the queue of a pool, and what it got there: a free socket, or a place for a new one."""

    got: PooledSocket | _Place | None = None


class BlockingPool:
    """The sockets of all threads to one origin: at most `limit`, the last used first.

    Threads that find no socket queue, first come first served.
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
        """Return a free socket; None while threads wait for one."""
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
        """Return a free socket, or a new one within `seconds`; wait while `limit` are in use.

        Raises:
            PoolClosedError: the pool was closed meanwhile.
            OSError, RuntimeError: as in `connect`.
        """
        while not isinstance(got := await self._next(), _Place):
            if got is not None and _is_fit(got):
                return got
        until = time.monotonic() + seconds
        try:
            made = PooledSocket(self, got, await connect(self.resolver, address, proxy, tls, until))
        finally:
            del got  # the traceback of an interrupt would keep it
        if self.closed:
            made.abort()
            raise PoolClosedError
        return made

    async def _next(self) -> PooledSocket | _Place | None:
        """Return a free socket, or a place for a new one, at once or in turn; None: it was woken for another reason."""
        with self._lock:
            if self.closed:
                raise PoolClosedError
            with suppress(IndexError):  # `idle` takes sockets without the lock
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
        """Keep a free socket for the next request; close those that are too many or idle for too long."""
        free.idle_since = now = time.monotonic()
        old = []
        with self._lock:
            if self.closed:
                old.append(free)
            else:
                self._idle.append(free)
                if self._waiting:
                    self._hand_out()
            while self._idle and now - self._idle[0].idle_since >= (
                SPARE if len(self._idle) > MAX_IDLE else KEEP_ALIVE
            ):
                old.append(self._idle.popleft())
        for each in old:
            each.abort()

    def free(self, place: _Place) -> None:
        """Record that a socket was closed: another may be opened."""
        self.places.discard(place)
        if self._waiting:
            with self._lock:
                self._hand_out()

    def _hand_out(self) -> None:
        """Give free sockets to waiting threads, under the lock. An interrupt or a finalizer may come at any point."""
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
        """Close every socket, and wake readers and waiters. From any thread."""
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
        """Close the copies of the parent's sockets in a child process."""
        for response in self.streams:
            response.abandon()
        for each in self.sockets:
            each.leave_behind()


def _is_fit(free: PooledSocket) -> bool:
    """Begin to use a free socket if it can carry another request; if not, close it."""
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
