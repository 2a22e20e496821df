"""Hostile peers of both kinds of connection: malformed bytes, broken TLS, failing proxies and addresses."""

import asyncio
import gc
import select
import socket
import ssl
import struct
import threading
import time
import warnings
from contextlib import asynccontextmanager, suppress

import pytest
from malformed_responses import MALFORMED
from on_threads import ConnectionOnThreads
from sockets import BODY, PATIENCE, End, answer, free_port, served, tls

from stormbreak.drivers.blocking import run
from stormbreak.http.h1.address import address_of
from stormbreak.http.h1.async_connection import AsyncConnection
from stormbreak.http.h1.blocking_connect import _secured
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.types import Verdict

TO_THE_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n" + BODY  # the body ends with the connection


@pytest.fixture(params=["awaits", "blocks"])
def kind(request):
    return AsyncConnection if request.param == "awaits" else ConnectionOnThreads


@asynccontextmanager
async def raw(serve):
    """Run a server that passes each connection to `serve` on a thread; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accepting():
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    serve(sock)

        thread = threading.Thread(target=accepting)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            await asyncio.to_thread(thread.join, PATIENCE)


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def ask(connection, url, **more):
    try:
        return await connection.exchange(PreparedRequest(url, {}, b"{}", **more))
    finally:
        await connection.close()


# ------------------------------------------------------------ bytes


async def test_every_malformed_response_is_rejected_and_its_socket_closed(connection):
    """Each is sent whole, in two pieces, and followed by a good response."""
    good, scripts = answer(), []
    for data in MALFORMED.values():
        half = len(data) // 2
        scripts += [
            [data, End.CLOSE],
            [data[:half], 0.001, data[half:], End.CLOSE],
            [data + good, End.CLOSE],
        ]
    async with served(*scripts, good) as server:
        url = f"{server.base_url}/x"
        for number in range(len(scripts)):
            got = await connection.exchange(PreparedRequest(url, {}, b"{}", idle_timeout=5.0))
            assert not isinstance(got, HttpResponse), list(MALFORMED)[number // 3]
        assert (await connection.exchange(PreparedRequest(url, {}, b"{}"))).status == 200
        assert [each.connection for each in server.requests] == list(range(1, len(scripts) + 2))


async def test_a_body_that_ends_with_a_reset_is_cut(connection):
    """Found: it was accepted as a body that ends with its connection."""
    async with served([TO_THE_CLOSE, End.RESET]) as server:
        got = await connection.exchange(PreparedRequest(f"{server.base_url}/x", {}, b"{}"))
    assert (got.verdict, got.detail) == (Verdict.BROKEN, "body was cut")


async def test_a_refusal_received_before_a_failed_write_is_read(connection):
    """Found: if the write met the reset first, the refusal was read and then lost."""
    connected, refused = threading.Event(), threading.Event()

    def serve(sock):
        connected.wait(PATIENCE)
        sock.sendall(answer(status=413))
        reset(sock)
        sock.close()
        refused.set()

    async def body():
        connected.set()
        refused.wait(PATIENCE)  # the loop has not read it yet
        yield b"x"

    async with raw(serve) as port:
        got = await connection.exchange(PreparedRequest(f"http://127.0.0.1:{port}/x", {}, body()))
    assert got.status == 413


# ------------------------------------------------------------ TLS


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "cut off"])
async def test_a_body_over_tls_needs_close_notify_to_be_complete(kind, certificates, announced):
    """RFC 9112, section 9.8. Found: a cut connection completed the body."""
    context = tls(certificates[0])

    def serve(sock):
        with context.wrap_socket(sock, server_side=True) as secured:
            secured.recv(65536)
            secured.sendall(TO_THE_CLOSE)
            if announced:
                with suppress(OSError):  # the client sends no close_notify
                    secured.unwrap()

    async with raw(serve) as port:
        connection = kind(limit=1, tls=ssl.create_default_context(cafile=certificates[0][0]))
        got = await ask(connection, f"https://localhost:{port}/x")
    if announced:
        assert (got.status, got.body) == (200, BODY)
    else:
        assert (got.verdict, got.detail) == (Verdict.BROKEN, "body was cut")


@pytest.mark.parametrize(
    ("does", "verdict", "detail"),
    [
        ("closes before the handshake", Verdict.CONNECT_FAILED, None),
        ("resets before the handshake", Verdict.CONNECT_FAILED, None),
        ("speaks HTTP", Verdict.CONNECT_FAILED, "TLS failed"),
        ("is silent in the handshake", Verdict.CONNECT_FAILED, "connection timed out"),
        ("drips in the handshake", Verdict.CONNECT_FAILED, "connection timed out"),
        ("closes after the handshake", Verdict.RESET, "connection lost"),
        ("sends half a record", Verdict.TIMEOUT, "went silent"),
        ("sends a broken record", Verdict.RESET, "connection lost"),
    ],
)
async def test_a_tls_failure_of_the_peer_has_its_verdict(kind, certificates, does, verdict, detail):
    context, over = tls(certificates[0]), threading.Event()

    def serve(sock):
        if does == "resets before the handshake":
            reset(sock)
        elif does == "speaks HTTP":
            sock.sendall(answer())
        elif does == "is silent in the handshake":
            over.wait(PATIENCE)
        elif does == "drips in the handshake":
            for byte in b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76" * 9:
                try:
                    sock.sendall(bytes([byte]))
                except OSError:
                    break
                if over.wait(0.02):
                    break
        elif "handshake" not in does or "after" in does:
            wrapped = context.wrap_socket(sock.dup(), server_side=True)
            if "record" in does:
                wrapped.recv(65536)
                record = b"\x17\x03\x03\x00\x40" + b"x" * (20 if "half" in does else 64)
                sock.sendall(record)
                over.wait(PATIENCE)
            socket.socket.close(wrapped)

    async with raw(serve) as port:
        connection = kind(limit=1, tls=ssl.create_default_context(cafile=certificates[0][0]))
        began = time.monotonic()
        got = await ask(
            connection,
            f"https://localhost:{port}/x",
            connect_timeout=0.3 if "in the handshake" in does else PATIENCE,
            idle_timeout=0.3 if "half" in does else PATIENCE,
        )
        over.set()
    assert got.verdict is verdict
    assert detail in (None, got.detail)
    assert time.monotonic() - began < PATIENCE


def test_a_reset_before_tls_begins_leaves_no_socket_open(certificates):
    """Found on a busy machine: Python takes over the socket, and then finds that the peer is gone."""
    context = ssl.create_default_context(cafile=certificates[0][0])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
        reset(peer)
        peer.close()
        select.select([sock], [], [], PATIENCE)
        address = address_of(f"https://localhost:{listener.getsockname()[1]}/x")
    sock.setblocking(False)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(OSError, match="reset"):
            run(_secured(sock, address, context, time.monotonic() + PATIENCE))
        gc.collect()
    assert warned == []


# ------------------------------------------------------------ addresses and proxies


def resolved(monkeypatch, *addresses):
    """Let every host name resolve to these addresses."""
    found = [
        (
            socket.AF_INET6 if ":" in host else socket.AF_INET,
            socket.SOCK_STREAM,
            0,
            "",
            (host, port),
        )
        for host, port in addresses
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


@pytest.mark.parametrize("first", ["refuses", "is silent", "has no route"])
async def test_a_dead_first_address_delays_a_call_only_by_the_stagger(
    connection, monkeypatch, full_port, first
):
    dead = {
        "refuses": ("::1", free_port()),
        "is silent": ("127.0.0.1", full_port),
        "has no route": ("ff00::1", 9),
    }
    async with served() as server:
        resolved(monkeypatch, dead[first], ("127.0.0.1", server.port))
        began = time.monotonic()
        got = await connection.exchange(PreparedRequest("http://two.example/x", {}, b"{}"))
    assert got.status == 200
    assert time.monotonic() - began < PATIENCE


async def test_a_host_with_only_dead_addresses_times_out(connection, monkeypatch, full_port):
    resolved(
        monkeypatch, ("::1", free_port()), ("127.0.0.1", full_port), ("127.0.0.1", free_port())
    )
    request = PreparedRequest("http://three.example/x", {}, b"{}", connect_timeout=0.6)
    got = await connection.exchange(request)
    assert (got.verdict, got.detail) == (Verdict.CONNECT_FAILED, "connection timed out")


async def test_a_hanging_name_lookup_times_out(connection, monkeypatch):
    over = threading.Event()

    def hangs(*_, **__):
        over.wait(PATIENCE)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    request = PreparedRequest("http://slow.example/x", {}, b"{}", connect_timeout=0.1)
    got = await connection.exchange(request)
    over.set()
    assert (got.verdict, got.detail) == (Verdict.CONNECT_FAILED, "connection timed out")


DRIP = [item for byte in b"HTTP/1.1 200 Connec" for item in (bytes([byte]), 0.03)]


@pytest.mark.parametrize(
    ("script", "detail"),
    [
        ([*DRIP, End.HANG], "the proxy: connection timed out"),
        ([End.HANG], "the proxy: connection timed out"),
        ([b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, End.HANG], "the proxy: connection lost"),
        ([b"SSH-2.0-OpenSSH_9.6\r\n", End.HANG], "the proxy: connection lost"),
        ([b"HTTP/1.1 20", End.RESET], "the proxy: connection lost"),
        ([answer(status=301, location="http://evil.example")], "the proxy refused with status 301"),
        ([b"HTTP/1.1 200 OK\r\n\r\n", End.CLOSE], None),
        ([b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", End.CLOSE], None),
    ],
)
async def test_a_proxy_that_does_not_connect_is_connect_failed(script, detail, kind):
    async with served(script) as proxy:
        connection = kind(
            limit=1, proxy=f"http://127.0.0.1:{proxy.port}", tls=ssl.create_default_context()
        )
        got = await ask(
            connection,
            "https://model.example/x",
            connect_timeout=0.3 if detail and "timed out" in detail else PATIENCE,
        )
        await proxy.all_closed()
    assert got.verdict is Verdict.CONNECT_FAILED
    assert detail in (None, got.detail)
    assert not got.maybe_processed
