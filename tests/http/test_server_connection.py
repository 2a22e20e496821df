"""A server connection on real sockets: one request at a time, bounds, disconnects, and graceful shutdown."""

import asyncio
import errno
import socket
import time
from contextlib import asynccontextmanager, suppress

import pytest
from gateways import until
from malformed_requests import MALFORMED
from table_test import table_test
from virtual_loop import in_virtual_time

from stormbreak.errors import ConfigurationError
from stormbreak.http.h1.server import HttpServer
from stormbreak.http.h1.server_connection import (
    ServerBounds,
    ServerConnection,
    ServerResponse,
)

GET = b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n"
CLOSING = b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
SHORT = {"head_timeout": 0.1, "idle_timeout": 0.2, "min_body_rate": 1e6}
LARGE = 16 << 20  # more than the kernel buffers for a client that does not read


class Echo:
    """Answers with the path and the body; /slow waits for `go`, /stream sends pieces, /large sends much."""

    def __init__(self):
        self.go = asyncio.Event()
        self.in_flight = self.peak = 0
        self.cancelled = []
        self.finished = []
        self.refused = None

    def refuse(self, head, connection):
        return self.refused

    def unreadable(self, status, message, path):
        return ServerResponse(status, f"{path} {message}".encode(), media="text/plain")

    async def answer(self, request, connection):
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        connection.survives = request.path.startswith("/finish")
        try:
            await self._answer(request, connection)
            self.finished.append(request.path)
        except asyncio.CancelledError:
            self.cancelled.append((request.path, connection.expired))
            raise
        finally:
            self.in_flight -= 1

    async def _answer(self, request, connection):
        path = request.path
        if path.startswith("/fail"):
            raise ZeroDivisionError
        if path == "/cancels":
            raise asyncio.CancelledError
        if path == "/breaks":
            connection.begin(200, "text/plain", [])
            connection.send(b"a")
            raise ZeroDivisionError
        if path in ("/slow", "/finish"):
            await self.go.wait()
        if path == "/stream":
            connection.begin(200, "text/plain", [("x-a", "b")])
            connection.send(b"one")
            await self.go.wait()
            connection.send(b"two")
            connection.end()
        elif path == "/large":
            connection.begin(200, "text/plain", [])
            for _ in range(64):
                connection.send(b"z" * (LARGE // 64))
                self.sent = getattr(self, "sent", 0) + 1
                await connection.drained()
            connection.end()
        else:
            connection.respond(
                ServerResponse(200, path.encode() + request.body, media="text/plain")
            )


@asynccontextmanager
async def serving(**bounds):
    app = Echo()
    server = HttpServer(app, ServerBounds(**bounds))
    await server.start("127.0.0.1", 0)
    try:
        yield app, server
    finally:
        await server.close()


@asynccontextmanager
async def dialled(server, data=b""):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(data)
        yield reader, writer
    finally:
        writer.close()


async def answer(reader):
    """Read one response with its length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    return int(head.split()[1]), head, await reader.readexactly(length)


async def test_requests_of_a_connection_are_answered_one_at_a_time_in_order():
    async with serving() as (app, server), dialled(server) as (reader, writer):
        writer.write(GET % b"slow" + POST + GET % b"c")
        await asyncio.sleep(0.02)
        writer.write(GET % b"d" * 20)
        app.go.set()
        bodies = [(await answer(reader))[2] for _ in range(23)]
        assert bodies == [b"/slow", b"/hello", b"/c", *[b"/d"] * 20]
        assert (app.peak, server.connections) == (1, 1)


async def test_a_request_in_single_bytes_is_answered():
    async with serving() as (_, server), dialled(server) as (reader, writer):
        for byte in POST:
            writer.write(bytes([byte]))
            await writer.drain()
        assert (await answer(reader))[2] == b"/hello"
        await until(lambda: server.held == 0)


@table_test(
    ("request_", "kept", "word"),
    [
        (GET % b"a", True, None),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", False, b"connection: close"),
        (b"GET /a HTTP/1.0\r\nHost: h\r\n\r\n", False, b"connection: close"),
        (b"GET /a HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n", True, b"connection: keep-alive"),
    ],
)  # fmt: skip
async def test_keep_alive_follows_version_and_connection_header(request_, kept, word):
    async with serving() as (_, server), dialled(server, request_) as (reader, writer):
        _, head, body = await answer(reader)
        assert body == b"/a"
        assert word is None or word in head
        if kept:
            writer.write(GET % b"b")
            assert (await answer(reader))[2] == b"/b"
        else:
            assert await reader.read() == b""


async def test_the_response_to_head_has_no_body():
    head = b"HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n"
    async with serving() as (_, server), dialled(server, head + GET % b"b") as (reader, _):
        response = await reader.readuntil(b"\r\n\r\n")
        assert b"content-length: 2\r\n" in response
        assert (await answer(reader))[2] == b"/b"


async def test_a_streamed_response_is_sent_in_chunks_at_once():
    async with serving() as (app, server), dialled(server, GET % b"stream") as (reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert b"x-a: b" in head
        assert await reader.readexactly(8) == b"3\r\none\r\n"
        app.go.set()
        assert await reader.readexactly(13) == b"3\r\ntwo\r\n0\r\n\r\n"
        writer.write(GET % b"b")
        assert (await answer(reader))[2] == b"/b"


async def test_a_stream_to_an_http_1_0_client_ends_with_its_connection():
    old = b"GET /stream HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n"
    async with serving() as (app, server), dialled(server, old) as (reader, _):
        app.go.set()
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert body == b"onetwo"
        assert b"connection: close" in head


async def test_a_client_that_does_not_read_pauses_the_response():
    async with serving() as (app, server), dialled(server, GET % b"large") as (reader, _):
        reader._transport.pause_reading()
        await until(lambda: getattr(app, "sent", 0) > 1)
        await asyncio.sleep(0.05)
        assert app.sent < 64
        reader._transport.resume_reading()
        data = b""
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data += await reader.read(1 << 20)
        assert data.count(b"z") == LARGE


@in_virtual_time
async def test_a_client_that_never_reads_is_disconnected():
    async with serving(**SHORT) as (app, server), dialled(server, GET % b"large") as (reader, _):
        reader._transport.pause_reading()
        await until(lambda: app.cancelled and server.connections == 0)
        assert app.cancelled == [("/large", False)]


@in_virtual_time
async def test_a_large_last_response_reaches_a_slow_client_completely():
    request = b"GET /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    async with serving(idle_timeout=2.0) as (_, server), dialled(server, request) as (reader, _):
        data = b""
        while piece := await reader.read(1 << 18):
            data += piece
            if len(data) < LARGE // 2:
                await asyncio.sleep(0.02)
        assert data.endswith(b"\r\n0\r\n\r\n")


async def test_expect_100_continue_is_answered():
    expects = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    async with serving() as (_, server), dialled(server, expects) as (reader, writer):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello")
        assert (await answer(reader))[2] == b"/hello"


async def test_a_request_is_rejected_before_its_body_is_sent():
    expects = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    async with serving() as (app, server):
        app.refused = ServerResponse(401, b"no")
        async with dialled(server, expects) as (reader, _):
            status, head, body = await answer(reader)
            assert (status, body) == (401, b"no")
            assert b"connection: close" in head
            assert await reader.read() == b""


async def test_malformed_requests_get_a_400_and_close_the_connection():
    async with serving() as (app, server):
        for name, data in MALFORMED.items():
            async with dialled(server, GET % b"good" + data + GET % b"never") as (reader, _):
                assert (await answer(reader))[2] == b"/good", name
                status, head, _ = await answer(reader)
                assert status == 400, name
                assert b"connection: close" in head, name
                assert await reader.read() == b"", name
        assert set(app.finished) == {"/good"}


@table_test(
    ("data", "status", "word"),
    [
        (b"POST / HTT", 408, b"head"),
        (b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhell", 408, b"/x the request body"),
        (b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n", 413, b"/x"),
        (b"GET /" + b"x" * 70_000, 431, b"head"),
    ],
)  # fmt: skip
@in_virtual_time
async def test_a_request_beyond_a_bound_gets_its_status(data, status, word):
    async with serving(**SHORT) as (_, server), dialled(server, data) as (reader, _):
        got, _, body = await answer(reader)
        assert got == status
        assert word in body
        assert await reader.read() == b""


@in_virtual_time
async def test_a_slow_body_above_the_minimum_rate_is_read():
    bounds = {"head_timeout": 0.5, "min_body_rate": 20.0}
    start = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 60\r\n\r\n"
    async with serving(**bounds) as (_, server), dialled(server, start) as (reader, writer):
        for _ in range(6):
            writer.write(b"x" * 10)
            await asyncio.sleep(0.1)
        assert (await answer(reader))[0] == 200


@in_virtual_time
async def test_a_blank_line_in_two_pieces_starts_no_request():
    """Found: the timeout of the next request started at the blank line, and it was rejected as too slow."""
    async with serving(head_timeout=0.4) as (_, server), dialled(server, b"\r") as (reader, writer):
        for piece in (b"\n", b"GET /a HT", b"TP/1.1\r\nHost: h\r\n\r\n"):
            await asyncio.sleep(0.25)
            writer.write(piece)
        assert (await answer(reader))[0] == 200


@in_virtual_time
async def test_only_idle_connections_are_closed():
    async with (
        serving(**SHORT) as (app, server),
        dialled(server) as (idle, _),
        dialled(server, GET % b"slow") as (busy, _),
    ):
        began = time.monotonic()
        assert await idle.read() == b""
        assert time.monotonic() - began < 5
        await asyncio.sleep(0.3)
        app.go.set()
        assert (await answer(busy))[2] == b"/slow"


async def test_connections_and_buffered_bytes_are_bounded():
    start = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\n\r\n"
    async with serving(max_connections=2, max_held=3000) as (_, server):
        async with (
            dialled(server, start + b"x" * 1900) as (_, _),
            dialled(server, start) as (one, w),
        ):
            await until(lambda: server.held >= 1900)
            async with dialled(server, GET % b"a") as (third, _):
                assert (await answer(third))[0] == 503
                assert await third.read() == b""
            w.write(b"x" * 1500)
            status, head, _ = await answer(one)
            assert status == 503
            assert b"retry-after: 1" in head
        await until(lambda: server.held == 0 and server.connections == 0)


@table_test("path", [b"slow", b"stream", b"finish"])
async def test_a_disconnect_cancels_the_answer_unless_it_survives(path):
    async with serving() as (app, server):
        async with dialled(server, GET % path) as _:
            await until(lambda: app.in_flight == 1)
        if path == b"finish":
            await asyncio.sleep(0.05)
            assert app.cancelled == []
            app.go.set()
            await until(lambda: app.finished == ["/finish"])
        else:
            await until(lambda: app.cancelled == [("/" + path.decode(), False)])
        await until(lambda: server.connections == 0)


@table_test("path", [b"a", b"slow", b"finish", b"stream", b"fail"])
async def test_a_connection_has_one_task_that_ends_with_it(path):
    async with serving() as (app, server):
        others = asyncio.all_tasks()
        async with dialled(server) as (reader, writer):
            for _ in range(3):
                writer.write(GET % b"a")
                await answer(reader)
                (task,) = asyncio.all_tasks() - others
            writer.write(GET % path)
            await asyncio.sleep(0.02)
            assert asyncio.all_tasks() - others == {task}
        await asyncio.sleep(0.02)
        app.go.set()
        await until(lambda: server.connections == 0)
        await until(lambda: asyncio.all_tasks() == others)


@table_test("path", [b"slow", b"finish"])
async def test_a_disconnect_frees_the_buffered_bytes(path):
    async with serving() as (app, server):
        async with dialled(server, GET % path + POST * 3) as (_, writer):
            await until(lambda: app.in_flight == 1)
            writer.write(POST * 3)
            await until(lambda: server.held >= 3 * len(POST))
        app.go.set()
        await until(lambda: server.connections == 0)
        assert server.held == 0


async def test_an_exception_of_the_application_is_a_500_or_a_broken_response(caplog):
    async with serving() as (_, server):
        async with dialled(server, GET % b"fail" + GET % b"a") as (reader, _):
            assert (await answer(reader))[0] == 500
            assert (await answer(reader))[2] == b"/a"
        async with dialled(server, GET % b"breaks") as (reader, _):
            assert (await reader.read()).endswith(b"\r\n\r\n1\r\na\r\n")
        async with dialled(server, b"GET /breaks HTTP/1.0\r\nHost: h\r\n\r\n") as (reader, _):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        assert [each.args[0] for each in caplog.records] == ["ZeroDivisionError"] * 3


async def test_a_cancelled_answer_closes_an_http_1_0_connection():
    """Found: a pipelined request was never answered, and a drain of the server failed."""
    head = b"HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n"
    async with serving() as (app, server):
        async with dialled(server, b"GET /cancels %bGET /a %b" % (head, head)) as (reader, _):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        await until(lambda: server.connections == 0)
        assert app.finished == []


async def test_a_drain_serves_connections_that_wait_to_be_accepted():
    """Found: two workers drained during a burst of 500, and the system reset 397 connections."""
    async with serving() as (_, server):
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
        for client in clients:
            client.sendall(CLOSING)  # the event loop has no turn to accept one
        clients[0].close()
        await server.drain(60.0)
        for client in clients[1:]:
            with client:
                client.settimeout(30.0)
                assert client.recv(1_000).endswith(b"/a")


async def test_a_pause_of_the_process_while_it_accepts_does_not_make_a_connection_idle(
    jump, monkeypatch
):
    """Found: a drain closed a connection before it read the request that had arrived."""

    def accepted(host):
        connection = ServerConnection(host)
        jump(2.0)  # more than a drain leaves an idle connection
        return connection

    monkeypatch.setattr("stormbreak.http.h1.server.ServerConnection", accepted)
    async with serving() as (_, server):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30.0) as client:
            client.sendall(CLOSING)
            draining = asyncio.create_task(server.drain(60.0))
            assert (await asyncio.to_thread(client.recv, 1_000)).endswith(b"/a")
        await draining


async def test_clients_that_reconnect_do_not_delay_a_drain():
    """Found: 200 clients without keep-alive delayed a drain with a grace of 3 s to 25 s, and were reset."""
    async with serving() as (_, server):
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        admit = server.admit

        def admit_and_come_back(connection):
            if len(clients) < 100:
                with suppress(OSError):
                    clients.append(socket.create_connection(("127.0.0.1", server.port)))
            return admit(connection)

        server.admit = admit_and_come_back
        await server.drain(0.0)
        assert len(clients) < 10
        for client in clients:
            client.close()


async def test_a_drain_ends_without_free_file_descriptors(monkeypatch):
    def fails(*_):
        raise OSError(errno.EMFILE, "too many open files")

    async with serving() as (_, server), asyncio.timeout(30.0):
        monkeypatch.setattr(socket.socket, "accept", fails)
        await server.drain(0.0)


class Transport:
    """A transport in a state that real sockets have only for a moment."""

    def __init__(self, *, was_reset=False, unsent=0):
        self.was_reset = was_reset
        self.unsent = unsent
        self.ended = self.aborted = False

    def get_extra_info(self, name):
        return ("127.0.0.1", 1)

    def get_write_buffer_size(self):
        return self.unsent

    def is_closing(self):
        return False

    def write(self, data):
        pass

    def write_eof(self):
        if self.was_reset:
            raise OSError(107, "Transport endpoint is not connected")
        self.ended = True

    def resume_reading(self):
        pass

    def abort(self):
        self.aborted = True


def connected(transport):
    """Return a connection that has received its last request."""
    connection = ServerConnection(HttpServer(Echo()))
    connection.connection_made(transport)
    connection.data_received(b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    return connection


async def test_a_reset_connection_is_aborted_without_a_log_line(caplog):
    transport = Transport(was_reset=True)
    connected(transport)
    await until(lambda: transport.aborted)
    assert caplog.text == ""


@table_test(("unsent", "waits"), [(1000, True), (0, False)])
async def test_unsent_bytes_are_sent_to_a_half_closed_client(unsent, waits):
    transport = Transport(unsent=unsent)
    connection = connected(transport)
    await until(lambda: transport.ended)
    assert connection.eof_received() is waits
    assert transport.aborted is not waits


async def test_a_drain_finishes_requests_that_have_begun():
    async with serving() as (app, server):
        async with dialled(server, GET % b"stream") as (busy, _), dialled(server) as (idle, writer):
            await busy.readuntil(b"one\r\n")
            draining = asyncio.create_task(server.drain(5.0))
            await asyncio.sleep(0.01)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(GET % b"late")
            _, head, body = await answer(idle)
            assert body == b"/late"
            assert b"connection: close" in head
            assert not draining.done()
            app.go.set()
            assert await busy.read() == b"3\r\ntwo\r\n0\r\n\r\n"
        await asyncio.wait_for(draining, 30)
        assert app.cancelled == []


async def test_a_request_beyond_the_grace_is_cancelled():
    async with serving() as (app, server):
        async with dialled(server, GET % b"stream") as (busy, _):
            await busy.readuntil(b"one\r\n")
            draining = asyncio.create_task(server.drain(0.05))
            assert await busy.read() == b""
        await asyncio.wait_for(draining, 30)
        assert app.cancelled == [("/stream", True)]


async def test_a_port_in_use_is_an_error_that_names_it(free_port):
    with pytest.raises(
        ConfigurationError, match=f"127.0.0.1 port {free_port}: Address already in use"
    ):
        await HttpServer(Echo()).start("127.0.0.1", free_port)
