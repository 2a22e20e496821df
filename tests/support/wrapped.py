"""Every kind of connection for a call: our own, an HTTP library inside ours, a wrapped client of an SDK."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from typing import NamedTuple

import anthropic
import openai
from on_threads import ClientOnThreads

from stormbreak.drivers.blocking import run
from stormbreak.http.client import AsyncClient
from stormbreak.http.transports.wrapped_connection import (
    BlockingWrappedConnection,
    WrappedConnection,
)

THREADS = 50
KEY = "sk-wrapped-canary-0123456789"


class RequestPath(NamedTuple):
    """A kind of connection: `sdk` is the module of the wrapped client; without it, the library's transport is `inner` to ours."""

    lib: str
    blocks: bool
    sdk: object = None

    def __str__(self):
        over = self.lib or "our own" if self.sdk is None else f"{self.sdk.__name__} wrapped"
        return f"{over}, blocking" if self.blocks else over


OWN_BLOCKING = RequestPath("", blocks=True)
INNER = [RequestPath(lib, blocks) for lib in ("httpx2", "httpx") for blocks in (False, True)]
WRAPPED = [
    RequestPath("httpx2", blocks, sdk) for sdk in (openai, anthropic) for blocks in (False, True)
]


def inner_of(way, **options):
    """The library's transport, without certificates: reading them would take longer than a test."""
    lib = import_module(way.lib)
    kind = lib.HTTPTransport if way.blocks else lib.AsyncHTTPTransport
    return kind(**{"verify": False} | options)


def wire_of(way, **options):
    """Our wire over the inner transport."""
    library = import_module(f"stormbreak.{way.lib}").Transport.library
    inner = inner_of(way, **options)
    return (BlockingWrappedConnection if way.blocks else WrappedConnection)(library, inner)


async def done(way, coroutine):
    """Run a coroutine of ours where a call of that kind runs; return its result."""
    if way is not None and way.blocks:
        return await asyncio.to_thread(run, coroutine)
    return await coroutine


@asynccontextmanager
async def asking(way, base_url, policy, *, verify=False):
    """Yield a function that returns the text of a chat completion over a connection of that kind; None, OWN_BLOCKING: our own."""
    if way in (None, OWN_BLOCKING):
        if way is not None:
            _widen()
        async with (ClientOnThreads if way else AsyncClient)(
            base_url=base_url, model="m", policy=policy
        ) as client:
            yield partial(_ask_client, client)
        return
    lib, ours = import_module(way.lib), import_module(f"stormbreak.{way.lib}")
    kind = lib.Client if way.blocks else lib.AsyncClient
    if way.sdk is None:
        transport = ours.Transport if way.blocks else ours.AsyncTransport
        client = http = kind(transport=transport(policy, inner=inner_of(way, verify=verify)))
        ask = partial(_ask_library, way, http, base_url)
    else:
        http = kind(verify=verify)
        name = {openai: "OpenAI", anthropic: "Anthropic"}[way.sdk]
        made = getattr(way.sdk, name if way.blocks else f"Async{name}")
        base = base_url.removesuffix("/v1") if way.sdk is anthropic else base_url
        client = made(base_url=base, api_key=KEY, http_client=http, max_retries=0)
        ours.wrap(client, policy)
        ask = partial(_ask_sdk, way, client)
    http.timeout = 60
    if way.blocks:
        _widen()
    try:
        yield ask
    finally:
        await _call(way, http.close if way.blocks else http.aclose)


def _widen():
    """Allow as many threads as calls."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))


async def _call(way, function, *args, **more):
    if way.blocks:
        return await asyncio.to_thread(function, *args, **more)
    return await function(*args, **more)


async def _ask_client(client, text):
    return (await client.chat([{"role": "user", "content": text}])).text


async def _ask_library(way, http, base_url, text):
    payload = {"model": "m", "messages": [{"role": "user", "content": text}]}
    response = await _call(way, http.post, f"{base_url}/chat/completions", json=payload)
    return response.raise_for_status().json()["choices"][0]["message"]["content"]


async def _ask_sdk(way, client, text):
    given = {"model": "m", "messages": [{"role": "user", "content": text}], "timeout": 60}
    if way.sdk is anthropic:
        response = await _call(way, client.messages.create, **given, max_tokens=9)
        return response.content[0].text
    response = await _call(way, client.chat.completions.create, **given)
    return response.choices[0].message.content
