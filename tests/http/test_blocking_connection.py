"""The blocking connection under interrupts, many threads, forks, and closes by other threads."""

import gc
import linecache
import random
import select
import signal
import socket
import ssl
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import pytest
from forking import in_child
from sockets import BODY, CHUNKED, PATIENCE, End, answer, served_aside, until

from stormbreak.drivers import blocking as blocking_module
from stormbreak.drivers.blocking import READ, LateError, SocketWait, blocks_here, run
from stormbreak.drivers.locks import new_lock
from stormbreak.http.h1 import blocking_pool
from stormbreak.http.h1 import connection as connection_module
from stormbreak.http.h1.async_connection import AsyncConnection
from stormbreak.http.h1.blocking_connect import BlockingResolver
from stormbreak.http.h1.blocking_exchange import BlockingExchange
from stormbreak.http.h1.response_parser import ResponseParser
from stormbreak.http.h1.socket_response import SocketResponse
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.types import Outcome, Verdict

SLOW = [0.005, answer()]
HELD = CHUNKED + b"5\r\nhello\r\n"  # the beginning of a stream
SEEN = (
    "/http/h1/blocking_", "/http/h1/exchange", "/http/h1/response_parser", "/http/h1/socket_response", "/drivers/blocking.py",
)  # fmt: skip


def open_files():
    return len(list(Path("/dev/fd").iterdir()))


@contextmanager
def connected(*scripts, limit=1):
    """Yield a server that plays scripts, a connection to it, and a request; nothing may stay open."""
    files = open_files()
    with served_aside(*scripts) as server:
        connection = AsyncConnection(limit=limit).blocking
        yield server, connection, PreparedRequest(f"{server.base_url}/x", {}, b"{}")
        run(connection.close())
        until(lambda: server.closed == server.opened)
    gc.collect()
    assert files >= open_files()


def in_threads(count, work):
    """Run `work` on `count` threads; return their results."""
    got = []
    threads = [threading.Thread(target=lambda: got.append(work())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(got) == count
    return got


# ------------------------------------------------------------ many threads


def test_64_threads_on_4_sockets_are_served_first_come_first_served(monkeypatch):
    """Found: a free socket woke all threads, and the thread that had just used it took it again."""
    made = []

    class Counted(blocking_pool._Turn):
        def __init__(self):
            made.append(self)
            super().__init__()

    monkeypatch.setattr(blocking_pool, "_Turn", Counted)
    with connected([0.002, answer()], limit=4) as (server, connection, request):

        def work():
            overtaken = []
            for _ in range(5):
                before = len(answered)
                assert run(connection.exchange(request)).status == 200
                overtaken.append(len(answered) - before)
                answered.append(1)
            return overtaken

        answered = []
        overtaken = in_threads(64, work)
        assert (server.opened, len(server.requests)) == (4, 320)
    assert len(made) <= 320
    assert median(map(max, overtaken)) < 320 / 3  # first come, first served: by the 63 others


def test_closing_the_pool_ends_threads_that_wait_for_a_socket():
    with connected(End.HANG, limit=2) as (server, connection, request):
        ends = []
        threads = [
            threading.Thread(target=lambda: ends.append(run(connection.exchange(request))))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        until(lambda: len(connection._pool._waiting) == 4 and len(server.requests) == 2)
        run(connection.close())
        for thread in threads:
            thread.join(PATIENCE)
    assert [end.verdict for end in ends] == [Verdict.RESET] * 6
    assert sorted(end.maybe_processed for end in ends) == [False] * 4 + [True] * 2


def test_a_thread_that_times_out_in_the_queue_does_not_block_the_others():
    with connected([0.1, answer()]) as (_, connection, request):

        def patient():
            return run(connection.exchange(request)).status

        def hasty():
            with pytest.raises(LateError):
                run(connection.exchange(request), time.monotonic() + 0.02)
            return 200

        chance = random.Random(3)
        kinds = [patient] * 4 + [hasty] * 8
        chance.shuffle(kinds)
        assert in_threads(12, lambda: kinds.pop()())  # noqa: PLW0108 - each its own == [200] * 12


def test_a_body_within_the_memory_budget_opens_no_files(monkeypatch):
    """Found: each 64 KiB of a large body created a pair of sockets."""

    def none():
        raise AssertionError("a signal was created")

    monkeypatch.setattr(connection_module, "Signal", none)
    with connected(answer(b" " * 2**20)) as (_, connection, request):
        assert len(run(connection.exchange(request)).body) == 2**20


# ------------------------------------------------------------ interrupts


def interrupted_at(line, do):
    """Run `do` on a thread, and interrupt it before line number `line` of ours; return whether it was."""
    left, interrupts = [line], []

    def each(frame, event, _):
        code = linecache.getline(frame.f_code.co_filename, frame.f_lineno).split()
        if event == "line" and code[0] != "with":  # Python handles no signal at the end of a `with`
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
        return each

    def enter(frame, *_):
        return each if any(part in frame.f_code.co_filename for part in SEEN) else None

    def works():
        sys.settrace(enter)
        try:
            do()
        except KeyboardInterrupt:
            interrupts.append(line)

    # An exception raised by a trace function in an `except` leaves the handled exception in the thread.
    thread = threading.Thread(target=works)
    thread.start()
    thread.join(PATIENCE)
    return bool(interrupts)


@pytest.mark.parametrize(
    ("warm", "script"),
    [(False, SLOW), (True, answer())],
    ids=["new socket, slow answer", "used socket, answer at once"],
)
def test_an_interrupt_at_any_line_loses_no_place_of_the_pool(warm, script):
    """Found: between two steps it lost a socket and its place in the pool, or became a RuntimeError."""
    with warnings.catch_warnings(), connected(script) as context:
        warnings.simplefilter("ignore")  # the finalizer of a lost socket warns
        _, connection, request = context
        line = 0
        while True:
            line += 1
            if warm:
                assert run(connection.exchange(request)).status == 200
            else:
                run(connection.close())
            if not interrupted_at(line, lambda: run(connection.exchange(request))):
                break
            pool = connection._pool
            state = line, [(each.closed, each.in_use) for each in pool.sockets], len(pool.places)
            assert len(pool.places) == len(pool._idle), state
        assert line > 150
        assert run(connection.exchange(request)).status == 200


def test_a_storm_of_signals_leaves_nothing_behind(monkeypatch):
    """Send real signals at random times, also while an interrupt is handled."""
    # An interrupt in a finalizer calls this hook, and that of the test runner keeps the frames.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)

    def interrupt(*_):
        raise KeyboardInterrupt

    chance, counts = random.Random(1), [0, 0]
    with warnings.catch_warnings(), connected([0.001, answer()], limit=2) as context:
        warnings.simplefilter("ignore")
        _, connection, request = context
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            for _ in range(300):
                try:
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 4e-3), 2e-4)
                    run(connection.exchange(request))
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    counts[0] += 1
                except KeyboardInterrupt:
                    try:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                    except KeyboardInterrupt:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                    counts[1] += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        gc.collect()
        for _ in range(3):
            assert run(connection.exchange(request), time.monotonic() + PATIENCE).status == 200
    assert counts[1] > 50
    assert not blocks_here()


# ------------------------------------------------------------ other threads


def test_closing_a_stream_from_another_thread_breaks_no_other_call():
    """The close may happen when the next call has just taken the socket."""
    whole = CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"
    with connected(whole, limit=2) as (_, connection, request):
        lost = []

        def work():
            for _ in range(100):
                stream = run(connection.open(request))
                if isinstance(stream, Outcome):
                    lost.append(stream)
                    continue
                closer = threading.Thread(target=stream.close)
                closer.start()
                while isinstance(got := run(stream.read()), bytes) and got:
                    pass
                closer.join()

        in_threads(2, work)
    assert lost == []


def test_closing_a_stream_from_another_thread_wakes_its_reader():
    with connected([HELD, End.HANG]) as (_, connection, request):
        stream = run(connection.open(request))
        assert run(stream.read()) == b"hello"
        threading.Timer(0.05, stream.close).start()
        got = run(stream.read(), time.monotonic() + PATIENCE)
        assert (got.verdict, got.detail) == (Verdict.BROKEN, "body was cut")


def test_a_body_cut_by_our_own_close_is_broken():
    """Found: for a body that ends with its connection, our own close completed the answer."""
    with connected([b"HTTP/1.1 200 OK\r\n\r\n" + BODY, End.HANG]) as (server, connection, request):
        ends = []
        thread = threading.Thread(target=lambda: ends.append(run(connection.exchange(request))))
        thread.start()
        server_has = lambda: server.requests and connection._pool.streams  # noqa: E731
        until(server_has)
        for each in connection._pool.sockets:
            each.shut()
        thread.join(PATIENCE)
    assert (ends[0].verdict, ends[0].detail) == (Verdict.BROKEN, "body was cut")


def test_a_dropped_response_closes_its_connection():
    with connected([HELD, End.HANG], SLOW) as (server, connection, request):
        stream = run(connection.open(request))
        assert run(stream.read()) == b"hello"
        del stream
        until(lambda: server.closed == 1)
        assert run(connection.exchange(request), time.monotonic() + PATIENCE).status == 200


def test_a_fork_during_a_call_does_not_affect_the_call():
    with connected(answer(), [0.3, answer()], answer(), limit=2) as (server, connection, request):
        assert run(connection.exchange(request)).status == 200
        files, ends = open_files(), []
        thread = threading.Thread(target=lambda: ends.append(run(connection.exchange(request))))
        thread.start()
        until(lambda: len(server.requests) == 2)

        def asks():
            own = run(connection.exchange(request), time.monotonic() + PATIENCE)
            return (
                own.status == 200
                and len(connection._pool.sockets) == 1
                and open_files() <= files + 1
            )

        assert in_child(asks)
        thread.join(PATIENCE)
        assert ends[0].status == 200
        assert run(connection.exchange(request)).status == 200
        assert [each.connection for each in server.requests] == [1, 1, 2, 1]


# ------------------------------------------------------------ time


def test_a_wait_may_be_longer_than_a_c_int_of_milliseconds():
    """Found: `poll` takes a C int of milliseconds, and a deadline of 25 days raised OverflowError."""
    here, there = socket.socketpair()
    with here, there:
        there.send(b"x")

        async def wait(seconds):
            return await SocketWait((here, READ), until=time.monotonic() + seconds)

        for seconds in (3e6, 1e12):
            assert run(wait(seconds), time.monotonic() + seconds) == [here]
    assert blocking_module._LONGEST * 1000 < 2**31
    assert select.poll().poll(0) == []


def test_a_hanging_lookup_times_out_and_its_late_failure_is_dropped(monkeypatch):
    """Found: the late result of a lookup was the answer to the next lookup, hours later."""
    go, asked = threading.Event(), []

    def slow(host, *_, **__):
        asked.append(host)
        if len(asked) > 1:
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 9))]
        go.wait(PATIENCE)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    resolver = BlockingResolver()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            run(resolver.addresses("slow.example", 9, time.monotonic() + 0.02))
    assert len(asked) == 1
    go.set()
    until(lambda: not resolver._asked)
    found = run(resolver.addresses("slow.example", 9, time.monotonic() + PATIENCE))
    assert found == [(socket.AF_INET, ("127.0.0.1", 9))]


def test_a_response_that_an_interrupt_left_unmade_is_dropped_silently():
    """Found: its finalizer printed an AttributeError."""
    SocketResponse.__new__(SocketResponse).__del__()


def test_a_finished_exchange_does_not_touch_its_socket():
    """Another thread may use the socket by then. Found: TLS was asked for pending bytes after every stream."""
    left = SimpleNamespace(sock=ssl.SSLSocket.__new__(ssl.SSLSocket), lock=new_lock())
    exchange = BlockingExchange(left, ResponseParser())
    exchange.over = True

    run(exchange.wait())
