"""A server that answers some calls twice on one connection, and clients that check that an answer is their own."""

import asyncio
import json
import random
from itertools import islice

import anthropic
import httpx
import httpx2
import openai
from sockets import PATIENCE, answer
from wrapped import asking

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import ConnectionLostError

LATE = (0.005, 0.05)
"""Seconds until the second answer on an idle connection."""

LOST = (
    ConnectionLostError,
    httpx.RemoteProtocolError,
    httpx2.RemoteProtocolError,
    openai.APIConnectionError,
    anthropic.APIConnectionError,
)
"""The exceptions of a call whose connection closes as it begins."""

PAUSE = 0.1
"""Seconds in which all late answers arrive."""

SHARE = 0.05
"""Share of the answers that are sent twice at once, and share that is repeated late."""


class Doubles:
    """Answers each call with its own text, and some calls a second time at once.

    With `late`, this number of calls wait for each other, each on its own connection, and some are also answered late.
    """

    def __init__(self, seed, *, late=0, share=SHARE):
        self._chance, self._share = random.Random(seed), share
        self._late = asyncio.Barrier(late) if late else None
        self._later = set()
        self.twice = self.later = 0

    async def __call__(self, request, writer):
        content = json.loads(request.body)["messages"][0]["content"]
        whole = plain(f"to {content}", as_message="/messages " in request.line)
        if self._late is not None:
            async with asyncio.timeout(PATIENCE):
                await self._late.wait()
        drawn = self._chance.random()
        at_once = drawn < self._share
        self.twice += at_once
        writer.write(whole * (1 + at_once))
        await writer.drain()
        if self._late and self._share <= drawn < 2 * self._share:
            self.later += 1
            task = asyncio.create_task(self._again(whole, writer))
            self._later.add(task)
            task.add_done_callback(self._later.discard)

    async def _again(self, whole, writer):
        await asyncio.sleep(self._chance.uniform(*LATE))
        if not writer.is_closing():
            writer.write(whole)


def plain(text, *, as_message=False):
    """A plain answer."""
    if as_message:
        parts = {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}
        usage = {"input_tokens": 1, "output_tokens": 1}
        parts |= {"id": "1", "type": "message", "role": "assistant", "model": "m", "usage": usage}
        return answer(json.dumps(parts).encode())
    message = {"message": {"content": text, "role": "assistant"}, "finish_reason": "stop"}
    return answer(json.dumps({"choices": [message]}).encode())


async def ask_all(base_url, *, calls, at_once, pause=None, way=None, verify=True):
    """Make `calls` calls over `at_once` connections; return the number of answers and the errors.

    They use connections of the kind `way` (`wrapped`), by default those of stormbreak. With a `pause` in seconds they come in rounds, between which every connection is idle; otherwise one after the other.
    """
    policy = Policy(
        limit=FixedLimit(max_in_flight=at_once),
        retry=RetryPolicy(max_attempts=1),
        breaker=None,
        deadline=None,
        patience=None,
    )
    answered, failed, left = 0, [], iter(range(calls))

    async def work(ask, numbers):
        nonlocal answered
        for number in numbers:
            try:
                got = await ask(f"call {number}")
            except LOST as error:
                failed.append(error)
                continue
            assert got == f"to call {number}", "the answer to another call"
            answered += 1

    async with asking(way, base_url, policy, verify=verify) as ask:
        if pause is None:
            await asyncio.gather(*(work(ask, left) for _ in range(at_once)))
        else:
            while numbers := list(islice(left, at_once)):
                await asyncio.gather(*(work(ask, [number]) for number in numbers))
                await asyncio.sleep(pause)
                await asyncio.sleep(pause / 10)  # reads what was written at the end of the pause
    return answered, failed
