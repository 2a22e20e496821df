"""The blocking transport: inner transports, uploads, interrupts, threads, forks, and sharing with loops."""

import asyncio
import os
import signal
import socket
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import httpx2
import pytest
from interrupts import interrupted
from loop_thread import LoopThread
from sdk_clients import KEY, ONCE, QUICK, SAY, in_flight
from sdk_stream_events import HEAD, chunk
from sockets import PATIENCE, End, answer, failing, served, until

from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.drivers.blocking import run, running_strand
from stormbreak.http.transports.interruptible import interruptible
from stormbreak.httpx2 import AsyncTransport, Transport

ASK = {"model": "m", "messages": SAY}
STREAM = ASK | {"stream": True}
OPEN = [HEAD, chunk("hello"), End.HANG]
own_and_inner = pytest.mark.parametrize("inner", [None, httpx2.HTTPTransport], ids=["own", "inner"])


@pytest.fixture
def serve():
    """Play scripts on a separate loop to a client over our transport; it must have disconnected at the end."""
    host, servings = LoopThread(), []

    @contextmanager
    def serving(*scripts, inner=None, policy=QUICK):
        scripts_served = served(*scripts)
        server = host.run(scripts_served.__aenter__())
        servings.append(scripts_served)
        transport = Transport(policy, inner=inner and inner())
        given = {"base_url": server.base_url, "headers": {"authorization": f"Bearer {KEY}"}}
        with httpx2.Client(transport=transport, timeout=60.0, **given) as client:
            yield client, server
        host.run(server.all_closed())
        assert in_flight(transport) == 0

    yield serving
    for each in servings:
        host.run(each.__aexit__(None, None, None))
    host.stop()


def stream(client):
    return client.stream("POST", "chat/completions", json=STREAM)


@own_and_inner
def test_a_blocking_call_is_retried_and_a_stream_is_read(serve, inner):
    whole = answer(chunk("hello") + b"data: [DONE]\n\n", content_type="text/event-stream")
    whole = whole.replace(b"null", b'"stop"').replace(b"\r\ncontent-length: ", b"\r\nx: ")
    with serve(failing(503), answer(), [whole, End.CLOSE], inner=inner) as (client, server):
        response = client.post("chat/completions", json=ASK)
        assert response.headers["x-stormbreak-attempts"] == "2"
        assert response.is_closed
        assert response.json()["choices"][0]["message"]["content"] == "fine"
        with stream(client) as got:
            assert b"hello" in got.read()
        assert len(server.requests) == 3


@own_and_inner
def test_an_interrupt_closes_the_connection_of_a_call(serve, inner):
    with serve([End.HANG], inner=inner) as (client, server):
        with interrupted(once=lambda: server.requests), pytest.raises(KeyboardInterrupt):
            client.post("chat/completions", json=ASK)
        assert in_flight(client._transport) == 0
        until(lambda: server.closed == server.opened == 1)


@own_and_inner
def test_an_interrupt_closes_a_stream_being_read(serve, inner):
    with serve(OPEN, inner=inner) as (client, server):
        with (
            interrupted(once=lambda: server.requests),
            pytest.raises(KeyboardInterrupt),
            stream(client) as got,
        ):
            got.read()
        assert in_flight(client._transport) == 0
        until(lambda: server.closed == 1)


@own_and_inner
def test_closing_a_stream_from_another_thread_ends_its_reader(serve, inner):
    with serve(OPEN, inner=inner) as (client, server), ThreadPoolExecutor(1) as elsewhere:
        with stream(client) as got:
            reading = elsewhere.submit(got.read)
            time.sleep(0.05)
            began = time.monotonic()
        with pytest.raises((RuntimeError, httpx2.HTTPError)):
            reading.result(PATIENCE)
        assert time.monotonic() - began < 20
        assert in_flight(client._transport) == 0
        until(lambda: server.closed == 1)


DRIPPING = [answer(b"", content_length=1000), *[0.1, b"x"] * 20, End.HANG]


@own_and_inner
@pytest.mark.parametrize("script", [DRIPPING, [End.HANG]], ids=["dripping", "silent"])
def test_the_timeout_bounds_a_dripping_and_a_silent_response(serve, inner, script):
    with serve(script, inner=inner) as (client, server):
        began = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout):
            client.post("chat/completions", json=ASK, timeout=0.3)
        assert time.monotonic() - began < 20
        until(lambda: server.closed == 1)


@own_and_inner
def test_an_upload_from_a_generator_passes_through_on_this_thread(serve, inner):
    threads = set()

    def pieces():
        for _ in range(3):
            threads.add(threading.current_thread())
            yield b"abc"

    with serve(failing(500), inner=inner) as (client, server):
        response = client.post("files", content=pieces(), headers={"content-length": "9"})
        assert response.status_code == 500
        assert [request.body for request in server.requests] == [b"abcabcabc"]
    assert threads == {threading.current_thread()}


class Slow(httpx2.BaseTransport):
    """A transport without timeouts and sockets that waits for `goes_on`."""

    def __init__(self, *, before):
        self.before = before
        self.goes_on = threading.Event()
        self.closed = threading.Event()
        self.reads = threading.Event()

    def handle_request(self, request):
        if self.before:
            assert self.goes_on.wait(PATIENCE)
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, stream=SlowStream(self))


class SlowStream(httpx2.SyncByteStream):
    def __init__(self, slow):
        self._slow = slow

    def __iter__(self):
        yield chunk("hello")
        self._slow.reads.set()
        assert self._slow.goes_on.wait(PATIENCE)
        yield chunk("late")

    def close(self):
        self._slow.closed.set()


def test_a_late_response_of_an_inner_transport_is_closed():
    slow = Slow(before=True)
    with httpx2.Client(transport=Transport(ONCE, inner=slow)) as client:
        threading.Timer(0.3, slow.goes_on.set).start()
        with pytest.raises(httpx2.ReadTimeout):
            client.post("http://127.0.0.1/v1/chat/completions", json=ASK, timeout=0.1)
        assert slow.closed.wait(PATIENCE)


def test_a_stream_without_a_socket_is_closed_by_its_reader():
    slow = Slow(before=False)
    with httpx2.Client(transport=Transport(ONCE, inner=slow)) as client:
        request = client.build_request("POST", "http://127.0.0.1/v1/chat/completions", json=STREAM)
        got = client.send(request, stream=True)
        with ThreadPoolExecutor(1) as elsewhere:
            reading = elsewhere.submit(got.read)
            assert slow.reads.wait(PATIENCE)
            got.close()
            assert in_flight(client._transport) == 0
            assert not slow.closed.is_set()
            slow.goes_on.set()
            with pytest.raises((RuntimeError, httpx2.HTTPError)):
                reading.result(PATIENCE)
        assert slow.closed.wait(PATIENCE)


FRAGILE = replace(QUICK, breaker=BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1)))


def circuit_of(transport):
    (target_state,) = transport.snapshot()["targets"].values()
    return target_state["circuit"]


@own_and_inner
def test_closing_a_transport_ends_its_stream_without_counting_a_failure(serve, inner):
    with serve(OPEN, answer(), inner=inner, policy=FRAGILE) as (client, _):
        transport = client._transport
        with ThreadPoolExecutor(1) as elsewhere, stream(client) as got:
            reading = elsewhere.submit(got.read)
            time.sleep(0.05)
            transport.close()
            with pytest.raises(httpx2.RemoteProtocolError, match="the client was closed"):
                reading.result(PATIENCE)
        assert (in_flight(transport), circuit_of(transport)) == (0, "closed")


def test_closing_a_transport_ends_its_call_and_later_calls_work(serve):
    with serve([End.HANG], answer(), policy=FRAGILE) as (client, server):
        transport = client._transport
        with ThreadPoolExecutor(1) as elsewhere:
            asking = elsewhere.submit(client.post, "chat/completions", json=ASK)
            until(lambda: len(server.requests) == 1)
            transport.close()
            with pytest.raises(httpx2.RemoteProtocolError, match="the client was closed"):
                asking.result(PATIENCE)
        assert (in_flight(transport), circuit_of(transport)) == (0, "closed")
        assert client.post("chat/completions", json=ASK).status_code == 200


def test_a_dropped_stream_is_closed(serve):
    with serve(OPEN) as (client, server):
        request = client.build_request("POST", "chat/completions", json=STREAM)
        got = client.send(request, stream=True)
        with warnings.catch_warnings(action="ignore"):
            del got  # another thread may hold it for a moment
            until(lambda: in_flight(client._transport) == 0)
        until(lambda: server.closed == 1)


def test_closing_a_transport_ends_sent_and_queued_calls_but_no_later_ones(serve):
    narrow = Policy(retry_budget=None, limit=FixedLimit(max_in_flight=1))
    with serve([End.HANG], failing(503), answer(), policy=narrow) as (client, server):
        transport = client._transport
        with ThreadPoolExecutor(2) as threads:
            ask = lambda: client.post("chat/completions", json=ASK)  # noqa: E731
            asking = [threads.submit(ask) for _ in range(2)]
            until(lambda: len(server.requests) == 1)
            until(lambda: sum(each["queued"] for each in target_states(transport)) == 1)
            transport.close()
            ends = [each.exception(PATIENCE) or each.result() for each in asking]
        assert not [each for each in ends if getattr(each, "status_code", 503) != 503]
        assert len(server.requests) == 1
        assert client.post("chat/completions", json=ASK).status_code == 200


def target_states(transport):
    return transport.snapshot()["targets"].values()


def test_a_forked_child_works_with_its_own_jitter(serve):
    with serve(failing(500), failing(500), answer(), failing(500), answer(), failing(500), answer()) as (client, _):  # fmt: skip
        transport = client._transport
        draw = transport._driver._stepper.chance
        assert client.post("chat/completions", json=ASK).status_code == 200
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it forks with threads
            child = os.fork()
        if child == 0:
            signal.alarm(120)
            well = False
            try:
                os.write(write, repr([draw() for _ in range(3)]).encode())
                well = client.post("chat/completions", json=ASK).status_code == 200
                well = well and in_flight(transport) == 0
            finally:
                os._exit(0 if well else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert os.read(read, 1000).decode() != repr([draw() for _ in range(3)])
        assert client.post("chat/completions", json=ASK).status_code == 200
        os.close(read)
        os.close(write)


def test_two_loops_and_four_threads_share_one_engine(serve):
    one_at_a_time = Policy(retry_budget=None, limit=FixedLimit(max_in_flight=1))
    with serve([0.002, answer()], policy=one_at_a_time) as (client, server):
        engine = client._transport.engine
        shared = AsyncTransport(engine)
        in_flight_counts, busy = [], []

        async def play(request, writer):
            busy.append(1)
            in_flight_counts.append(len(busy))
            await asyncio.sleep(0.002)
            busy.pop()
            writer.write(answer())

        server._scripts = [[play]]

        async def loop():
            async with httpx2.AsyncClient(transport=shared, base_url=server.base_url) as http:
                headers = {"authorization": f"Bearer {KEY}"}
                asks = [http.post("chat/completions", json=ASK, headers=headers) for _ in range(8)]
                return [each.status_code for each in await asyncio.gather(*asks)]

        def thread():
            return [client.post("chat/completions", json=ASK).status_code for _ in range(8)]

        with ThreadPoolExecutor(6) as threads:
            ends = [threads.submit(asyncio.run, loop()) for _ in range(2)]
            ends += [threads.submit(thread) for _ in range(4)]
            assert [end.result(PATIENCE) for end in ends] == [[200] * 8] * 6
        assert max(in_flight_counts) == 1
        assert len(server.requests) == 48
        assert len(shared.snapshot()["targets"]) == 1
        assert shared.snapshot() == client._transport.snapshot()


def test_a_refused_connection_raises_connect_error(serve):
    with httpx2.Client(transport=Transport(ONCE)) as client, pytest.raises(httpx2.ConnectError):
        client.post("http://127.0.0.1:9/v1/chat/completions", json=ASK)


class Reader:
    """A library's stream."""

    def __init__(self, sock):
        self.sock = sock

    def get_extra_info(self, _name):
        return self.sock

    def read(self):
        return self.sock.recv(1)


def test_a_transport_that_begins_to_block_after_an_interrupt_is_woken():
    here, there = socket.socketpair()
    here.settimeout(PATIENCE)

    async def interrupted_before():
        running_strand().interrupt()
        interruptible(Reader(here).read)

    with here, there, pytest.raises(asyncio.CancelledError):
        run(interrupted_before())
