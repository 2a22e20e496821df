"""A server on a raw socket that plays scripts, byte by byte."""

import asyncio
import json
import socket
import ssl
import struct
import threading
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import Enum
from typing import NamedTuple

PATIENCE = 30.0
"""Seconds for what takes none on a machine that is not busy; an idle connection is kept for twice as long."""

BODY = json.dumps(
    {"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}], "usage": {}}
).encode()


EVENTS = {"content_type": "text/event-stream"}
"""Headers of an answer that is a stream."""

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class End(Enum):
    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"  # send nothing more until the client leaves


def answer(body=BODY, status=200, **headers):
    """A complete answer; header names with `_` for `-`."""
    named = {"content_type": "application/json", "content_length": len(body)} | headers
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
    return "\r\n".join([f"HTTP/1.1 {status} So", *lines, "", ""]).encode() + body


HALF = answer()[:-10]  # the head and part of the body


def failing(status, error=None, **headers):
    return answer(json.dumps({"error": error or {"message": "no"}}).encode(), status, **headers)


class Request(NamedTuple):
    line: str
    headers: dict
    body: bytes
    connection: int


class Server:
    """Plays one script per request, and then always the last. A script is bytes, pauses and an `End`."""

    def __init__(self, scripts):
        self._scripts = list(scripts)
        self.requests = []
        self.opened = 0
        self.closed = 0
        self.port = 0
        self._tasks = set()

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    async def all_closed(self):
        """Wait until all connections are closed."""
        async with asyncio.timeout(PATIENCE):
            while self.closed < self.opened:  # noqa: ASYNC110 - seldom more than once
                await asyncio.sleep(0.005)

    async def asked(self, count=1):
        """Wait until `count` requests have arrived."""
        async with asyncio.timeout(PATIENCE):
            while len(self.requests) < count:  # noqa: ASYNC110 - seldom more than once
                await asyncio.sleep(0.005)

    async def serve(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        self.opened += 1
        number = self.opened
        try:
            ends = (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
            with suppress(*ends, asyncio.CancelledError):
                while await self._play(reader, writer, number):
                    pass
        finally:
            writer.close()
            try:
                with suppress(OSError):
                    await writer.wait_closed()
            finally:
                self.closed += 1
                self._tasks.discard(task)

    async def stop(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _play(self, reader, writer, number):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *rest = head.rstrip().split("\r\n")
        headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in rest)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append(Request(line, headers, body, number))
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        for step in script if isinstance(script, tuple | list) else (script,):
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif isinstance(step, End):
                return await self._end(step, reader, writer)
            elif callable(step):
                await step(self.requests[-1], writer)
            else:
                await asyncio.sleep(step)
        return True

    async def _end(self, end, reader, writer):
        if end is End.HANG:
            await reader.read()
        elif end is End.RESET:
            await asyncio.sleep(0.02)  # so that the written bytes are sent
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        return False


@asynccontextmanager
async def served(*scripts, **options):
    """Run a `Server` on this loop; `options` go to `asyncio.start_server` (such as ssl)."""
    server = Server(scripts or [answer()])
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, **options)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        try:
            for _ in range(10):  # asyncio leaks connections that it accepted but does not serve yet
                await asyncio.sleep(0)
        finally:
            listener.close()
        await server.stop()


def tls(certificate):
    """The `ssl` context of a server with this certificate and key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def until(is_so):
    """Wait for a coroutine of the server, on a thread that may block."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.002)


@contextmanager
def served_aside(*scripts):
    """Run a `Server` on a loop of a separate thread."""
    ready, over = threading.Event(), threading.Event()
    found = []

    async def serving():
        async with served(*scripts) as server:
            found.append(server)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serving(),))
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield found[0]
    finally:
        over.set()
        thread.join()


def free_port():
    """A port without a listener."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
