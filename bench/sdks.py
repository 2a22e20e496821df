"""CPU per call of the SDKs on our transports, beside the same SDKs on their own, in alternating rounds of one process.

Both run on uvloop where they run on a loop, and on the same threads where they block; the provider has the other core.
"""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import anthropic
import httpx2
import openai
import uvloop

import cores
from partner import Partner, partner
from rounds import Figure, Section, alternate, share
from stormbreak.httpx2 import AsyncTransport, Transport

IN_FLIGHT = 64
THREADS = 16
REQUESTS = 768
ROUNDS = 8
MODEL = "storm-1"
SAY: Any = [
    {"role": "user", "content": "Summarise the document about tides, harbours and the moon."}
]
GOAL = "<= 70"

Round = Callable[[], float]


class Subject(NamedTuple):
    """What is measured: a round of it tells CPU us per request."""

    name: str
    measure: Round
    close: Callable[[], object]


def sections() -> list[Section]:
    """Measure every SDK in both ways over both transports."""
    with partner() as provider, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        cores.pin(cores.CLIENT)
        try:
            subjects = [*_async(runner, provider), *_blocking(provider)]
            for subject in subjects:
                subject.measure()  # opens the connections
            rounds = alternate(subjects, lambda one: one.measure(), rounds=ROUNDS)
            for subject in subjects:
                subject.close()
        finally:
            cores.unpin()
    return [_section("CPU per call under the SDKs", "call", subjects, rounds)]


def _async(runner: asyncio.Runner, provider: Partner) -> Iterator[Subject]:
    for module in (openai, anthropic):
        for name, http in clients_of(httpx2.AsyncClient, AsyncTransport):
            kind = openai.AsyncOpenAI if module is openai else anthropic.AsyncAnthropic
            client = kind(**given(module, provider.base_url), http_client=http)
            ask: Callable[[], Awaitable[object]] = partial(*whole(module, client))

            async def push(ask: Callable[[], Awaitable[object]] = ask) -> None:
                left = iter(range(REQUESTS))

                async def lane() -> None:
                    for _ in left:
                        await ask()

                await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))

            yield Subject(
                f"{module.__name__}, async, {name}",
                partial(_cpu, lambda push=push: runner.run(push())),
                lambda client=client: runner.run(client.close()),
            )


def _blocking(provider: Partner) -> Iterator[Subject]:
    for module in (openai, anthropic):
        for name, http in clients_of(httpx2.Client, Transport):
            kind = openai.OpenAI if module is openai else anthropic.Anthropic
            client = kind(**given(module, provider.base_url), http_client=http)
            ask: Callable[[], object] = partial(*whole(module, client))

            def push(ask: Callable[[], object] = ask) -> None:
                with ThreadPoolExecutor(THREADS) as threads:
                    for done in [threads.submit(ask) for _ in range(REQUESTS)]:
                        done.result()

            yield Subject(f"{module.__name__}, sync, {name}", partial(_cpu, push), client.close)


def clients_of(kind: Any, transport: Any) -> list[tuple[str, Any]]:
    """A client of the library that is as the SDKs make theirs, and one over our transport."""
    limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=1000)
    return [
        ("its own transport", kind(limits=limits, timeout=600.0)),
        ("ours", kind(transport=transport("interactive"), timeout=600.0)),
    ]


def given(module: Any, base_url: str) -> dict[str, str]:
    """Where an SDK finds the server."""
    base_url = base_url.removesuffix("/v1") if module is anthropic else base_url
    return {"base_url": base_url, "api_key": "bench"}


def whole(module: Any, client: Any, **more: Any) -> tuple[Any, ...]:
    """What asks for an answer, and what for: arguments of `partial`."""
    if module is anthropic:
        more |= {"max_tokens": 100}
        return (partial(client.messages.create, model=MODEL, messages=SAY, **more),)
    return (partial(client.chat.completions.create, model=MODEL, messages=SAY, **more),)


def _cpu(push: Callable[[], object]) -> float:
    gc.collect()
    began = time.process_time()
    push()
    return (time.process_time() - began) / REQUESTS * 1e6


def _section(
    title: str, what: str, subjects: list[Subject], rounds: list[tuple[float, ...]]
) -> Section:
    figures = [
        Figure(f"{subject.name}, CPU a {what}", "us", taken)
        for subject, taken in zip(subjects, rounds, strict=True)
    ]
    for number in range(0, len(subjects), 2):
        theirs, ours = rounds[number : number + 2]
        name = subjects[number + 1].name
        figures.append(Figure(f"{name}, beside its own", "%", share(ours, theirs), GOAL))
    return Section(title, figures)
