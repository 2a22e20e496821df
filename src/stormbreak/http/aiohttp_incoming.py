"""An answer over aiohttp that is read while it comes.

Relied on: `StreamReader.set_exception` wakes whoever reads, and `ClientResponse.close` closes the connection unless the
body has been read to its end.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from math import inf
from weakref import ref

import aiohttp

from stormbreak.http.aiohttp_protocol import next_bytes
from stormbreak.http.decoding import Decoder
from stormbreak.http.trouble import outcome_of
from stormbreak.http.wire import BODY_LIMIT
from stormbreak.llm.reading import HttpResponse
from stormbreak.types import Outcome, Verdict


class AiohttpResponse:
    """The body of `response`, of the running loop. Silence is one of the server: it counts only while we wait for it.

    One timer looks now and then how long that has been; nothing is set or cancelled for each piece.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        head: HttpResponse,
        decoder: Decoder | None,
        idle_timeout: float | None,
        *,
        most: float | None = None,
    ) -> None:
        self.head = head
        self.pool: object = None  # held while this is: a pool that nobody holds closes
        self._decoder = decoder
        self._pieces: Iterator[bytes] = iter(())  # unpacked, and not taken yet
        self._response = response
        self._content = response.content
        self._loop = asyncio.get_running_loop()
        self._idle = inf if idle_timeout is None else idle_timeout
        self._waiting_since = inf
        self._silent = False
        self._closed = False
        self._size = 0
        self._most = BODY_LIMIT if most is None else most
        self._timer: asyncio.TimerHandle | None = None
        if idle_timeout is not None:
            self._look_at(self._loop.time() + idle_timeout)

    async def read(self) -> bytes | Outcome:
        """Wait for the next bytes: none at the end of the body, the outcome where there is no good end."""
        if self._closed:
            return self._cut()
        self._waiting_since = self._loop.time()
        try:
            chunk = await (
                next_bytes(self._content)
                if self._decoder is None
                else self._unpacked(self._decoder)
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self.close()
            return self._went_silent() or outcome_of(error, self.head.status)
        except RuntimeError:  # the connections of the loop were closed
            self.close()
            return self._cut()
        except BaseException:
            self.close()
            raise
        self._waiting_since = inf
        self._size += len(chunk)
        if not chunk:
            self.close()
        elif self._size > self._most:
            self.close()
            return self._broken(f"larger than {int(self._most) >> 20} MiB")
        return chunk

    def hurry(self, seconds: float) -> None:
        """Wait no longer than so many seconds for each of the bytes that are still to come."""
        if seconds < self._idle and not self._closed:
            self._idle = seconds
            self._drop_timer()
            self._look_at(self._loop.time() + seconds)

    def close(self) -> None:
        """Close the connection, unless the body has been read to its end."""
        if not self._closed:
            self._closed = True
            self._drop_timer()
            if self._waiting_since != inf and self._content.exception() is None:
                # Else whoever reads gets an exception that aiohttp has one of: it would keep all their frames.
                self._content.set_exception(aiohttp.ClientConnectionError("closed"))
            _close(self._response, self._loop)

    def leave(self) -> None:
        """Have nothing more to do with the connection: it is that of a parent process."""
        self._closed = True

    def __del__(self) -> None:
        if not self._closed:
            loop, response = self._loop, self._response
            try:
                loop.call_soon_threadsafe(_let_go, response, loop, self._timer)
            except RuntimeError:  # a loop that is closed
                _close(response, loop)

    def look(self) -> None:
        """See how long it has been silent."""
        now = self._loop.time()
        due = self._waiting_since + self._idle
        if now < due:
            self._look_at(min(due, now + self._idle))
            return
        self._silent = True
        self.close()

    async def _unpacked(self, decoder: Decoder) -> bytes:
        while True:
            for piece in self._pieces:
                return piece
            packed = await next_bytes(self._content)
            if not packed:
                decoder.end()
                return b""
            self._pieces = decoder.feed(packed)

    def _look_at(self, when: float) -> None:
        # The timer must not keep alive what nobody else holds.
        self._timer = self._loop.call_at(when, _look, ref(self))

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _went_silent(self) -> Outcome | None:
        if not self._silent:
            return None
        status = self.head.status
        return Outcome(Verdict.TIMEOUT, status=status, detail="went silent", maybe_processed=True)

    def _cut(self) -> Outcome:
        return self._went_silent() or self._broken("body was cut")

    def _broken(self, detail: str) -> Outcome:
        status = self.head.status
        return Outcome(Verdict.BROKEN, status=status, detail=detail, maybe_processed=True)


def _look(held: "ref[AiohttpResponse]") -> None:
    incoming = held()
    if incoming is not None:
        incoming.look()


def _let_go(
    response: aiohttp.ClientResponse,
    loop: asyncio.AbstractEventLoop,
    timer: asyncio.TimerHandle | None,
) -> None:
    """See on the loop to what was dropped, perhaps on another thread."""
    if timer is not None:
        timer.cancel()
    _close(response, loop)


def _close(response: aiohttp.ClientResponse, loop: asyncio.AbstractEventLoop) -> None:
    connection = response.connection
    response.close()
    if connection is not None and loop.is_closed():  # then aiohttp has left it alone
        with suppress(RuntimeError):
            connection.close()
