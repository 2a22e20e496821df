"""Existing clients are wrapped with their own settings; clients that would bypass us are rejected."""

from importlib import import_module

import httpx
import httpx2
import openai
import pytest
from sdk_clients import KEY, ONCE, QUICK, SAY, each_way, in_flight
from sockets import answer, failing, served
from table_test import table_test

from stormbreak import ConfigurationError
from stormbreak.core.engine import Engine
from stormbreak.httpx2 import AsyncTransport, Transport, wrap

PAYLOAD = {"model": "m", "messages": SAY}


@pytest.fixture
def ours(lib):
    return import_module(f"stormbreak.{lib.__name__}")


def transports(client):
    return [client._transport, *(each for each in client._mounts.values() if each is not None)]


@each_way
async def test_a_wrapped_sdk_client_retries_through_our_transport(sdk):
    async with served(failing(503), failing(429)) as server:
        client = sdk.over(server.base_url, sdk._http())
        assert wrap(client, QUICK) is client
        http = getattr(client, "_client", client)
        with pytest.raises(sdk.errors) as caught:
            await sdk.ask(client)
        assert caught.value.response.headers["x-stormbreak-attempts"] == "4"
        assert len(server.requests) == QUICK.retry.max_attempts
        assert in_flight(http._transport) == 0
        await sdk.close(client)
        await server.all_closed()


@each_way
async def test_a_wrapped_client_uses_its_proxy(sdk):
    async with served(failing(503)) as proxy:
        http = sdk._http(proxy=f"http://127.0.0.1:{proxy.port}")
        client = sdk.over("http://api.invalid/v1", http)
        wrap(client, QUICK, allow_http=True)
        with pytest.raises(sdk.errors):
            await sdk.ask(client)
        await sdk.close(client)
    assert len(proxy.requests) == QUICK.retry.max_attempts
    assert {each.line.split("/v1")[0] for each in proxy.requests} == {"POST http://api.invalid"}


async def test_mounts_are_wrapped_and_share_one_engine(lib, ours):
    other = lib.AsyncHTTPTransport()
    mounts = {"http://one.invalid": other, "http://two.invalid": other, "http://no.invalid": None}
    async with lib.AsyncClient(mounts=mounts) as client:
        engine = Engine(QUICK)
        ours.wrap(client, engine)
        wrapped = transports(client)
        assert {type(each) for each in wrapped} == {ours.AsyncTransport}
        assert {id(each.engine) for each in wrapped} == {id(engine)}
        assert len({id(each) for each in wrapped}) == 2
        assert None in client._mounts.values()


async def test_a_wrapped_client_keeps_its_base_url_and_headers(lib, ours):
    async with served(failing(503), answer()) as server:
        client = ours.wrap(lib.AsyncClient(base_url=server.base_url, headers={"x": "1"}), QUICK)
        response = await client.post("/chat/completions", json=PAYLOAD)
        await client.aclose()
        await server.all_closed()
    assert response.headers["x-stormbreak-attempts"] == "2"
    assert {request.headers["x"] for request in server.requests} == {"1"}


def closed():
    client = httpx2.Client()
    client.close()
    return client


@table_test(
    ("make", "wrong"),
    [
        (lambda: wrap(httpx2.Client()), "already"),
        (lambda: httpx2.Client(transport=Transport()), "already"),
        (lambda: httpx2.AsyncClient(transport=AsyncTransport()), "already"),
        (
            lambda: httpx2.Client(transport=Transport(), proxy="http://127.0.0.1:9"),
            "bypasses its stormbreak transport",
        ),
        (
            lambda: openai.OpenAI(
                api_key=KEY,
                http_client=httpx2.Client(
                    transport=Transport(), mounts={"https://a": httpx2.HTTPTransport()}
                ),
            ),
            "bypasses its stormbreak transport",
        ),
        (closed, "the client is closed"),
        (httpx.Client, "got httpx.Client"),
        (lambda: openai.OpenAI(api_key=KEY, http_client=httpx.Client()), "got httpx.Client"),
        (object, "got builtins.object"),
        (
            lambda: httpx2.Client(transport=httpx2.HTTPTransport(retries=2)),
            "retries must be 0, got 2",
        ),
    ],
)
def test_a_client_that_cannot_be_wrapped_is_rejected(make, wrong):
    with pytest.raises(ConfigurationError, match=wrong) as caught:
        wrap(make(), ONCE)
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)


@table_test(
    ("transport", "inner", "wrong"),
    [
        (Transport, httpx2.AsyncHTTPTransport, "a synchronous transport, got AsyncHTTPTransport"),
        (AsyncTransport, httpx2.HTTPTransport, "an asynchronous transport, got HTTPTransport"),
        (Transport, httpx.HTTPTransport, "inner is a transport of httpx, not of httpx2"),
        (Transport, Transport, "already a stormbreak transport"),
    ],
)
def test_an_inner_transport_of_the_wrong_kind_is_rejected(transport, inner, wrong):
    with pytest.raises(ConfigurationError, match=wrong):
        transport(inner=inner())


@pytest.mark.parametrize("trusted", [True, False])
async def test_the_proxy_of_the_environment_is_used_only_with_trust_env(
    lib, ours, trusted, monkeypatch
):
    async with served(answer()) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        transport = ours.AsyncTransport(ONCE, trust_env=trusted)
        async with lib.AsyncClient(transport=transport) as client:
            asking = client.post("http://api.invalid/v1/chat/completions", json=PAYLOAD)
            if trusted:
                assert (await asking).status_code == 200
            else:
                with pytest.raises(lib.ConnectError):
                    await asking
    assert len(proxy.requests) == trusted
