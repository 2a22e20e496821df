"""The client from outside: answers, errors, time, keys, many calls at once."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from sockets import BODY, End, answer, failing, free_port, served

from stormbreak import errors
from stormbreak.core.backoff import Constant
from stormbreak.core.concurrency import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.presets import ARTICLE
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import ConfigurationError
from stormbreak.events import CallEnded, Returned, Sent
from stormbreak.http.client import AsyncClient
from stormbreak.testing import answer_text
from stormbreak.types import Answer, Priority, Usage, Verdict

KEY = "sk-canary-0123456789"
SAY = [{"role": "user", "content": "hello"}]
ONCE = Policy(retry=RetryPolicy(attempts=1))
QUICK = Policy(
    retry=RetryPolicy(attempts=4, backoff=Constant(seconds=0.01)), breaker=None, budget=None
)


def client_of(server, policy=QUICK, **more):
    return AsyncClient(**{"base_url": server.base_url, "model": "m", "policy": policy} | more)


def sent_by(server):
    return [json.loads(request.body) for request in server.requests]


# ------------------------------------------------------------ answers


async def test_a_chat_and_its_answer(stormbreak_provider):
    provider = stormbreak_provider(speed=50)
    payload = {"model": "storm-1", "messages": SAY, "temperature": 0.5}
    async with AsyncClient(base_url=provider.base_url, api_key=KEY) as client:
        got = await client.chat(SAY, model="storm-1", temperature=0.5)
        again = await client.request("chat/completions", payload)
    assert isinstance(got, Answer)
    assert got.text == again.text == answer_text(payload)
    assert json.loads(got.raw)["choices"][0]["message"]["content"] == got.text
    assert (got.usage.input_tokens > 0, got.usage.output_tokens) == (True, 14)
    assert (got.attempts, got.waited, got.status, got.cost) == (1, 0.0, 200, None)
    assert got.request_id.startswith("req_")
    assert (got.target.provider, got.target.model) == (f"127.0.0.1:{provider.port}", "storm-1")
    assert got.target == client.target("storm-1")
    assert got.text not in repr(got)
    assert KEY not in f"{got!r} {got.target}"


async def test_a_stream_is_assembled_into_the_very_same_answer(stormbreak_provider):
    provider = stormbreak_provider(speed=50)
    async with AsyncClient(base_url=provider.base_url, model="storm-1") as client:
        plain = await client.chat(SAY)
        stream = await client.chat(SAY, stream=True, stream_options={"include_usage": True})
    assert stream.text == plain.text
    assert stream.usage == plain.usage != Usage()
    one, other = json.loads(stream.raw), json.loads(plain.raw)
    assert one["object"] == other["object"] == "chat.completion"
    assert one["choices"][0]["message"] == other["choices"][0]["message"]


async def test_embeddings(stormbreak_provider):
    provider = stormbreak_provider(speed=50)
    async with AsyncClient(base_url=provider.base_url) as client:
        got = await client.request("embeddings", {"model": "storm-1", "input": ["a", "b"]})
    assert got.text == ""
    assert len(json.loads(got.raw)["data"]) == 2
    assert got.usage.input_tokens > 0


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("text", 1),
        (["a", "b", "c"], 3),
        ([[1, 2], [3]], 2),
        ([1, 2, 3], 1),
    ],
)
async def test_every_input_must_get_its_embedding(given, inputs):
    """Found: one vector for three inputs was accepted."""
    for vectors in (1, 2, 3):
        body = json.dumps({"data": [{"embedding": [0.1]}] * vectors}).encode()
        async with served(answer(body)) as server, client_of(server, ONCE) as client:
            ended = await client.ask(
                "embeddings", json.dumps({"model": "m", "input": given}).encode()
            )
        found = (ended.outcome.verdict, ended.outcome.detail)
        broken = (Verdict.BROKEN, f"{vectors} of {inputs} embeddings")
        assert found == ((Verdict.OK, None) if vectors == inputs else broken)


@pytest.mark.parametrize("given", [None, [], {"a": 1}, [{"text": "a"}, {"image": "b"}], 5, [None]])
async def test_inputs_that_nobody_can_count_are_not_counted(given):
    body = json.dumps({"data": [{"embedding": [0.1]}] * 3}).encode()
    async with served(answer(body)) as server, client_of(server, ONCE) as client:
        ended = await client.ask("embeddings", json.dumps({"model": "m", "input": given}).encode())
        again = await client.ask("embeddings", b'{"model":"m"}')
        await client.ask("embeddings", b'{"model":"m","input":"\xff"}')
    assert (ended.outcome.verdict, again.outcome.verdict) == (Verdict.OK, Verdict.OK)


async def test_every_choice_that_was_asked_for_must_come():
    async with served() as server, client_of(server, ONCE) as client:
        ended = await client.ask("chat/completions", b'{"model":"m","n":2}')
        assert (ended.outcome.verdict, ended.outcome.detail) == (Verdict.BROKEN, "1 of 2 choices")
        ended = await client.ask("chat/completions", b'{"model":"m","n":2,"stream":true}')
        assert (ended.outcome.verdict, ended.outcome.detail) == (Verdict.BROKEN, "1 of 2 choices")


@pytest.mark.parametrize(
    ("code", "status", "shown"),
    [
        ("rate_limit_exceeded", 429, "rate_limit_exceeded"),
        ("RESOURCE_EXHAUSTED", 429, "RESOURCE_EXHAUSTED"),
        ("invalid_request_error", 400, "invalid_request_error"),
        (429, 200, "429"),
        ("our_plan", 400, None),
    ],
)
async def test_a_code_that_everyone_knows_is_no_echo(code, status, shown):
    """Found: a prompt about an error hid that very error."""
    body = json.dumps({"model": "m", "prompt": f"What is {code}?"}).encode()
    async with served(failing(status, {"code": code})) as server, client_of(server, ONCE) as client:
        ended = await client.ask("chat/completions", body)
    assert ended.outcome.code == ended.outcome.value.reading.code == shown


async def test_which_model_is_asked():
    async with served() as server, client_of(server) as client:
        await client.chat(SAY)
        await client.chat(SAY, model="other")
        await client.request("chat/completions", {"model": "third"})
        await client.request("chat/completions", {"model": None})
    assert [body["model"] for body in sent_by(server)] == ["m", "other", "third", "m"]
    assert [request.line.split()[1] for request in server.requests] == ["/v1/chat/completions"] * 4


async def test_what_cannot_be_sent_is_refused_before_it_is_sent():
    secret = "canary\ud800"
    async with served() as server:
        async with client_of(server, model=None) as client:
            with pytest.raises(ConfigurationError, match="model is missing"):
                await client.chat(SAY)
        async with client_of(server) as client:
            for payload in ({"x": object()}, {"x": secret}, {"n": "x"}, {"stream": "canary"}):
                with pytest.raises(ConfigurationError) as caught:
                    await client.request("chat/completions", payload)
                assert "canary" not in f"{caught.value} {caught.value.__context__!r}"
            for body in (b"", b"[]", b"{", b'{"model":1}', b"{}", b'{"model":"canary\xff"}'):
                with pytest.raises(ConfigurationError) as caught:
                    await client.ask("chat/completions", body)
                assert "canary" not in f"{caught.value} {caught.value.__context__!r}"
            with pytest.raises(ConfigurationError, match="endpoint"):
                await client.request("https://evil.com/x", {})
        assert not server.requests


async def test_ask_gives_every_end_as_a_value():
    async with served(answer(), failing(400)) as server, client_of(server) as client:
        good = await client.ask("chat/completions", b'{"model":"m"}')
        bad = await client.ask("chat/completions", b'{"model":"m"}')
    assert (good.outcome.verdict, good.outcome.value.body) == (Verdict.OK, BODY)
    assert (bad.outcome.verdict, bad.outcome.status) == (Verdict.INVALID, 400)
    assert sent_by(server)[0] == {"model": "m"}


# ------------------------------------------------------------ errors


@pytest.mark.parametrize(
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
async def test_every_real_answer_raises_its_error(script, kind, status):
    policy = replace(ONCE, attempt_timeout=0.1)
    async with served(script) as server, client_of(server, policy, api_key=KEY) as client:
        with pytest.raises(errors.UpstreamError) as caught:
            await client.chat(SAY)
        error = caught.value
        assert type(error) is kind
        assert error.verdict in kind.verdicts
        assert (error.status, error.attempts) == (status, 1)
        assert error.target == client.target("m")
        assert str(error.verdict) in str(error)
        assert len(server.requests) == 1


async def test_an_error_says_what_the_system_said():
    port = free_port()
    async with AsyncClient(
        base_url=f"http://127.0.0.1:{port}/v1", model="m", policy=ONCE
    ) as client:
        with pytest.raises(errors.ConnectionLostError, match="connection refused") as caught:
            await client.chat(SAY)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert not caught.value.ended.outcome.maybe_processed


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
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


async def test_an_error_says_when_to_come_back():
    async with served(failing(429, retry_after="60")) as server, client_of(server) as client:
        before = time.monotonic()
        with pytest.raises(errors.ThrottledError, match="no further retry: patience") as caught:
            await client.chat(SAY)
        assert 59 < caught.value.retry_at - before < 61
        with pytest.raises(errors.CooldownError) as refused:
            await client.chat(SAY)
        assert refused.value.retry_at >= caught.value.retry_at
        assert refused.value.policy == "cooldown"
        assert len(server.requests) == 1


# ------------------------------------------------------------ retries


async def test_one_idempotency_key_per_call_and_the_same_on_every_attempt():
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
async def test_nobody_comes_back_before_the_named_time(stormbreak_provider, form):
    """On the wire, in every form, with the provider's own count of those who came too early."""
    ms = form == "ms"
    provider = stormbreak_provider(
        f"""
        [[trouble]]
        kind = "429"
        until = {1.0 if ms else 3.0}
        retry_after = {0.2 if ms else 1.0}
        form = "{form}"
        """,
        speed=10,
    )
    policy = Policy(retry=RetryPolicy(attempts=20), budget=None)
    async with AsyncClient(base_url=provider.base_url, model="m", policy=policy) as client:
        asked = (client.chat([{"role": "user", "content": str(n)}]) for n in range(10))
        got = await asyncio.gather(*asked)
    stats = provider.stats()
    assert stats["early"] == 0
    assert sum(stats["retry_after"].values()) >= 10
    assert {one.status for one in got} == {200}
    assert max(one.waited for one in got) > 0


async def test_a_deadline_bounds_the_whole_call():
    async with served(failing(500)) as server:
        policy = replace(
            QUICK, retry=RetryPolicy(attempts=99, backoff=Constant(seconds=0.05), min_useful=0)
        )
        async with client_of(server, policy) as client:
            began = time.monotonic()
            with pytest.raises(errors.ServerError, match="no further retry: deadline"):
                await client.request("chat/completions", {}, deadline=0.2)
            assert time.monotonic() - began < 0.3


async def test_our_own_deadline_is_no_evidence_against_the_target():
    async with served(End.HANG) as server, client_of(server) as client:
        with pytest.raises(errors.AttemptTimeoutError) as caught:
            await client.request("chat/completions", {}, deadline=0.05)
    assert caught.value.ended.outcome.own_deadline


async def test_priorities_go_first():
    policy = replace(QUICK, limit=FixedLimit(in_flight=1))
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
async def test_a_priority_that_is_none_is_refused_before_anything_is_sent(priority):
    async with served() as server, client_of(server) as client:
        with pytest.raises(ConfigurationError, match=rf"Priority.BACKGROUND, got '{priority}'"):
            await client.request("chat/completions", {"n": 1}, priority=priority)
        assert not server.requests


async def test_tenants_get_fair_shares():
    policy = replace(QUICK, limit=FixedLimit(in_flight=1))
    async with served([0.02, answer()]) as server, client_of(server, policy) as client:
        calls = [
            asyncio.create_task(client.request("x", {"n": n}, tenant=tenant))
            for n, tenant in enumerate(["many", "many", "many", "few"])
        ]
        await asyncio.gather(*calls)
    assert [body["n"] for body in sent_by(server)] == [0, 1, 3, 2]


async def test_the_article_preset():
    assert AsyncClient(base_url="http://127.0.0.1/v1", policy="article").policy == ARTICLE
    policy = replace(ARTICLE, retry=replace(ARTICLE.retry, backoff=Constant(seconds=0.01)))
    async with served(failing(500)) as server, client_of(server, policy) as client:
        with pytest.raises(errors.ServerError):
            await client.chat(SAY)
        assert client.snapshot()["targets"][str(client.target("m"))]["circuit"] == "open"
        with pytest.raises(errors.CircuitOpenError) as refused:
            await client.chat(SAY)
        assert len(server.requests) == 5
    assert 29 < refused.value.retry_at - time.monotonic() <= 30


async def test_disabled_means_one_attempt_and_nothing_held(monkeypatch):
    """Found: a cooldown held the second call all the same."""
    monkeypatch.setenv("STORMBREAK_DISABLED", "1")
    async with served(failing(429, retry_after="60")) as server, client_of(server) as client:
        for _ in range(2):
            with pytest.raises(errors.ThrottledError):
                await client.chat(SAY)
        assert len(server.requests) == 2


# ------------------------------------------------------------ many


async def test_200_calls_at_once(stormbreak_provider):
    provider = stormbreak_provider(speed=20)
    policy = Policy(limit=FixedLimit(in_flight=200))
    says = [[{"role": "user", "content": f"number {n}"}] for n in range(200)]
    async with AsyncClient(base_url=provider.base_url, model="m", policy=policy) as client:
        got = await asyncio.gather(*map(client.chat, says))
    for say, one in zip(says, got, strict=True):
        assert one.text == answer_text({"model": "m", "messages": say})
    stats = provider.stats()
    assert stats["keys"] == {
        "asked": 200, "answered": 200, "answered_twice": 0, "answers": 200, "most_attempts": 1,
    }  # fmt: skip
    assert stats["idempotency"] == {"keys": 200, "repeats": 0}
    assert stats["connections"]["opened"] <= 200


async def test_the_limit_holds_on_the_wire():
    policy = replace(QUICK, limit=FixedLimit(in_flight=3))
    async with served([0.005, answer()]) as server, client_of(server, policy) as client:
        await asyncio.gather(*(client.chat(SAY) for _ in range(20)))
        assert (server.opened, len(server.requests)) == (3, 20)


def test_one_client_on_two_loops_in_two_threads(stormbreak_provider):
    provider = stormbreak_provider(speed=50)
    policy = Policy(limit=FixedLimit(in_flight=5))
    client = AsyncClient(base_url=provider.base_url, model="m", policy=policy)
    texts, failures = [], []

    async def main(name):
        says = [[{"role": "user", "content": f"{name} {n}"}] for n in range(30)]
        async with client:
            got = await asyncio.gather(*map(client.chat, says))
        expected = [answer_text({"model": "m", "messages": say}) for say in says]
        failures.extend(one for one, text in zip(got, expected, strict=True) if one.text != text)
        texts.extend(expected)

    threads = [threading.Thread(target=lambda n=n: asyncio.run(main(n))) for n in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(texts), failures) == (60, [])
    assert client.snapshot()["targets"][str(client.target("m"))]["in_flight"] == 0


# ------------------------------------------------------------ looking on, and ending


async def test_a_listener_hears_every_attempt():
    events = []
    async with served(failing(500), answer()) as server, client_of(server) as client:
        client.subscribe(events.append)
        await client.chat(SAY)
    assert [type(event) for event in events if isinstance(event, Sent | Returned | CallEnded)] == [
        Sent, Returned, Sent, Returned, CallEnded,
    ]  # fmt: skip


async def test_a_snapshot_shows_what_is_under_way():
    async with served(End.HANG) as server, client_of(server, api_key=KEY) as client:
        assert client.snapshot() == {"budget": None, "targets": {}}
        task = asyncio.create_task(client.chat(SAY))
        await server.asked()
        state = client.snapshot()["targets"][str(client.target("m"))]
        assert (state["in_flight"], state["queued"]) == (1, 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        state = client.snapshot()["targets"][str(client.target("m"))]
        assert state["in_flight"] == 0
        assert KEY not in str(client.snapshot())


async def test_draining_answers_what_was_sent_and_nothing_else():
    policy = replace(QUICK, limit=FixedLimit(in_flight=1))
    async with served([0.05, answer()]) as server, client_of(server, policy) as client:
        sent = asyncio.create_task(client.chat(SAY))
        queued = asyncio.create_task(client.chat(SAY))
        await server.asked()
        client.drain()
        with pytest.raises(errors.RejectedError, match="the client is drained") as caught:
            await queued
        assert (caught.value.policy, caught.value.verdict) == ("drain", Verdict.CANCELLED)
        assert (await sent).text == "fine"
        assert len(server.requests) == 1


async def test_leaving_the_block_closes_every_connection():
    async with served([0.01, answer()]) as server:
        async with client_of(server) as client:
            await asyncio.gather(*(client.chat(SAY) for _ in range(5)))
        await server.all_closed()
        assert server.closed == 5


@pytest.mark.parametrize("name", ["import stormbreak", "import stormbreak.http.client",
                                  "from stormbreak import AsyncClient, Policy"])  # fmt: skip
def test_aiohttp_is_loaded_when_a_client_is_made(name):
    code = f"""{name}
import sys
assert "aiohttp" not in sys.modules
from stormbreak import AsyncClient
AsyncClient(base_url="http://127.0.0.1:1/v1")
assert "aiohttp" in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


# ------------------------------------------------------------ connections that never open


@pytest.mark.parametrize(
    ("policy", "span", "own"),
    [
        (replace(ONCE, attempt_timeout=0.4), None, False),
        (replace(ONCE, attempt_timeout=0.4), 30.0, False),
        (ONCE, 0.4, True),  # our own deadline is no evidence against the target
        (replace(ONCE, attempt_timeout=None), 0.4, True),
    ],
)
async def test_no_connection_within_an_attempt_is_no_connection(full_port, policy, span, own):
    url = f"http://127.0.0.1:{full_port}/v1"
    body = b'{"model":"m"}'
    async with AsyncClient(base_url=url, policy=policy) as client:
        ended = await client.ask("chat/completions", body, deadline=span)
    outcome = ended.outcome
    assert outcome.verdict is Verdict.CONNECT_FAILED
    assert outcome.detail == "connection timed out"
    assert (outcome.own_deadline, outcome.maybe_processed) == (own, False)


async def test_a_throttle_that_must_not_be_repeated_is_not():
    never = failing(429, x_should_retry="false")
    async with served(never, answer()) as server, client_of(server) as client:
        with pytest.raises(errors.ThrottledError) as caught:
            await client.chat(SAY)
        assert caught.value.ended.stopped == "forbidden"
        assert len(server.requests) == 1
    told = failing(429, x_should_retry="false", retry_after_ms=1)
    async with served(told, answer()) as server, client_of(server) as client:
        assert (await client.chat(SAY)).attempts == 2
