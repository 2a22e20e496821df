"""An exchange on a blocked thread; `drivers.blocking` runs its coroutines."""

import ssl
import time
from math import inf

from stormbreak.drivers.blocking import READ, WRITE, SocketWait, running_strand
from stormbreak.http.h1.blocking_pool import PooledSocket
from stormbreak.http.h1.exchange import LOST, SMALL, Exchange
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.types import Outcome

_CHUNK = 64 * 1024  # bytes of one read
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class BlockingExchange(Exchange):
    """One exchange on the thread that reads it; another thread may close it."""

    carrier: PooledSocket
    is_sent: bool = False
    _idle: float = inf  # maximum seconds of silence

    async def send(self, request: PreparedRequest, head: bytes, *, chunked: bool) -> None:
        """Send the request, or stop when an answer comes; the socket stays in use until `wait` ends.

        Cancelling closes the connection.
        """
        body = request.body
        if request.idle_timeout is not None:
            self.limit_silence(request.idle_timeout)
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
            self.is_sent = not self._has_answer
            if not self.is_sent:  # there may be nothing left to wait for
                self._rest()

    @property
    def _has_answer(self) -> bool:
        return self.over or self.parser.status is not None

    async def _write(self, data: bytes) -> None:
        """Send `data`; stop when an answer has begun."""
        left, sock = memoryview(data), self.carrier.sock
        while left and not self._has_answer:
            try:
                left = left[sock.send(left) :]
                continue
            except _NOT_NOW:
                pass
            except OSError:  # bytes that came before the failure can still be read
                while not self._is_done:
                    if not self._take():
                        self.fail(LOST)
                return
            until = time.monotonic() + self._idle
            if not await SocketWait((sock, READ | WRITE), until=until):
                self.silent()
            else:
                self._take()

    async def wait(self) -> None:
        if self.parser.unread or self._is_done:  # another thread may use the socket now
            return
        self._enter()
        sock, until = self.carrier.sock, time.monotonic() + self._idle
        try:
            if isinstance(sock, ssl.SSLSocket) and sock.pending() and self._take():
                return
            while not self._is_done:
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
        """Read the bytes that have come; return whether there were any, or an end."""
        if self._is_done:
            return True
        try:
            data = self.carrier.sock.recv(_CHUNK)
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
        """Whether another thread of ours ended the connection, not the server."""
        strand = running_strand()
        return self.carrier.closed or (strand is not None and strand.is_interrupted)

    def close(self, outcome: Outcome) -> None:
        """Release or close the connection. On another thread, wake the reader, which closes it."""
        with self.carrier.lock:
            if self.over:
                return
            if self.carrier.in_use:
                if self.failure is None:
                    self.failure = outcome
                self.carrier.shut()
                return
            if not self._is_read:
                self.fail(outcome)
        self.leave(reusable=self.parser.reusable)

    def _enter(self) -> None:
        """Begin to use the socket, unless it is closed or no longer ours."""
        with self.carrier.lock:
            if not self.over and not self.carrier.enter():
                self.fail(LOST)

    def _rest(self) -> None:
        """Stop using the socket for now."""
        with self.carrier.lock:
            if not self.over and not self.carrier.rest() and self.parser.complete:
                self.leave()

    def leave(self, *, reusable: bool = False) -> None:
        with self.carrier.lock:
            was_over, self.over = self.over, True
        if not was_over:
            self.parser.llhttp = None
            self.carrier.free(reusable=reusable)

    def limit_silence(self, seconds: float) -> None:
        self._idle = min(self._idle, seconds)

    def drop(self) -> None:
        self.fail(LOST)
