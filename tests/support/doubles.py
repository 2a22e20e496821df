"""A server that answers some calls twice on one connection, and clients that look whether an answer is their own."""

import asyncio
import json
import random
from itertools import islice

from sockets import answer

from stormbreak.core.concurrency import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import UpstreamError
from stormbreak.http.client import AsyncClient
from stormbreak.types import Verdict

LATE = (0.005, 0.05)
"""Seconds until a second answer comes, when its connection is idle."""

PAUSE = 0.1
"""Seconds in which all of those have come."""

SHARE = 0.05
"""Of the answers, that are sent twice in one write; and as many late."""


class Doubles:
    """Answers each call with what it asked; of some calls, a second time, at once or `late`."""

    def __init__(self, seed, *, late):
        self._chance = random.Random(seed)
        self._late = late
        self._later = set()
        self.twice = self.later = 0

    async def __call__(self, request, writer):
        content = json.loads(request.body)["messages"][0]["content"]
        message = {"message": {"content": f"to {content}"}, "finish_reason": "stop"}
        whole = answer(json.dumps({"choices": [message]}).encode())
        drawn = self._chance.random()
        at_once = drawn < SHARE
        self.twice += at_once
        writer.write(whole * (1 + at_once))
        await writer.drain()
        if self._late and SHARE <= drawn < 2 * SHARE:
            self.later += 1
            task = asyncio.create_task(self._again(whole, writer))
            self._later.add(task)
            task.add_done_callback(self._later.discard)

    async def _again(self, whole, writer):
        await asyncio.sleep(self._chance.uniform(*LATE))
        if not writer.is_closing():
            writer.write(whole)


async def ask_all(server, *, calls, at_once, pause=None):
    """Make so many calls over so many connections; how many were answered, and what the others came to.

    With a `pause` in seconds they come in rounds, between which every connection is idle; else one after the other.
    """
    policy = Policy(
        limit=FixedLimit(in_flight=at_once),
        retry=RetryPolicy(attempts=1),
        breaker=None,
        deadline=None,
        patience=None,
    )
    client = AsyncClient(base_url=server.base_url, model="m", policy=policy)
    answered, failed, left = 0, [], iter(range(calls))

    async def work(numbers):
        nonlocal answered
        for number in numbers:
            try:
                got = await client.chat([{"role": "user", "content": f"call {number}"}])
            except UpstreamError as error:
                failed.append(error.verdict)
                continue
            assert got.text == f"to call {number}", "the answer to another call"
            answered += 1

    if pause is None:
        await asyncio.gather(*(work(left) for _ in range(at_once)))
    else:
        while numbers := list(islice(left, at_once)):
            await asyncio.gather(*(work([number]) for number in numbers))
            await asyncio.sleep(pause)
    await client.close()
    assert set(failed) <= {Verdict.RESET, Verdict.BROKEN}
    return answered, failed
