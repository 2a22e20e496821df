"""Clients understand the rate-limit headers of the provider in every dialect, and keep to them."""

import asyncio
from dataclasses import replace

import pytest
from table_test import table_test

from stormbreak.core.policy import Policy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.http.client import AsyncClient
from stormbreak.llm.rate_limit_headers import parse_rate_limits
from stormbreak.provider.rate_limit import LimitState
from stormbreak.provider.scenario import Dialect
from stormbreak.provider.throttle_headers import limit_headers

NOW = 1795557600.25
STATES = [LimitState(False, 600, 590.4, 1.0), LimitState(True, 60_000, 0.0, 59.9995)]


ONLY_REQUESTS = {Dialect.OPENROUTER, Dialect.IETF, Dialect.IETF_06}


@table_test("dialect", sorted(set(Dialect) - {Dialect.AZURE_UNKNOWN}))
def test_rate_limit_headers_of_every_dialect_are_parsed(dialect):
    parsed = parse_rate_limits(dict(limit_headers(dialect, STATES, NOW)), NOW)

    assert (parsed.requests.limit, parsed.requests.remaining) == (600, 590)
    assert parsed.requests.reset == pytest.approx(1.0, abs=1.0) or parsed.requests.window == 60
    if dialect not in ONLY_REQUESTS:
        assert (parsed.tokens.limit, parsed.tokens.remaining) == (60_000, 0)
        assert parsed.tokens.reset == pytest.approx(60, abs=1.0) or parsed.tokens.window == 60


def test_an_unknown_limit_of_azure_is_ignored():
    headers = dict(limit_headers(Dialect.AZURE_UNKNOWN, STATES, NOW))
    assert headers["x-ratelimit-limit-requests"] == "-1"
    assert parse_rate_limits(headers, NOW) is None


@table_test(
    ("dialect", "header"),
    [
        (Dialect.GROQ, ("x-ratelimit-reset-tokens", "1m0s")),
        (Dialect.AZURE, ("x-ratelimit-reset-requests", "1")),
        (Dialect.ANTHROPIC, ("anthropic-ratelimit-tokens-reset", "2026-11-24T22:01:01Z")),
        (Dialect.CEREBRAS, ("x-ratelimit-reset-tokens-minute", "59.999500000")),
        (Dialect.OPENROUTER, ("x-ratelimit-reset", "1795557601250")),
        (Dialect.IETF_06, ("ratelimit-reset", "1")),
        (Dialect.IETF, ("ratelimit", '"default";r=590;t=1')),
    ],
)
def test_the_reset_header_has_the_format_of_its_dialect(dialect, header):
    assert header in limit_headers(dialect, STATES, NOW)


@table_test(
    ("seconds", "written"),
    [(0, "0ms"), (0.0121, "13ms"), (8.64, "8.64s"), (360, "6m0s"), (3723, "1h2m3s")],
)
def test_openai_resets_have_the_duration_format_of_go(seconds, written):
    headers = dict(limit_headers(Dialect.OPENAI, [LimitState(False, 1, 0, seconds)], NOW))
    assert headers["x-ratelimit-reset-requests"] == written


SCENARIO = """
[provider]
service = 0.01
[limit]
kind = "bucket"
tokens = 60000
period = 3
headers = "{dialect}"
"""


@pytest.mark.parametrize("dialect", ["openai", "azure", "anthropic"])
async def test_a_client_that_learns_from_headers_gets_no_429(stormbreak_provider, dialect):
    """The bucket starts with 60,000 tokens and gains 20,000 a second."""
    provider = stormbreak_provider(SCENARIO.format(dialect=dialect))
    policy = replace(Policy(patience=None), rate_limit=RateLimitPolicy(learn_from_headers=True))
    say = [{"role": "user", "content": "hello"}]
    async with AsyncClient(base_url=provider.base_url, policy=policy) as client:
        await client.chat(say, model="storm-1", max_tokens=50_000)
        asked = [client.chat(say, model="storm-1", max_tokens=4_900) for _ in range(3)]
        answers = await asyncio.gather(*asked)

    assert len(answers) == 3
    assert provider.stats()["answers"] == {"200": 4}
