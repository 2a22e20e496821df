"""Policies of a client control its calls: retries, deadlines, priorities, presets."""

import asyncio
import json
import time
from dataclasses import replace

import pytest
from clients import QUICK, SAY, client_of, sent_by
from sockets import End, answer, failing, served

from stormbreak import errors
from stormbreak.core.backoff import Backoff
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.presets import ARTICLE
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import ConfigurationError
from stormbreak.http.client import AsyncClient
from stormbreak.types import Priority


async def test_every_attempt_of_a_call_has_the_same_idempotency_key():
    scripts = [failing(500), End.CLOSE, answer(), failing(500), answer()]
    async with served(*scripts) as server, client_of(server) as client:
        first = await client.chat(SAY)
        second = await client.chat(SAY)
    assert (first.attempts, second.attempts) == (3, 2)
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert len(set(keys[:3])) == len(set(keys[3:])) == 1
    assert keys[0] != keys[3]
    assert len({request.body for request in server.requests}) == 1


@pytest.mark.parametrize("form", ["seconds", "date", "ms"])
async def test_no_retry_is_sent_before_the_named_time(stormbreak_provider, form):
    """The provider counts early retries, for every form of the header."""
    ms = form == "ms"
    provider = stormbreak_provider(
        f"""
        [[faults]]
        kind = "429"
        until = {1.0 if ms else 3.0}
        retry_after = {0.2 if ms else 1.0}
        retry_after_form = "{form}"
        """,
        speed=10,
    )
    policy = Policy(retry=RetryPolicy(max_attempts=20), retry_budget=None)
    async with AsyncClient(base_url=provider.base_url, model="m", policy=policy) as client:
        asked = (client.chat([{"role": "user", "content": str(n)}]) for n in range(10))
        got = await asyncio.gather(*asked)
    stats = provider.stats()
    assert stats["early"] == 0
    assert sum(stats["retry_after"].values()) >= 10
    assert {one.status for one in got} == {200}
    assert max(one.waited for one in got) > 0


async def test_a_429_with_x_should_retry_false_is_not_retried():
    never = failing(429, x_should_retry="false")
    async with served(never, answer()) as server, client_of(server) as client:
        with pytest.raises(errors.ThrottledError) as caught:
            await client.chat(SAY)
        assert caught.value.ended.stopped == "forbidden"
        assert len(server.requests) == 1
    timed = failing(429, x_should_retry="false", retry_after_ms=1)
    async with served(timed, answer()) as server, client_of(server) as client:
        assert (await client.chat(SAY)).attempts == 2


async def test_a_deadline_bounds_the_whole_call():
    async with served(failing(500)) as server:
        policy = replace(
            QUICK,
            retry=RetryPolicy(
                max_attempts=999,
                backoff=Backoff(kind="constant", initial_delay=0.05),
                min_time_left=0,
            ),
        )
        async with client_of(server, policy) as client:
            began = time.monotonic()
            # The last attempt may start so late that the deadline cuts it off.
            cut_or_not = (errors.ServerError, errors.AttemptTimeoutError)
            with pytest.raises(cut_or_not, match=r"no further retry: (deadline|shed)"):
                await client.request("chat/completions", {}, deadline=1.0)
            assert time.monotonic() - began < 20.0  # 999 attempts would take fifty seconds


async def test_call_options_of_chat_are_not_part_of_the_payload():
    async with served(answer()) as server, client_of(server) as client:
        with pytest.raises(errors.ShedError):
            await client.chat(SAY, deadline=1e-6)
        await client.chat(SAY, deadline=10, tenant="shop", priority=Priority.BATCH, top_p=1)
    (asked,) = server.requests
    assert set(json.loads(asked.body)) == {"model", "messages", "top_p"}


async def test_a_timeout_by_our_own_deadline_is_marked_as_such():
    async with served(End.HANG) as server, client_of(server) as client:
        while (
            not server.requests
        ):  # a pause of the machine before it is sent may last for the whole deadline
            with pytest.raises((errors.AttemptTimeoutError, errors.ShedError)) as caught:
                await client.request("chat/completions", {}, deadline=0.05)
    assert isinstance(caught.value, errors.AttemptTimeoutError)
    assert caught.value.ended.outcome.own_deadline


async def test_queued_calls_are_sent_by_priority():
    policy = replace(QUICK, limit=FixedLimit(max_in_flight=1))
    async with served([0.02, answer()]) as server, client_of(server, policy) as client:
        calls = [
            asyncio.create_task(client.request("x", {"n": n}, priority=priority))
            for n, priority in enumerate(
                [Priority.BATCH, Priority.BACKGROUND, Priority.INTERACTIVE]
            )
        ]
        await asyncio.gather(*calls)
    assert [body["n"] for body in sent_by(server)] == [0, 2, 1]


@pytest.mark.parametrize("priority", ["batch", 7, 1])
async def test_an_invalid_priority_is_rejected_before_anything_is_sent(priority):
    async with served() as server, client_of(server) as client:
        with pytest.raises(ConfigurationError, match=rf"Priority.BACKGROUND, got '{priority}'"):
            await client.request("chat/completions", {"n": 1}, priority=priority)
        assert not server.requests


async def test_tenants_get_fair_shares():
    policy = replace(QUICK, limit=FixedLimit(max_in_flight=1))
    async with served([0.02, answer()]) as server, client_of(server, policy) as client:
        calls = [
            asyncio.create_task(client.request("x", {"n": n}, tenant=tenant))
            for n, tenant in enumerate(["many", "many", "many", "few"])
        ]
        await asyncio.gather(*calls)
    assert [body["n"] for body in sent_by(server)] == [0, 1, 3, 2]


async def test_the_article_preset_opens_the_circuit_after_five_failures():
    assert AsyncClient(base_url="http://127.0.0.1/v1", policy="article").policy == ARTICLE
    policy = replace(
        ARTICLE, retry=replace(ARTICLE.retry, backoff=Backoff(kind="constant", initial_delay=0.01))
    )
    async with served(failing(500)) as server, client_of(server, policy) as client:
        began = time.monotonic()
        with pytest.raises(errors.ServerError):
            await client.chat(SAY)
        opened = time.monotonic()
        assert client.snapshot()["targets"][str(client.target("m"))]["circuit"] == "open"
        with pytest.raises(errors.CircuitOpenError) as refused:
            await client.chat(SAY)
        assert len(server.requests) == 5
    assert began + 30 <= refused.value.retry_at <= opened + 30


async def test_a_disabled_client_makes_one_attempt_without_cooldown(monkeypatch):
    """Found: a cooldown still held the second call."""
    monkeypatch.setenv("STORMBREAK_DISABLED", "1")
    async with served(failing(429, retry_after="60")) as server, client_of(server) as client:
        for _ in range(2):
            with pytest.raises(errors.ThrottledError):
                await client.chat(SAY)
        assert len(server.requests) == 2
