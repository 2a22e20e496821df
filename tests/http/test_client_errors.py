"""Exceptions of the client, their messages, and connections that never open."""

import asyncio
import time
from dataclasses import replace

import pytest
from clients import KEY, ONCE, SAY, client_of
from sockets import BODY, End, answer, failing, free_port, served
from table_test import table_test

from stormbreak import errors
from stormbreak.http.client import AsyncClient
from stormbreak.types import Verdict


@table_test(
    ("script", "kind", "status"),
    [
        (failing(429), errors.ThrottledError, 429),
        (failing(503), errors.OverloadedError, 503),
        (failing(529), errors.OverloadedError, 529),
        (failing(500), errors.ServerError, 500),
        (answer(b"<html>", 502), errors.ServerError, 502),
        (failing(504), errors.ServerError, 504),
        ([answer()[:-9], End.CLOSE], errors.BrokenAnswerError, 200),
        (answer(b""), errors.BrokenAnswerError, 200),
        (answer(BODY[:-9]), errors.BrokenAnswerError, 200),
        (answer(b"<html>"), errors.BrokenAnswerError, 200),
        (End.RESET, errors.ConnectionLostError, None),
        (End.HANG, errors.AttemptTimeoutError, None),
        (failing(402), errors.BillingError, 402),
        (failing(429, {"code": "insufficient_quota"}), errors.BillingError, 429),
        (failing(401), errors.AuthenticationError, 401),
        (failing(403), errors.AuthenticationError, 403),
        (failing(404), errors.NotFoundError, 404),
        (failing(400, {"code": "context_length_exceeded"}), errors.PromptTooLongError, 400),
        (failing(400), errors.InvalidRequestError, 400),
        (failing(400, {"code": "content_filter"}), errors.FilteredError, 400),
        (failing(307, location="https://elsewhere.example/x"), errors.RedirectedError, 307),
    ],
)
async def test_every_failed_answer_raises_the_class_of_its_verdict(script, kind, status):
    policy = replace(ONCE, attempt_timeout=0.2 if script is End.HANG else 10.0)
    async with served(script) as server, client_of(server, policy, api_key=KEY) as client:
        with pytest.raises(errors.UpstreamError) as caught:
            await client.chat(SAY)
        error = caught.value
        assert type(error) is kind
        assert (error.status, error.attempts) == (status, 1)
        assert error.target == client.target("m")
        assert str(error.verdict) in str(error)
        assert len(server.requests) == 1


async def test_a_connection_error_has_the_system_error_as_cause():
    port = free_port()
    async with AsyncClient(
        base_url=f"http://127.0.0.1:{port}/v1", model="m", policy=ONCE
    ) as client:
        with pytest.raises(errors.ConnectionLostError, match="connection refused") as caught:
            await client.chat(SAY)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert not caught.value.ended.outcome.maybe_processed


@table_test("status", [301, 302, 303, 307, 308])
async def test_a_redirect_names_the_host_and_is_not_followed(status):
    async with served() as other, served(failing(status, location=f"{other.base_url}/x")) as server:
        async with client_of(server, api_key=KEY) as client:
            with pytest.raises(errors.RedirectedError, match=r"redirected to 127\.0\.0\.1"):
                await client.chat(SAY)
        assert (len(server.requests), len(other.requests)) == (1, 0)


async def test_a_timeout_closes_the_connection():
    policy = replace(ONCE, attempt_timeout=0.05)
    async with served(End.HANG) as server, client_of(server, policy) as client:
        with pytest.raises(errors.AttemptTimeoutError) as caught:
            await client.chat(SAY)
        await server.all_closed()
    assert str(caught.value.__cause__) == "no answer in 0.05 s"
    assert caught.value.ended.outcome.maybe_processed


async def test_an_error_has_the_time_to_retry():
    async with served(failing(429, retry_after="60")) as server, client_of(server) as client:
        before = time.monotonic()
        with pytest.raises(errors.ThrottledError, match="no further retry: patience") as caught:
            await client.chat(SAY)
        assert 59 < caught.value.retry_at - before < 90
        with pytest.raises(errors.CooldownError) as refused:
            await client.chat(SAY)
        assert refused.value.retry_at >= caught.value.retry_at
        assert refused.value.policy == "cooldown"
        assert len(server.requests) == 1


# ------------------------------------------------------------ connections that never open


async def test_a_connection_that_never_opens_is_connect_failed(full_port):
    """Connecting may take nine tenths of an attempt, and must end first on a busy machine, too. All wait at once."""
    short = replace(ONCE, attempt_timeout=4.0)
    for_ever = replace(ONCE, attempt_timeout=None)
    await asyncio.gather(
        never_opens(full_port, short, None, own=False),
        never_opens(full_port, short, 30.0, own=False),
        never_opens(full_port, ONCE, 4.0, own=True),  # our own deadline, not the target's fault
        never_opens(full_port, for_ever, 4.0, own=True),
    )


async def never_opens(full_port, policy, span, *, own):
    url = f"http://127.0.0.1:{full_port}/v1"
    body = b'{"model":"m"}'
    async with AsyncClient(base_url=url, policy=policy) as client:
        ended = await client.ask("chat/completions", body, deadline=span)
    outcome = ended.outcome
    assert outcome.verdict is Verdict.CONNECT_FAILED
    assert outcome.detail == "connection timed out"
    assert (outcome.own_deadline, outcome.maybe_processed) == (own, False)
