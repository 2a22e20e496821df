"""Timeouts of silence: none before the first output, the stall timeout after it."""

import json
from dataclasses import replace

import pytest
from sockets import End, answer, served
from table_test import table_test
from virtual_loop import in_virtual_time

from stormbreak.core.backoff import Backoff
from stormbreak.core.policy import Policy
from stormbreak.core.presets import PRESETS
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import StreamBrokenError
from stormbreak.events import Returned
from stormbreak.http.client import AsyncClient
from stormbreak.types import Verdict

SAY = {"messages": [{"role": "user", "content": "hello"}]}
BODY = b'{"model":"m","messages":[]}'
POLICY = Policy(
    deadline=5.0,
    stall_timeout=0.15,
    retry=RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.01)),
    breaker=None,
    retry_budget=None,
)
HEAD = answer(b"", content_type="text/event-stream").replace(b"content-length: 0\r\n", b"")


def event(content, finish=None):
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n'
REST = event(" there", "stop") + b"data: [DONE]\n\n"
FINE = (HEAD, event("Hi"), REST, End.CLOSE)


def client_of(server, policy=POLICY, **more):
    return AsyncClient(base_url=server.base_url, model="m", policy=policy, **more)


@table_test("name", ["interactive", "batch", "article"])
def test_the_presets_have_a_stall_timeout(name):
    assert PRESETS[name].stall_timeout == 120.0
    assert PRESETS[name].idle_timeout is None


@in_virtual_time
async def test_a_stalled_stream_on_the_wire_is_retried():
    stalled = (HEAD, event("Hi"), End.HANG)
    async with served(stalled, FINE) as server, client_of(server, stream_on_wire=True) as client:
        events = []
        client.subscribe(lambda each: isinstance(each, Returned) and events.append(each))
        ended = await client.ask("chat/completions", BODY)
        await client.close()
        await server.all_closed()

    assert (ended.outcome.verdict, ended.attempts, ended.maybe_processed) == (Verdict.OK, 2, 1)
    assert (events[0].verdict, events[0].detail) == (Verdict.TIMEOUT, "went silent")


@in_virtual_time
async def test_a_stalled_stream_raises_for_its_reader():
    stalled = (HEAD, event("Hi"), End.HANG)
    async with served(stalled) as server, client_of(server) as client:
        stream = await client.stream("chat/completions", SAY)
        with pytest.raises(StreamBrokenError, match="went silent") as broken:
            await stream.answer()
        await server.all_closed()

    assert Verdict.TIMEOUT is broken.value.verdict
    assert broken.value.received.endswith(event("Hi"))


@pytest.mark.parametrize("on_wire", [True, False])
@in_virtual_time
async def test_the_stall_timeout_does_not_apply_before_the_first_output(on_wire):
    thinking = (HEAD, ROLE, 0.4, event("Hi"), 0.05, REST, End.CLOSE)
    async with served(thinking) as server, client_of(server, stream_on_wire=on_wire) as client:
        if on_wire:
            ended = await client.ask("chat/completions", BODY)
            assert (ended.outcome.verdict, ended.attempts) == (Verdict.OK, 1)
        else:
            async with client.stream("chat/completions", SAY) as stream:
                assert "".join([text async for text in stream.texts()]) == "Hi there"


@in_virtual_time
async def test_the_stall_timeout_does_not_apply_to_a_plain_answer():
    body = answer()
    async with served((0.3, body[:40], 0.3, body[40:])) as server, client_of(server) as client:
        ended = await client.ask("chat/completions", BODY)

    assert (ended.outcome.verdict, ended.attempts) == (Verdict.OK, 1)


@in_virtual_time
async def test_pings_reset_the_stall_timeout():
    pings = [item for _ in range(6) for item in (b": ping\n\n", 0.05)]
    script = (HEAD, event("Hi"), *pings, REST, End.CLOSE)
    async with served(script) as server, client_of(server, stream_on_wire=True) as client:
        ended = await client.ask("chat/completions", BODY)

    assert (ended.outcome.verdict, ended.attempts) == (Verdict.OK, 1)


@in_virtual_time
async def test_the_shorter_of_stall_and_idle_timeout_applies():
    policy = replace(POLICY, stall_timeout=9.0, idle_timeout=0.1)
    async with (
        served((HEAD, event("Hi"), End.HANG), FINE) as server,
        client_of(server, policy, stream_on_wire=True) as client,
    ):
        ended = await client.ask("chat/completions", BODY)

    assert (ended.outcome.verdict, ended.attempts) == (Verdict.OK, 2)


@in_virtual_time
async def test_a_failed_stream_is_closed_at_once():
    """The client reads nothing after the error."""
    error = b'data: {"error": {"message": "no", "code": "server_error"}}\n\n'
    more = [item for _ in range(9) for item in (event("more"), 0.02)]
    script = (HEAD, error, *more, End.HANG)
    async with served(script, FINE) as server, client_of(server, stream_on_wire=True) as client:
        ended = await client.ask("chat/completions", BODY)
        await client.close()
        await server.all_closed()

    assert (ended.outcome.verdict, ended.attempts) == (Verdict.OK, 2)
