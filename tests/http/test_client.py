"""The client as a whole: many calls at once, listeners and snapshots, shutdown."""

import asyncio
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from clients import KEY, QUICK, SAY, client_of
from sockets import End, answer, failing, served
from table_test import table_test

from stormbreak import errors
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.events import CallEnded, Returned, Sent
from stormbreak.http.client import AsyncClient
from stormbreak.testing import answer_text
from stormbreak.types import Verdict

# ------------------------------------------------------------ many calls


async def test_200_concurrent_calls_get_their_own_answers(stormbreak_provider):
    provider = stormbreak_provider(speed=20)
    policy = Policy(limit=FixedLimit(max_in_flight=200))
    says = [[{"role": "user", "content": f"number {n}"}] for n in range(200)]
    async with AsyncClient(base_url=provider.base_url, model="m", policy=policy) as client:
        got = await asyncio.gather(*map(client.chat, says))
    for say, one in zip(says, got, strict=True):
        assert one.text == answer_text({"model": "m", "messages": say})
    stats = provider.stats()
    assert stats["keys"] == {
        "asked": 200, "answered": 200, "answered_twice": 0, "answers": 200, "max_attempts": 1,
    }  # fmt: skip
    assert stats["idempotency"] == {"keys": 200, "repeats": 0}
    assert stats["connections"]["opened"] <= 200


async def test_the_in_flight_limit_bounds_the_connections():
    policy = replace(QUICK, limit=FixedLimit(max_in_flight=3))
    async with served([0.005, answer()]) as server, client_of(server, policy) as client:
        await asyncio.gather(*(client.chat(SAY) for _ in range(20)))
        assert (server.opened, len(server.requests)) == (3, 20)


def test_one_client_works_on_two_loops_in_two_threads(stormbreak_provider):
    provider = stormbreak_provider(speed=50)
    policy = Policy(limit=FixedLimit(max_in_flight=5))
    client = AsyncClient(base_url=provider.base_url, model="m", policy=policy)
    texts, failures = [], []

    async def main(name):
        says = [[{"role": "user", "content": f"{name} {n}"}] for n in range(30)]
        async with client:
            got = await asyncio.gather(*map(client.chat, says))
        expected = [answer_text({"model": "m", "messages": say}) for say in says]
        failures.extend(one for one, text in zip(got, expected, strict=True) if one.text != text)
        texts.extend(expected)

    threads = [threading.Thread(target=lambda n=n: asyncio.run(main(n))) for n in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(texts), failures) == (60, [])
    assert client.snapshot()["targets"][str(client.target("m"))]["in_flight"] == 0


# ------------------------------------------------------------ listeners, snapshots, shutdown


async def test_a_listener_receives_the_events_of_every_attempt():
    events = []
    async with served(failing(500), answer()) as server, client_of(server) as client:
        client.subscribe(events.append)
        await client.chat(SAY)
    assert [type(event) for event in events if isinstance(event, Sent | Returned | CallEnded)] == [
        Sent, Returned, Sent, Returned, CallEnded,
    ]  # fmt: skip


async def test_a_snapshot_shows_calls_in_flight():
    async with served(End.HANG) as server, client_of(server, api_key=KEY) as client:
        assert client.snapshot() == {"budget": None, "pending": [], "targets": {}}
        task = asyncio.create_task(client.chat(SAY))
        await server.asked()
        state = client.snapshot()["targets"][str(client.target("m"))]
        assert (state["in_flight"], state["queued"]) == (1, 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        state = client.snapshot()["targets"][str(client.target("m"))]
        assert state["in_flight"] == 0
        assert KEY not in str(client.snapshot())


async def test_drain_finishes_calls_in_flight_and_rejects_queued_ones():
    policy = replace(QUICK, limit=FixedLimit(max_in_flight=1))
    async with served([0.05, answer()]) as server, client_of(server, policy) as client:
        sent = asyncio.create_task(client.chat(SAY))
        queued = asyncio.create_task(client.chat(SAY))
        await server.asked()
        client.drain()
        with pytest.raises(errors.RejectedError, match="the client is drained") as caught:
            await queued
        assert (caught.value.policy, caught.value.verdict) == ("drain", Verdict.CANCELLED)
        assert (await sent).text == "fine"
        assert len(server.requests) == 1


async def test_leaving_the_block_closes_every_connection():
    async with served([0.01, answer()]) as server:
        async with client_of(server) as client:
            await asyncio.gather(*(client.chat(SAY) for _ in range(5)))
        await server.all_closed()
        assert server.closed == 5


@table_test("name", ["import stormbreak", "import stormbreak.http.client",
                                  "from stormbreak import AsyncClient, Policy"])  # fmt: skip
def test_the_parser_is_imported_when_a_client_is_created(name):
    code = f"""{name}
import sys
assert "httptools" not in sys.modules
from stormbreak import AsyncClient
AsyncClient(base_url="http://127.0.0.1:1/v1")
assert "httptools" in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=180)
