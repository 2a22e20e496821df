"""The middleware for web applications, under a real server and asked by a real client."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from clients import ONCE, QUICK, SAY, client_of
from sockets import End, answer, failing, served
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from web import serving

from stormbreak import CircuitOpenError
from stormbreak.asgi import HEADER, Rejections
from stormbreak.core.breaker import BreakerPolicy
from stormbreak.core.concurrency import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.quota import QuotaPolicy
from stormbreak.drivers.scope import current

BUSY = "The service is busy. Please try again later.\n"
HASTY = Policy(fail_fast=True, patience=0.2, breaker=BreakerPolicy(), retry=ONCE.retry)


def web(endpoint, **options):
    """A Starlette application of one page, behind the middleware."""
    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(Rejections, **options)
    return app


def asking(client, **options):
    """A page that asks a model."""

    async def page(_request):
        got = await client.request("chat/completions", {"messages": SAY}, **options)
        return PlainTextResponse(got.text)

    return web(page)


@asynccontextmanager
async def asked(script, policy=QUICK, **options):
    """An application that asks a model which answers by `script`: who asks, the model's server, and the client."""
    async with (
        served(script) as server,
        client_of(server, policy) as client,
        serving(asking(client, **options)) as ask,
    ):
        yield ask, server, client


# ------------------------------------------------------------------ refusals


async def test_an_answer_passes():
    async with asked([answer()]) as (ask, _, _):
        status, _, text = await ask()
        assert (status, text) == (200, "fine")


async def test_an_open_circuit_is_503():
    async with asked([answer()], HASTY) as (ask, server, client):
        client.isolate("m")
        status, headers, text = await ask()
        assert (status, text) == (503, BUSY)
        assert "retry-after" not in headers  # by hand: nobody knows
        assert server.requests == []


async def test_a_cooldown_is_503_and_says_when_to_come_back():
    async with asked([failing(429, retry_after=30)], HASTY) as (ask, server, _):
        for _ in range(2):  # the first was sent, and told; of the second nothing was
            status, headers, text = await ask()
            assert (status, text) == (503, BUSY)
            assert 25 < int(headers["retry-after"]) <= 45
        assert len(server.requests) == 1


async def test_a_quota_is_429():
    policy = Policy(patience=0.2, quota=QuotaPolicy(rpm=1, burst=60.0))
    async with asked([answer()], policy) as (ask, _, _):
        assert (await ask())[0] == 200
        status, headers, text = await ask()
        assert (status, text) == (429, BUSY)
        assert 30 < int(headers["retry-after"]) <= 61


async def test_a_call_that_waits_in_vain_is_503():
    policy = Policy(patience=0.1, limit=FixedLimit(in_flight=1))
    async with asked([End.HANG], policy) as (ask, server, client):
        blocker = asyncio.ensure_future(client.chat(SAY))
        await server.asked()
        assert (await ask())[0] == 503
        blocker.cancel()


async def test_other_failures_go_on_as_they_are():
    async with asked([failing(401)], ONCE) as (ask, _, _):
        assert (await ask())[0] == 500  # Starlette's own


async def test_a_response_that_has_begun_is_not_begun_again():
    async with served([answer()]) as server, client_of(server, HASTY) as client:
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


async def test_a_plain_application_and_what_is_no_http():
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


async def test_what_is_told_outside_names_no_target():
    async with asked([answer()], HASTY) as (ask, server, client):
        client.isolate("m")
        _, headers, text = await ask()
        assert str(server.port) not in text + str(headers)


# ------------------------------------------------------------------ deadlines


async def left(_request):
    """A page that says how many seconds are left."""
    at = current().deadline_at
    return PlainTextResponse("none" if at is None else f"{at - time.monotonic():.2f}")


async def test_a_header_brings_a_deadline():
    async with serving(web(left)) as ask:
        assert (await ask())[2] == "none"
        assert 4.0 < float((await ask(x_request_deadline_ms="5000"))[2]) <= 5.0
        assert (await ask())[2] == "none"  # it went with its request


async def test_the_name_of_the_header_may_be_another_or_none():
    async with serving(web(left, deadline_header="X-Stormbreak-Deadline")) as ask:
        assert float((await ask(x_stormbreak_deadline="900.5"))[2]) <= 0.91
        assert (await ask(x_request_deadline_ms="5"))[2] == "none"
    async with serving(web(left, deadline_header=None)) as ask:
        assert (await ask(x_request_deadline_ms="x"))[2] == "none"


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", "", "1e999", "9" * 400])
async def test_a_deadline_that_is_none_is_400_and_is_not_repeated(value):
    async with serving(web(left)) as ask:
        status, _, text = await ask(x_request_deadline_ms=value)
        assert (status, text) == (400, f"{HEADER} must be milliseconds from now, 0 or more\n")


async def test_a_call_ends_by_the_deadline_of_its_request():
    async with asked([End.HANG]) as (ask, _, _):
        began = time.monotonic()
        status, _, text = await ask(x_request_deadline_ms="300")
        assert (status, text) == (503, BUSY)
        assert 0.25 < time.monotonic() - began < 2.0


async def test_the_earlier_deadline_counts():
    async with asked([End.HANG], deadline=0.2) as (ask, _, _):
        began = time.monotonic()
        assert (await ask(x_request_deadline_ms="60000"))[0] == 503
        assert time.monotonic() - began < 2.0


async def test_two_requests_have_each_its_own():
    async def page(request):
        await asyncio.sleep(0.05)
        return await left(request)

    async with serving(web(page)) as ask:
        got = await asyncio.gather(*(ask(x_request_deadline_ms=str(n * 1000)) for n in (1, 5, 9)))
        assert [round(float(text)) for _, _, text in got] == [1, 5, 9]
