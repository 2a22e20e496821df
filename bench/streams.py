"""CPU and memory of reading 1,000 streams of 200 chunks at once, beside bare aiohttp reading the same.

All read on uvloop on one core, in alternating rounds of one process; the server has the other core and writes a chunk
to everybody every 50 ms. Memory is what the process holds while the last chunks come, beyond what it held when the
first had come: whatever grows with the length of a stream shows there.
"""

import asyncio
import gc
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import NamedTuple

import aiohttp
import uvloop

import cores
from dripping import CHUNKS, dripping
from held import Watch, allow_files
from rounds import Figure, Section, alternate, share
from stormbreak import AsyncClient, Policy
from stormbreak.core.concurrency_limit import FixedLimit

STREAMS = 1_000
ROUNDS = 4
PAYLOAD = {"model": "storm-1", "messages": [{"role": "user", "content": "Tides, please."}]}
BODY = json.dumps(PAYLOAD | {"stream": True}).encode()

Read = Callable[[Callable[[], None]], Awaitable[None]]


class _Round(NamedTuple):
    cpu: float  # us of this process per chunk
    growth: float  # KiB per stream from its first chunks to its last


class _Reader(NamedTuple):
    name: str
    read: Read
    goal: str = ""


def sections() -> list[Section]:
    """Measure the readers."""
    allow_files(2 * STREAMS + 200)
    with dripping() as url, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        cores.pin(cores.CLIENT)
        try:
            stack = AsyncExitStack()
            readers = runner.run(_readers(stack, url))
            for reader in readers:
                _measure(runner, reader)  # opens the connections
            rounds = alternate(readers, lambda one: _measure(runner, one), rounds=ROUNDS)
            runner.run(stack.aclose())
        finally:
            cores.unpin()
    return [_section(readers, rounds)]


async def _readers(stack: AsyncExitStack, url: str) -> list[_Reader]:
    session = await stack.enter_async_context(
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=STREAMS, keepalive_timeout=60.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=30.0),
        )
    )
    policy = Policy(limit=FixedLimit(max_in_flight=STREAMS), idle_timeout=30.0)
    ours = await stack.enter_async_context(
        AsyncClient(base_url=url, api_key="bench", policy=policy)
    )
    headers = {"Content-Type": "application/json", "Authorization": "Bearer bench"}

    async def bare(seen: Callable[[], None]) -> None:
        where = f"{url}/chat/completions"
        async with session.post(where, data=BODY, headers=headers) as response:
            async for _ in response.content.iter_any():
                seen()

    async def raw(seen: Callable[[], None]) -> None:
        async with ours.stream("chat/completions", PAYLOAD) as stream:
            async for _ in stream.raw():
                seen()

    async def events(seen: Callable[[], None]) -> None:
        async with ours.stream("chat/completions", PAYLOAD) as stream:
            async for _ in stream:
                seen()

    async def texts(seen: Callable[[], None]) -> None:
        async with ours.stream("chat/completions", PAYLOAD) as stream:
            async for _ in stream.texts():
                seen()

    return [
        _Reader("bare aiohttp", bare),
        _Reader("stormbreak, raw bytes", raw, "<= 130"),
        _Reader("stormbreak, events", events),
        _Reader("stormbreak, texts", texts),
    ]


def _measure(runner: asyncio.Runner, reader: _Reader) -> _Round:
    gc.collect()
    return runner.run(_round(reader))


async def _round(reader: _Reader) -> _Round:
    began, watch = time.process_time(), Watch(STREAMS, CHUNKS)
    await asyncio.gather(*(reader.read(watch.count) for _ in range(STREAMS)))
    cpu = time.process_time() - began
    return _Round(cpu / (STREAMS * CHUNKS) * 1e6, watch.growth)


def _section(readers: list[_Reader], rounds: list[tuple[_Round, ...]]) -> Section:
    figures = [
        Figure(f"{reader.name}, CPU a chunk", "us", tuple(one.cpu for one in taken))
        for reader, taken in zip(readers, rounds, strict=True)
    ]
    bare = [one.cpu for one in rounds[0]]
    figures += [
        Figure(f"{reader.name}, beside bare aiohttp", "%", share((one.cpu for one in taken), bare), reader.goal)
        for reader, taken in zip(readers[1:], rounds[1:], strict=True)
    ]  # fmt: skip
    figures += [
        Figure(f"{reader.name}, growth a stream", "KiB", tuple(one.growth for one in taken))
        for reader, taken in zip(readers, rounds, strict=True)
    ]
    return Section("1,000 streams of 200 chunks at once", figures)
