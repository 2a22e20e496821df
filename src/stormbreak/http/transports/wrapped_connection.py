"""A connection over another transport of the HTTP library, with all its settings.

It makes one attempt per request: a transport that retries would hide attempts from the policy.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Generator
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Self

from stormbreak.drivers.blocking import Strand, running_strand
from stormbreak.drivers.locks import LiveSet
from stormbreak.drivers.timeouts import Timeout
from stormbreak.errors import ConfigurationError
from stormbreak.http.h1.connection import (
    BODY_LIMIT,
    Connection,
    ExchangeResult,
    Judge,
    broken_body,
    collect,
    silent_body,
)
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.http.transports.httpx_classes import Library
from stormbreak.http.transports.interruptible import KEPT, do_soon, interruptible
from stormbreak.http.transports.wrapped_body import WrappedBody
from stormbreak.types import Outcome

_SENDS = {"handle_async_request": "an asynchronous", "handle_request": "a synchronous"}
_GRACE = 0.1  # seconds
_TURNS = 8  # maximum turns of the loop until a connection is free; httpcore takes one or two
_LIBRARIES = frozenset({"httpx", "httpx2"})


def check_wrapped(inner: Any, library: Library, sends: str) -> None:
    """Check that `inner` has the method `sends`, and hides no attempts from the policy; raise ConfigurationError."""
    kind = type(inner)
    homes = {base.__module__.partition(".")[0] for base in kind.__mro__} & _LIBRARIES
    if homes and library.name not in homes:
        raise ConfigurationError(f"inner is a transport of {homes.pop()}, not of {library.name}")
    if not callable(getattr(inner, sends, None)):
        raise ConfigurationError(f"inner must be {_SENDS[sends]} transport, got {kind.__name__}")
    retries = getattr(getattr(inner, "_pool", None), "_retries", 0)
    if retries:
        raise ConfigurationError(
            f"inner must not retry by itself, which hides attempts: retries must be 0, got {retries}"
        )


class _WrappedConnection(ABC):
    """Sends requests through `inner`."""

    def __init__(self, library: Library, inner: Any) -> None:
        self.library = library
        self._inner = inner

    async def exchange(
        self, request: PreparedRequest, judge: Judge | None = None
    ) -> ExchangeResult:
        stream = await self.open(request)
        return stream if isinstance(stream, Outcome) else await collect(stream, judge)

    @abstractmethod
    async def open(self, request: PreparedRequest) -> "_WrappedResponse | Outcome":
        """Send once, and wait for the head of the response. Cancelling closes the connection."""

    def _made(self, request: PreparedRequest) -> Any:
        idle = request.idle_timeout
        pool = None
        if request.attempt_timeout is not None:  # in case no socket is found to shut
            pool = request.attempt_timeout + _GRACE
            idle = min(idle or inf, pool)
        spans = {"connect": request.connect_timeout, "read": idle, "write": idle, "pool": pool}
        return self.library.request(
            request.method,
            request.url,
            request.headers,
            content=request.body or None,
            extensions={"timeout": spans},
        )


class WrappedConnection(_WrappedConnection):
    """Sends requests through an asynchronous `inner`."""

    def __init__(self, library: Library, inner: Any) -> None:
        super().__init__(library, inner)
        self._streams: LiveSet[WrappedResponse] = LiveSet()
        self.releasing: asyncio.Task[None] | None = None  # of the last judged response

    @property
    def blocking(self) -> Connection:
        """Raise: an asynchronous `inner` has no blocking form."""
        raise AssertionError("an asynchronous transport does not send for blocking code")

    async def open(self, request: PreparedRequest) -> "WrappedResponse | Outcome":
        await self._released()
        try:
            response = await self._inner.handle_async_request(self._made(request))
        except self.library.errors as error:
            return self.library.outcome_of(error, None)
        stream = WrappedResponse(response, self, request.max_bytes)
        self._streams.add(stream)
        return stream

    async def _released(self) -> None:
        """Let the connection of the last response return to the pool, or another one would be opened."""
        releasing, self.releasing = self.releasing, None
        if releasing is not None:
            for _ in range(_TURNS):
                if releasing.done():
                    return
                await asyncio.sleep(0)

    async def close(self) -> None:
        """Close the inner transport. Wake readers first, since a closed socket does not wake them."""
        loop = asyncio.get_running_loop()
        here = [each for each in self._streams if each.loop is loop]
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                for stream in here:
                    stream.close()
                while any(stream.is_read for stream in here):  # noqa: ASYNC110 - a turn or two
                    await asyncio.sleep(0)
                closing = [each for each in _CLOSING if each.get_loop() is loop]
                if closing:
                    await asyncio.wait(closing)
        await self._inner.aclose()


class BlockingWrappedConnection(_WrappedConnection):
    """Sends requests through a synchronous `inner`, on the waiting thread."""

    @property
    def blocking(self) -> Self:
        return self

    async def open(self, request: PreparedRequest) -> "BlockingWrappedResponse | Outcome":
        made = self._made(request)
        try:
            response = interruptible(partial(self._inner.handle_request, made), undo=_close)
        except self.library.errors as error:
            return self.library.outcome_of(error, None)
        return BlockingWrappedResponse(response, self, request.max_bytes)

    async def close(self) -> None:
        self._inner.close()


def _close(late: Any) -> None:
    late.close()


class _WrappedResponse(ABC):
    """The body of a response of an inner transport, as it comes. It holds its connection until it is closed."""

    def __init__(self, response: Any, owner: _WrappedConnection, max_bytes: float | None) -> None:
        self._library = library = owner.library
        self.head = library.head_of(response, time.time())
        self._body: WrappedBody = library.wrap_response(response, held=True).stream
        self._left: float = BODY_LIMIT if max_bytes is None else max_bytes
        self._patience = inf
        self._closed = False
        self._got: bytes | Outcome | None = None

    def take(self) -> bytes | Outcome | None:
        got, self._got = self._got, None
        return got

    async def wait(self) -> None:
        """Read the next bytes for `take`."""
        self._got = await self.read()

    async def read(self) -> bytes | Outcome:
        if self._closed:
            return broken_body(self.head.status)
        got = await self._next()
        if isinstance(got, bytes):
            self._left -= len(got)
            if self._left < 0:
                got = broken_body(self.head.status, "larger than it may be")
        if not isinstance(got, bytes):
            self.spoil()
            self.close()
        return got

    def limit_silence(self, seconds: float) -> None:
        self._patience = min(self._patience, seconds)

    def spoil(self) -> None:
        """Keep other requests off the connection, if the library exposes its parser. Call it before `close`."""
        if not self._closed:
            self._body.spoil()

    @abstractmethod
    async def _next(self) -> bytes | Outcome: ...

    @abstractmethod
    def close(self) -> None:
        """Close the connection, unless the body was read to its end. Wake a waiting reader."""


class BlockingWrappedResponse(_WrappedResponse):
    """The response of a synchronous transport."""

    def __init__(self, response: Any, owner: _WrappedConnection, max_bytes: float | None) -> None:
        super().__init__(response, owner, max_bytes)
        self._chunks: Generator[bytes] = response.iter_bytes()
        self._reader: Strand[Any] | None = None
        self._is_read = False
        KEPT.add(self._chunks)

    async def _next(self) -> bytes | Outcome:
        self._reader = running_strand()  # set before the check; `close` uses the opposite order
        is_closed = self._closed
        try:
            if is_closed:
                return broken_body(self.head.status)
            got = interruptible(lambda: next(self._chunks, b""), time.monotonic() + self._patience)
            self._is_read = not got
            return broken_body(self.head.status) if self._closed else got
        except TimeoutError:
            return silent_body(self.head.status)
        except self._library.errors as error:
            if self._closed:
                return broken_body(self.head.status)
            return self._library.outcome_of(error, self.head.status)
        except BaseException as error:
            if self._closed and isinstance(error, asyncio.CancelledError):
                return broken_body(self.head.status)
            self._closed = True
            raise
        finally:
            self._reader = None
            if self._closed:  # another thread closed it meanwhile
                _leave(self._body, self._chunks)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        reader = self._reader
        if reader is not None:
            reader.interrupt()
        elif self._is_read:
            _leave(self._body, self._chunks)
        else:  # the garbage collector may have ended an SDK's generator, which closes the response
            do_soon(partial(_leave, self._body, self._chunks))

    def __del__(self) -> None:
        if not self._closed:
            self._body.spoil()
            do_soon(partial(_leave, self._body, self._chunks))


def _leave(body: WrappedBody, chunks: Generator[bytes]) -> None:
    KEPT.discard(chunks)
    body.release()
    chunks.close()


class WrappedResponse(_WrappedResponse):
    """The response of an asynchronous transport, on the running loop."""

    def __init__(self, response: Any, owner: WrappedConnection, max_bytes: float | None) -> None:
        super().__init__(response, owner, max_bytes)
        self._owner = owner
        self._chunks = response.aiter_bytes()
        self._waiting: Timeout | None = None
        self.loop = asyncio.get_running_loop()
        self._cut = False  # closed during a read

    @property
    def is_read(self) -> bool:
        """Whether a reader waits for the next bytes."""
        return self._waiting is not None

    async def _next(self) -> bytes | Outcome:
        self._waiting = Timeout(None if self._patience == inf else self._patience)
        try:
            with self._waiting:
                return await anext(self._chunks, b"")
        except TimeoutError:
            if not self._cut:
                return silent_body(self.head.status)
            self._release()
            return broken_body(self.head.status)
        except self._library.errors as error:
            return self._library.outcome_of(error, self.head.status)
        except BaseException:
            self._waiting = None
            self.close()
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._waiting is not None:
            self._cut = True
            self._waiting.fire()
        else:
            self._release()

    def _release(self) -> None:
        self._owner.releasing = _start(self.loop, self._body.release_on_loop())

    def __del__(self) -> None:
        if not self._closed:
            with suppress(RuntimeError):  # the loop may be closed
                body, loop = self._body, self.loop
                body.spoil()
                loop.call_soon_threadsafe(lambda: _start(loop, body.release_on_loop()))


_CLOSING: set[asyncio.Task[None]] = set()


def _start(
    loop: asyncio.AbstractEventLoop, closing: Coroutine[Any, Any, None]
) -> asyncio.Task[None]:
    """Close soon, in the background; errors of an abandoned connection do not matter."""
    task = loop.create_task(_quietly(closing))
    _CLOSING.add(task)
    task.add_done_callback(_CLOSING.discard)
    return task


async def _quietly(closing: Coroutine[Any, Any, None]) -> None:
    with suppress(Exception):
        await closing
