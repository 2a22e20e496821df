"""The connection of threads that block, under attack: interrupts, crowds, forks, and other threads that close."""

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
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.types import Outcome, Verdict

SLOW = [0.005, answer()]
HELD = CHUNKED + b"5\r\nhello\r\n"  # the begin of a stream
SEEN = (
    "/http/h1/blocking_", "/http/h1/exchange", "/http/h1/response_parser", "/http/h1/socket_response", "/drivers/blocking.py",
)  # fmt: skip


def open_files():
    return len(list(Path("/dev/fd").iterdir()))


@contextmanager
def connected(*scripts, limit=1):
    """A server that plays scripts, a connection to it, and a request; nothing may be open at the end."""
    files = open_files()
    with served_aside(*scripts) as server:
        connection = AsyncConnection(limit=limit).blocking
        yield server, connection, PreparedRequest(f"{server.base_url}/x", {}, b"{}")
        run(connection.close())
        until(lambda: server.closed == server.opened)
    gc.collect()
    assert files >= open_files()


def in_threads(count, work):
    """Run `work` on so many threads; what each returned."""
    got = []
    threads = [threading.Thread(target=lambda: got.append(work())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(got) == count
    return got


# ------------------------------------------------------------ crowds


def test_64_threads_over_4_sockets_are_served_in_turn(monkeypatch):
    """Found: a socket that became free woke all threads, and the one that had just used it took it again."""
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


def test_threads_that_wait_for_a_socket_end_with_the_pool():
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


def test_a_thread_that_gives_up_waiting_leaves_the_others_their_turn():
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


def test_bodies_of_threads_that_the_budget_allows_open_no_files(monkeypatch):
    """Found: each 64 KiB of a large body made a pair of sockets."""

    def none():
        raise AssertionError("a signal was made")

    monkeypatch.setattr(connection_module, "Signal", none)
    with connected(answer(b" " * 2**20)) as (_, connection, request):
        assert len(run(connection.exchange(request)).body) == 2**20


# ------------------------------------------------------------ interrupts


def interrupted_at(line, do):
    """Run `do` on a thread, interrupted before so many lines of ours were run; whether it was."""
    left, interrupts = [line], []

    def each(frame, event, _):
        code = linecache.getline(frame.f_code.co_filename, frame.f_lineno).split()
        if (
            event == "line" and code[0] != "with"
        ):  # at its end no signal is handled, until it was left
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

    # what is raised in an `except` by a trace function leaves the exception that was handled there to the thread
    thread = threading.Thread(target=works)
    thread.start()
    thread.join(PATIENCE)
    return bool(interrupts)


@pytest.mark.parametrize(
    ("warm", "script"),
    [(False, SLOW), (True, answer())],
    ids=["a new socket, answered late", "one used before, answered at once"],
)
def test_an_interrupt_in_any_line_leaves_the_pool_its_place(warm, script):
    """Found: between two steps it lost a socket, and with it a place of the pool for good; or became a RuntimeError."""
    with warnings.catch_warnings(), connected(script) as context:
        warnings.simplefilter("ignore")  # the finalizer of a socket that was lost warns
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
    """Real ones, at real points in time, also while an interrupt is being handled."""
    # an interrupt in a finalizer goes there, and the hook of the test runner keeps the frames
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


def test_a_stream_that_another_thread_closes_takes_no_other_call_with_it():
    """It may come when the socket has just passed to the next call."""
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


def test_a_reader_is_woken_by_another_thread_and_gets_an_outcome():
    with connected([HELD, End.HANG]) as (_, connection, request):
        stream = run(connection.open(request))
        assert run(stream.read()) == b"hello"
        threading.Timer(0.05, stream.close).start()
        got = run(stream.read(), time.monotonic() + PATIENCE)
        assert (got.verdict, got.detail) == (Verdict.BROKEN, "body was cut")


def test_what_ends_because_we_close_it_is_no_complete_body():
    """Found: of a body that ends with its connection, our own close made an answer."""
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


def test_a_response_that_is_dropped_closes_its_connection():
    with connected([HELD, End.HANG], SLOW) as (server, connection, request):
        stream = run(connection.open(request))
        assert run(stream.read()) == b"hello"
        del stream
        until(lambda: server.closed == 1)
        assert run(connection.exchange(request), time.monotonic() + PATIENCE).status == 200


def test_a_fork_in_the_middle_of_a_call_takes_nothing_from_it():
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


def test_a_time_that_is_far_away_can_be_waited_for():
    """Found: `poll` takes a C int of milliseconds: a deadline of 25 days was an OverflowError."""
    here, there = socket.socketpair()
    with here, there:
        there.send(b"x")

        async def wait(seconds):
            return await SocketWait((here, READ), until=time.monotonic() + seconds)

        for seconds in (3e6, 1e12):
            assert run(wait(seconds), time.monotonic() + seconds) == [here]
    assert blocking_module._LONGEST * 1000 < 2**31
    assert select.poll().poll(0) == []


def test_a_lookup_that_hangs_ends_in_time_and_its_late_failure_is_not_kept(monkeypatch):
    """Found: what a lookup found after all had given up was the answer to the next one, hours later."""
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


def test_what_is_over_does_not_touch_its_socket():
    """Another thread may use it by then. Found: TLS was asked for what it holds, after the last piece of every stream."""
    left = SimpleNamespace(sock=ssl.SSLSocket.__new__(ssl.SSLSocket), lock=new_lock())
    exchange = BlockingExchange(left, PreparedRequest("https://x.example/", {}, b""))
    exchange.over = True

    run(exchange.wait())
