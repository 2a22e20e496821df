"""Requests per second with 200 in flight, against a provider that takes 20 ms for each.

All clients run on uvloop on the same core, in alternating rounds of one process; the provider has the other
core. Bare aiohttp has the connector settings of stormbreak's own, reads the whole body and parses it with the
standard library.
"""

import asyncio
import gc
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import NamedTuple

import aiohttp
import openai
import uvloop
from openai.types.chat import ChatCompletionUserMessageParam

import cores
from partner import Partner, flood, partner
from rounds import Figure, Section, alternate, share
from stormbreak import AsyncClient, Policy, Verdict

IN_FLIGHT = 200
REQUESTS = 3_000
ROUNDS = 8
MODEL = "storm-1"
MESSAGES: list[ChatCompletionUserMessageParam] = [
    {"role": "user", "content": "Summarise the document about tides, harbours and the moon."}
]
PAYLOAD = {"model": MODEL, "messages": MESSAGES}
BODY = json.dumps(PAYLOAD).encode()
SPARE = 0.8  # of a core: the provider must not use more of its own

Ask = Callable[[], Awaitable[object]]


class _Round(NamedTuple):
    rate: float  # requests per second
    cpu: float  # us of this process per request
    busy: float  # share of its core that the provider used


class _Client(NamedTuple):
    name: str
    ask: Ask
    requests: int = REQUESTS
    goal: str = ""


def sections() -> list[Section]:
    """Measure the clients and their partner."""
    with partner() as provider, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        cores.pin(cores.CLIENT)
        try:
            most = flood(provider.port, BODY)
            stack = AsyncExitStack()
            clients = runner.run(_clients(stack, provider))
            for client in clients:
                _measure(runner, client, provider)  # opens the connections
            rounds = alternate(
                clients, lambda client: _measure(runner, client, provider), rounds=ROUNDS
            )
            runner.run(stack.aclose())
        finally:
            cores.unpin()
    return [_rates(clients, rounds), _ratios(clients, rounds), _partner(most, rounds)]


async def _clients(stack: AsyncExitStack, provider: Partner) -> list[_Client]:
    url = f"{provider.base_url}/chat/completions"
    headers = {"Content-Type": "application/json", "Authorization": "Bearer bench"}
    session = await stack.enter_async_context(
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=IN_FLIGHT, keepalive_timeout=60.0),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
    )
    ours = await stack.enter_async_context(
        AsyncClient(base_url=provider.base_url, api_key="bench", model=MODEL, policy=Policy())
    )
    sdk = await stack.enter_async_context(
        openai.AsyncOpenAI(base_url=provider.base_url, api_key="bench")
    )

    async def bare() -> None:
        async with session.post(url, data=BODY, headers=headers) as response:
            assert json.loads(await response.read())["choices"]

    async def ask() -> None:
        ended = await ours.ask("chat/completions", BODY)
        assert ended.outcome.verdict is Verdict.OK

    async def chat() -> None:
        assert (await ours.chat(MESSAGES)).text

    async def openai_sdk() -> None:
        answer = await sdk.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert answer.choices

    return [
        _Client("bare aiohttp", bare),
        _Client("stormbreak ask", ask, goal=">= 70 %"),
        _Client("stormbreak chat", chat),
        _Client("openai SDK", openai_sdk, REQUESTS // 8),
    ]


def _measure(runner: asyncio.Runner, client: _Client, provider: Partner) -> _Round:
    gc.collect()
    theirs, ours, began = provider.cpu(), time.process_time(), time.perf_counter()
    runner.run(_push(client.ask, client.requests))
    took = time.perf_counter() - began
    cpu = time.process_time() - ours
    return _Round(
        client.requests / took, cpu / client.requests * 1e6, (provider.cpu() - theirs) / took
    )


async def _push(ask: Ask, requests: int) -> None:
    """Keep 200 in flight until all are answered."""
    left = iter(range(requests))

    async def lane() -> None:
        for _ in left:
            await ask()

    await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))


def _rates(clients: list[_Client], rounds: list[tuple[_Round, ...]]) -> Section:
    figures = [
        Figure(client.name, "/s", tuple(one.rate for one in taken))
        for client, taken in zip(clients, rounds, strict=True)
    ]
    figures += [
        Figure(f"{client.name}, CPU a request", "us", tuple(one.cpu for one in taken))
        for client, taken in zip(clients, rounds, strict=True)
    ]
    return Section("Requests per second, 200 in flight, 20 ms provider", figures)


def _ratios(clients: list[_Client], rounds: list[tuple[_Round, ...]]) -> Section:
    bare = rounds[0]
    figures = []
    for client, taken in zip(clients[1:], rounds[1:], strict=True):
        rates = share((one.rate for one in taken), (one.rate for one in bare))
        per_cpu = share((one.cpu for one in bare), (one.cpu for one in taken))
        figures.append(Figure(client.name, "%", rates, client.goal, "by the clock"))
        figures.append(Figure(client.name, "%", per_cpu, client.goal, "per CPU second"))
    return Section("The same, beside bare aiohttp in the same round", figures)


def _partner(most: float, rounds: list[tuple[_Round, ...]]) -> Section:
    busy = tuple(one.busy for taken in rounds for one in taken)
    figures = [
        Figure("answers per second at most", "/s", (most,), note="1,000 bare sockets"),
        Figure(
            "share of its core while clients ran", "%", tuple(100 * one for one in busy), "< 80"
        ),
    ]
    verdict = "not the bottleneck" if max(busy) < SPARE else "TOO BUSY: the rates above are too low"
    return Section("The provider", figures, [f"The provider was {verdict}."])
