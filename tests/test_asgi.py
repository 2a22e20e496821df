"""The middleware for web applications, with a real server and a real client."""

import asyncio
import time
from contextlib import asynccontextmanager

import anthropic
import httpx2
import openai
import pytest
from clients import ONCE, QUICK, SAY, client_of
from sockets import End, answer, failing, served
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from table_test import table_test
from web import serving

from stormbreak import CircuitOpenError, ConfigurationError
from stormbreak.asgi import HEADER, Rejections
from stormbreak.core.breaker import BreakerPolicy
from stormbreak.core.concurrency_limit import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.drivers.scope import current
from stormbreak.errors import error_for
from stormbreak.httpx2 import AsyncTransport
from stormbreak.types import CallResult, Outcome, Target, Verdict

BUSY = "The service is busy. Please try again later.\n"
FAIL_FAST = Policy(fail_fast=True, patience=0.2, breaker=BreakerPolicy(), retry=ONCE.retry)


def web(endpoint, **options):
    """A Starlette application of one page, behind the middleware."""
    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(Rejections, **options)
    return app


def asking(client, **options):
    """A page that calls a model."""

    async def page(_request):
        got = await client.request("chat/completions", {"messages": SAY}, **options)
        return PlainTextResponse(got.text)

    return web(page)


@asynccontextmanager
async def app_over_client(script, policy=QUICK, **options):
    """An application that calls a model with these responses; yield the HTTP client, the server and the LLM client."""
    async with (
        served(script) as server,
        client_of(server, policy) as client,
        serving(asking(client, **options)) as ask,
    ):
        yield ask, server, client


# ------------------------------------------------------------------ rejections


async def test_an_answer_is_passed_through():
    async with app_over_client([answer()]) as (ask, _, _):
        status, _, text = await ask()
        assert (status, text) == (200, "fine")


async def test_an_open_circuit_is_503():
    async with app_over_client([answer()], FAIL_FAST) as (ask, server, client):
        client.isolate("m")
        status, headers, text = await ask()
        assert (status, text) == (503, BUSY)
        assert "retry-after" not in headers  # isolated by hand, without an end
        assert server.requests == []


async def test_a_cooldown_is_503_with_retry_after():
    async with app_over_client([failing(429, retry_after=30)], FAIL_FAST) as (ask, server, _):
        for _ in range(2):  # the first was sent and throttled; the second was not sent
            status, headers, text = await ask()
            assert (status, text) == (503, BUSY)
            assert 25 < int(headers["retry-after"]) <= 45
        assert len(server.requests) == 1


async def test_an_exhausted_quota_is_429():
    policy = Policy(patience=0.2, rate_limit=RateLimitPolicy(rpm=1, burst_seconds=60.0))
    async with app_over_client([answer()], policy) as (ask, _, _):
        assert (await ask())[0] == 200
        status, headers, text = await ask()
        assert (status, text) == (429, BUSY)
        assert 30 < int(headers["retry-after"]) <= 61


async def test_a_call_that_waits_too_long_is_503():
    policy = Policy(patience=0.1, limit=FixedLimit(max_in_flight=1))
    async with app_over_client([End.HANG], policy) as (ask, server, client):
        blocker = asyncio.ensure_future(client.chat(SAY))
        await server.asked()
        assert (await ask())[0] == 503
        blocker.cancel()


async def test_other_failures_are_not_changed():
    async with app_over_client([failing(401)], ONCE) as (ask, _, _):
        assert (await ask())[0] == 500  # from Starlette


async def test_a_started_response_is_not_started_again():
    async with served([answer()]) as server, client_of(server, FAIL_FAST) as client:
        client.isolate("m")

        async def app(_scope, _receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await client.chat(SAY)

        sent = []

        async def send(message):
            sent.append(message["type"])

        with pytest.raises(CircuitOpenError):
            await Rejections(app)({"type": "http", "headers": []}, None, send)
        assert sent == ["http.response.start"]


async def test_plain_applications_and_other_protocols_pass_through():
    seen = []

    async def app(scope, _receive, send):
        seen.append(scope["type"])
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    async with serving(Rejections(app)) as ask:
        assert (await ask())[0] == 204
    await Rejections(app)({"type": "lifespan"}, None, None)
    assert seen == ["http", "lifespan"]


async def raw(app, *headers):
    """The messages that an application sends for a request with these headers, without a server."""
    sent = []

    async def send(message):
        sent.append(message)

    await Rejections(app)({"type": "http", "headers": headers}, None, send)
    return sent


async def test_a_retry_time_in_the_past_is_retry_after_1():
    ended = CallResult(Outcome(Verdict.THROTTLED), retry_at=time.monotonic() - 5.0)

    async def app(_scope, _receive, _send):
        raise error_for(Target("there", "m"), ended)

    start, _ = await raw(app)
    assert (b"retry-after", b"1") in start["headers"]


async def test_a_rejection_does_not_reveal_the_target():
    async with app_over_client([answer()], FAIL_FAST) as (ask, server, client):
        client.isolate("m")
        _, headers, text = await ask()
        assert str(server.port) not in text + str(headers)


# ------------------------------------------------------------------ rejections raised by an SDK


async def by_openai(url, http):
    async with openai.AsyncOpenAI(
        base_url=url, api_key="any", http_client=http, max_retries=0
    ) as sdk:
        await sdk.chat.completions.create(model="m", messages=SAY)


async def by_anthropic(url, http):
    url = url.removesuffix("/v1")
    async with anthropic.AsyncAnthropic(
        base_url=url, api_key="any", http_client=http, max_retries=0
    ) as sdk:
        await sdk.messages.create(model="m", messages=SAY, max_tokens=9)


@asynccontextmanager
async def app_over_sdk(sdk, script, policy=ONCE):
    """An application that calls a model by an SDK over a transport; yield the HTTP client and the server."""
    async with served(script) as server:
        first = AsyncTransport(policy)

        async def page(_request):
            await sdk(server.base_url, httpx2.AsyncClient(transport=AsyncTransport(first.engine)))
            return PlainTextResponse("fine")

        async with serving(web(page)) as ask:
            yield ask, server


@pytest.mark.parametrize("sdk", [by_openai, by_anthropic])
async def test_an_open_circuit_under_an_sdk_is_503(sdk):
    frail = BreakerPolicy(
        trip=ConsecutiveFailures(failure_threshold=1), open_duration=40.0, open_duration_jitter=0.0
    )
    policy = Policy(fail_fast=True, breaker=frail, retry=ONCE.retry)
    async with app_over_sdk(sdk, [failing(500)], policy) as (ask, server):
        assert (await ask())[0] == 500  # the application handles errors of the provider
        status, headers, text = await ask()
        assert (status, text) == (503, BUSY)
        assert 30 < int(headers["retry-after"]) <= 40
        assert len(server.requests) == 1


@pytest.mark.parametrize("sdk", [by_openai, by_anthropic])
async def test_a_cooldown_under_an_sdk_is_503_with_retry_after(sdk):
    async with app_over_sdk(sdk, [failing(429, retry_after=30)], FAIL_FAST) as (ask, server):
        for _ in range(2):
            status, headers, text = await ask()
            assert (status, text) == (503, BUSY)
            assert 25 < int(headers["retry-after"]) <= 45
        assert len(server.requests) == 1


@pytest.mark.parametrize("sdk", [by_openai, by_anthropic])
async def test_a_deadline_ends_the_call_of_an_sdk(sdk):
    async with app_over_sdk(sdk, [End.HANG]) as (ask, _):
        assert (await ask(x_request_deadline_ms="300"))[::2] == (503, BUSY)


@pytest.mark.parametrize(("second", "status"), [("refused", 503), ("wrong", 500)])
async def test_an_exception_group_is_503_only_if_all_calls_are_rejected(second, status):
    async with served([answer()]) as server, client_of(server, FAIL_FAST) as client:
        client.isolate("m")

        async def wrong():
            raise LookupError

        async def page(_request):
            async with asyncio.TaskGroup() as group:
                group.create_task(client.chat(SAY))
                group.create_task(client.chat(SAY) if second == "refused" else wrong())

        async with serving(web(page)) as ask:
            assert (await ask())[0] == status


async def test_a_rejection_translated_by_the_application_is_not_changed():
    async def translated(url, http):
        try:
            await by_openai(url, http)
        except openai.APIError as error:
            raise LookupError("no answer") from error

    async with app_over_sdk(translated, [failing(429, retry_after=30)], FAIL_FAST) as (ask, _):
        assert (await ask())[0] == 500


# ------------------------------------------------------------------ deadlines


async def left(_request):
    """A page that shows the remaining seconds."""
    at = current().deadline_at
    return PlainTextResponse("none" if at is None else f"{at - time.monotonic():.2f}")


async def test_a_request_header_sets_the_deadline():
    async with serving(web(left)) as ask:
        assert (await ask())[2] == "none"
        assert 4.0 < float((await ask(x_request_deadline_ms="5000"))[2]) <= 5.0
        assert (await ask())[2] == "none"  # the deadline ended with its request


async def test_the_deadline_header_can_be_renamed_or_disabled():
    async with serving(web(left, deadline_header="X-Stormbreak-Deadline")) as ask:
        assert float((await ask(x_stormbreak_deadline="900.5"))[2]) <= 0.91
        assert (await ask(x_request_deadline_ms="5"))[2] == "none"
    async with serving(web(left, deadline_header=None)) as ask:
        assert (await ask(x_request_deadline_ms="x"))[2] == "none"


@table_test("name", ["", "two words", "x-\u0434", 3])
def test_an_invalid_header_name_is_rejected_at_the_start(name):
    with pytest.raises(ConfigurationError, match="deadline_header must be the name of a header"):
        Rejections(None, deadline_header=name)


@table_test("value", ["soon", "-1", "nan", "inf", "", "1e999", "9" * 400, "0" * 20 + "9"])
async def test_an_invalid_deadline_is_400_and_not_repeated(value):
    async with serving(web(left)) as ask:
        status, _, text = await ask(x_request_deadline_ms=value)
        assert (status, text) == (400, f"{HEADER} must be milliseconds from now, 0 or more\n")


async def test_the_deadline_of_a_request_ends_its_call():
    async with app_over_client([End.HANG]) as (ask, _, _):
        began = time.monotonic()
        status, _, text = await ask(x_request_deadline_ms="300")
        assert (status, text) == (503, BUSY)
        assert 0.25 < time.monotonic() - began < 20.0


async def test_the_earlier_deadline_applies():
    async with app_over_client([End.HANG], deadline=0.2) as (ask, _, _):
        began = time.monotonic()
        assert (await ask(x_request_deadline_ms="60000"))[0] == 503
        assert time.monotonic() - began < 20.0


async def test_the_smallest_of_several_deadline_headers_applies():
    seen = []

    async def app(_scope, _receive, _send):
        seen.append(current().deadline_at - time.monotonic())

    for values in ((b"1000", b"9000"), (b"9000", b"1000")):
        await raw(app, *((HEADER.encode(), value) for value in values))
    assert all(seconds <= 1.0 for seconds in seen)


async def test_concurrent_requests_have_separate_deadlines():
    async def page(request):
        await asyncio.sleep(0.05)
        return await left(request)

    async with serving(web(page)) as ask:
        got = await asyncio.gather(
            *(ask(x_request_deadline_ms=str(n * 100_000)) for n in (1, 5, 9))
        )
        assert [round(float(text) / 100) for _, _, text in got] == [1, 5, 9]
