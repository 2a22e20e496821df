"""A client of a scripted server, policies with short retries, and a payload."""

import asyncio
import json
import time

import pytest

from stormbreak import ClientClosedError
from stormbreak.core.backoff import Backoff
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.http.client import AsyncClient
from stormbreak.types import Outcome, Verdict

KEY = "sk-canary-0123456789"
SAY = [{"role": "user", "content": "hello"}]
PAYLOAD = {"messages": SAY}
ONCE = Policy(retry=RetryPolicy(max_attempts=1))
THRICE = Policy(
    retry_budget=None,
    retry=RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=0.01)),
)
QUICK = Policy(
    retry=RetryPolicy(max_attempts=4, backoff=Backoff(kind="constant", initial_delay=0.01)),
    breaker=None,
    retry_budget=None,
)


def client_of(server, policy=QUICK, **more):
    return AsyncClient(**{"base_url": server.base_url, "model": "m", "policy": policy} | more)


def target_state_of(client):
    return client.engine.target_state(client.target("m"))


def has_answered(target_state):
    """Record a successful answer of a target now; a target without one gets no hedges."""
    now = time.monotonic()
    target_state.diagnosis.settle(
        target_state.diagnosis.take(None, now), Outcome(Verdict.OK), now, 0.5
    )


def hedging(server, policy, **more):
    """A client that hedges from its first call."""
    client = client_of(server, policy, **more)
    has_answered(target_state_of(client))
    return client


def sent_by(server):
    """The request bodies that a server received."""
    return [json.loads(request.body) for request in server.requests]


async def closed(asking):
    """Return the ClientClosedError of a call, which must not hang."""
    async with asyncio.timeout(30):
        with pytest.raises(ClientClosedError) as caught:
            await asking
    return caught.value
