"""A front door for tests: a client of an SDK on a transport of ours, and what must be so when it is closed."""

import asyncio
import json
from contextlib import asynccontextmanager

import anthropic
import httpx2
import openai
import pytest
from sockets import PATIENCE, answer
from table_test import table_test

from stormbreak.core.backoff import Backoff
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.httpx2 import AsyncTransport, Transport

KEY = "sk-door-canary-0123456789"
SAY = [{"role": "user", "content": "hello"}]
QUICK = Policy(
    retry_budget=None,
    retry=RetryPolicy(max_attempts=4, backoff=Backoff(kind="constant", initial_delay=0.01)),
)
ONCE = Policy(retry_budget=None, retry=RetryPolicy(max_attempts=1))
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
    """An SDK: how its client is made and asked, what it raises. One that blocks does so on threads of its own."""

    def __init__(self, module, client, *, blocks=False):
        self.module = module
        self.blocks = blocks
        self._client = client
        self._http = httpx2.Client if blocks else httpx2.AsyncClient
        self._transport = Transport if blocks else AsyncTransport

    def transport(self, policy=QUICK, **more):
        return self._transport(policy, **more)

    def client(self, base_url, transport, **more):
        return self.over(base_url, self._http(transport=transport), **more)

    def over(self, base_url, http, **more):
        base_url = base_url.removesuffix("/v1") if self.module is anthropic else base_url
        return self._client(base_url=base_url, api_key=KEY, http_client=http, **more)

    async def do(self, function, *args, **more):
        """Call what blocks for one that blocks."""
        if self.blocks:
            return await asyncio.to_thread(function, *args, **more)
        return await function(*args, **more)

    @property
    def errors(self):
        """What may be raised for a failure; a stream's of anthropic come as they are."""
        return (getattr(self.module, "APIError", httpx2.HTTPError), httpx2.HTTPError)

    async def ask(self, client, **more):
        if self.module is anthropic:
            given = {"model": "m", "messages": SAY, "max_tokens": 9} | more
            return await self.do(client.messages.create, **given)
        return await self.do(
            client.chat.completions.create, **{"model": "m", "messages": SAY} | more
        )

    async def read(self, stream):
        """All the events of a stream."""
        if self.blocks:
            return await asyncio.to_thread(list, stream)
        return [each async for each in stream]

    async def give_up(self, asking, transport):
        """Cancel a call or a reading that is under way; of one that blocks, from another thread."""
        if self.blocks:
            await asyncio.to_thread(transport.close)
        else:
            asking.cancel()
        with pytest.raises((asyncio.CancelledError, *self.errors)):
            await asking

    async def close(self, closed):
        """Close a stream or a client."""
        await self.do(closed.close)

    def text(self, said):
        if self.module is anthropic:
            return said.content[0].text
        return said.choices[0].message.content

    def __str__(self):
        return self.module.__name__ + (", blocking" if self.blocks else "")


SDKS = [
    Sdk(openai, openai.AsyncOpenAI),
    Sdk(anthropic, anthropic.AsyncAnthropic),
    Sdk(openai, openai.OpenAI, blocks=True),
    Sdk(anthropic, anthropic.Anthropic, blocks=True),
]
each_sdk = table_test("sdk", SDKS)


class Bare(Sdk):
    """The HTTP library by itself, asked for the chat completions of openai."""

    def __init__(self, *, blocks=False):
        super().__init__(httpx2, None, blocks=blocks)

    def over(self, base_url, http, **more):
        http.base_url = base_url
        http.headers["authorization"] = f"Bearer {KEY}"
        http.timeout = 30  # its own 5 s bound a call, its retries included
        return http

    async def ask(self, client, *, stream=False):
        payload = {"model": "m", "messages": SAY} | ({"stream": True} if stream else {})
        request = client.build_request("POST", "chat/completions", json=payload)
        return (await self.do(client.send, request, stream=stream)).raise_for_status()

    async def read(self, stream):
        return await self.do(stream.read if self.blocks else stream.aread)

    async def close(self, closed):
        await self.do(closed.close if self.blocks else closed.aclose)

    def text(self, said):
        return said.json()["choices"][0]["message"]["content"]


WAYS = [*SDKS, Bare(), Bare(blocks=True)]
each_way = table_test("sdk", WAYS)


@asynccontextmanager
async def door(sdk, base_url, policy=QUICK, **more):
    """A client of an SDK and the transport below it; in the end nothing may be in flight."""
    given = {name: more.pop(name) for name in ("timeout", "max_retries") if name in more}
    transport = sdk.transport(policy, **more)
    client = sdk.client(base_url, transport, **given)
    try:
        yield client, transport
    finally:
        await sdk.close(client)
    assert in_flight(transport) == 0


def in_flight(transport):
    """Permits that are out."""
    return sum(
        target_state["in_flight"] for target_state in transport.snapshot()["targets"].values()
    )


async def until(fact):
    """Wait until it is so."""
    async with asyncio.timeout(PATIENCE):
        while not fact():  # noqa: ASYNC110 - seldom more than once
            await asyncio.sleep(0.005)
