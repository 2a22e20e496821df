"""A client closed between two steps of a call also ends what begins a moment later."""

import asyncio
from dataclasses import replace

import pytest
from chat_stream import CUT
from clients import PAYLOAD, QUICK, SAY, client_of, closed, target_state_of
from sockets import End, served

from stormbreak import StreamBrokenError
from stormbreak.core.hedge import HedgePolicy
from stormbreak.errors import AuthenticationError
from stormbreak.events import Committed, Sent
from stormbreak.types import Verdict

HEDGED = replace(QUICK, hedge=HedgePolicy(delay=0.02, percentile=None))


@pytest.mark.parametrize("policy", [QUICK, HEDGED], ids=["alone", "hedged"])
async def test_close_before_the_first_attempt_sends_nothing(policy):
    async with served([End.HANG]) as server, client_of(server, policy) as client:
        asking = asyncio.create_task(client.chat(SAY))
        await asyncio.gather(asyncio.sleep(0), client.close())
        assert (await closed(asking)).verdict is Verdict.CANCELLED
        assert (server.requests, target_state_of(client).slots.in_flight) == ([], 0)


@pytest.mark.parametrize("policy", [QUICK, HEDGED], ids=["alone", "hedged"])
async def test_stop_by_a_listener_of_sent_sends_nothing(policy):
    async with served([End.HANG]) as server, client_of(server, policy) as client:
        client.subscribe(lambda event: client.stop() if isinstance(event, Sent) else None)
        await closed(client.chat(SAY))
        assert (server.requests, target_state_of(client).slots.in_flight) == ([], 0)


async def test_stop_by_a_listener_of_committed_breaks_the_stream():
    async with served([CUT, End.HANG]) as server, client_of(server) as client:
        client.subscribe(lambda event: client.stop() if isinstance(event, Committed) else None)
        async with asyncio.timeout(30), client.stream("chat/completions", PAYLOAD) as stream:
            with pytest.raises(StreamBrokenError, match="the client was closed"):
                await stream.answer()
        assert target_state_of(client).slots.in_flight == 0
        await server.all_closed()


async def stops(client):
    client.stop()
    return "sk-canary"


async def closes(client):
    await client.close()
    return "sk-canary"


@pytest.mark.parametrize(
    "key",
    [lambda client: client.stop() or "sk-canary", stops, closes],
    ids=["at once", "soon", "waits"],
)
async def test_stop_or_close_in_the_key_function_sends_nothing(key):
    async with served([End.HANG]) as server:
        client = client_of(server, api_key=lambda: key(client))
        await closed(client.chat(SAY))
        assert (server.requests, target_state_of(client).slots.in_flight) == ([], 0)
        await asyncio.sleep(0.01)  # no cancel is pending


async def test_stop_in_a_failing_key_function_leaves_no_pending_cancel():
    async with served() as server:
        client = client_of(server, api_key=lambda: client.stop() or None)
        with pytest.raises(AuthenticationError):
            await client.chat(SAY)
        await asyncio.sleep(0.01)
        assert asyncio.current_task().cancelling() == 0
        await closed(client.chat(SAY))
