"""A client of an SDK over a transport, and the checks when it is closed."""

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

KEY = "sk-canary-0123456789"
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
    """An SDK: how to make and call its client, and its exceptions. A blocking client runs on threads."""

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
        """Call a function of the client; of a blocking client, on a thread."""
        if self.blocks:
            return await asyncio.to_thread(function, *args, **more)
        return await function(*args, **more)

    @property
    def errors(self):
        """The exceptions of a failure; anthropic passes those of a stream on unchanged."""
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
        """Cancel a running call or read; of a blocking client, from another thread."""
        if self.blocks:
            await asyncio.to_thread(transport.close)
        else:
            asking.cancel()
        with pytest.raises((asyncio.CancelledError, *self.errors)):
            await asking

    async def close(self, closed):
        """Close a stream or a client."""
        await self.do(closed.close)

    def text(self, response):
        if self.module is anthropic:
            return response.content[0].text
        return response.choices[0].message.content

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
    """The bare HTTP library, used for chat completions in the format of openai."""

    def __init__(self, *, blocks=False):
        super().__init__(httpx2, None, blocks=blocks)

    def over(self, base_url, http, **more):
        http.base_url = base_url
        http.headers["authorization"] = f"Bearer {KEY}"
        http.timeout = 30  # its default of 5 s would limit a call including its retries
        return http

    async def ask(self, client, *, stream=False):
        payload = {"model": "m", "messages": SAY} | ({"stream": True} if stream else {})
        request = client.build_request("POST", "chat/completions", json=payload)
        return (await self.do(client.send, request, stream=stream)).raise_for_status()

    async def read(self, stream):
        return await self.do(stream.read if self.blocks else stream.aread)

    async def close(self, closed):
        await self.do(closed.close if self.blocks else closed.aclose)

    def text(self, response):
        return response.json()["choices"][0]["message"]["content"]


WAYS = [*SDKS, Bare(), Bare(blocks=True)]
each_way = table_test("sdk", WAYS)


@asynccontextmanager
async def sdk_client(sdk, base_url, policy=QUICK, **more):
    """Yield a client of an SDK and its transport; at the end, no attempt may be in flight."""
    given = {name: more.pop(name) for name in ("timeout", "max_retries") if name in more}
    transport = sdk.transport(policy, **more)
    client = sdk.client(base_url, transport, **given)
    try:
        yield client, transport
    finally:
        await sdk.close(client)
    assert in_flight(transport) == 0


def in_flight(transport):
    """The number of permits held."""
    return sum(
        target_state["in_flight"] for target_state in transport.snapshot()["targets"].values()
    )


async def until(fact):
    """Wait until `fact()` is true."""
    async with asyncio.timeout(PATIENCE):
        while not fact():  # noqa: ASYNC110 - seldom more than once
            await asyncio.sleep(0.005)
