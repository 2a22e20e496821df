"""Rotating keys do not accumulate, and targets in use are not evicted."""

import asyncio
import gc
from weakref import ref

import httpx2
import pytest
from sdk_clients import ONCE, QUICK, SAY, in_flight, until
from sockets import End, answer, failing, served

from stormbreak.core.backoff import Backoff
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.http.endpoint import origin_of
from stormbreak.http.routing import OriginConnections
from stormbreak.http.transports import origin_resolver
from stormbreak.httpx2 import AsyncTransport

FEW = 4
ASK = {"model": "m", "messages": SAY}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(origin_resolver, "MAX_ROUTES", FEW)


class Rotating:
    """Makes calls with one key after another."""

    def __init__(self, server, transport):
        self._url = f"{server.base_url}/chat/completions"
        self.transport = transport
        self.http = httpx2.AsyncClient(transport=transport)

    def request(self, key, **more):
        headers = {"authorization": f"Bearer key-{key}-0123456789"}
        return self.http.build_request("POST", self._url, json=ASK | more, headers=headers)

    async def ask(self, *keys):
        return [(await self.http.send(self.request(key))).status_code for key in keys]

    @property
    def keys(self):
        kept = self.transport._resolver._kept.values()
        return [each.routes.endpoint.origin.api_key for each in kept]

    @property
    def targets(self):
        return len(self.transport.snapshot()["targets"])


async def test_the_number_of_kept_keys_is_bounded():
    async with served(answer()) as server:
        rotating = Rotating(server, AsyncTransport(QUICK))
        assert await rotating.ask(*range(300)) == [200] * 300
        assert rotating.targets == FEW
        assert len(rotating.transport._resolver._kept) == FEW
        await rotating.http.aclose()


async def test_the_least_recently_used_key_is_evicted():
    async with served(answer()) as server:
        rotating = Rotating(server, AsyncTransport(QUICK))
        await rotating.ask(0, 1, 2, 3, 0, 4)
        assert rotating.keys == [f"key-{key}-0123456789" for key in (2, 3, 0, 4)]
        await rotating.http.aclose()


async def test_a_key_with_a_call_in_flight_is_not_evicted():
    first = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
    head = answer(b"", content_type="text/event-stream", content_length=10**7)
    async with served([head, first, End.HANG], answer()) as server:
        rotating = Rotating(server, AsyncTransport(QUICK))
        stream = await rotating.http.send(rotating.request("open", stream=True), stream=True)
        await rotating.ask(*range(20))
        assert in_flight(rotating.transport) == 1
        assert rotating.targets == FEW
        await stream.aclose()
        assert "key-open-0123456789" in rotating.keys
        await rotating.ask(*range(20, 40))
        assert "key-open-0123456789" not in rotating.keys
        await rotating.http.aclose()


async def test_a_key_with_a_call_in_backoff_is_not_evicted():
    paused = Policy(
        retry_budget=None,
        retry=RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.5)),
    )
    async with served(failing(500), answer()) as server:
        rotating = Rotating(server, AsyncTransport(paused))
        asking = asyncio.create_task(rotating.ask("slow"))
        await server.asked()
        await until(lambda: in_flight(rotating.transport) == 0)
        await rotating.ask(*range(20))
        assert "key-slow-0123456789" in rotating.keys
        assert await asking == [200]
        await rotating.http.aclose()


async def test_a_target_in_cooldown_is_not_evicted():
    async with served(failing(429, retry_after=60), answer()) as server:
        rotating = Rotating(server, AsyncTransport(ONCE))
        await rotating.ask("hot", *range(20))
        asked = len(server.requests)
        assert await rotating.ask("hot") == [429]
        assert len(server.requests) == asked
        await rotating.http.aclose()


def test_an_origin_has_one_connection_if_two_threads_create_it():
    """Found: two concurrent calls created two connections with separate pools."""
    origin, made = origin_of("https://a.example/v1", None), []

    def connect(_origin):
        made.append(object())
        connection = made[-1]
        if len(made) == 1:
            others.append(here.connection(origin))  # another call arrives before this one is done
        return connection

    others = []
    here = origin_resolver.OriginResolver(
        (), allow_http=False, connections=OriginConnections(connect), forget=lambda _: True
    )
    assert here.connection(origin) is here.connection(origin) is others[0]
    assert here.connections() == (others[0],)


async def test_evicted_routes_are_freed_without_the_garbage_collector():
    """Its connections are freed with it, and collections may be rare."""
    async with served(answer()) as server:
        rotating = Rotating(server, AsyncTransport(QUICK))
        await rotating.ask("first")
        [first] = rotating.transport._resolver._kept.values()
        routes = ref(first.routes)
        del first
        gc.disable()
        try:
            await rotating.ask(*range(FEW + 1))
            assert routes() is None
        finally:
            gc.enable()
        await rotating.http.aclose()


def test_the_number_of_hosts_is_bounded_except_hosts_in_use():
    here = origin_resolver.OriginResolver(
        (),
        allow_http=False,
        connections=OriginConnections(lambda _: object()),
        forget=lambda _: True,
    )
    with here.routes("https://kept.example/v1", None) as kept:
        for number in range(20):
            with here.routes(f"https://{number}.example/v1", None):
                pass
        for number in range(20, 40):
            here.connection(origin_of(f"https://{number}.example/v1", None))
        assert len(here.connections()) <= FEW + 1
        assert kept.routes.connections()[0] in here.connections()
    connection = kept.routes.connections()[0]
    assert here.connection(origin_of("https://kept.example/v1", None)) is connection


def test_the_number_of_hosts_of_one_inner_transport_is_bounded():
    inner = object()
    here = origin_resolver.OriginResolver(
        (), allow_http=False, connections=OriginConnections(lambda _: inner), forget=lambda _: True
    )
    for number in range(20):
        with here.routes(f"https://{number}.example/v1", None):
            pass
    assert len(here.connections()) <= FEW + 1


async def test_a_transport_closes_targets_of_settings_despite_many_hosts(tmp_path, monkeypatch):
    monkeypatch.setenv("TARGET_KEY", "target-canary-0123456789")
    async with served(answer()) as target:
        file = tmp_path / "s.toml"
        file.write_text(
            f'[targets.main]\nbase_url = "{target.base_url}"\nmodel = "m-led"\n'
            'api_key_env = "TARGET_KEY"\n'
        )
        transport = AsyncTransport(str(file))
        async with httpx2.AsyncClient(transport=transport) as http:
            url = "http://127.0.0.1:1/v1/chat/completions"
            assert (await http.post(url, json=ASK | {"model": "main"})).status_code == 200
            for number in range(20):
                transport._resolver.connection(origin_of(f"https://{number}.example/v1", None))
            assert len(transport._resolver.connections()) == FEW
        await target.all_closed()


async def test_a_download_from_an_evicted_host_is_read_to_its_end(monkeypatch):
    monkeypatch.setattr(origin_resolver, "MAX_ROUTES", 1)
    body = b"x" * 10_000
    script = [answer(body[:5000], content_length=10_000), 0.3, body[5000:]]
    async with (
        served(script) as server,
        served(answer(b"{}")) as second,
        served(answer(b"{}")) as third,
    ):
        transport = AsyncTransport(QUICK)
        http = httpx2.AsyncClient(transport=transport, timeout=60)
        request = http.build_request("GET", f"{server.base_url}/files/1")
        response = await http.send(request, stream=True)
        parts = response.aiter_raw()
        got = await anext(parts)
        for other in second, third:
            assert (await http.get(f"{other.base_url}/models")).status_code == 200
        gc.collect()
        await asyncio.sleep(0.05)
        assert len(transport._resolver.connections()) == 1
        assert got + b"".join([part async for part in parts]) == body
        await http.aclose()
