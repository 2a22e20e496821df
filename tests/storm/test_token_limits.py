"""Tokens in a simulation: tokens of calls, token limits, and their headers."""

from dataclasses import replace

import pytest
from table_test import table_test

from stormbreak.core.presets import OFF
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.events import Returned
from stormbreak.provider.scenario import Dialect, Limit, LimitKind, Load, Provider, Scenario
from stormbreak.provider.scenario_file import load
from stormbreak.storm import simulate
from stormbreak.storm.ideal import ideal_throughput, within
from stormbreak.storm.traffic import traffic
from stormbreak.types import Verdict

LOAD = Load(rate=10.0, deadline=60.0, timeout=30.0, tokens=100.0)
BUCKET = Limit(kind=LimitKind.BUCKET, tokens=60_000, period=60.0)


def scenario(limit, **changes):
    return Scenario(
        name="tokens",
        duration=60.0,
        provider=Provider(),
        limit=limit,
        load=replace(LOAD, **changes),
    )


def refusals(storm, policy):
    events = []
    simulate(storm, policy, seed=1, listener=events.append)
    returned = [event for event in events if isinstance(event, Returned)]
    return sum(event.verdict is Verdict.THROTTLED for event in returned)


@table_test("kind", list(LimitKind))
def test_a_limit_counts_the_tokens_of_calls(kind):
    """Of about 60,000 tokens three windows admit 10,000 each; a bucket 10,000 more, since it starts full."""
    storm = scenario(Limit(kind=kind, tokens=10_000, period=20.0))
    result = simulate(storm, OFF, seed=1)

    assert sum(result.series.answers) == pytest.approx(100 * (3 + (kind == "bucket")), abs=2)


def test_the_ideal_respects_a_token_limit():
    """A bucket that starts full, and its refill until the last call is due."""
    storm = scenario(Limit(kind=LimitKind.BUCKET, tokens=30_000, period=60.0), rate=20.0)

    arrivals = traffic(storm.load, 60.0, seed=1).times
    assert within(ideal_throughput(storm, arrivals), 0.0) == pytest.approx(300 + 5 * 120, rel=0.03)


def test_tokens_do_not_depend_on_the_policy_and_have_the_configured_mean():
    uneven = replace(LOAD, rate=100.0, tokens_variation=1.0)
    calls = traffic(uneven, 100.0, seed=3)

    assert calls == traffic(uneven, 100.0, seed=3)
    assert sum(calls.tokens) / len(calls.tokens) == pytest.approx(100, rel=0.05)
    assert 1 <= min(calls.tokens) < 50
    assert max(calls.tokens) > 300


def test_a_quota_of_as_many_tokens_as_the_limit_is_never_refused():
    storm = scenario(replace(BUCKET, tokens=6_000), tokens_variation=1.0, rate=2.0)

    assert refusals(storm, OFF) > 0
    assert refusals(storm, replace(OFF, rate_limit=RateLimitPolicy(tpm=6_000.0))) == 0


SAYS_NOTHING = {Dialect.AZURE_UNKNOWN}
WHOLE_AT_ONCE = {Dialect.OPENROUTER, Dialect.IETF, Dialect.IETF_06}


def test_request_limits_in_headers_are_learned():
    learns = replace(OFF, rate_limit=RateLimitPolicy(learn_from_headers=True))
    for kind, dialects in (
        (LimitKind.WINDOW, WHOLE_AT_ONCE),
        (LimitKind.BUCKET, {*Dialect} - WHOLE_AT_ONCE - SAYS_NOTHING),
    ):
        storm = scenario(Limit(kind=kind, requests=300, period=60.0))
        refused = refusals(storm, OFF)  # OFF reads no header
        for dialect in sorted(dialects):
            reporting = replace(storm, limit=replace(storm.limit, headers=dialect))
            assert refusals(reporting, learns) < refused / 2, dialect


@table_test("dialect", [Dialect.OPENAI, Dialect.ANTHROPIC])
def test_token_limits_in_headers_are_learned(dialect):
    storm = scenario(replace(BUCKET, tokens=30_000, headers=dialect), tokens_variation=1.0)
    learns = replace(OFF, rate_limit=RateLimitPolicy(learn_from_headers=True))

    assert refusals(storm, learns) < refusals(storm, OFF) / 2


def test_the_built_in_scenario_runs_out_of_tokens_and_not_of_requests():
    storm = load("tokens")
    storm = replace(storm, duration=120.0, load=replace(storm.load, trigger_until=90.0))
    assert refusals(storm, OFF) > 500
    assert refusals(replace(storm, limit=replace(storm.limit, tokens=None)), OFF) == 0
