"""A front door for tests: a client of an SDK on a transport of ours, and what must be so when it is closed."""

import asyncio
import json
from contextlib import asynccontextmanager

import anthropic
import httpx2
import openai
from sockets import answer

from stormbreak.core.backoff import Constant
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.httpx2 import AsyncTransport

KEY = "sk-door-canary-0123456789"
SAY = [{"role": "user", "content": "hello"}]
QUICK = Policy(budget=None, retry=RetryPolicy(attempts=4, backoff=Constant(seconds=0.01)))
ONCE = Policy(budget=None, retry=RetryPolicy(attempts=1))
MESSAGE = answer(
    json.dumps(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [{"type": "text", "text": "fine"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 3, "output_tokens": 2},
        }
    ).encode()
)


class Sdk:
    """An SDK: how its client is made, how it is asked, and what it raises."""

    def __init__(self, module, client, path):
        self.module = module
        self._client = client
        self._path = path

    def client(self, base_url, transport, **more):
        http = httpx2.AsyncClient(transport=transport)
        base_url = base_url.removesuffix("/v1") if self.module is anthropic else base_url
        return self._client(base_url=base_url, api_key=KEY, http_client=http, **more)

    async def ask(self, client, **more):
        if self.module is anthropic:
            return await client.messages.create(model="m", messages=SAY, max_tokens=9, **more)
        return await client.chat.completions.create(model="m", messages=SAY, **more)

    def text(self, said):
        if self.module is anthropic:
            return said.content[0].text
        return said.choices[0].message.content

    def __str__(self):
        return self.module.__name__


SDKS = [
    Sdk(openai, openai.AsyncOpenAI, "/chat/completions"),
    Sdk(anthropic, anthropic.AsyncAnthropic, "/messages"),
]


@asynccontextmanager
async def door(sdk, base_url, policy=QUICK, **more):
    """A client of an SDK and the transport below it; in the end nothing may be in flight."""
    given = {name: more.pop(name) for name in ("timeout", "max_retries") if name in more}
    transport = AsyncTransport(policy, **more)
    async with sdk.client(base_url, transport, **given) as client:
        yield client, transport
    assert in_flight(transport) == 0


def in_flight(transport):
    """Permits that are out."""
    return sum(lane["in_flight"] for lane in transport.snapshot()["targets"].values())


async def until(fact):
    """Wait until it is so."""
    async with asyncio.timeout(5):
        while not fact():  # noqa: ASYNC110 - seldom more than once
            await asyncio.sleep(0.005)
