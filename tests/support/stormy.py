"""Real clients against the embedded provider, for a few seconds, with every kind of decision.

In a storm; against a provider so slow that attempts are hedged; and with an open circuit.
"""

import asyncio
from typing import Any, NamedTuple

from clients import has_answered, target_state_of

from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.fallback_policy import ToCache, ToDegraded
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.shadow import ShadowPolicy
from stormbreak.errors import StormbreakError
from stormbreak.http.client import AsyncClient
from stormbreak.testing import serve

CALLS, AT_ONCE, SLOTS = 120, 20, 12
FAULTS = {
    "429": ("throttled", 'retry_after = 0.1\nretry_after_form = "ms"'),
    "500": ("server_error", ""),
    "529": ("overloaded", ""),
    "reset": ("reset", ""),
    "cut_body": ("broken", ""),
}
"""Kind of a fault: its verdict, and further lines of its settings."""

STORM = "duration = 3600\n[provider]\nservice = 0.01\nvariation = 0.0\n" + "".join(
    f'[[faults]]\nkind = "{kind}"\nshare = 0.06\n{more}\n' for kind, (_, more) in FAULTS.items()
)
SLOW = "duration = 3600\n[provider]\nservice = 0.3\nvariation = 0.0\n"

LONG_TIMEOUT = Policy(
    retry=RetryPolicy(max_attempts=4, backoff=Backoff(kind="constant", initial_delay=0.02)),
    breaker=None,
    limit=FixedLimit(max_in_flight=SLOTS),
    shadow=ShadowPolicy(limit=AimdLimit(initial_in_flight=2)),
)
HEDGED = Policy(hedge=HedgePolicy(delay=0.1, percentile=None), retry_budget=None)
ALONE = Policy(hedge=HedgePolicy(delay=0.1, percentile=None), limit=FixedLimit(max_in_flight=1))
FALLING = Policy(
    fail_fast=True, fallback=(ToCache(on=("rejected",)), ToDegraded(on=("rejected",), text="later"))
)


class StormResult(NamedTuple):
    """The ends of the calls in the storm, and the statistics of the providers."""

    ends: list[Any]
    storm: dict[str, Any]
    slow: dict[str, Any]
    targets: dict[str, str]  # their labels
    clients: list[AsyncClient]  # the state exists as long as the clients


def played(*listeners, **texts):
    """Make all the calls with these listeners; `texts` are a key and a prompt."""
    with serve(STORM) as storm, serve(SLOW) as slow:
        ends, clients = asyncio.run(_play(storm.base_url, slow.base_url, listeners, **texts))
        targets = {"storm": f"127.0.0.1:{storm.port}/m", "slow": f"127.0.0.1:{slow.port}/m"}
        return StormResult(ends, storm.stats(), slow.stats(), targets, clients)


async def _play(storm, slow, listeners, *, key="sk-canary-0123456789", prompt="hello"):
    clients = []

    def client(base_url, policy):
        client = AsyncClient(base_url=base_url, api_key=key, model="m", policy=policy)
        for listener in listeners:
            client.subscribe(listener)
        clients.append(client)
        return client

    async with client(storm, LONG_TIMEOUT) as patient:
        ends = []
        for start in range(0, CALLS, AT_ONCE):
            numbers = range(start, start + AT_ONCE)
            ends += await asyncio.gather(
                *(_ask(patient, f"{prompt} {number}", streams=not number % 5) for number in numbers)
            )
    for policy in (HEDGED, ALONE):
        async with client(slow, policy) as one:
            has_answered(target_state_of(one))
            await _ask(one, prompt)
    async with client(storm, FALLING) as one:
        one.isolate("m")
        await _ask(one, prompt)
        one.reset("m")
    return ends, clients


async def _ask(client, prompt, *, streams=False):
    """The text of the answer, or the error."""
    messages = [{"role": "user", "content": prompt}]
    try:
        if not streams:
            return (await client.chat(messages)).text
        async with client.stream("chat/completions", {"messages": messages}) as stream:
            return "".join([text async for text in stream.texts()])
    except StormbreakError as error:
        return error
