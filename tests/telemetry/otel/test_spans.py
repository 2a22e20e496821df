"""Spans of real calls as the SDK receives them: their tree, attributes and status."""

import asyncio
from dataclasses import replace

import pytest
from chat_stream import ENDLESS, HELLO, OPENING, STOP, THERE
from clients import KEY, ONCE, PAYLOAD, QUICK, SAY, hedging
from opentelemetry.trace import SpanKind, StatusCode
from sockets import End, answer, served
from streamed import DONE
from traces import Traces, attributes_of, events_of

from stormbreak import Policy, errors
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.fallback_policy import Place, ToDegraded, ToTargets
from stormbreak.core.hedge import HedgePolicy
from stormbreak.drivers.scope import scope
from stormbreak.telemetry import attach
from stormbreak.types import Priority

FIRST_FAILS = '[[faults]]\nkind = "503"\nfirst_attempts = 1\n'
CUT = '[[faults]]\nkind = "cut_stream"\nshare = 1.0\n'
SLOW = "duration = 3600\n[provider]\nservice = 1.0\nvariation = 0.0\n"
CHAT = "chat/completions"
VERDICT, ERROR = "stormbreak.verdict", "error.type"


def traced(provider, traces, policy=QUICK, **more):
    client = hedging(provider, policy, api_key=KEY, **more)
    attach(client, traces.listener)
    return client


@pytest.fixture
def traces():
    return Traces()


async def test_a_call_and_its_attempt_have_spans_with_attributes(stormbreak_provider, traces):
    provider = stormbreak_provider("calm", speed=100)
    async with traced(provider, traces) as client:
        answered = await client.chat(SAY)
    call, (attempt,) = traces.only()
    where = {
        "gen_ai.provider.name": f"127.0.0.1:{provider.port}",
        "gen_ai.request.model": "m",
        "server.address": "127.0.0.1",
        "server.port": provider.port,
        "stormbreak.target": f"127.0.0.1:{provider.port}/m",
        VERDICT: "ok",
    }

    assert (call.name, attempt.name) == ("chat m", "attempt m")
    assert call.kind is attempt.kind is SpanKind.CLIENT
    assert call.status.status_code is attempt.status.status_code is StatusCode.UNSET
    usage = {name: call.attributes[f"gen_ai.usage.{name}_tokens"] for name in ("input", "output")}

    assert (usage["input"], usage["output"]) == (
        answered.usage.input_tokens,
        answered.usage.output_tokens,
    )
    assert usage["input"] > 0
    assert dict(call.attributes) == where | {
        **{f"gen_ai.usage.{name}_tokens": count for name, count in usage.items()},
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.cache_creation.input_tokens": 0,
        "gen_ai.operation.name": "chat",
        "stormbreak.attempts": 1,
        "stormbreak.maybe_processed": 0,
        "stormbreak.priority": "interactive",
        "stormbreak.source": "target",
        "stormbreak.waited": 0.0,
    }
    assert dict(attempt.attributes) == where | {
        "http.response.status_code": 200,
        "stormbreak.attempt": 1,
    }
    assert call.start_time <= attempt.start_time < attempt.end_time <= call.end_time
    assert (call.instrumentation_scope.name, call.instrumentation_scope.version) == (
        "stormbreak",
        "0.1.0",
    )


async def test_a_retry_is_an_event_and_another_attempt(stormbreak_provider, traces):
    async with traced(stormbreak_provider(FIRST_FAILS, speed=100), traces) as client:
        await client.chat(SAY)
    call, (first, second) = traces.only()
    ((name, attributes),) = events_of(call)

    assert attributes_of(first, VERDICT, ERROR, "http.response.status_code") == (
        "overloaded", "overloaded", 503,
    )  # fmt: skip
    assert (first.status.status_code, first.status.description) == (StatusCode.ERROR, "overloaded")
    assert attributes_of(second, VERDICT, ERROR, "http.request.resend_count") == ("ok", None, 1)
    assert name == "retry.scheduled"
    assert attributes.pop("stormbreak.seconds") == pytest.approx(0.01)
    assert attributes == {
        "stormbreak.attempt": 1,
        "stormbreak.free": True,
        "stormbreak.maybe_processed": False,
        VERDICT: "overloaded",
    }
    assert attributes_of(call, VERDICT, ERROR, "stormbreak.attempts") == ("ok", None, 2)
    assert call.status.status_code is StatusCode.UNSET
    assert call.attributes["stormbreak.waited"] >= 0.01


async def test_a_failed_call_has_an_error_status(stormbreak_provider, traces):
    provider = stormbreak_provider('[[faults]]\nkind = "401"\nshare = 1.0\n', speed=100)
    async with traced(provider, traces) as client:
        with pytest.raises(errors.AuthenticationError):
            await client.chat(SAY)
    call, (attempt,) = traces.only()

    assert attributes_of(call, VERDICT, ERROR, "stormbreak.source") == ("auth", "auth", None)
    assert call.status.status_code is attempt.status.status_code is StatusCode.ERROR
    assert events_of(call) == [
        ("retry.refused", {"stormbreak.attempt": 1, "stormbreak.gate": "verdict", VERDICT: "auth"})
    ]


async def test_the_span_of_a_stream_lasts_until_its_end(stormbreak_provider, traces):
    async with (
        traced(stormbreak_provider("calm", speed=100), traces) as client,
        client.stream(CHAT, PAYLOAD) as stream,
    ):
        await anext(stream)
        assert traces.spans == []
        async for _ in stream:
            pass
    call, (attempt,) = traces.only()
    ((name, attributes),) = events_of(attempt)

    assert attributes_of(call, VERDICT, "gen_ai.request.stream") == ("ok", True)
    assert (name, [*attributes]) == ("attempt.first_output", ["stormbreak.seconds"])
    assert (
        call.attributes["gen_ai.response.time_to_first_chunk"]
        >= attributes["stormbreak.seconds"]
        > 0
    )


async def test_a_cut_stream_is_a_broken_attempt(stormbreak_provider, traces):
    async with (
        traced(stormbreak_provider(CUT, speed=100), traces) as client,
        client.stream(CHAT, PAYLOAD) as stream,
    ):
        with pytest.raises(errors.StreamBrokenError):
            await stream.answer()
    call, (attempt,) = traces.only()

    assert (
        attributes_of(call, VERDICT, ERROR)
        == attributes_of(attempt, VERDICT, ERROR)
        == ("broken", "broken")
    )
    assert attempt.status.description.startswith("broken: ")
    assert [name for name, _ in events_of(attempt)] == ["attempt.first_output"]


@pytest.mark.parametrize("streams", [False, True])
async def test_a_cancelled_call_ends_its_spans_without_an_error(
    stormbreak_provider, traces, streams
):
    async def ask():
        if not streams:
            await client.chat(SAY)
        async with client.stream(CHAT, PAYLOAD) as stream:
            await anext(stream)
            begun.set()
            await asyncio.Event().wait()

    begun = asyncio.Event()
    async with traced(stormbreak_provider(SLOW), traces) as client:
        asking = asyncio.create_task(ask())
        if streams:
            await begun.wait()
        else:
            await asyncio.sleep(0.1)
        asking.cancel()
        await asyncio.wait([asking])
        call, (attempt,) = traces.only()

    assert (
        attributes_of(call, VERDICT, ERROR)
        == attributes_of(attempt, VERDICT, ERROR)
        == ("cancelled", None)
    )
    assert call.status.status_code is attempt.status.status_code is StatusCode.UNSET


async def test_a_stream_that_is_never_closed_ends_its_spans(traces):
    head = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'
    hanging = (answer(head, content_type="text/event-stream", content_length=9999), End.HANG)
    async with served(hanging) as server, traced(server, traces) as client:
        stream = await client.stream(CHAT, PAYLOAD)
        with pytest.warns(ResourceWarning, match="never closed"):
            del stream
        await asyncio.sleep(0)
        call, (attempt,) = traces.only()

    assert attributes_of(call, VERDICT) == attributes_of(attempt, VERDICT) == ("cancelled",)


async def test_a_hedge_has_two_overlapping_attempts(traces):
    policy = Policy(hedge=HedgePolicy(delay=0.1, percentile=None), retry_budget=None)
    async with served((End.HANG,), (answer(),)) as server, traced(server, traces, policy) as client:
        await client.chat(SAY)
    call, (slow, quick) = traces.only()

    assert attributes_of(slow, VERDICT, ERROR) == ("cancelled", None)
    assert attributes_of(quick, VERDICT, "stormbreak.attempt") == ("ok", 2)
    assert slow.start_time < quick.start_time < slow.end_time
    assert [name for name, _ in events_of(call)] == ["hedge.sent", "attempt.superseded"]
    assert attributes_of(call, VERDICT, "stormbreak.maybe_processed") == ("ok", 1)


async def test_an_attempt_superseded_by_a_stream_ends_when_the_stream_begins(traces):
    policy = Policy(hedge=HedgePolicy(delay=0.05, percentile=None), retry_budget=None)
    stream = (ENDLESS + OPENING + HELLO, 0.05, THERE + STOP + DONE, End.CLOSE)
    async with (
        served((End.HANG,), stream) as server,
        traced(server, traces, policy) as client,
        client.stream(CHAT, PAYLOAD) as coming,
    ):
        await anext(coming)
        (slow,) = traces.spans
        async for _ in coming:
            pass
    call, attempts = traces.only()

    assert attempts[0] == slow
    assert attributes_of(call, VERDICT) == attributes_of(attempts[1], VERDICT) == ("ok",)


async def test_a_fallback_is_an_event_and_an_attempt_at_the_other_target(
    stormbreak_provider, traces, monkeypatch
):
    monkeypatch.setenv("SPARE_KEY", "sk-spare-canary-0123456789")
    down = stormbreak_provider('[[faults]]\nkind = "503"\nshare = 1.0\n', speed=100)
    healthy = stormbreak_provider("calm", speed=100)
    place = Place(base_url=healthy.base_url, api_key_env="SPARE_KEY", model="spare")
    policy = Policy(retry=ONCE.retry, fallback=(ToTargets(targets=(place,)),))
    async with traced(down, traces, policy) as client:
        await client.chat(SAY)
    call, (first, second) = traces.only()

    assert attributes_of(call, VERDICT, "stormbreak.source", "gen_ai.request.model") == (
        "ok", "fallback", "m",
    )  # fmt: skip
    assert attributes_of(first, VERDICT, "server.port") == ("overloaded", down.port)
    assert attributes_of(second, VERDICT, "server.port", "gen_ai.request.model") == (
        "ok", healthy.port, "spare",
    )  # fmt: skip
    assert events_of(call)[-1] == (
        "fallback.started",
        {
            "stormbreak.maybe_processed": False,
            "stormbreak.to": f"127.0.0.1:{healthy.port}/spare",  # without the digest of its key
            VERDICT: "overloaded",
        },
    )


async def test_rejected_and_degraded_calls_have_no_attempts(traces):
    failing_fast = Policy(fail_fast=True)
    degrading = replace(failing_fast, fallback=(ToDegraded(on=("rejected",), text="later"),))
    async with served() as server:
        for policy in (failing_fast, degrading):
            async with traced(server, traces, policy) as client:
                client.isolate("m")
                if policy is degrading:
                    await client.chat(SAY)
                else:
                    with pytest.raises(errors.CircuitOpenError):
                        await client.chat(SAY)
    refused, degraded = traces.below(None)

    assert traces.below(refused) == traces.below(degraded) == []
    assert attributes_of(refused, VERDICT, ERROR, "stormbreak.policy", "stormbreak.attempts") == (
        "rejected", "rejected", "breaker", 0,
    )  # fmt: skip
    assert events_of(refused)[0][0] == "call.rejected"
    assert events_of(refused)[0][1]["stormbreak.reason"] == "the circuit is isolated"
    assert refused.status.status_code is StatusCode.ERROR
    assert attributes_of(degraded, VERDICT, "stormbreak.source") == ("ok", "degraded")


async def test_a_queued_call_names_the_gate(stormbreak_provider, traces):
    policy = Policy(limit=FixedLimit(max_in_flight=1))
    async with traced(stormbreak_provider("calm", speed=20), traces, policy) as client:
        await asyncio.gather(client.chat(SAY), client.chat(SAY))
    first, second = traces.below(None)

    assert events_of(first) == []
    assert events_of(second) == [("call.queued", {"stormbreak.gate": "limit"})]
    assert second.attributes["stormbreak.waited"] > 0


async def test_spans_have_only_the_requested_labels(stormbreak_provider):
    plain, labelled = Traces(), Traces(labels=("feature",))
    provider = stormbreak_provider("calm", speed=100)
    for traces in (plain, labelled):
        async with traced(provider, traces) as client:
            with scope(
                labels={"feature": "summary", "user": "u-77"},
                tenant="acme",
                priority=Priority.BATCH,
            ):
                await client.chat(SAY)
    shown = "".join([*plain.shown(), *labelled.shown()])

    assert "stormbreak.label.feature" not in plain.only()[0].attributes
    assert labelled.only()[0].attributes["stormbreak.label.feature"] == "summary"
    assert labelled.only()[0].attributes["stormbreak.priority"] == "batch"
    assert "u-77" not in shown
    assert "acme" not in shown


@pytest.mark.parametrize(
    ("endpoint", "payload", "name"),
    [
        ("embeddings", {"input": ["a"]}, "embeddings m"),
        ("responses", {"input": "a"}, "chat m"),
        ("messages", {"messages": SAY, "max_tokens": 9}, "chat m"),
        ("completions", {"prompt": "a"}, "text_completion m"),
        ("moderations", {"input": "a"}, "call m"),
    ],
)
async def test_operations_have_the_names_of_the_conventions(traces, endpoint, payload, name):
    async with served() as server, traced(server, traces, ONCE) as client:
        asking = client.request(endpoint, payload)
        # The server always answers with a chat completion.
        await asyncio.gather(asking, return_exceptions=True)

    call, (attempt,) = traces.only()
    assert (call.name, attempt.name) == (name, "attempt m")
    assert call.attributes.get("gen_ai.operation.name", "call") == name.removesuffix(" m")
