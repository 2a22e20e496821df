"""Four calls at once to a server that serves one: it queues them, or interrupts the running stream.

An interrupted stream ends with `[DONE]` and without a finish reason: the marker alone does not prove a whole answer.
"""

import asyncio
import time
from contextlib import suppress

import aiohttp
import pytest
from model_server import KEY

from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import CallError, StreamBrokenError

pytestmark = pytest.mark.real

TOKENS = 60
COUNT = 4
STORY = [{"role": "user", "content": "Tell a very long story of the sea."}]
PAYLOAD = {"model": "smollm2", "messages": STORY, "max_tokens": TOKENS, "min_tokens": TOKENS}
AT_ONCE = Policy(
    retry=RetryPolicy(max_attempts=1), limit=FixedLimit(max_in_flight=COUNT), breaker=None
)


async def outcomes(client, call):
    """Return the answers and the errors of concurrent calls; a part is never an answer."""
    ended = await asyncio.gather(*(call(number) for number in range(COUNT)), return_exceptions=True)
    answered = [one for one in ended if not isinstance(one, BaseException)]
    broken = [one for one in ended if isinstance(one, CallError)]
    assert len(answered) + len(broken) == COUNT, ended
    target_states = client.snapshot()["targets"].values()
    assert all(
        target_state["in_flight"] == target_state["queued"] == 0 for target_state in target_states
    )
    return answered, broken


async def test_an_interrupted_stream_ends_with_the_done_marker(model):
    """Without our client: the server sends the marker for an interrupted stream, but no finish reason."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        url = f"{model.base_url}/chat/completions"

        begun = asyncio.Event()

        async def read():
            parts = []
            async with session.post(url, json=PAYLOAD | {"stream": True}) as answer:
                with suppress(aiohttp.ClientPayloadError):  # the server cuts the connection, too
                    async for part in answer.content.iter_any():
                        parts.append(part)
                        if b'"content"' in part:
                            begun.set()
            return b"".join(parts)

        first = asyncio.create_task(read())
        await begun.wait()
        whole = await read()
        interrupted = await first

    for stream in (interrupted, whole):
        assert stream.rstrip().endswith(b"data: [DONE]")
    assert b'"finish_reason": "length"' in whole
    assert b'"finish_reason": "length"' not in interrupted
    assert b'"content"' in interrupted


@pytest.mark.parametrize("on_wire", [False, True], ids=["plain", "on wire"])
async def test_an_interrupted_answer_is_reported_as_broken(model, client_of, on_wire):
    async with client_of(model, policy=AT_ONCE, stream_on_wire=on_wire) as client:

        async def call(number):
            await asyncio.sleep(0.2 * number)
            return await client.request("chat/completions", PAYLOAD)

        answered, broken = await outcomes(client, call)

    assert len(answered) == COUNT or on_wire  # plain calls are queued
    assert not on_wire or broken
    assert {"broken"} >= {str(error.verdict) for error in broken}


async def test_an_interrupted_stream_raises_stream_broken_error(model, client_of):
    async with client_of(model, policy=AT_ONCE) as client:

        async def call(number):
            await asyncio.sleep(0.2 * number)
            async with client.stream("chat/completions", PAYLOAD) as stream:
                return [text async for text in stream.texts()]

        answered, broken = await outcomes(client, call)

    assert all(len(texts) > TOKENS / 2 for texts in answered)
    assert [StreamBrokenError] * len(broken) == [type(error) for error in broken]
    assert broken


async def test_a_limit_of_one_prevents_interruptions(model, client_of, figure):
    """The setting for such a server: calls wait in our queue, and the server does nothing twice."""
    policy = Policy(limit=FixedLimit(max_in_flight=1))
    async with client_of(model, policy=policy, stream_on_wire=True) as client:
        began = time.perf_counter()
        answered, _ = await outcomes(client, lambda _: client.request("chat/completions", PAYLOAD))
        figure("four_with_a_limit_of_one_s", round(time.perf_counter() - began, 2))

    assert [answer.attempts for answer in answered] == [1] * COUNT


async def test_the_default_policy_takes_no_interrupted_stream_for_an_answer(
    model, client_of, figure
):
    """The client knows nothing about the server: a part is never taken for an answer."""
    async with client_of(model, stream_on_wire=True) as client:
        began = time.perf_counter()
        answered, broken = await outcomes(
            client, lambda _: client.request("chat/completions", PAYLOAD)
        )
        figure("four_by_default_s", round(time.perf_counter() - began, 2))
    figure("four_by_default_attempts", sorted(answer.attempts for answer in answered))
    figure("four_by_default_broken", len(broken))

    assert answered


async def test_a_server_that_queues_answers_every_call(patient_model, client_of, figure):
    async with client_of(patient_model, stream_on_wire=True) as client:
        began = time.perf_counter()
        answered, _ = await outcomes(client, lambda _: client.request("chat/completions", PAYLOAD))
        figure("four_queued_s", round(time.perf_counter() - began, 2))

    assert [answer.attempts for answer in answered] == [1] * COUNT
