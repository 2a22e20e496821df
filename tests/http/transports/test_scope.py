"""Scopes under the SDKs: priority, tenant, deadline and retries of calls."""

import asyncio
import json
import threading

import anthropic
import openai
import pytest
from sdk_clients import QUICK, SAY, SDKS, each_sdk, each_way, sdk_client, until
from sockets import End, answer, failing, served

from stormbreak import ConfigurationError, Policy, Priority, scope
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.events import Labelled, Sent
from stormbreak.httpx2 import Transport

NARROW = Policy(limit=FixedLimit(max_in_flight=1), retry_budget=None)
CANARIES = ("tenant-canary", "label-canary", "value-canary")


class Gate:
    """An answer of a server that waits until the gate opens."""

    def __init__(self):
        self.opened = asyncio.Event()

    async def __call__(self, _request, writer):
        await self.opened.wait()
        writer.write(answer(json.dumps(BOTH).encode()))


BOTH = {
    "id": "x", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "fine"}], "usage": {"input_tokens": 1, "output_tokens": 1},
    "choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}],
}  # fmt: skip
FINE = answer(json.dumps(BOTH).encode())
"""An answer for either SDK."""


def waiting(transport):
    return sum(call["command"] == "wait_for" for call in transport.snapshot()["pending"])


async def order_of(sdk, calls):
    """Return the names of calls in the order of sending; the first holds the only slot, the others queue one by one."""
    gate, names, order = Gate(), {}, []

    def listen(event):
        if isinstance(event, Labelled):
            names[event.call] = dict(event.labels)["name"]
        if isinstance(event, Sent):
            order.append(names[event.call])

    async def one(name, options):
        with scope(**options, labels={"name": name}):
            await sdk.ask(client)

    async with (
        served(gate) as server,
        sdk_client(sdk, server.base_url, NARROW) as (client, transport),
    ):
        transport.subscribe(listen)
        tasks = []
        for place, (name, options) in enumerate(calls):
            tasks.append(asyncio.create_task(one(name, options)))
            await server.asked()
            await until(lambda place=place: waiting(transport) == place)
        gate.opened.set()
        await asyncio.gather(*tasks)
    return order


@each_way
async def test_queued_calls_are_sent_by_the_priority_of_their_scope(sdk):
    calls = [
        ("first", {}),
        ("background", {"priority": Priority.BACKGROUND}),
        ("batch", {"priority": Priority.BATCH}),
        ("interactive", {}),
    ]
    assert await order_of(sdk, calls) == ["first", "interactive", "batch", "background"]


@each_way
async def test_tenants_get_fair_shares(sdk):
    batch = {"priority": Priority.BATCH}
    many = [(name, batch | {"tenant": "many"}) for name in ("first", "a", "b", "c", "d")]
    order = await order_of(sdk, [*many, ("one", batch | {"tenant": "one"})])
    assert order.index("one") <= 2
    assert [name for name in order if name != "one"] == ["first", "a", "b", "c", "d"]


@each_way
async def test_the_deadline_of_a_scope_bounds_a_call(sdk):
    async with (
        served([End.HANG]) as server,
        sdk_client(sdk, server.base_url, max_retries=0, timeout=60) as (client, _),
    ):
        async with asyncio.timeout(30):
            with scope(deadline=0.2), pytest.raises(sdk.errors):
                await sdk.ask(client)
        await server.all_closed()


@each_way
@pytest.mark.parametrize("begun", [False, True])
async def test_the_deadline_of_a_scope_bounds_a_stream(sdk, begun):
    hello = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
    begin = answer(hello, content_type="text/event-stream", content_length=10**7)
    async with (
        served([begin if begun else b"", End.HANG]) as server,
        sdk_client(sdk, server.base_url, max_retries=0, timeout=60) as (client, _),
    ):
        async with asyncio.timeout(30):
            with scope(deadline=0.3), pytest.raises(sdk.errors):
                await sdk.read(await sdk.ask(client, stream=True))
        await server.all_closed()


@each_way
@pytest.mark.parametrize(("retries", "sent"), [(0, 1), (1, 2), (99, 4)])
async def test_retries_of_a_scope_bound_the_attempts(sdk, retries, sent):
    async with served(failing(503)) as server, sdk_client(sdk, server.base_url) as (client, _):
        with scope(retries=retries), pytest.raises(sdk.errors):
            await sdk.ask(client)
        assert len(server.requests) == sent


@each_way
async def test_a_scope_sends_no_tenant_or_label_to_the_provider(sdk):
    events = []
    async with (
        served(failing(503), FINE) as server,
        sdk_client(sdk, server.base_url) as (client, transport),
    ):
        transport.subscribe(events.append)
        with scope(tenant=CANARIES[0], labels={CANARIES[1]: CANARIES[2]}, priority=Priority.BATCH):
            await sdk.ask(client)
        assert len(server.requests) == 2
        assert not any(word in repr(server.requests) for word in (*CANARIES, "stormbreak-"))
    (event,) = [event for event in events if isinstance(event, Labelled)]
    assert event.labels == ((CANARIES[1], CANARIES[2]),)


def test_each_thread_has_its_own_scope(stormbreak_provider):
    provider = stormbreak_provider("calm", speed=20)
    transport, labels = Transport(QUICK), set()
    transport.subscribe(
        lambda event: labels.add(event.labels) if isinstance(event, Labelled) else None
    )
    sdk = SDKS[2]

    def ask(name):
        with scope(labels={"thread": name}):
            client.chat.completions.create(model="m", messages=SAY)

    with sdk.client(provider.base_url, transport) as client:
        threads = [threading.Thread(target=ask, args=(str(number),)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert labels == {(("thread", str(number)),) for number in range(8)}


@each_sdk
async def test_an_sdk_takes_headers_for_a_call_and_for_a_client(sdk):
    async with served(failing(503)) as server, sdk_client(sdk, server.base_url) as (client, _):
        with pytest.raises(sdk.errors):
            await sdk.ask(client, extra_headers={"x-stormbreak-retries": "1"})
        assert len(server.requests) == 2
        once = client.with_options(default_headers={"X-Stormbreak-Retries": "0"})
        with pytest.raises(sdk.errors), scope(retries=3):
            await sdk.ask(once)
        assert len(server.requests) == 3


@each_sdk
async def test_an_invalid_scope_header_raises_configuration_error(sdk):
    """The SDK of openai raises it unchanged; that of anthropic raises its own error with it as the cause."""
    async with served() as server, sdk_client(sdk, server.base_url, max_retries=0) as (client, _):
        with pytest.raises((ConfigurationError, anthropic.APIConnectionError)) as caught:
            await sdk.ask(client, extra_headers={"x-stormbreak-priority": "hi"})
        assert not server.requests
    refused = caught.value if sdk.module is openai else caught.value.__cause__
    message = "x-stormbreak-priority must be one of interactive, batch, background, got 'hi'"
    assert isinstance(refused, ConfigurationError)
    assert str(refused) == message
