"""The connection classifies an answer as whole, broken, silent or too large."""

import asyncio
import fcntl
import gzip
import socket
import sys
import termios
import time
import zlib

import pytest
from gateways import until
from on_threads import ConnectionOnThreads
from sockets import BODY, CHUNKED, HALF, End, answer, served

from stormbreak.http.h1 import socket_response as h1_response
from stormbreak.http.h1.async_connection import AsyncConnection
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.types import Outcome, Verdict

ZIPPED = gzip.compress(BODY)


async def test_a_whole_answer_has_status_headers_and_body(ask):
    async with served(answer(x_request_id="req_1")) as server:
        got = await ask(server)
    assert isinstance(got, HttpResponse)
    assert (got.status, got.body, got.headers["x-request-id"]) == (200, BODY, "req_1")
    assert abs(got.received_at - time.time()) < 60
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
async def test_a_broken_answer_has_its_verdict_and_detail(ask, script, verdict, detail, status):
    async with served(script) as server:
        got = await ask(server)
        assert isinstance(got, Outcome)
        assert (got.verdict, got.maybe_processed) == (verdict, True)
        if detail is not None:
            assert (got.detail, got.status) == (detail, status)
        await server.all_closed()
        assert len(server.requests) == 1  # the connection retries nothing by itself


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
async def test_every_valid_framing_of_an_answer_is_read(ask, script):
    async with served(script) as server:
        got = await ask(server)
    assert (got.status, got.body) == (200, BODY)


# ------------------------------------------------------------ time


def unread_by(connection):
    """Return the number of bytes that have arrived at the only socket of a connection, and were not read."""
    if isinstance(connection, ConnectionOnThreads):
        (pooled,) = connection.connection._pool.sockets
        sock = pooled.sock
    else:
        (pooled,) = connection._pool().sockets
        sock = pooled.transport.get_extra_info("socket")
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize(
    ("script", "status"),
    [(b"", None), (b"HTTP/1.1 200 OK\r\n", None), (HALF, 200)],
)
async def test_the_idle_timeout_ends_an_attempt_and_its_connection(
    ask, connection, jump, script, status
):
    sent = asyncio.Event()

    async def set_sent(*_):
        sent.set()

    async with served([script, set_sent, End.HANG]) as server:
        asking = asyncio.create_task(ask(server, idle_timeout=60.0))
        await sent.wait()
        await until(lambda: unread_by(connection) == 0)
        while not asking.done():
            jump(60.0)
            await asyncio.sleep(0.01)
        got = await asking
        assert (got.verdict, got.detail, got.status) == (Verdict.TIMEOUT, "went silent", status)
        assert got.maybe_processed
        await server.all_closed()


async def test_a_slow_answer_resets_the_idle_timeout(ask, connection, jump):
    async def pause(*_):
        await until(lambda: unread_by(connection) == 0)
        await asyncio.sleep(0.01)
        jump(30.0)

    pieces = [piece for byte in answer()[-8:] for piece in (pause, bytes([byte]))]
    async with served([answer()[:-8], *pieces]) as server:
        got = await ask(server, idle_timeout=60.0)
    assert got.body == BODY


# ------------------------------------------------------------ size


async def test_the_size_of_a_body_is_bounded(ask, monkeypatch):
    for module in (h1_response,):
        monkeypatch.setattr(module, "BODY_LIMIT", 2**20)
    async with served(answer(b" " * 2**20), answer(b" " * 2**23)) as server:
        assert len((await ask(server)).body) == 2**20
        got = await ask(server)
        assert (got.verdict, got.status) == (Verdict.BROKEN, 200)
        assert got.detail == "larger than 1 MiB"
        await server.all_closed()


async def test_the_size_of_a_decompressed_body_is_bounded(ask, monkeypatch):
    for module in (h1_response,):
        monkeypatch.setattr(module, "BODY_LIMIT", 2**20)
    bomb = gzip.compress(bytes(64 * 2**20))
    assert len(bomb) < 2**17
    async with served(answer(bomb, content_encoding="gzip")) as server:
        got = await ask(server)
    assert (got.verdict, got.detail) == (Verdict.BROKEN, "larger than 1 MiB")


async def test_the_compression_ratio_of_a_body_is_bounded(ask):
    """A small bomb, far below the size limit, is broken; a megabyte of repeated text is an answer."""
    text = b'{"text": "' + b"the same " * (2**20 // 9) + b'"}'
    fine, bomb = gzip.compress(text), gzip.compress(b" " * 2**24)
    assert len(text) > 400 * len(fine)
    async with served(
        answer(fine, content_encoding="gzip"), answer(bomb, content_encoding="gzip")
    ) as server:
        assert (await ask(server)).body == text
        got = await ask(server)
        assert (got.verdict, got.status) == (Verdict.BROKEN, 200)
        assert got.detail == "unpacks to more than 600 times its size"
        assert got.maybe_processed


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(200, Verdict.BROKEN), (307, None), (413, None)],
)
async def test_a_200_before_the_request_was_sent_is_broken_and_an_error_is_read(
    connection, status, verdict
):
    """The server reads only the head, so that most of the body is unsent when it answers."""
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
        got = await connection.exchange(PreparedRequest(url, {}, b"x" * (32 * 2**20)))
        answered.set()
        server.close()
        await server.wait_closed()

    if verdict is None:
        assert got.status == status
    else:
        assert (got.verdict, got.detail) == (verdict, "answered before the whole request was sent")


async def test_a_large_request_body_is_sent(connection):
    body = b"x" * (3 * 2**20)
    async with served() as server:
        got = await connection.exchange(
            PreparedRequest(f"{server.base_url}/chat/completions", {}, body)
        )

    assert got.status == 200
    assert server.requests[0].body == body
    assert server.requests[0].headers["content-length"] == str(len(body))


def test_the_body_limit_is_64_mib():
    assert h1_response.BODY_LIMIT == 64 * 2**20


async def test_a_header_with_a_line_break_is_invalid_and_not_sent(connection):
    async with served() as server:
        url = f"{server.base_url}/chat/completions"
        got = await connection.exchange(PreparedRequest(url, {"X": "canary\r\nY: z"}, b"{}"))
        await server.all_closed()
    assert (got.verdict, got.maybe_processed) == (Verdict.INVALID, False)
    assert "canary" not in repr(got)
    assert server.requests == []


async def test_a_second_reader_raises_at_once_and_the_first_continues():
    """Found: the first reader was never woken again, and waited for the idle timeout."""
    connection = AsyncConnection(limit=9)
    script = [CHUNKED, 0.3, b"5\r\nhello\r\n0\r\n\r\n"]
    async with served(script) as server:
        request = PreparedRequest(f"{server.base_url}/x", {}, b"{}")
        stream = await connection.open(request)
        first = asyncio.create_task(stream.read())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task reads the response"):
            await stream.read()
        assert await asyncio.wait_for(first, 60) == b"hello"
        assert await stream.read() == b""
    await connection.close()
