"""The pool of connections: failures to connect, reuse, and closing."""

import asyncio
import errno
import gc
import socket
import threading
import time
from pathlib import Path

import pytest
from loop_thread import LoopThread
from on_threads import ConnectionOnThreads
from sockets import BODY, CHUNKED, HALF, End, answer, free_port, served

from stormbreak.http.h1 import async_pool, blocking_pool
from stormbreak.http.h1.async_connection import AsyncConnection
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.types import Verdict


def open_files():
    return len(list(Path("/dev/fd").iterdir()))


def request_to(port, host="127.0.0.1"):
    return PreparedRequest(f"http://{host}:{port}/v1/x", {}, b"{}")


# ------------------------------------------------------------ no connection


async def test_a_refused_connection_is_connect_failed(connection):
    got = await connection.exchange(request_to(free_port()))
    assert (got.verdict, got.detail) == (Verdict.CONNECT_FAILED, "connection refused")
    assert isinstance(got.error, ConnectionRefusedError)
    assert not got.maybe_processed


async def test_an_unknown_host_is_connect_failed(connection, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    got = await connection.exchange(request_to(80, "no-such-host.example"))
    assert (got.verdict, got.detail) == (Verdict.CONNECT_FAILED, "host not found")
    assert isinstance(got.error, socket.gaierror)
    assert not got.maybe_processed


async def test_a_lookup_without_a_thread_is_connect_failed(connection, monkeypatch):
    """Found: the call raised RuntimeError and was not retried."""

    start, blocks = threading.Thread.start, isinstance(connection, ConnectionOnThreads)

    def full(thread):
        if blocks and thread.name.startswith("asyncio"):  # the thread of the test itself
            return start(thread)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", full)
    got = await connection.exchange(request_to(80, "no-such-host.example"))
    monkeypatch.undo()  # the end of the loop needs a thread
    assert (got.verdict, got.detail) == (Verdict.CONNECT_FAILED, "no thread can be started")
    assert not got.maybe_processed


async def test_an_error_of_a_socket_blocker_is_named(connection, monkeypatch):
    class SocketBlockedError(RuntimeError):
        pass

    def blocked(*_, **__):
        raise SocketBlockedError

    monkeypatch.setattr(socket, "getaddrinfo", blocked)
    got = await connection.exchange(request_to(80, "no-such-host.example"))
    assert (got.verdict, got.detail) == (Verdict.CONNECT_FAILED, "SocketBlockedError")


async def test_a_connection_that_never_opens_is_connect_failed(connection, full_port):
    got = await connection.exchange(request_to(full_port)._replace(connect_timeout=0.1))
    assert (got.verdict, got.detail) == (Verdict.CONNECT_FAILED, "connection timed out")
    assert not got.maybe_processed


async def test_an_error_of_the_network_is_named(connection, monkeypatch):
    async def unreachable(*_, **__):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", unreachable)
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *_: errno.ENETUNREACH)
    got = await connection.exchange(request_to(80))
    assert got.verdict is Verdict.CONNECT_FAILED
    assert "unreachable" in got.detail


# ------------------------------------------------------------ connections


async def test_a_connection_is_reused_after_whole_answers(ask):
    async with served(answer(), answer(status=429), CHUNKED + b"0\r\n\r\n", answer()) as server:
        for _ in range(4):
            await ask(server)
    assert [request.connection for request in server.requests] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "script",
    [
        [HALF, End.CLOSE],
        [HALF, End.HANG],
        answer(connection="close"),
        answer() + b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstale",
        answer() + b"tail",
    ],
)
async def test_a_connection_is_not_reused_after_a_bad_or_surplus_answer(ask, script):
    async with served(script, answer()) as server:
        await ask(server, idle_timeout=0.1)
        got = await ask(server)
        assert got.body == BODY
        assert [request.connection for request in server.requests] == [1, 2]


@pytest.mark.parametrize(
    "late", [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstale", b"HTTP/1.1 2", b"tail"]
)
async def test_surplus_bytes_are_never_the_next_answer(ask, late):
    """Found: an answer to an idle connection was taken for the answer to the next request."""
    async with served([answer(), 0.02, late], answer()) as server:
        await ask(server)
        await asyncio.sleep(0.06)
        got = await ask(server)
        assert isinstance(got, HttpResponse)
        assert got.body == BODY
        assert [request.connection for request in server.requests] == [1, 2]


@pytest.mark.parametrize("late", [answer(b"{}"), End.CLOSE], ids=["bytes", "the end"])
async def test_unread_surplus_bytes_prevent_reuse_of_a_connection(ask, late):
    """The loop is busy while they arrive. Found: a request went to a server that had closed the connection."""
    sent = threading.Event()

    async def mark_sent(*_):
        sent.set()

    host, serving = LoopThread(), served([answer(), 0.02, late, mark_sent], answer())
    server = await asyncio.to_thread(host.run, serving.__aenter__())
    try:
        await ask(server)
        while not (sent.is_set() or server.closed):
            time.sleep(0.05)  # noqa: ASYNC251 - keeps the loop busy
        got = await ask(server)
    finally:
        await asyncio.to_thread(host.run, serving.__aexit__(None, None, None))
        await asyncio.to_thread(host.stop)

    assert got.body == BODY
    assert [request.connection for request in server.requests] == [1, 2]


@pytest.mark.parametrize("method", ["POST", "GET"])  # aiohttp would repeat a GET
async def test_a_dead_connection_is_a_reset_and_not_retried(ask, method):
    async with served(answer(), End.CLOSE, answer()) as server:
        await ask(server)
        got = await ask(server, method=method)  # on a connection that the server then closes
        assert got.verdict is Verdict.RESET
        assert len(server.requests) == 2


async def test_the_pool_opens_at_most_its_limit_of_connections():
    connection = AsyncConnection(limit=2)
    async with served([0.01, answer()]) as server:
        await asyncio.gather(*(connection.exchange(request_to(server.port)) for _ in range(6)))
        assert (server.opened, len(server.requests)) == (2, 6)
    await connection.close()


async def test_tasks_that_wait_for_a_socket_are_served_in_turn():
    """Found: the task that had just used a socket took it again."""
    connection, ends = AsyncConnection(limit=2), []
    async with served([0.002, answer()]) as server:

        async def work(task):
            for _ in range(4):
                assert (await connection.exchange(request_to(server.port))).status == 200
                ends.append(task)

        await asyncio.gather(*(work(task) for task in range(24)))
        assert server.opened == 2
    await connection.close()
    # Two sockets: a task that has just ended is served again after at least 20 others.
    assert {len(set(ends[at : at + 20])) for at in range(len(ends) - 19)} == {20}


async def test_a_task_cancelled_in_the_queue_does_not_block_the_others():
    connection = AsyncConnection(limit=1)
    async with served([0.02, answer()]) as server:
        tasks = [
            asyncio.create_task(connection.exchange(request_to(server.port))) for _ in range(12)
        ]
        await server.asked()
        for task in tasks[1::2]:
            task.cancel()
            await asyncio.sleep(0.01)  # also a task that has just got the socket
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [each.status for each in ends[::2]] == [200] * 6
        assert server.opened <= 7
    await connection.close()


@pytest.mark.parametrize(
    ("bound", "seconds"), [("MAX_AGE", 0.05), ("KEEP_ALIVE", 0.05), ("KEEP_ALIVE", 60.0)]
)
async def test_an_old_or_long_idle_socket_is_not_reused(ask, monkeypatch, bound, seconds):
    for module in (async_pool, blocking_pool):
        monkeypatch.setattr(module, bound, seconds)
    async with served() as server:
        await ask(server)
        await asyncio.sleep(0.1)
        await ask(server)
        assert server.opened == (1 if seconds > 1 else 2)


@pytest.mark.parametrize("connection_type", [AsyncConnection, ConnectionOnThreads])
async def test_an_old_socket_is_not_passed_to_a_waiting_task(monkeypatch, connection_type):
    """Found: with all sockets of a loop in use, none ever exceeded its age."""
    for module in (async_pool, blocking_pool):
        monkeypatch.setattr(module, "MAX_AGE", 0.05)
    connection = connection_type(limit=1)
    async with served([0.03, answer()]) as server:
        got = await asyncio.gather(
            *(connection.exchange(request_to(server.port)) for _ in range(6))
        )
        assert {each.status for each in got} == {200}
        assert server.opened >= 2
    await connection.close()


async def test_the_most_recently_used_idle_sockets_are_kept(ask, monkeypatch):
    """Found: a burst left all its sockets open for a minute."""
    for module in (async_pool, blocking_pool):
        monkeypatch.setattr(module, "MAX_IDLE", 3)
        monkeypatch.setattr(module, "SPARE", 0.3)
    async with served([0.2, answer()]) as server:
        await asyncio.gather(*(ask(server) for _ in range(6)))
        assert server.closed == 0  # kept for a moment in case more calls come
        await asyncio.sleep(0.3)
        async with asyncio.timeout(30):
            while server.opened - server.closed > 3:  # the server sees it later
                await ask(server)
        await asyncio.gather(*(ask(server) for _ in range(3)))
        assert (server.opened, server.closed) == (6, 3)


async def test_surplus_idle_sockets_are_closed_without_a_further_request(monkeypatch):
    monkeypatch.setattr(async_pool, "MAX_IDLE", 3)
    monkeypatch.setattr(async_pool, "SPARE", 0.1)
    connection = AsyncConnection(limit=9)
    async with served([0.2, answer()]) as server:
        await asyncio.gather(*(connection.exchange(request_to(server.port)) for _ in range(9)))
        async with asyncio.timeout(30):
            while server.closed < 6:  # noqa: ASYNC110 - the server sees it later
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert (server.opened, server.closed) == (9, 6)
    await connection.close()


async def test_cookies_are_not_stored_or_sent(ask):
    async with served(answer(set_cookie="id=canary; Path=/")) as server:
        await ask(server)
        await ask(server)
    assert "cookie" not in server.requests[1].headers


async def test_netrc_is_ignored(ask, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with served() as server:
        await ask(server)
    assert server.requests[0].headers["authorization"] == "Bearer key-canary"


# ------------------------------------------------------------ loops


def test_each_loop_has_its_own_pool_that_closes_with_it():
    """Found: a pool that was not closed by hand outlived its loop, and warned."""
    connection = AsyncConnection(limit=2)

    async def main():
        async with served() as server:
            got = [await connection.exchange(request_to(server.port)) for _ in range(2)]
            return [one.status for one in got], server.opened, server

    for _ in range(3):
        assert asyncio.run(main())[:2] == ([200, 200], 1)
    assert len(connection._pools) == 1
    assert not next(iter(connection._pools.values())).sockets
    gc.collect()


def test_two_loops_in_two_threads_have_separate_pools():
    connection = AsyncConnection(limit=4)
    seen = []

    async def main():
        async with served([0.01, answer()]) as server:
            got = await asyncio.gather(
                *(connection.exchange(request_to(server.port)) for _ in range(20))
            )
            seen.append(({one.status for one in got}, server.opened))
            await connection.close()

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [({200}, 4)] * 2
    assert not connection._pools


async def test_a_dropped_pool_closes_its_connections():
    async with served() as server:
        await AsyncConnection(limit=2).exchange(request_to(server.port))
        gc.collect()
        await server.all_closed()


async def test_a_closed_connection_opens_again(connection):
    async with served() as server:
        for _ in range(2):
            assert (await connection.exchange(request_to(server.port))).status == 200
            await connection.close()
            await connection.close()
            await server.all_closed()


# ------------------------------------------------------------ cancelled


@pytest.mark.parametrize("connection", ["awaits"], indirect=True)
@pytest.mark.parametrize("script", [End.HANG, [b"HTTP/1.1 200 OK\r\n", End.HANG], [HALF, End.HANG]])
async def test_cancelling_a_call_closes_its_connection(ask, script):
    async with served(script) as server:
        task = asyncio.create_task(ask(server))
        await server.asked()
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.all_closed()


@pytest.mark.parametrize("connection", ["awaits"], indirect=True)
async def test_200_cancelled_calls_leave_nothing_open(ask, connection):
    async with served(answer(), End.HANG) as server:
        await ask(server)
        files = open_files()
        tasks = [asyncio.create_task(ask(server)) for _ in range(200)]
        await server.asked(201)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.all_closed()
        gc.collect()
        assert len(connection._pool().sockets) <= 1
        assert open_files() <= files
