"""Many streams, each read, closed, cancelled or dropped at random, leave nothing behind."""

import asyncio
import gc
import random
import threading
import warnings
from contextlib import suppress

import pytest
from sdk_clients import until
from sockets import End, answer, served
from table_test import table_test

from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import StormbreakError
from stormbreak.http.client import AsyncClient
from stormbreak.testing import answer_text

SAY = {"messages": [{"role": "user", "content": "hello"}]}
SSE = {"content_type": "text/event-stream"}
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
WHOLE = EVENT * 5 + STOP
OPEN = answer(b"", **SSE | {"content_length": 10**6})
SCRIPTS = [
    answer(WHOLE, **SSE),
    answer(WHOLE, **SSE),
    (answer(b"", **SSE | {"content_length": len(WHOLE)}), EVENT, 0.01, EVENT * 4, 0.01, STOP),
    (OPEN + EVENT, End.CLOSE),
    (OPEN + EVENT, End.RESET),
    (OPEN, 0.01, EVENT, End.HANG),
    (OPEN + EVENT, 0.01, b"data: {no json}\n\n", End.HANG),
    answer(b"{}", 500),
    (End.CLOSE,),
]
POLICY = Policy(
    limit=FixedLimit(max_in_flight=12),
    idle_timeout=0.1,
    retry_budget=None,
    breaker=None,
    retry=RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.01)),
)


async def live(client, chance):
    """Open a stream, and read, close or drop it at random."""
    way = chance.choice(["events", "texts", "raw", "answer", "some", "drop", "close"])
    with suppress(StormbreakError):
        stream = await client.stream("chat/completions", SAY, deadline=chance.choice([None, 0.15]))
        if way == "drop":
            return
        async with stream:
            if way == "answer":
                await stream.answer()
            elif way != "close":
                each_of = {"texts": stream.texts, "raw": stream.raw}.get(way, stream.__aiter__)
                async for _ in each_of():
                    if way == "some" or chance.random() < 0.1:
                        break
                    await asyncio.sleep(chance.choice([0, 0, 0.005]))


@table_test("seed", range(6))
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_random_streams_leave_no_slot_queue_entry_or_connection(seed):
    chance = random.Random(seed)
    scripts = [chance.choice(SCRIPTS) for _ in range(400)]
    async with served(*scripts) as server:
        client = AsyncClient(base_url=server.base_url, model="m", policy=POLICY)
        target_state = client.engine.target_state(client.target("m"))
        tasks = []
        for _ in range(80):
            tasks.append(asyncio.create_task(live(client, chance)))
            await asyncio.sleep(chance.choice([0, 0.002]))
            if chance.random() < 0.3:
                chance.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        tasks.clear()
        gc.collect()

        assert (target_state.slots.in_flight, target_state.admission.queued) == (0, 0)
        pool = client._resolver.first.routes.connections()[0]._pool()
        await until(lambda: not pool.streams)
        await client.close()
        await server.all_closed()


def test_a_stream_collected_on_another_thread_is_closed_on_its_loop():
    """The thread that drops the last reference has no loop: the connection is closed on its own loop."""

    async def main():
        async with served((OPEN + EVENT, End.HANG)) as server:
            client = AsyncClient(base_url=server.base_url, model="m")
            kept = [await client.stream("chat/completions", SAY)]
            with warnings.catch_warnings(record=True):
                warnings.simplefilter("always")
                thread = threading.Thread(target=kept.clear)
                thread.start()
                thread.join()
            assert client.engine.target_state(client.target("m")).slots.in_flight == 0
            await server.all_closed()
            await client.close()

    asyncio.run(main())


@table_test(
    "kind", ["cut_stream", "stream_reset", "cut_body", "invalid_json", "error_in_200", "empty_body"]
)
async def test_no_fault_of_a_stream_is_accepted_as_an_answer(stormbreak_provider, kind):
    provider = stormbreak_provider(
        f'[provider]\nservice = 0.5\nslots = 100\n[[faults]]\nkind = "{kind}"\nshare = 0.4\n',
        speed=20,
    )
    policy = Policy(
        retry_budget=None,
        breaker=None,
        retry=RetryPolicy(backoff=Backoff(kind="constant", initial_delay=0.01)),
    )
    async with AsyncClient(base_url=provider.base_url, model="m", policy=policy) as client:

        async def ask(number):
            payload = {"messages": [{"role": "user", "content": f"question {number}"}]}
            try:
                async with client.stream("chat/completions", payload) as stream:
                    text = "".join([text async for text in stream.texts()])
            except StormbreakError as error:
                return type(error).__name__
            return text == answer_text(payload | {"model": "m"})

        got = await asyncio.gather(*(ask(number) for number in range(60)))
        in_flight = client.engine.target_state(client.target("m")).slots.in_flight

    assert False not in got
    assert got.count(True) > 20
    assert in_flight == 0
