"""Closing an async transport ends its streams on this loop, without counting an outcome."""

from dataclasses import replace

import httpx2
import pytest
from chat_stream import CUT
from sdk_clients import QUICK, SAY
from sockets import End, served

from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.httpx2 import AsyncTransport

FRAGILE = replace(QUICK, breaker=BreakerPolicy(trip=ConsecutiveFailures(failure_threshold=1)))
ASKED = {"model": "m", "messages": SAY, "stream": True}


def circuits(transport):
    target_states = transport.engine.snapshot()["targets"].values()
    return [(target_state["circuit"], target_state["in_flight"]) for target_state in target_states]


async def test_closing_a_transport_ends_its_stream_without_counting_a_failure():
    transport = AsyncTransport(FRAGILE)
    async with served([CUT, End.HANG]) as server, httpx2.AsyncClient(transport=transport) as http:
        url = f"{server.base_url}/chat/completions"
        async with http.stream("POST", url, json=ASKED) as response:
            pieces = response.aiter_raw()
            await anext(pieces)
            assert circuits(transport) == [("closed", 1)]
            await transport.aclose()
            assert circuits(transport) == [("closed", 0)]
            with pytest.raises(httpx2.HTTPError):
                _ = [piece async for piece in pieces]
        await server.all_closed()
    assert circuits(transport) == [("closed", 0)]
