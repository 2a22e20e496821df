"""A process that stalled for longer than a timeout lost the answers that had arrived in the meantime: they were paid, waited
in its sockets, and counted as failures of the target. uvloop runs timers before sockets; asyncio read the answer and then
ended the task that waited for it. A blocking thread read only 64 KiB of it.
"""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing import Value
from types import SimpleNamespace

import httpx
import pytest
import uvloop
from clients import ONCE, SAY, client_of, hedging
from forking import in_child
from gateways import ANSWER, CHAT
from sockets import CHUNKED
from streamed import chat
from table_test import table_test
from virtual_loop import in_virtual_time, run

from stormbreak import AsyncClient, Client, StreamBrokenError, Verdict
from stormbreak.core.policy import HedgePolicy
from stormbreak.core.stalls import STALL
from stormbreak.drivers import blocking
from stormbreak.http.h1.address import address_of
from stormbreak.http.h1.async_exchange import AsyncExchange
from stormbreak.http.h1.async_pool import AsyncPool
from stormbreak.http.h1.response_parser import ResponseParser
from stormbreak.http.transports import interruptible
from stormbreak.httpx import Transport

SPAN = 1.0  # seconds of a timeout
PATIENCE = 60.0  # seconds; the machine may be busy
BODY = json.dumps(ANSWER).encode()
REQUEST = b'{"model":"m"}'
PLAIN = [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(BODY), BODY, b""]
LAST = b"0\r\n\r\n"
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class Provider:
    """Answers one request from a thread: the first piece at once, the second in the stall, the last after it."""

    def __init__(self, *pieces):
        self._first, self._second, self._last = pieces
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.begun, self.stalls, self.sent, self.ran = (threading.Event() for _ in range(4))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stalls.set()
        self.ran.set()
        self._thread.join(PATIENCE)
        self._listener.close()

    def _serve(self):
        client, _ = self._listener.accept()
        with client:
            assert client.recv(65536)
            client.sendall(self._first)
            self.begun.set()
            self.stalls.wait(PATIENCE)
            client.sendall(self._second)
            self.sent.set()
            self.ran.wait(PATIENCE)
            client.sendall(self._last)
            client.recv(1)  # end of the connection

    async def send_during_a_stall(self):
        """After the first piece, block this loop until the second piece is sent and a timeout has passed."""
        await asyncio.to_thread(self.begun.wait, PATIENCE)
        self.stall()
        asyncio.get_running_loop().call_later(0.1, self.ran.set)

    def stall(self):
        """Block this thread until the second piece is sent and a timeout has passed."""
        self.stalls.set()
        assert self.sent.wait(PATIENCE)
        time.sleep(SPAN + 2 * STALL)


def run_on(loop, main):
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main)


@table_test("loop", LOOPS)
@table_test("limit", ["attempt_timeout", "deadline"])
def test_an_answer_that_arrives_in_a_stall_is_not_a_timeout(loop, limit):
    async def main():
        with Provider(*PLAIN) as provider:
            async with client_of(provider, replace(ONCE, **{limit: SPAN})) as client:
                asking = asyncio.create_task(client.chat(SAY))
                await provider.send_during_a_stall()
                assert (await asking).text

    run_on(loop, main())


@table_test("loop", LOOPS)
def test_an_answer_that_arrives_in_a_stall_prevents_the_hedge(loop):
    async def main():
        policy = replace(ONCE, hedge=HedgePolicy(delay=SPAN, percentile=None))
        with Provider(*PLAIN) as provider:
            async with hedging(provider, policy) as client:
                asking = asyncio.create_task(client.ask("chat/completions", REQUEST))
                await provider.send_during_a_stall()
                assert (await asking).attempts == 1

    run_on(loop, main())


def test_a_blocking_client_reads_a_large_answer_after_a_stall(monkeypatch):
    poll = blocking._poll

    def poll_in_a_stall(*wait):
        if provider.begun.is_set() and not provider.stalls.is_set():
            provider.stall()
        return poll(*wait)

    answer = json.dumps({**ANSWER, "padding": "x" * 150_000}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer)
    policy = replace(ONCE, attempt_timeout=SPAN)
    monkeypatch.setattr(blocking, "_poll", poll_in_a_stall)
    with (
        Provider(head, answer, b"") as provider,
        Client(base_url=provider.base_url, model="m", policy=policy) as client,
    ):
        assert client.chat(SAY).text


def test_threads_with_an_inner_transport_read_answers_after_a_stall():
    """The whole process is stopped; its readers and the thread with their timers resume at the same time.

    On a busy machine five readers may need more than STALL to get their turn.
    """
    count = 5
    span = 5 * SPAN  # all requests must be sent within it
    child = Value("i", 0)

    def ask():
        child.value = os.getpid()
        interruptible.STALL = blocking.STALL = PATIENCE
        transport = Transport(replace(ONCE, attempt_timeout=span), inner=httpx.HTTPTransport())
        with (
            httpx.Client(transport=transport, timeout=PATIENCE) as client,
            ThreadPoolExecutor(count) as threads,
        ):
            asking = [threads.submit(client.post, url, json=CHAT) for _ in range(count)]
            return all(each.result().status_code == 200 for each in asking)

    def answer():
        with ExitStack() as stack:
            clients = [stack.enter_context(listener.accept()[0]) for _ in range(count)]
            for each in clients:
                while not each.recv(65536).endswith(b"}"):
                    pass
            os.kill(child.value, signal.SIGSTOP)
            for each in clients:
                each.sendall(b"".join(PLAIN))
            time.sleep(span + 2 * STALL)
            os.kill(child.value, signal.SIGCONT)

    with socket.create_server(("127.0.0.1", 0), backlog=count) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/chat/completions"
        answering = threading.Thread(target=answer)
        answering.start()
        assert in_child(ask)
        answering.join()


@table_test("loop", LOOPS)
@table_test("limit", ["idle_timeout", "deadline"])
def test_a_stream_that_arrives_in_a_stall_is_read_to_its_end(loop, limit):
    events = [b"%x\r\n%b\r\n" % (len(event), event) for event in chat(["Hello", " there"])]

    async def main():
        pieces = CHUNKED + events[0] + events[1], events[2], b"".join([*events[3:], LAST])
        with Provider(*pieces) as provider:
            policy = replace(ONCE, **{"attempt_timeout": None, "deadline": None, limit: SPAN})
            async with client_of(provider, policy) as client:
                payload = {"messages": SAY}
                async with client.stream("chat/completions", payload) as stream:
                    reading = asyncio.create_task(stream.answer())
                    await asyncio.sleep(0)
                    await provider.send_during_a_stall()
                    assert (await reading).text == "Hello there"

    run_on(loop, main())


@table_test("gap, thinks", [(0.1, 0.09), (0.01, 0.015)])
def test_a_slow_reader_does_not_extend_the_deadline_of_a_stream(gap, thinks):
    """Each pause of the reader extended the deadline of a stream; with data always waiting, it never passed."""
    events = [b"%x\r\n%b\r\n" % (len(each), each) for each in chat(["x"] * int(4 / gap))]

    def serve():
        client, _ = listener.accept()
        with client, suppress(OSError):  # the reader has left
            assert client.recv(65536)
            client.sendall(CHUNKED)
            for event in [*events, LAST]:
                client.sendall(event)
                time.sleep(gap)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve)
        serving.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        policy = replace(ONCE, attempt_timeout=None, deadline=SPAN)
        with (
            Client(base_url=url, model="m", policy=policy) as client,
            client.stream("chat/completions", {"messages": SAY}) as stream,
            pytest.raises(StreamBrokenError),
        ):
            all(time.sleep(thinks) is None for _ in stream)
        serving.join()


def test_a_watch_that_is_always_late_still_interrupts(monkeypatch):
    now = 0.0

    def sleep(seconds):
        nonlocal now
        now += seconds + 1.0

    class Work:
        until = 0.5

        def interrupt(self):
            raise StopAsyncIteration

    monkeypatch.setattr(interruptible, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    watch = interruptible._Watch()
    watch._work.add(Work())
    with pytest.raises(StopAsyncIteration):
        watch._look()
    assert now <= 2 * (1.0 + STALL)


def test_only_one_check_for_silence_runs():
    """A new check used to start while a late one waited again, and both continued."""
    looks = 0

    class Exchange(AsyncExchange):
        def _look(self):
            nonlocal looks
            looks += 1
            super()._look()

    async def main():
        loop = asyncio.get_running_loop()
        transport = SimpleNamespace(get_write_buffer_size=lambda: 0)
        carrier = SimpleNamespace(transport=transport)
        exchange = Exchange(carrier=carrier, parser=ResponseParser(), loop=loop)
        exchange.limit_silence(1.0)
        loop._jumping.now += 1.0 + STALL
        await asyncio.sleep(STALL / 2)
        exchange.limit_silence(0.9)
        await asyncio.sleep(9.0)
        assert 9 <= looks <= 11

    run(main)


@in_virtual_time
async def test_a_connection_that_opens_in_a_stall_is_not_a_timeout():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = address_of(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        pool = AsyncPool(1)
        await anext(pool.closer)
        connecting = asyncio.create_task(pool.take(address, None, None, 0.5))
        await asyncio.sleep(0)
        asyncio.get_running_loop()._jumping.now += 0.5 + 2 * STALL
        assert not (await connecting).closed
        await pool.close()


@table_test("loop", LOOPS)
def test_a_failed_connect_in_a_stall_is_connect_failed(loop, full_port):
    """Both timers are late: the connect timeout and the attempt timeout."""

    async def main():
        url = f"http://127.0.0.1:{full_port}/v1"
        policy = replace(ONCE, attempt_timeout=SPAN)
        async with AsyncClient(base_url=url, policy=policy) as client:
            asking = asyncio.create_task(client.ask("chat/completions", REQUEST))
            asyncio.get_running_loop().call_later(SPAN / 2, time.sleep, SPAN)
            assert (await asking).outcome.verdict is Verdict.CONNECT_FAILED

    run_on(loop, main())
