"""Hedges on real sockets: a second attempt overtakes a silent one, whose connection is closed."""

import asyncio
import re
from dataclasses import replace

import pytest
from chat_stream import CUT, ENDLESS, OPENING, WHOLE_ANSWER
from clients import KEY, PAYLOAD, QUICK, has_answered, hedging, target_state_of
from sockets import HALF, End, answer, served

from stormbreak.core.hedge import HedgePolicy
from stormbreak.errors import ServerError, StreamBrokenError
from stormbreak.http.sync_client import Client

HEDGED = replace(QUICK, hedge=HedgePolicy(delay=0.1, percentile=None))
SILENT = (End.HANG,)
"""A server that never answers this request."""


async def test_the_answer_of_a_hedge_closes_the_first_attempt():
    async with served(SILENT, (answer(),)) as server, hedging(server, HEDGED) as client:
        got = await client.request("chat/completions", PAYLOAD)
        await asyncio.sleep(0.05)

        assert got.text == "fine"
        assert (got.attempts, got.maybe_processed) == (2, 1)
        assert target_state_of(client).slots.in_flight == 0
        assert (server.opened, server.closed) == (2, 1)


async def test_a_hedge_is_the_same_request_on_another_connection():
    async with (
        served(SILENT, (answer(),)) as server,
        hedging(server, HEDGED, api_key=KEY) as client,
    ):
        await client.request("chat/completions", PAYLOAD)

    first, second = server.requests
    assert first.body == second.body
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.connection != second.connection


@pytest.mark.parametrize("head", [(), (ENDLESS + OPENING,)])
async def test_a_hedged_stream_comes_from_the_first_attempt_with_output(head):
    async with (
        served((*head, End.HANG), (WHOLE_ANSWER,)) as server,
        hedging(server, HEDGED) as client,
    ):
        async with client.stream("chat/completions", PAYLOAD) as stream:
            text = "".join([piece async for piece in stream.texts()])
        await asyncio.sleep(0.05)

        assert text == "hello there"
        assert (stream.attempts, target_state_of(client).slots.in_flight) == (2, 0)
        assert (server.opened, server.closed) == (2, 1)


async def test_a_stream_with_output_is_not_hedged(monkeypatch):
    over, loop = asyncio.Event(), asyncio.get_running_loop()
    began = loop.time

    async def wait(request, writer):
        await over.wait()

    late = replace(HEDGED, hedge=HedgePolicy(delay=20.0, percentile=None))
    async with (
        served((CUT, wait, End.CLOSE), (WHOLE_ANSWER,)) as server,
        hedging(server, late) as client,
    ):
        async with client.stream("chat/completions", PAYLOAD) as stream:
            texts = stream.texts()
            assert await anext(texts) == "hello"
            monkeypatch.setattr(loop, "time", lambda: began() + 21.0)
            await asyncio.sleep(0.05)
            over.set()
            with pytest.raises(StreamBrokenError):
                _ = [piece async for piece in texts]

        assert len(server.requests) == 1


async def test_a_cancel_closes_both_attempts():
    async with served(SILENT) as server, hedging(server, HEDGED) as client:
        asking = asyncio.ensure_future(client.request("chat/completions", PAYLOAD))
        await server.asked(2)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await server.all_closed()

        assert target_state_of(client).slots.in_flight == 0


async def test_the_notes_of_an_error_describe_both_attempts():
    rules = replace(HEDGED, retry=replace(HEDGED.retry, max_attempts=2))
    async with (
        served((0.2, answer(b"{}", 500)), (0.3, answer(b"{}", 500))) as server,
        hedging(server, rules) as client,
    ):
        with pytest.raises(ServerError) as caught:
            await client.request("chat/completions", PAYLOAD)

    notes = "\n".join(caught.value.__notes__)
    (after,) = re.findall(r"beside the one before, unanswered after ([\d.]+) s", notes)
    assert float(after) >= 0.1
    assert notes.count("server_error, status 500") == 2


async def test_a_hedge_overtakes_an_incomplete_answer():
    async with served((HALF, End.HANG), (answer(),)) as server, hedging(server, HEDGED) as client:
        got = await client.request("chat/completions", PAYLOAD)

        assert got.text == "fine"
        assert len(server.requests) == 2


def test_the_blocking_client_hedges(stormbreak_provider):
    provider = stormbreak_provider("""
        [provider]
        service = 0.01
        [[faults]]
        kind = "hang"
        requests = [1]
    """)
    with Client(base_url=provider.base_url, model="m", policy=HEDGED) as client:
        has_answered(client.engine.target_state(client.target("m")))
        got = client.request("chat/completions", PAYLOAD)

    assert got.attempts == 2
