"""How the article's client treats responses, shown by a model of its code, beside stormbreak under the preset `article`.

Real sockets. Only the backoff is shortened, to milliseconds.
"""

import json
from dataclasses import replace

import aiohttp
import pytest
from article_models import TRIES, LooseBreaker, nested, retrying
from sockets import BODY, End, answer, failing, served

from stormbreak import AsyncClient, errors
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import State
from stormbreak.core.fallback_policy import ToDegraded
from stormbreak.core.presets import ARTICLE

KEY = "sk-canary-0123456789"
SAY = [{"role": "user", "content": "prompt-canary"}]
PAYLOAD = {"model": "m", "messages": SAY}
QUICK = replace(
    ARTICLE, retry=replace(ARTICLE.retry, backoff=Backoff(kind="constant", initial_delay=0.005))
)
NO_CIRCUIT = replace(QUICK, breaker=None)


def url_of(server):
    return f"{server.base_url}/chat/completions"


def client_of(server, policy=QUICK):
    return AsyncClient(base_url=server.base_url, api_key=KEY, model="m", policy=policy)


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


def breaker():
    return LooseBreaker(lambda: 0.0)


# ------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequestError),
        (401, errors.AuthenticationError),
        (403, errors.AuthenticationError),
        (404, errors.NotFoundError),
        (422, errors.InvalidRequestError),
    ],
)
async def test_a_final_error_is_sent_six_times_and_opens_the_circuit(session, status, kind):
    circuit = breaker()
    async with served(failing(status)) as server:
        await retrying(session, url_of(server), PAYLOAD, breaker=circuit)
        assert len(server.requests) == TRIES
    assert circuit.state == "open"

    async with served(failing(status)) as server, client_of(server) as client:
        for _ in range(10):
            with pytest.raises(kind):
                await client.chat(SAY)
        assert len(server.requests) == 10
        assert client.engine.target_state(client.target("m")).breaker.state is State.CLOSED


async def test_an_exhausted_quota_is_retried_like_a_rate_limit(session):
    spent = failing(429, {"code": "insufficient_quota", "message": "no"})
    async with served(spent) as server:
        await retrying(session, url_of(server), PAYLOAD)
        assert len(server.requests) == TRIES

    async with served(spent) as server, client_of(server) as client:
        with pytest.raises(errors.BillingError):
            await client.chat(SAY)
        assert len(server.requests) == 1


async def test_a_failed_call_returns_a_value_instead_of_raising(session):
    async with served(failing(503)) as server:
        reply = await retrying(session, url_of(server), PAYLOAD)
        assert reply["code"] == "MAX_RETRIES_EXCEEDED"  # no exception was raised

        async with client_of(server, NO_CIRCUIT) as client:
            with pytest.raises(errors.OverloadedError) as failed:
                await client.chat(SAY)
    assert (failed.value.attempts, failed.value.ended.stopped) == (TRIES, "attempts")


@pytest.mark.parametrize(
    ("status", "kind"), [(500, errors.ServerError), (529, errors.OverloadedError)]
)
async def test_a_server_error_is_reported_as_a_client_error(session, status, kind):
    async with served(failing(status)) as server:
        reply = await retrying(session, url_of(server), PAYLOAD)
        assert reply["code"] == "CLIENT_ERROR"

        async with client_of(server, NO_CIRCUIT) as client:
            with pytest.raises(kind) as failed:
                await client.chat(SAY)
    assert failed.value.status == status


async def test_the_error_message_repeats_the_key_and_the_prompt(session):
    repeating = failing(400, {"message": f"no: prompt-canary, {KEY}", "code": "bad_value"})
    async with served(repeating) as server:
        reply = await retrying(session, url_of(server), PAYLOAD, key=KEY)
        assert KEY in reply["message"]
        assert "prompt-canary" in reply["message"]

        async with client_of(server) as client:
            with pytest.raises(errors.InvalidRequestError) as failed:
                await client.chat(SAY)
    assert "bad_value" in str(failed.value)
    assert "canary" not in f"{failed.value} {failed.value!r} {failed.value.__cause__!r}"


# ------------------------------------------------------------ successes


async def test_a_cut_answer_is_a_success_before_it_is_read(session):
    cut = (answer(BODY, content_length=len(BODY) + 100), End.CLOSE)
    circuit = breaker()
    async with served(cut) as server:
        for _ in range(5):
            await retrying(session, url_of(server), PAYLOAD, breaker=circuit)
        assert len(server.requests) == 5 * TRIES
    # Each failure begins as a success, so no two follow each other.
    assert circuit.state == "closed"

    async with served(cut) as server, client_of(server) as client:
        with pytest.raises(errors.BrokenAnswerError):
            await client.chat(SAY)
        with pytest.raises(errors.CircuitOpenError):
            await client.chat(SAY)
        assert len(server.requests) == 5


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "overloaded", "type": "overloaded_error"}}',
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": "half an"}, "finish_reason": null}]}',
        b"null",
    ],
)
async def test_any_body_with_status_200_counts_as_an_answer(session, body):
    async with served(answer(body)) as server:
        assert await retrying(session, url_of(server), PAYLOAD) == json.loads(body)

        async with client_of(server, NO_CIRCUIT) as client:
            with pytest.raises(errors.UpstreamError) as failed:
                await client.chat(SAY)
    assert failed.value.status == 200


async def test_a_200_that_is_not_json_raises_a_json_error(session):
    async with served(answer(b"upstream timed out"), answer()) as server:
        with pytest.raises(json.JSONDecodeError):  # not retried, not counted, not documented
            await retrying(session, url_of(server), PAYLOAD)

    no_json = answer(b"upstream timed out")
    async with served(no_json, answer()) as server, client_of(server) as client:
        assert (await client.chat(SAY)).attempts == 2


# ------------------------------------------------------------ fallback


async def test_the_fallback_applies_only_to_an_open_circuit(session):
    circuit = breaker()

    async def theirs():
        if not circuit.passes():
            return "fallback"
        return await retrying(session, url_of(server), PAYLOAD, breaker=circuit)

    async with served(failing(503)) as server:
        assert (await theirs())["code"] == "MAX_RETRIES_EXCEEDED"
        assert await theirs() == "fallback"

        policy = replace(QUICK, fallback=(ToDegraded(text="fallback"),))
        async with client_of(server, policy) as client:
            answers = [await client.chat(SAY) for _ in range(3)]
    assert [(each.text, each.source) for each in answers] == [("fallback", "degraded")] * 3


# ------------------------------------------------------------ requests and connections


async def test_a_redirect_takes_the_prompt_to_another_host(session):
    async with served(answer()) as elsewhere:
        moved = answer(b"", 307, location=url_of(elsewhere))
        async with served(moved) as server, client_of(server) as client:
            await retrying(session, url_of(server), PAYLOAD)
            assert b"prompt-canary" in elsewhere.requests[0].body
            elsewhere.requests.clear()

            with pytest.raises(errors.RedirectedError):
                await client.chat(SAY)
            assert not elsewhere.requests


async def test_a_retry_has_no_idempotency_key(session):
    lost = (End.RESET,)
    async with served(lost, lost, answer()) as server:
        await retrying(session, url_of(server), PAYLOAD)
        theirs = [request.headers.get("idempotency-key") for request in server.requests]
    async with served(lost, lost, answer()) as server, client_of(server) as client:
        await client.chat(SAY)
        ours = [request.headers.get("idempotency-key") for request in server.requests]

    assert theirs == [None] * 3
    assert len(ours) == 3
    assert len({*ours} - {None}) == 1


async def test_every_retry_holds_the_connection_of_the_previous_attempt(session):
    page = answer(b" " * 2_000_000, 503)
    open_at_once = []

    async def look(request, writer):
        open_at_once.append(server.opened - server.closed)

    async with served((look, page)) as server:
        assert await nested(session, url_of(server), PAYLOAD) == 503
        assert max(open_at_once) == TRIES

    open_at_once.clear()
    async with served((look, page)) as server, client_of(server, NO_CIRCUIT) as client:
        with pytest.raises(errors.OverloadedError):
            await client.chat(SAY)
        assert len(server.requests) == TRIES
        assert max(open_at_once) == 1
