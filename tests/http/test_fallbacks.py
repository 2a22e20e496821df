"""Laws 17 and 19 on real sockets: the order of fallbacks, and which key goes to which target."""

import asyncio
import json
import stat
import threading
from contextlib import suppress

import pytest
from sockets import BODY, End, answer, failing, served

from stormbreak import errors
from stormbreak.core.backoff import Backoff
from stormbreak.core.fallback_policy import CachePolicy, Place, ToCache, ToDegraded, ToTargets
from stormbreak.core.policy import Policy
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import ConfigurationError
from stormbreak.events import FallbackRefused, FellBack
from stormbreak.http.client import AsyncClient
from stormbreak.types import Verdict

OWN_KEY, SPARE_KEY = "sk-own-canary-0123456789", "sk-spare-canary-0123456789"
SAY = [{"role": "user", "content": "a prompt-canary"}]
THROTTLED = failing(429, {"code": "rate_limit_exceeded", "message": "no"}, retry_after="30")
TOO_LONG = failing(400, {"code": "context_length_exceeded", "message": "no"})
ERROR = failing(500)
SSE = b"".join(
    b"data: "
    + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": end}]}).encode()
    + b"\n\n"
    for delta, end in (({"content": "fi"}, None), ({"content": "ne"}, None), ({}, "stop"))
)


@pytest.fixture(autouse=True)
def spare_key(monkeypatch):
    monkeypatch.setenv("SPARE_KEY", SPARE_KEY)


def falling(*rules, attempts=1, **changes):
    return Policy(
        fallback=rules,
        retry=RetryPolicy(
            max_attempts=attempts, backoff=Backoff(kind="constant", initial_delay=0.01)
        ),
        retry_budget=None,
        **changes,
    )


def to(server, **place):
    return ToTargets(targets=(Place(base_url=server.base_url, api_key_env="SPARE_KEY", **place),))


def client_of(server, *rules, degraded=None, **changes):
    return AsyncClient(
        base_url=server.base_url,
        api_key=OWN_KEY,
        model="m",
        policy=falling(*rules, **changes),
        degraded=degraded,
    )


def keys(server):
    return {request.headers.get("authorization") for request in server.requests}


def models(server):
    return [json.loads(request.body)["model"] for request in server.requests]


async def test_a_call_falls_back_to_a_second_target_the_cache_and_a_degraded_answer():
    """Each step is an event, and the answer names its source."""
    rules = (ToCache(), ToDegraded(text="We are busy; please come back soon."))
    async with served(answer(), THROTTLED) as first, served(answer(), ERROR) as second:
        client = client_of(first, to(second), *rules, cooldown=False)
        events = []
        client.subscribe(events.append)
        kept = await client.chat(SAY)
        spare = await client.chat(SAY)
        cached = await client.chat(SAY)
        degraded = await client.chat([{"role": "user", "content": "another"}])
        await client.close()

    assert [kept.source, spare.source, cached.source, degraded.source] == [
        "target", "fallback", "cache", "degraded"
    ]  # fmt: skip
    assert spare.target.provider == f"127.0.0.1:{second.port}"
    assert (kept.text, spare.text, cached.text) == ("fine", "fine", "fine")
    assert degraded.text == "We are busy; please come back soon."
    moves = [(event.call, event.to) for event in events if isinstance(event, FellBack)]
    there = str(spare.target)
    assert moves == [(2, there), (3, there), (3, "cache"), (4, there), (4, "degraded")]
    refused = [(event.call, event.to) for event in events if isinstance(event, FallbackRefused)]
    assert refused == [(4, "cache")]
    assert "canary" not in repr(events)


async def test_a_key_never_reaches_another_origin():
    """Neither a fallback, in either direction, nor a redirect sends a key to another origin."""
    async with served() as third:
        moved = answer(b"", 307, location=f"{third.base_url}/chat/completions")
        async with (
            served(ERROR, TOO_LONG, moved, ERROR) as first,
            served(moved, answer()) as second,
        ):
            large = ToTargets(on=(Verdict.TOO_LONG,), targets=(Place(model="large"),))
            client = client_of(first, to(second), large, breaker=None, cooldown=False)
            for _ in range(3):
                with suppress(errors.CallError):
                    await client.chat(SAY)
            await client.close()

    assert keys(first) == {f"Bearer {OWN_KEY}"}
    assert keys(second) == {f"Bearer {SPARE_KEY}"}
    assert third.requests == []


async def test_a_fallback_may_be_another_key_of_the_same_address():
    async with served(failing(401), answer()) as server:
        client = client_of(server, ToTargets(targets=(Place(api_key_env="SPARE_KEY"),)))
        got = await client.chat(SAY)
        await client.close()

    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == [f"Bearer {OWN_KEY}", f"Bearer {SPARE_KEY}"]
    assert got.target.key not in ("", client.target("m").key)


async def test_a_prompt_that_is_too_long_falls_back_to_a_larger_model():
    rule = ToTargets(on=(Verdict.TOO_LONG,), targets=(Place(model="large"),))
    async with served(TOO_LONG, answer()) as server:
        client = client_of(server, rule)
        got = await client.chat(SAY, temperature=0.5)
        await client.close()
    first, second = (json.loads(request.body) for request in server.requests)

    assert got.target.model == "large"
    assert second == first | {"model": "large"}


async def test_every_target_has_its_own_idempotency_key():
    async with served(ERROR) as first, served(ERROR, ERROR, answer()) as second:
        client = client_of(first, to(second), attempts=3, breaker=None)
        await client.chat(SAY)
        await client.close()

    sent = [{r.headers["idempotency-key"] for r in server.requests} for server in (first, second)]
    assert [len(one) for one in sent] == [1, 1]
    assert sent[0] != sent[1]


async def test_the_error_of_the_first_target_is_raised_if_all_fail():
    async with served(THROTTLED) as first, served(failing(402)) as second:
        client = client_of(first, to(second))
        with pytest.raises(errors.ThrottledError) as caught:
            await client.chat(SAY)
        await client.close()

    assert caught.value.target == client.target("m")
    assert caught.value.attempts == 2


async def test_two_silent_targets_time_out_and_fall_back_to_a_degraded_answer():
    async with served([End.HANG]) as first, served([End.HANG]) as second:
        client = client_of(
            first, to(second), ToDegraded(text="later"), attempt_timeout=0.2, deadline=60.0
        )
        loop = asyncio.get_running_loop()
        began = loop.time()
        got = await client.chat(SAY)
        took = loop.time() - began
        await client.close()

    assert got.source == "degraded"
    assert 0.35 < took < 20.0
    assert got.attempts == 2


# ---------------------------------------------------------------- the cache


async def test_the_cache_file_survives_the_client_and_separates_keys(tmp_path):
    path = tmp_path / "answers.db"
    cache = CachePolicy(path=str(path))
    async with served(answer(), ERROR) as server:
        client = client_of(server, ToCache(), cache=cache)
        await client.chat(SAY)
        await client.close()
        later = client_of(server, ToCache(), cache=cache)
        assert (await later.chat(SAY)).source == "cache"
        await later.close()
        other = AsyncClient(
            base_url=server.base_url, api_key=SPARE_KEY, model="m", policy=later.policy
        )
        with pytest.raises(errors.ServerError):
            await other.chat(SAY)
        await other.close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    held = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert b"fine" in held
    assert b"canary" not in held


async def test_the_cache_file_separates_two_servers(tmp_path):
    """Found: local servers need no key and answer for any model, so only the address differs."""
    cache = CachePolicy(path=str(tmp_path / "answers.db"))
    async with served(answer(), ERROR) as first, served(ERROR) as second:
        client = client_of(first, ToCache(), cache=cache)
        await client.chat(SAY)
        await client.close()
        other = client_of(second, ToCache(), cache=cache)
        with pytest.raises(errors.ServerError):
            await other.chat(SAY)
        await other.close()
        again = client_of(first, ToCache(), cache=cache)
        assert (await again.chat(SAY)).source == "cache"
        await again.close()


async def test_answers_of_fallback_targets_are_not_cached():
    async with served(ERROR) as first, served(answer(), ERROR) as second:
        client = client_of(first, to(second), ToCache())
        await client.chat(SAY)
        with pytest.raises(errors.ServerError):
            await client.chat(SAY)
        await client.close()


async def test_broken_answers_are_not_cached():
    async with served(answer(BODY[:-9]), ERROR) as server:
        client = client_of(server, ToCache())
        for _ in range(2):
            with pytest.raises(errors.UpstreamError):
                await client.chat(SAY)
        await client.close()


@pytest.mark.parametrize("body", [b"\xff\xfb\x90d" * 50, b"{" + b"\xff" * 50])
async def test_an_answer_that_is_not_json_is_not_cached(tmp_path, body):
    path = tmp_path / "answers.db"
    async with served(
        answer(body, content_type="audio/mpeg"), answer(b'{"a": 1}'), ERROR
    ) as server:
        client = client_of(server, ToCache(), cache=CachePolicy(path=str(path)))
        speech = {"input": "hello"}
        assert (await client.request("audio/speech", speech)).raw == body
        await client.close()
        held = b"".join(each.read_bytes() for each in tmp_path.iterdir())
        assert body not in held

        client = client_of(server, ToCache(), cache=CachePolicy(path=str(path)))
        await client.request("moderations", speech)
        kept = await client.request("moderations", speech)
        assert (kept.source, kept.raw) == ("cache", b'{"a": 1}')
        await client.close()


def test_a_cache_that_cannot_be_opened_fails_when_the_client_is_created(tmp_path):
    cache = CachePolicy(path=str(tmp_path / "none" / "answers.db"))
    with pytest.raises(ConfigurationError, match="cannot open the cache of answers"):
        AsyncClient(
            base_url="http://127.0.0.1:1/v1", policy=Policy(fallback=(ToCache(),), cache=cache)
        )


async def test_a_cache_without_a_thread_loses_no_answer_and_hides_no_failure(
    tmp_path, monkeypatch, caplog
):
    def full(_):
        raise RuntimeError("can't start new thread")

    cache = CachePolicy(path=str(tmp_path / "answers.db"))
    async with served(answer(), ERROR) as server:
        monkeypatch.setattr(threading.Thread, "start", full)
        client = client_of(server, ToCache(), cache=cache)
        assert (await client.chat(SAY)).text == "fine"
        with pytest.raises(errors.ServerError):
            await client.chat(SAY)
        await client.close()
        monkeypatch.undo()  # the end of the loop needs a thread

    assert [record.getMessage() for record in caplog.records] == [
        "the answer cache failed (logged once): RuntimeError"
    ]


def test_a_policy_without_a_cache_rule_creates_no_cache(tmp_path):
    path = tmp_path / "answers.db"
    AsyncClient(base_url="http://127.0.0.1:1/v1", policy=Policy(cache=CachePolicy(path=str(path))))
    assert not path.exists()


# ---------------------------------------------------------------- degraded answers


def plainly(payload, failure):
    return f"{payload['messages'][0]['content']}: {failure.verdict}"


async def in_a_while(payload, failure):
    await asyncio.sleep(0)
    return plainly(payload, failure)


def with_a_body(payload, failure):
    return json.loads(BODY) | {"note": plainly(payload, failure)}


FUNCTIONS = [
    (plainly, "hi: server_error"),
    (in_a_while, "hi: server_error"),
    (with_a_body, "fine"),
]


@pytest.mark.parametrize(("function", "text"), FUNCTIONS)
async def test_a_function_may_create_the_degraded_answer(function, text):
    async with served(ERROR) as server:
        client = client_of(server, ToDegraded(), degraded=function)
        got = await client.chat([{"role": "user", "content": "hi"}])
        await client.close()

    assert (got.text, got.source) == (text, "degraded")
    assert (got.usage.input_tokens, got.usage.output_tokens) == (0, 0)


def fails(payload, failure):
    raise RuntimeError("a prompt-canary")


def no_json(payload, failure):
    return {"choices": fails}


@pytest.mark.parametrize(
    "function", [None, lambda *_: None, fails, no_json, lambda *_: {"no": "answer"}]
)
async def test_a_function_without_a_valid_degraded_answer_leaves_the_failure(function, caplog):
    async with served(ERROR) as server:
        client = client_of(server, ToDegraded(), degraded=function)
        for _ in range(2):
            with pytest.raises(errors.ServerError):
                await client.chat(SAY)
        await client.close()

    assert len(caplog.records) == (function in (fails, no_json))
    assert "canary" not in caplog.text


async def test_an_embeddings_request_gets_no_degraded_text():
    async with served(ERROR) as server:
        client = client_of(server, ToDegraded(text="later"))
        with pytest.raises(errors.ServerError):
            await client.request("embeddings", {"input": "x"})
        await client.close()


# ---------------------------------------------------------------- streams


def streamed(body=SSE):
    return answer(body, content_type="text/event-stream")


async def test_a_stream_falls_back_before_its_first_output():
    async with served(ERROR) as first, served(streamed()) as second:
        client = client_of(first, to(second))
        async with client.stream("chat/completions", {"messages": SAY}) as stream:
            text = "".join([piece async for piece in stream.texts()])
        await client.close()

    assert (text, stream.target.provider) == ("fine", f"127.0.0.1:{second.port}")
    assert (stream.attempts, stream.source) == (2, "fallback")


async def test_a_stream_does_not_fall_back_after_its_first_output():
    async with served(streamed(SSE[:90])) as first, served(streamed()) as second:
        client = client_of(first, to(second), ToDegraded(text="later"))
        with pytest.raises(errors.StreamBrokenError):
            async with client.stream("chat/completions", {"messages": SAY}) as stream:
                await stream.answer()
        await client.close()

    assert second.requests == []


async def test_a_stream_of_a_degraded_answer_is_one_event():
    async with served(ERROR) as server:
        client = client_of(server, ToDegraded(text="later"))
        async with client.stream("chat/completions", {"messages": SAY}) as stream:
            texts = [piece async for piece in stream.texts()]
        async with client.stream("chat/completions", {"messages": SAY}) as whole:
            got = await whole.answer()
        await client.close()

    assert (texts, stream.source) == (["later"], "degraded")
    assert (got.text, got.source) == ("later", "degraded")
