"""Real proxies and real TLS on sockets."""

import asyncio
import ssl
import traceback
from contextlib import asynccontextmanager, suppress

import pytest
from on_threads import ClientOnThreads
from sockets import End, answer, served, tls

from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import ConnectionLostError
from stormbreak.http.client import AsyncClient

KEY = "sk-canary-0123456789"
ONCE = Policy(retry=RetryPolicy(max_attempts=1))
SAY = [{"role": "user", "content": "hello"}]


@pytest.fixture(params=[AsyncClient, ClientOnThreads], ids=["awaits", "blocks"])
def make(request):
    """Return the class of each kind of client."""
    return request.param


@pytest.fixture
def client_of(make):
    return lambda url: make(base_url=url, api_key=KEY, model="m", policy=ONCE)


async def test_ssl_cert_file_is_trusted(certificates, monkeypatch, client_of):
    trusted, _ = certificates
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted[0]))
    async with served(ssl=tls(trusted)) as server:
        async with client_of(f"https://localhost:{server.port}/v1") as client:
            assert (await client.chat(SAY)).text == "fine"
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("case", ["foreign", "name", "machine"])
async def test_no_key_is_sent_to_a_server_with_a_wrong_certificate(
    certificates, monkeypatch, case, client_of
):
    trusted, foreign = certificates
    if case != "machine":
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted[0]))
    host = "127.0.0.1" if case == "name" else "localhost"
    async with served(ssl=tls(foreign if case == "foreign" else trusted)) as server:
        async with client_of(f"https://{host}:{server.port}/v1") as client:
            with pytest.raises(ConnectionLostError) as caught:
                await client.chat(SAY)
        assert not server.requests
    assert "connect_failed after 1 attempt(s) (certificate refused: " in str(caught.value)
    reason = "not valid for '127.0.0.1'" if case == "name" else "self"
    assert reason in str(caught.value)
    assert isinstance(caught.value.__cause__, ssl.SSLError)


async def test_https_to_a_plain_http_server_raises_tls_failed(client_of):
    async def plain(reader, writer):
        await reader.read(100)
        writer.write(answer(status=400))
        writer.close()

    listener = await asyncio.start_server(plain, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, client_of(f"https://localhost:{port}/v1") as client:
        with pytest.raises(ConnectionLostError, match="TLS failed"):
            await client.chat(SAY)


# ------------------------------------------------------------ proxies


@asynccontextmanager
async def tunnelling(port):
    """Run a proxy that accepts every CONNECT and connects to `port` of this machine."""
    heads = []

    async def pump(reader, writer):
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def tunnel(reader, writer):
        with suppress(asyncio.CancelledError):
            heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            there, out = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            await asyncio.gather(pump(reader, out), pump(there, writer))

    listener = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1], heads
    finally:
        listener.close()
        await asyncio.sleep(0.02)


async def test_https_uses_a_tunnel_that_never_sees_the_key(certificates, monkeypatch, client_of):
    trusted, _ = certificates
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted[0]))
    async with served(ssl=tls(trusted)) as server, tunnelling(server.port) as (port, heads):
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@127.0.0.1:{port}")
        async with client_of("https://model.example/v1") as client:
            assert (await client.chat(SAY)).text == "fine"
    (head,) = heads
    assert head.startswith("CONNECT model.example:443 HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic" in head
    assert KEY not in head


async def test_http_requests_are_sent_to_the_proxy(monkeypatch, make):
    async with served() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{proxy.port}")
        async with make(base_url="http://model.example/v1", model="m") as client:
            assert (await client.chat(SAY)).text == "fine"
        assert proxy.requests[0].line == "POST http://model.example/v1/chat/completions HTTP/1.1"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (answer(status=407, x_echo="proxysecret"), "the proxy refused with status 407"),
        (answer(status=502), "the proxy refused with status 502"),
        (End.CLOSE, "after 1 attempt"),
    ],
)
async def test_a_refusal_of_the_proxy_shows_no_secret(monkeypatch, script, message, client_of):
    """Found: the refusal counted as a broken answer that might have been billed."""
    async with served(script) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:proxysecret@127.0.0.1:{proxy.port}")
        async with client_of("https://model.example/v1") as client:
            with pytest.raises(ConnectionLostError, match=message) as caught:
                await client.chat(SAY)
    error = caught.value
    shown = f"{error} {error.ended!r} {error.__cause__!r} {error.__context__!r}"
    shown += "".join(traceback.format_exception(error))
    assert "proxysecret" not in shown
    assert KEY not in shown


async def test_an_unreachable_proxy_raises_connection_lost(monkeypatch, unused_tcp_port, client_of):
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:proxysecret@127.0.0.1:{unused_tcp_port}")
    async with client_of("https://model.example/v1") as client:
        with pytest.raises(ConnectionLostError, match="the proxy: connection refused") as caught:
            await client.chat(SAY)
    assert "proxysecret" not in f"{caught.value} {caught.value.ended!r}"
    assert not caught.value.ended.outcome.maybe_processed
