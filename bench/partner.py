"""A server in a process and on a core of its own: the provider, and how fast it is when nothing holds it up.

A benchmark of clients is worth something only if the server could do more: `Partner.busy` tells the share of a core
the provider used, `flood` what it can do at most.
"""

import asyncio
import json
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from functools import partial
from multiprocessing.connection import Connection

import uvloop

import cores
from stormbreak.http.h1.server import new_loop
from stormbreak.provider.in_thread import scenario_of
from stormbreak.provider.server import ProviderServer

SCENARIO = "bench"
_LENGTH = b"content-length: "
_BODY = json.dumps(
    {
        "model": "storm-1",
        "choices": [{"message": {"content": "Twenty words. " * 10}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 150, "completion_tokens": 30, "total_tokens": 180},
    }
).encode()
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%b%d\r\n\r\n%b" % (
    _LENGTH,
    len(_BODY),
    _BODY,
)


Serving = Callable[[], AbstractAsyncContextManager[int]]
"""Starts a server, and gives its port."""


class Partner:
    """A running server."""

    def __init__(self, pipe: Connection, port: int) -> None:
        self._pipe = pipe
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}/v1"

    def cpu(self) -> float:
        """Tell the CPU seconds that it has used."""
        self._pipe.send("cpu")
        seconds: float = self._pipe.recv()
        return seconds


def partner(scenario: str = SCENARIO) -> AbstractContextManager[Partner]:
    """Run the provider until the block ends."""
    return in_process(partial(_provider, scenario), cores.PROVIDER)


def at_once() -> AbstractContextManager[Partner]:
    """Run a server on any core that gives the same answer to every request at once: a tenth of what a row costs a batch."""
    return in_process(_same_answer, None)


@contextmanager
def in_process(serving: Serving, core: int | None) -> Iterator[Partner]:
    """Run a server in a process, on a core of its own if one is named, until the block ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, serving, core), daemon=True)
    process.start()
    try:
        yield Partner(ours, ours.recv())
    finally:
        ours.send("stop")
        process.join(10)


def _serve(pipe: Connection, serving: Serving, core: int | None) -> None:
    if core is not None:
        cores.pin(core)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_listen(pipe, serving))


@asynccontextmanager
async def _provider(scenario: str) -> AsyncIterator[int]:
    server = ProviderServer(scenario_of(scenario))
    await server.start()
    try:
        yield server.port
    finally:
        await server.close()


class _Answerer(asyncio.Protocol):
    """Gives the same answer to each request. A request ends with the last brace of its body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"}"):
            self._transport.write(_ANSWER)


@asynccontextmanager
async def _same_answer() -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    async with await loop.create_server(_Answerer, "127.0.0.1", 0, backlog=2048) as server:
        yield server.sockets[0].getsockname()[1]


async def _listen(pipe: Connection, serving: Serving) -> None:
    stopped = asyncio.Event()

    def obey() -> None:
        if pipe.recv() == "cpu":
            pipe.send(time.process_time())
        else:
            stopped.set()

    async with serving() as port:
        asyncio.get_running_loop().add_reader(pipe.fileno(), obey)
        pipe.send(port)
        await stopped.wait()
        asyncio.get_running_loop().remove_reader(pipe.fileno())


class _Caller(asyncio.Protocol):
    """Sends the same request over and over on one connection, and reads just enough to count the answers."""

    def __init__(self, request: bytes, flood: "_Flood") -> None:
        self._request = request
        self._flood = flood
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.lower().index(_LENGTH) + len(_LENGTH)
        if len(body) >= int(head[at:].split(b"\r\n", 1)[0]):
            self._buffer = b""
            self._flood.answers += 1
            self._send()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _Flood:
    answers = 0


def flood(port: int, body: bytes, *, connections: int = 1_000, seconds: float = 3.0) -> float:
    """Ask on bare sockets as fast as the provider answers; return answers per second."""
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )

    async def run() -> float:
        loop = asyncio.get_running_loop()
        state = _Flood()
        callers = [
            (await loop.create_connection(lambda: _Caller(request, state), "127.0.0.1", port))[1]
            for _ in range(connections)
        ]
        await asyncio.sleep(0.3)  # until all of them are at it
        began, before = time.perf_counter(), state.answers
        await asyncio.sleep(seconds)
        rate = (state.answers - before) / (time.perf_counter() - began)
        for caller in callers:
            caller.close()
        return rate

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())
