"""Calls through real proxies: haproxy and nginx in front of a server, with and without TLS; tinyproxy as a forward proxy."""

import asyncio
import ssl
from contextlib import asynccontextmanager
from itertools import product

import pytest
from chat_stream import WHOLE_ANSWER
from clients import ONCE, PAYLOAD, SAY
from malformed_responses import MALFORMED
from middle_boxes import running
from on_threads import ClientOnThreads, ConnectionOnThreads
from sockets import End, answer, served, tls

from stormbreak.http.client import AsyncClient
from stormbreak.http.h1.async_connection import AsyncConnection
from stormbreak.http.prepared_request import PreparedRequest
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.types import Verdict

KINDS = pytest.mark.parametrize("kind", ["awaits", "blocks"])
FRONTS = pytest.mark.parametrize("front", ["haproxy", "nginx"])
CLIENTS = {"awaits": AsyncClient, "blocks": ClientOnThreads}
CONNECTIONS = {"awaits": AsyncConnection, "blocks": ConnectionOnThreads}
KEY = "sk-canary-0123456789"
REFUSALS = (401, 407)
FAILED = (Verdict.BROKEN, Verdict.RESET)


def request_to(url, **more):
    return PreparedRequest(f"{url}/v1/x", {}, b"{}", **more)


def urls(box):
    return [f"http://127.0.0.1:{box.plain}", f"https://localhost:{box.secure}"]


async def streamed(client):
    """Return the texts of a stream."""
    if isinstance(client, AsyncClient):
        async with client.stream("chat/completions", PAYLOAD) as stream:
            return [text async for text in stream.texts()]

    def read():
        with client.client.stream("chat/completions", PAYLOAD) as stream:
            return list(stream.texts())

    return await asyncio.to_thread(read)


@KINDS
@FRONTS
async def test_calls_and_streams_pass_a_reverse_proxy(
    front, kind, certificates, tmp_path, monkeypatch
):
    certificate = certificates[0]
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    async with served(answer(), WHOLE_ANSWER, answer(), answer(), WHOLE_ANSWER, answer()) as server:
        with running(front, tmp_path, server.port, certificate) as box:
            for url in urls(box):
                make = CLIENTS[kind]
                async with make(
                    base_url=f"{url}/v1", api_key=KEY, model="m", policy=ONCE
                ) as client:
                    assert (await client.chat(SAY)).text == "fine"
                    assert await streamed(client) == ["hello", " there"]
                    assert (await client.chat(SAY)).text == "fine"
    assert {each.headers["authorization"] for each in server.requests} == {f"Bearer {KEY}"}


@KINDS
@FRONTS
async def test_a_connection_to_a_reverse_proxy_is_reused_and_recovers_from_its_restart(
    front, kind, certificates, tmp_path
):
    certificate = certificates[0]
    async with served(answer()) as server:
        with running(front, tmp_path, server.port, certificate) as box:
            for url in urls(box):
                context = ssl.create_default_context(cafile=certificate[0])
                pooled = AsyncConnection(limit=4, tls=context)
                connection = ConnectionOnThreads.of(pooled) if kind == "blocks" else pooled
                got = [await connection.exchange(request_to(url)) for _ in range(4)]
                pool = pooled.blocking._pool if kind == "blocks" else pooled._pool()
                assert ([each.status for each in got], len(pool.sockets)) == ([200] * 4, 1)

                box.stop()
                lost = await connection.exchange(request_to(url))
                box.start()
                back = await connection.exchange(request_to(url))
                assert (lost.verdict, lost.maybe_processed) == (Verdict.CONNECT_FAILED, False)
                assert (back.status, len(pool.sockets)) == (200, 1)
                await connection.close()


@KINDS
@FRONTS
async def test_a_malformed_response_behind_a_reverse_proxy_is_no_false_success(
    front, kind, certificates, tmp_path
):
    """The proxy answers 502, passes on what we reject, or repairs it to the intended response."""
    certificate, passed = certificates[0], {}
    scripts = [[data, End.CLOSE] for data in MALFORMED.values()]
    async with served(*scripts, *scripts, answer()) as server:
        with running(front, tmp_path, server.port, certificate) as box:
            context = ssl.create_default_context(cafile=certificate[0])
            connections = {url: CONNECTIONS[kind](limit=4, tls=context) for url in urls(box)}
            for (url, connection), name in product(connections.items(), MALFORMED):
                got = await connection.exchange(request_to(url, idle_timeout=2.0))
                if isinstance(got, HttpResponse) and got.succeeded:
                    passed[name] = got.body
                else:
                    assert isinstance(got, HttpResponse) or got.verdict in FAILED, name
            assert (await connection.exchange(request_to(url))).status == 200
            for connection in connections.values():
                await connection.close()
    assert len(server.requests) == 2 * len(MALFORMED) + 1
    assert set(passed.values()) <= {b"hello"}
    assert len(passed) < len(MALFORMED) / 3


# ------------------------------------------------------------ tinyproxy


@asynccontextmanager
async def behind(kind, place, certificate, *, credentials):
    """Yield a plain server, a TLS server, and a connection to each through tinyproxy."""
    context = ssl.create_default_context(cafile=certificate[0])
    async with served() as plain, served(ssl=tls(certificate)) as secure:
        with running("tinyproxy", place, 0, certificate) as box:
            proxy = f"http://{credentials}127.0.0.1:{box.plain}"
            connections = [CONNECTIONS[kind](limit=4, proxy=proxy, tls=context) for _ in range(2)]
            yield connections, (plain, secure)
            for connection in connections:
                await connection.close()


def both(plain, secure):
    return [f"http://127.0.0.1:{plain.port}", f"https://localhost:{secure.port}"]


@KINDS
async def test_a_forward_proxy_gets_the_credentials_and_the_server_does_not(
    kind, certificates, tmp_path
):
    async with behind(kind, tmp_path, certificates[0], credentials="user:s3cret@") as scene:
        connections, servers = scene
        for connection, url, calls in zip(connections, both(*servers), (1, 3), strict=True):
            for _ in range(calls):
                assert (await connection.exchange(request_to(url))).status == 200
    for server in servers:
        assert {each.line for each in server.requests} == {"POST /v1/x HTTP/1.1"}
        assert not any("proxy-authorization" in each.headers for each in server.requests)
    assert [(each.opened, len(each.requests)) for each in servers] == [(1, 1), (1, 3)]


@KINDS
@pytest.mark.parametrize("credentials", ["user:wr0ng-canary@", ""], ids=["wrong", "none"])
async def test_a_refusal_of_a_forward_proxy_is_an_error_without_credentials(
    kind, credentials, certificates, tmp_path
):
    async with behind(kind, tmp_path, certificates[0], credentials=credentials) as scene:
        connections, servers = scene
        pairs = zip(connections, both(*servers), strict=True)
        answered, refused = [
            await connection.exchange(request_to(url)) for connection, url in pairs
        ]
    assert answered.status in REFUSALS
    assert (refused.verdict, refused.maybe_processed) == (Verdict.CONNECT_FAILED, False)
    assert refused.detail in {f"the proxy refused with status {status}" for status in REFUSALS}
    assert "wr0ng-canary" not in f"{answered!r} {refused!r}"
    assert [each.requests for each in servers] == [[], []]
