"""What the wire says about everything that can happen on a socket."""

import asyncio
import errno
import gc
import gzip
import os
import socket
import threading
import time
import traceback
import zlib
from pathlib import Path

import pytest
from sockets import BODY, End, answer, free_port, served

from stormbreak.http import aiohttp_wire
from stormbreak.http.aiohttp_wire import AiohttpWire
from stormbreak.http.wire import HttpRequest
from stormbreak.llm.reading import HttpAnswer
from stormbreak.types import Outcome, Verdict

HALF = answer()[:-10]
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
ZIPPED = gzip.compress(BODY)


def open_files():
    return len(list(Path("/dev/fd").iterdir()))


def url_of(port, host="127.0.0.1"):
    return HttpRequest(f"http://{host}:{port}/v1/x", {}, b"{}")


async def test_a_whole_answer(ask):
    async with served(answer(x_request_id="req_1")) as server:
        got = await ask(server)
    assert isinstance(got, HttpAnswer)
    assert (got.status, got.body, got.headers["x-request-id"]) == (200, BODY, "req_1")
    assert abs(got.received_at - time.time()) < 5
    (request,) = server.requests
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert (request.body, request.headers["content-length"]) == (b'{"a":1}', "7")


@pytest.mark.parametrize(
    ("script", "verdict", "detail", "status"),
    [
        (End.CLOSE, Verdict.RESET, "connection lost", None),
        (End.RESET, Verdict.RESET, "connection lost", None),
        ([b"HTTP/1.1 20", End.CLOSE], Verdict.RESET, "connection lost", None),
        ([answer()[:30], End.CLOSE], Verdict.RESET, "connection lost", None),
        ([answer()[:30], End.RESET], Verdict.RESET, "connection lost", None),
        ([HALF, End.CLOSE], Verdict.BROKEN, "body was cut", 200),
        ([HALF, End.RESET], Verdict.BROKEN, "body was cut", 200),
        ([CHUNKED, b"5\r\nhello\r\n", End.CLOSE], Verdict.BROKEN, "body was cut", 200),
        ([CHUNKED, b"5\r\nhel", End.CLOSE], Verdict.BROKEN, "body was cut", 200),
        ([CHUNKED, b"5\r\nhello\r\n", End.RESET], Verdict.BROKEN, "body was cut", 200),
        ([CHUNKED, b"zz\r\nhello\r\n", End.CLOSE], Verdict.BROKEN, None, None),
        ([b"SSH-2.0-OpenSSH_9.6\r\n", End.CLOSE], Verdict.BROKEN, "not HTTP", None),
        ([b"\x15\x03\x01\x00\x02\x02\x46" * 9, End.CLOSE], Verdict.BROKEN, "not HTTP", None),
        ([answer(x_long="x" * 100_000), End.CLOSE], Verdict.BROKEN, "not HTTP", None),
        ([b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 9_000, End.HANG], Verdict.BROKEN, "not HTTP", None),
        ([answer(content_length="-1"), End.CLOSE], Verdict.BROKEN, "not HTTP", None),
        ([answer(content_length="many"), End.CLOSE], Verdict.BROKEN, "not HTTP", None),
        ([answer(b"no gzip", content_encoding="gzip"), End.CLOSE], Verdict.BROKEN, "body cannot be decompressed", 200),
        ([answer(ZIPPED)[:-40].replace(b"-type", b"-encoding: gzip\r\nx"), End.CLOSE], Verdict.BROKEN, "body was cut", 200),
    ],
)  # fmt: skip
async def test_what_goes_wrong_has_its_verdict(ask, script, verdict, detail, status):
    async with served(script) as server:
        got = await ask(server)
        assert isinstance(got, Outcome)
        assert (got.verdict, got.maybe_processed) == (verdict, True)
        if detail is not None:
            assert (got.detail, got.status) == (detail, status)
        await server.all_closed()
        assert len(server.requests) == 1  # the library sends nothing again by itself


@pytest.mark.parametrize(
    "script",
    [
        [b"HTTP/1.1 100 Continue\r\n\r\n", answer()],
        [b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", 0.01, answer()],
        [answer()[:10], 0.01, answer()[10:40], 0.01, answer()[40:]],
        [CHUNKED, b"%x\r\n" % len(BODY), BODY, b"\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n\r\n" + BODY, End.CLOSE],  # the body ends with the connection
        [b"HTTP/1.0 200 OK\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY, End.CLOSE],
        answer(ZIPPED, content_encoding="gzip"),
        answer(zlib.compress(BODY), content_encoding="deflate"),
    ],
)
async def test_ways_to_say_it_right(ask, script):
    async with served(script) as server:
        got = await ask(server)
    assert (got.status, got.body) == (200, BODY)


# ------------------------------------------------------------ no connection


async def test_a_refused_connection(wire):
    got = await wire.exchange(url_of(free_port()))
    assert (got.verdict, got.detail) == (Verdict.CONNECT_FAILED, "connection refused")
    assert isinstance(got.error, ConnectionRefusedError)
    assert not got.maybe_processed


async def test_a_host_that_does_not_exist(wire, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    got = await wire.exchange(url_of(80, "no-such-host.example"))
    assert (got.verdict, got.detail) == (Verdict.CONNECT_FAILED, "host not found")
    assert isinstance(got.error, socket.gaierror)
    assert not got.maybe_processed


async def test_a_connection_that_never_comes(wire, full_port):
    got = await wire.exchange(url_of(full_port)._replace(connect_timeout=0.1))
    assert (got.verdict, got.detail) == (Verdict.CONNECT_FAILED, "connection timed out")
    assert not got.maybe_processed


async def test_another_error_of_the_network_is_named(wire, monkeypatch):
    async def unreachable(*_, **__):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr("aiohappyeyeballs.start_connection", unreachable)
    got = await wire.exchange(url_of(80))
    assert got.verdict is Verdict.CONNECT_FAILED
    assert "unreachable" in got.detail


# ------------------------------------------------------------ time


@pytest.mark.parametrize(
    ("script", "status"),
    [(End.HANG, None), ([b"HTTP/1.1 200 OK\r\n", End.HANG], None), ([HALF, End.HANG], 200)],
)
async def test_silence_ends_an_attempt_and_its_connection(ask, script, status):
    async with served(script) as server:
        got = await ask(server, idle_timeout=0.1)
        assert (got.verdict, got.detail, got.status) == (Verdict.TIMEOUT, "went silent", status)
        assert got.maybe_processed
        await server.all_closed()


async def test_a_slow_answer_is_no_silence(ask):
    pieces = [piece for byte in answer()[-8:] for piece in (0.03, bytes([byte]))]
    async with served([answer()[:-8], *pieces]) as server:
        got = await ask(server, idle_timeout=0.1)
    assert got.body == BODY


@pytest.mark.parametrize("script", [End.HANG, [b"HTTP/1.1 200 OK\r\n", End.HANG], [HALF, End.HANG]])
async def test_cancelling_closes_the_connection(ask, script):
    async with served(script) as server:
        task = asyncio.create_task(ask(server))
        await server.asked()
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.all_closed()


async def test_200_cancelled_calls_leave_nothing_open(ask, wire):
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
        connector = (await wire._session()).connector
        assert not connector._acquired
        assert open_files() <= files


# ------------------------------------------------------------ size


async def test_a_body_is_bounded(ask, monkeypatch):
    monkeypatch.setattr(aiohttp_wire, "BODY_LIMIT", 2**20)
    async with served(answer(b" " * 2**20), answer(b" " * 2**23)) as server:
        assert len((await ask(server)).body) == 2**20
        got = await ask(server)
        assert (got.verdict, got.status) == (Verdict.BROKEN, 200)
        assert got.detail == "larger than 1 MiB"
        await server.all_closed()


async def test_a_body_is_bounded_after_decompression(ask, monkeypatch):
    monkeypatch.setattr(aiohttp_wire, "BODY_LIMIT", 2**20)
    bomb = gzip.compress(bytes(64 * 2**20))
    assert len(bomb) < 2**17
    async with served(answer(bomb, content_encoding="gzip")) as server:
        got = await ask(server)
    assert (got.verdict, got.detail) == (Verdict.BROKEN, "larger than 1 MiB")


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(200, Verdict.BROKEN), (413, None)],
)
async def test_a_good_answer_before_the_request_was_sent_whole_is_none(wire, status, verdict):
    """The server reads no more than the head, so that most of the body is still here when it answers."""
    early, answered = answer(status=status), asyncio.Event()

    async def hasty(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()
        writer.write(early)
        await answered.wait()
        writer.transport.abort()

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        server = await asyncio.start_server(hasty, sock=listener, limit=4096)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/x"
        got = await wire.exchange(HttpRequest(url, {}, b"x" * (32 * 2**20)))
        answered.set()
        server.close()
        await server.wait_closed()

    if verdict is None:
        assert got.status == status
    else:
        assert (got.verdict, got.detail) == (verdict, "answered before the request was sent whole")


async def test_a_large_body_is_sent_without_a_warning(wire):
    body = b"x" * (3 * 2**20)
    async with served() as server:
        got = await wire.exchange(HttpRequest(f"{server.base_url}/chat/completions", {}, body))

    assert got.status == 200
    assert server.requests[0].body == body
    assert server.requests[0].headers["content-length"] == str(len(body))


def test_the_bound_is_64_mib():
    assert aiohttp_wire.BODY_LIMIT == 64 * 2**20


# ------------------------------------------------------------ connections


async def test_a_connection_is_used_again(ask):
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
async def test_a_connection_is_not_used_again_after_trouble(ask, script):
    async with served(script, answer()) as server:
        await ask(server, idle_timeout=0.1)
        got = await ask(server)
        assert got.body == BODY
        assert [request.connection for request in server.requests] == [1, 2]


@pytest.mark.parametrize(
    "late", [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstale", b"HTTP/1.1 2", b"tail"]
)
async def test_bytes_nobody_asked_for_are_never_the_next_answer(ask, late):
    """Found: an answer that came to an idle connection was taken for the answer to the next request."""
    async with served([answer(), 0.02, late], answer()) as server:
        await ask(server)
        await asyncio.sleep(0.06)
        got = await ask(server)
        assert isinstance(got, HttpAnswer)
        assert got.body == BODY
        assert [request.connection for request in server.requests] == [1, 2]


async def test_a_dead_connection_is_an_outcome_and_no_second_try(ask):
    async with served(answer(), End.CLOSE, answer()) as server:
        await ask(server)
        got = await ask(server)  # on the connection that the server then closes
        assert got.verdict is Verdict.RESET
        assert len(server.requests) == 2


async def test_the_pool_is_as_wide_as_its_limit():
    wire = AiohttpWire(limit=2)
    async with served([0.01, answer()]) as server:
        await asyncio.gather(*(wire.exchange(url_of(server.port)) for _ in range(6)))
        assert (server.opened, len(server.requests)) == (2, 6)
    await wire.close()


async def test_cookies_are_neither_kept_nor_sent(ask):
    async with served(answer(set_cookie="id=canary; Path=/")) as server:
        await ask(server)
        await ask(server)
    assert "cookie" not in server.requests[1].headers


async def test_no_netrc_speaks_for_the_user(ask, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with served() as server:
        await ask(server)
    assert server.requests[0].headers["authorization"] == "Bearer key-canary"


# ------------------------------------------------------------ loops


def test_each_loop_has_its_own_pool_which_ends_with_it():
    """Found: a pool that was not closed by hand outlived its loop, and complained."""
    wire = AiohttpWire(limit=2)

    async def main():
        async with served() as server:
            got = [await wire.exchange(url_of(server.port)) for _ in range(2)]
            return [one.status for one in got], server.opened, server

    for _ in range(3):
        assert asyncio.run(main())[:2] == ([200, 200], 1)
    assert len(wire._pools) == 1
    assert next(iter(wire._pools.values())).session.closed
    gc.collect()


def test_two_loops_in_two_threads():
    wire = AiohttpWire(limit=4)
    seen = []

    async def main():
        async with served([0.01, answer()]) as server:
            got = await asyncio.gather(*(wire.exchange(url_of(server.port)) for _ in range(20)))
            seen.append(({one.status for one in got}, server.opened))
            await wire.close()

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [({200}, 4)] * 2
    assert not wire._pools


async def test_a_wire_that_is_dropped_closes_its_connections():
    async with served() as server:
        await AiohttpWire(limit=2).exchange(url_of(server.port))
        gc.collect()
        await server.all_closed()


async def test_a_closed_wire_opens_again(wire):
    async with served() as server:
        for _ in range(2):
            assert (await wire.exchange(url_of(server.port))).status == 200
            await wire.close()
            await wire.close()
            await server.all_closed()


# ------------------------------------------------------------ what is kept of an exception


def reachable(thing):
    """Every object that can be got at from an exception or outcome, frames excluded."""
    seen, left = {}, [thing]
    while left:
        each = left.pop()
        if id(each) in seen or isinstance(each, type | type(os)):
            continue
        seen[id(each)] = each
        if isinstance(each, BaseException):
            left += [each.args, each.__cause__, each.__context__]
            assert each.__traceback__ is None or not isinstance(thing, Outcome)
        if isinstance(each, dict):
            left += [*each, *each.values()]
        elif isinstance(each, list | tuple | set | frozenset):
            left += each
        left.append(getattr(each, "__dict__", None))
    return seen.values()


@pytest.mark.parametrize(
    "script",
    [
        End.CLOSE,
        End.RESET,
        [HALF, End.CLOSE],
        [answer(x_echo="key-canary")[:-10], End.RESET],
        [b"key-canary key-canary\r\n\r\n", End.CLOSE],
        [b"HTTP/1.1 200 OK\r\nx-echo: key-canary\r\n", End.CLOSE],
        [b"HTTP/1.1 200 OK\r\nkey-canary\r\n\r\n", End.CLOSE],
        [CHUNKED, b"key-canary\r\n", End.CLOSE],
        answer(b"key-canary", content_encoding="gzip"),
        End.HANG,
    ],
)
async def test_no_outcome_holds_the_key(ask, script):
    async with served(script) as server:
        got = await ask(server, idle_timeout=0.1)
    assert isinstance(got, Outcome)
    for each in reachable(got):
        assert "canary" not in repr(each)
    if got.error is not None:
        assert "canary" not in "".join(traceback.format_exception(got.error))


async def test_a_request_and_an_answer_show_neither_key_nor_text():
    request = HttpRequest("http://h/v1", {"Authorization": "canary"}, b"canary")
    assert repr(request) == "HttpRequest('http://h/v1', 6 bytes)"
    assert repr(HttpAnswer(200, {"x": "canary"}, b"canary", 0)) == "HttpAnswer(200, 6 bytes)"
