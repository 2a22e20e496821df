"""An observer of the provider receives each request and each good answer that reached a client."""

import asyncio
import json
import time

import pytest
from table_test import table_test

from stormbreak.provider.scenario_file import parse
from stormbreak.provider.server import ProviderServer

from .conftest import request_bytes

CALM = "[provider]\nservice = 0.1\nvariation = 0\n"


class Watching:
    def __init__(self):
        self.seen = []

    def received(self, request, at):
        self.seen.append(("received", json.loads(request.essence)["messages"][0]["content"], at))

    def answered(self, request, at):
        self.seen.append(("answered", json.loads(request.essence)["messages"][0]["content"], at))

    @property
    def words(self):
        return [f"{what} {prompt}" for what, prompt, _ in self.seen]


async def watched(faults=""):
    """Start a provider with an observer, in a scenario that has not begun."""
    server, observer = ProviderServer(parse(CALM), speed=2.0), Watching()
    await server.start()
    server.play(parse(CALM + faults), observer)
    return server, observer


async def ask(server, prompt, *, patience=5.0, **more):
    """Send a request, and read until the answer is whole or patience ends."""
    payload = {"model": "m", "messages": [{"role": "user", "content": prompt}], **more}
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request_bytes(payload=payload, headers=["connection: close"]))
    data = b""
    try:
        async with asyncio.timeout(patience):
            data = await reader.read()
    except TimeoutError:
        pass
    writer.close()
    await writer.wait_closed()
    return data


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_observer_sees_an_answer_with_its_times(streamed):
    server, observer = await watched()
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await ask(server, "one", stream=streamed)
    took = 2 * (time.monotonic() - began)  # in scenario seconds, at double speed
    await server.close()

    assert observer.words == ["received one", "answered one"]
    (_, _, received), (_, _, answered) = observer.seen
    assert answered - received >= 0.1
    assert 0.0 <= received < answered <= took  # scenario time begins with the request


@table_test("kind", ["503", "cut_body", "stale", "error_in_200"])
async def test_a_broken_answer_is_not_reported_as_answered(kind):
    server, observer = await watched(f'[[faults]]\nkind = "{kind}"\n')
    assert b"HTTP/1.1" in await ask(server, "one")
    await server.close()

    assert observer.words == ["received one"]


async def test_an_answer_to_a_client_that_has_left_is_not_reported():
    server, observer = await watched('[[faults]]\nkind = "slow_body"\nadded_latency = 1\n')
    await ask(server, "one", patience=0.2)
    await ask(server, "two")
    await server.close()

    assert observer.words == ["received one", "received two", "answered two"]


async def test_begin_starts_scenario_time_before_the_first_request():
    server, observer = await watched()
    assert server.now == 0.0
    server.begin()
    await asyncio.sleep(0.1)
    assert server.now > 0.1
    await ask(server, "one")
    await server.close()

    assert observer.seen[0][2] > 0.2


async def test_another_scenario_starts_anew_with_its_own_observer():
    server, before = await watched()
    await ask(server, "one")
    now = Watching()
    server.play(parse(CALM + '[[faults]]\nkind = "503"\n'), now)
    assert server.now == 0.0
    assert b" 503 " in await ask(server, "two")
    stats = server.stats()
    await server.close()

    assert (before.words, now.words) == (["received one", "answered one"], ["received two"])
    assert stats["arrivals"] == 1
