"""Retries over retries: the reported number of requests is the number sent."""

from dataclasses import replace
from functools import partial, wraps

import httpx
import httpx2
import openai
import pytest
import stamina
import tenacity
from canary import KEY
from sdk_clients import QUICK
from sockets import failing, served

from stormbreak import resilient
from stormbreak.core.backoff import Backoff
from stormbreak.core.retry import RetryPolicy
from stormbreak.doctor import examine
from stormbreak.httpx2 import AsyncTransport, Transport

AT_ONCE = failing(503, retry_after_ms=1, x_should_retry="true")
QUICKLY = {"wait": tenacity.wait_none(), "reraise": True}


def stacked(thing, name="ask"):
    """Return the finding about retries that multiply, or None."""
    findings = [each for each in examine(thing, name=name) if each.name == "retries-multiply"]
    return findings[0].what if findings else None


def asking(client):
    async def ask():
        await client.chat.completions.create(model="m", messages=[])

    return ask


def under_tenacity(client):
    stop = tenacity.stop_any(tenacity.stop_after_attempt(2), tenacity.stop_after_delay(60))
    return tenacity.retry(stop=stop, **QUICKLY)(asking(client))


def under_stamina(client):
    twice = stamina.retry(on=openai.APIError, attempts=2, wait_initial=0, wait_max=0, wait_jitter=0)
    return twice(asking(client))


def guarded(client, on=openai.APIError):
    twice = RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.001))
    return resilient(replace(QUICK, retry=twice), on=on)(asking(client))


@pytest.mark.parametrize(
    ("under", "by"),
    [(under_tenacity, "tenacity"), (under_stamina, "stamina"), (guarded, "stormbreak.resilient")],
)
async def test_the_reported_product_of_retries_is_the_number_sent(under, by):
    async with (
        served(AT_ONCE) as server,
        openai.AsyncOpenAI(api_key=KEY, base_url=server.base_url) as client,
    ):
        ask = under(client)
        with pytest.raises(openai.InternalServerError):
            await ask()
    assert len(server.requests) == 6
    assert f"up to 6 times: 2 ({by}) x 3 (openai.AsyncOpenAI)" in stacked(ask)


async def test_our_transport_stops_the_retries_of_the_sdk_and_no_others():
    async with (
        served(failing(503, retry_after_ms=1)) as server,
        httpx2.AsyncClient(transport=AsyncTransport(replace(QUICK, breaker=None))) as http,
    ):
        client = openai.AsyncOpenAI(api_key=KEY, base_url=server.base_url, http_client=http)
        assert stacked(client) is None
        with pytest.raises(openai.InternalServerError):
            await asking(client)()
        assert len(server.requests) == QUICK.retry.max_attempts
        ask = under_tenacity(client)
        with pytest.raises(openai.InternalServerError):
            await ask()
    assert len(server.requests) == 3 * QUICK.retry.max_attempts
    assert "up to 8 times: 2 (tenacity) x 4 (stormbreak.AsyncTransport)" in stacked(ask)


class ConfiguredTransport(httpx2.BaseTransport):
    """Keeps its retry settings as the transports of pydantic_ai.retries do."""

    def __init__(self, wrapped, **config):
        self.wrapped = wrapped
        self.config = config


class RetryTransport(httpx.BaseTransport):
    """Keeps its retry settings as the transport of httpx-retries does."""

    def __init__(self, total, *methods):
        self.retry = type("Retry", (), {"total": total, "allowed_methods": frozenset(methods)})()
        self._sync_transport = httpx.HTTPTransport()


class SomeRetrying(httpx2.BaseTransport):
    """A user's own transport."""

    def __init__(self):
        self._inner = httpx2.HTTPTransport()


def test_retries_of_a_transport_are_multiplied():
    stop = tenacity.stop_after_attempt(5)
    configured = ConfiguredTransport(httpx2.HTTPTransport(), stop=stop)
    client = openai.OpenAI(api_key=KEY, http_client=httpx2.Client(transport=configured))
    assert "up to 15 times" in stacked(client)
    configured.config.clear()
    assert "may be sent without end" in stacked(client)
    client = openai.OpenAI(api_key=KEY, http_client=httpx2.Client(transport=SomeRetrying()))
    assert "at least 3 times: 3 (openai.OpenAI) x an unknown number" in stacked(client)
    legacy = httpx.Client(transport=RetryTransport(4, "POST"))
    assert "up to 15 times" in stacked(openai.OpenAI(api_key=KEY, http_client=legacy))
    for_gets = httpx.Client(transport=RetryTransport(4, "GET"))
    assert stacked(openai.OpenAI(api_key=KEY, http_client=for_gets)) is None


def test_our_transport_inside_or_outside_a_retrying_transport_multiplies():
    stop = tenacity.stop_after_attempt(5)
    inner = stormbreak_over(ConfiguredTransport(httpx2.HTTPTransport(), stop=stop))
    assert "up to 20 times: 4 (stormbreak.Transport) x 5" in stacked(inner)
    outer = ConfiguredTransport(stormbreak_over(None)._transport, stop=stop)
    assert "up to 20 times" in stacked(httpx2.Client(transport=outer))


def stormbreak_over(inner):
    return httpx2.Client(transport=Transport(QUICK, inner=inner))


def test_a_guarded_function_has_a_policy():
    once = openai.AsyncOpenAI(api_key=KEY, max_retries=0)
    assert {each.name for each in examine(guarded(once))} == {"long-timeout"}
    assert (
        stacked(guarded(openai.AsyncOpenAI(api_key=KEY), on=None)) is None
    )  # which retries nothing
    assert "up to 6 times: 2 (stormbreak.resilient) x 3" in stacked(
        guarded(openai.AsyncOpenAI(api_key=KEY))
    )


async def test_a_guard_does_not_retry_what_our_transport_gave_up():
    async with served(AT_ONCE) as server:
        http = httpx2.AsyncClient(transport=AsyncTransport(QUICK))
        async with openai.AsyncOpenAI(
            api_key=KEY, base_url=server.base_url, http_client=http
        ) as client:
            ask = guarded(client)
            with pytest.raises(openai.InternalServerError):
                await ask()
    assert len(server.requests) == QUICK.retry.max_attempts
    assert stacked(ask) is None


def test_retrying_wrappers_around_a_guarded_function_multiply():
    guard = guarded(openai.AsyncOpenAI(api_key=KEY, max_retries=0))

    @wraps(guard)
    async def logged():
        return await guard()

    assert stacked(logged) is None
    twice = tenacity.retry(stop=tenacity.stop_after_attempt(2))(guard)
    assert "up to 4 times: 2 (tenacity) x 2 (stormbreak.resilient)" in stacked(twice)


def test_unlimited_retries_are_reported():
    client = openai.OpenAI(api_key=KEY, max_retries=0)

    @tenacity.retry
    def ask():
        return client.models.list()

    assert "retries-without-end" in {each.name for each in examine(ask)}


def closed_over(max_tries, target):
    """A function with the closure that backoff makes."""

    def retry():
        return max_tries, target()

    retry.__wrapped__ = target
    return retry


def test_retries_of_the_package_backoff_are_multiplied():
    client = openai.OpenAI(api_key=KEY)

    def ask():
        return client.models.list()

    assert "up to 9 times: 3 (backoff) x 3" in stacked(closed_over(3, ask))
    assert "without end" in stacked(closed_over(None, ask))


class Agent:
    """A user's own class with a client in it."""

    def __init__(self):
        self.llm = openai.OpenAI(api_key=KEY)

    @tenacity.retry(stop=tenacity.stop_after_attempt(2))
    def ask(self):
        return self.llm.models.list()


def test_the_client_held_by_a_method_or_object_is_examined():
    assert "up to 6 times" in stacked(Agent().ask)
    places = {each.where for each in examine(Agent(), name="agent")}
    assert places == {"agent", "agent.llm.timeout"}
    client = Agent().llm
    for thing in (client.chat.completions, client.chat.completions.create, partial(client.get)):
        assert {each.name for each in examine(thing)} == {"no-policy", "long-timeout"}
