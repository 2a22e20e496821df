"""What the article's client takes answers for, as a model that does the same, and stormbreak's under `article`.

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


async def test_a_used_up_quota_is_taken_for_a_full_minute(session):
    spent = failing(429, {"code": "insufficient_quota", "message": "no"})
    async with served(spent) as server:
        await retrying(session, url_of(server), PAYLOAD)
        assert len(server.requests) == TRIES

    async with served(spent) as server, client_of(server) as client:
        with pytest.raises(errors.BillingError):
            await client.chat(SAY)
        assert len(server.requests) == 1


async def test_a_call_that_failed_comes_back_like_an_answer(session):
    async with served(failing(503)) as server:
        said = await retrying(session, url_of(server), PAYLOAD)
        assert said["code"] == "MAX_RETRIES_EXCEEDED"  # nothing was raised

        async with client_of(server, NO_CIRCUIT) as client:
            with pytest.raises(errors.OverloadedError) as failed:
                await client.chat(SAY)
    assert (failed.value.attempts, failed.value.ended.stopped) == (TRIES, "attempts")


@pytest.mark.parametrize(
    ("status", "kind"), [(500, errors.ServerError), (529, errors.OverloadedError)]
)
async def test_the_servers_failure_is_called_the_clients(session, status, kind):
    async with served(failing(status)) as server:
        said = await retrying(session, url_of(server), PAYLOAD)
        assert said["code"] == "CLIENT_ERROR"

        async with client_of(server, NO_CIRCUIT) as client:
            with pytest.raises(kind) as failed:
                await client.chat(SAY)
    assert failed.value.status == status


async def test_what_the_provider_wrote_stands_in_the_message(session):
    repeating = failing(400, {"message": f"no: prompt-canary, {KEY}", "code": "bad_value"})
    async with served(repeating) as server:
        said = await retrying(session, url_of(server), PAYLOAD, key=KEY)
        assert KEY in said["message"]
        assert "prompt-canary" in said["message"]

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
    assert circuit.state == "closed"  # no two failures in a row, for each began as a success

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
async def test_whatever_has_status_200_is_an_answer(session, body):
    async with served(answer(body)) as server:
        assert await retrying(session, url_of(server), PAYLOAD) == json.loads(body)

        async with client_of(server, NO_CIRCUIT) as client:
            with pytest.raises(errors.UpstreamError) as failed:
                await client.chat(SAY)
    assert failed.value.status == 200


async def test_a_200_that_is_no_json_is_an_error_of_another_kind(session):
    async with served(answer(b"upstream timed out"), answer()) as server:
        with pytest.raises(json.JSONDecodeError):  # not retried, not counted, not promised
            await retrying(session, url_of(server), PAYLOAD)

    no_json = answer(b"upstream timed out")
    async with served(no_json, answer()) as server, client_of(server) as client:
        assert (await client.chat(SAY)).attempts == 2


# ------------------------------------------------------------ when there is no answer


async def test_its_fallback_is_for_an_open_circuit_only(session):
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


# ------------------------------------------------------------ what is sent, and where to


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


async def test_a_retry_looks_like_a_new_request(session):
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


async def test_every_attempt_keeps_the_connection_of_the_one_before(session):
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
