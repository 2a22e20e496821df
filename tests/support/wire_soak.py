"""10,000 connections opened and closed, then 1,000 streams held, by a client of one kind: checks for leaks.

A program: `wire_soak.py loop|threads SECONDS`. It prints its figures, and fails on a leak. The server is a
separate process.
"""

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from fuzz_rig import Footprint

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.http.client import AsyncClient
from stormbreak.http.sync_client import Client

CALLS = 10_000
AT_ONCE = 50
STREAMS = 1_000
THREADS = 200
GROWTH = 8 * 2**20  # bytes of memory that a process may grow by
POLICY = Policy(
    deadline=None,
    attempt_timeout=None,  # its timers, one per quarter of a second, stay until they fire
    retry_budget=None,
    breaker=None,
    retry=RetryPolicy(max_attempts=1),
    limit=FixedLimit(max_in_flight=STREAMS),
)
SAY = [{"role": "user", "content": "hello"}]
PIECES = 60  # of a stream, without its end

# ---------------------------------------------------------------- the server


def message(**fields):
    return json.dumps({"choices": [{"index": 0, **fields}]}).encode()


def framed(piece):
    return b"%x\r\n%b\r\n" % (len(piece), piece)


ANSWER = message(message={"content": "fine"}, finish_reason="stop")
CLOSING = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (
    len(ANSWER),
    ANSWER,
)
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TICK = framed(b"data: " + message(delta={"content": "tick "}, finish_reason=None) + b"\n\n")
END = (
    framed(b"data: " + message(delta={}, finish_reason="stop") + b"\n\ndata: [DONE]\n\n")
    + b"0\r\n\r\n"
)


async def serve(pause):
    """Close the connection after each answer; for a stream request, stream slowly and keep it open."""

    async def each(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                if b'"stream":true' not in (await reader.readexactly(size)).replace(b" ", b""):
                    writer.write(CLOSING)
                    await reader.read()
                    break
                writer.write(STREAM)
                for _ in range(PIECES):
                    writer.write(TICK)
                    await asyncio.sleep(pause)
                writer.write(END)
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()

    server = await asyncio.start_server(each, "127.0.0.1", 0, backlog=STREAMS)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


# ---------------------------------------------------------------- the clients


def left_on_loop():
    """The tasks and pending timers of a loop."""
    loop = asyncio.get_running_loop()
    timers = [each for each in getattr(loop, "_scheduled", ()) if not each.cancelled()]
    return {"tasks": len(asyncio.all_tasks()), "timers": len(timers)}


class OnLoop:
    """1,000 tasks on one loop."""

    def __init__(self, url):
        self.client = AsyncClient(base_url=url, model="m", policy=POLICY)

    async def calls(self, count):
        left = iter(range(count))

        async def some():
            for _ in left:
                assert (await self.client.chat(SAY)).text == "fine"

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))

    async def streams(self, count, seen):
        async def one():
            async with self.client.stream("chat/completions", {"messages": SAY}) as stream:
                async for text in stream.texts():
                    seen[text] += 1

        await asyncio.gather(*(one() for _ in range(count)))

    def left(self):
        return left_on_loop()

    async def close(self):
        await self.client.close()


class OnThreads:
    """200 threads that read 5 streams each in turn."""

    def __init__(self, url):
        self.client = Client(base_url=url, model="m", policy=POLICY)

    async def calls(self, count):
        left, lock = iter(range(count)), threading.Lock()

        def take():
            with lock:
                return next(left, None)

        def some():
            while take() is not None:
                assert self.client.chat(SAY).text == "fine"

        await asyncio.to_thread(_in_threads, AT_ONCE, some)

    async def streams(self, count, seen):
        per_thread, lock = count // THREADS, threading.Lock()

        def some():
            streams = [
                self.client.stream("chat/completions", {"messages": SAY}) for _ in range(per_thread)
            ]
            texts = [iter(stream.texts()) for stream in streams]
            while pieces := [piece for each in texts for piece in islice(each, 1)]:
                with lock:
                    seen.update(pieces)
            for stream in streams:
                stream.close()

        await asyncio.to_thread(_in_threads, THREADS, some)

    def left(self):
        return left_on_loop()

    async def close(self):
        await asyncio.to_thread(self.client.close)


def _in_threads(count, work):
    failed = []

    def works():
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised below
            failed.append(error)

    threads = [threading.Thread(target=works) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


# ---------------------------------------------------------------- the soak


class Figures:
    """Resources of a process at some points in time: none may grow after the first."""

    def __init__(self, side):
        self._side = side
        self._points = []

    def take(self, name):
        held = Footprint()
        point = {"files": held.files, "threads": threading.active_count(), **self._side.left()}
        self._points.append((name, point, held.rss))
        texts = ", ".join(f"{value} {key}" for key, value in point.items())
        sys.stdout.write(f"{name}: {texts}, {held.rss / 2**20:.1f} MiB\n")
        sys.stdout.flush()

    def check(self, before, after, *, memory=True):
        points = {name: (point, rss) for name, point, rss in self._points}
        (first, small), (last, large) = points[before], points[after]
        assert all(last[key] <= first[key] for key in first), (before, first, after, last)
        grown = large - small
        assert not memory or grown <= GROWTH, f"memory grew by {grown / 2**20:.1f} MiB"


async def soak(side, seconds):
    """Raise AssertionError if a resource leaks or memory grows."""
    figures = Figures(side)
    await side.calls(CALLS // 10)
    figures.take("1,000 calls")
    began = time.monotonic()
    await side.calls(CALLS)
    figures.take("11,000 calls")
    sys.stdout.write(f"{CALLS / (time.monotonic() - began):.0f} connections/s\n")
    figures.check("1,000 calls", "11,000 calls")

    seen = Counter()
    streams = asyncio.ensure_future(side.streams(STREAMS, seen))
    for name, share in (("a third of the streams' time", 1 / 3), ("and a third", 1 / 3)):
        await asyncio.sleep(seconds * share)
        figures.take(name)
    figures.check("a third of the streams' time", "and a third")
    await streams
    assert seen == {"tick ": STREAMS * PIECES}, seen

    await side.close()
    del streams
    await asyncio.sleep(0.1)
    figures.take("closed")
    figures.check("1,000 calls", "closed", memory=False)  # malloc keeps what 1,000 streams took


def main(kind, seconds):
    command = [sys.executable, __file__, "serve", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            port = int(server.stdout.readline())
            side = {"loop": OnLoop, "threads": OnThreads}[kind]

            async def run():
                # A pool of more may start a second thread for the next function, though the first has just ended.
                asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
                gc.collect()
                await soak(side(f"http://127.0.0.1:{port}/v1"), seconds)

            asyncio.run(run())
        finally:
            server.kill()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(float(sys.argv[2]) / PIECES))
    else:
        main(sys.argv[1], float(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)
