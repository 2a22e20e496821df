"""A policy written as a file reads back to an equal policy."""

import tomllib
from dataclasses import fields, replace
from typing import get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stormbreak.config import describe, load_policy
from stormbreak.config.policy_toml import UNITS
from stormbreak.config.schema import parts_of
from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import (
    Constant,
    DecorrelatedJitter,
    EqualJitter,
    Exponential,
    FullJitter,
    Linear,
    ProportionalJitter,
)
from stormbreak.core.circuit import BreakerPolicy, Mode
from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.fallback import (
    POSSIBLE,
    CachePolicy,
    Place,
    TargetOrder,
    ToCache,
    ToDegraded,
    ToTargets,
)
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.policy import LARGEST, SMALLEST, Policy
from stormbreak.core.presets import PRESETS
from stormbreak.core.queue import QueuePolicy
from stormbreak.core.rate_limit_policy import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.shadow import ShadowPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.tally import COUNTABLE
from stormbreak.core.trip import (
    AnyRule,
    ConsecutiveFailures,
    DeadTarget,
    FailureRate,
    FailureRateOfLast,
    SlowRate,
    SlowRateOfLast,
)
from stormbreak.key_patterns import is_token
from stormbreak.types import Priority

positive = st.one_of(st.floats(SMALLEST, LARGEST), st.integers(1, 10**9))
not_negative = st.one_of(st.just(0.0), positive)
part = st.floats(SMALLEST, 1)
share = st.one_of(st.just(0.0), part)
counting = st.integers(1, 10**12)
from_zero = st.integers(0, 10**12)


def built(kind, **values):
    """`st.builds` that insists on every field: a new one has to join."""
    assert {field.name for field in fields(kind)} - {"kind"} == set(values)
    return st.builds(kind, **values)


@st.composite
def ordered(draw, kind, low, high, **values):
    """The same, where one value must not be below another."""
    below, above = sorted((draw(values[low]), draw(values[high])))
    return draw(built(kind, **{**values, low: st.just(below), high: st.just(above)}))


growth = {"base": positive, "cap": positive}
factor = st.floats(1, LARGEST)
backoffs = st.one_of(
    built(Constant, seconds=not_negative),
    ordered(Linear, "base", "cap", **growth),
    ordered(Exponential, "base", "cap", **growth, factor=factor),
    ordered(FullJitter, "base", "cap", **growth, factor=factor),
    ordered(EqualJitter, "base", "cap", **growth, factor=factor),
    ordered(DecorrelatedJitter, "base", "cap", **growth, growth=factor),
    ordered(
        ProportionalJitter, "base", "cap", **growth, factor=factor, share=share, floor=not_negative
    ),
)
of_last = {"share": part, "calls": st.integers(1, 100), "last": st.integers(1, 100)}
rules = st.one_of(
    built(DeadTarget),
    built(ConsecutiveFailures, threshold=counting),
    built(FailureRate, share=part, calls=counting, seconds=positive),
    ordered(FailureRateOfLast, "calls", "last", **of_last),
    built(SlowRate, share=part, slower_than=positive, calls=counting, seconds=positive),
    ordered(SlowRateOfLast, "calls", "last", **of_last, slower_than=positive),
)
trips = rules | built(AnyRule, rules=st.lists(rules, min_size=1, max_size=3).map(tuple))
breakers = ordered(
    BreakerPolicy,
    "at_once",
    "probes",
    mode=st.sampled_from(Mode),
    trip=trips,
    open_for=positive,
    jitter=st.floats(SMALLEST, 1, exclude_max=True),
    growth=factor,
    longest_open=positive,
    heed_server=st.booleans(),
    probes=counting,
    at_once=counting,
    close_at=part,
    any_failure_reopens=st.booleans(),
    lease=positive,
    longest_half_open=st.none() | positive,
)
retries = built(
    RetryPolicy,
    attempts=counting,
    backoff=backoffs,
    min_useful=not_negative,
    spread=not_negative,
    longest_wait=positive,
    one_step_longer=st.lists(st.integers(-600, 600), max_size=3).map(tuple),
)
budgets = built(
    BudgetPolicy,
    ratio=not_negative,
    cap=not_negative,
    decay=positive,
    lone_calls=from_zero,
    lone_seconds=positive,
    lone_retries=from_zero,
    always_paid=st.booleans(),
)
BOUNDS = ("least", "start", "ceiling")
limits = st.one_of(
    built(FixedLimit, in_flight=counting),
    st.builds(
        lambda limit, bounds: replace(limit, **dict(zip(BOUNDS, sorted(bounds), strict=True))),
        built(
            AimdLimit,
            start=st.just(20),
            step=positive,
            share=st.floats(SMALLEST, 1, exclude_max=True),
            least=st.just(1),
            ceiling=st.just(256),
            slow=st.none() | positive,
        ),
        st.tuples(counting, counting, counting),
    ),
    built(AutomaticLimit, ceiling=counting, gain=factor, plus=not_negative),
)
quotas = built(
    RateLimitPolicy,
    rpm=st.none() | positive,
    tpm=st.none() | positive,
    burst=not_negative,
    learn=st.booleans(),
)
hedges = st.one_of(
    built(HedgePolicy, after=not_negative, percentile=st.none(), most=counting),
    built(
        HedgePolicy, after=st.none() | not_negative, percentile=st.floats(0.01, 0.99), most=counting
    ),
)
verdicts = st.lists(st.sampled_from(COUNTABLE), max_size=3).map(tuple)
shadows = built(
    ShadowPolicy,
    failures=st.none() | verdicts,
    uncounted=st.none(),
    fail_fast=st.none() | st.booleans(),
    quota=st.none() | quotas,
    retry=st.none() | retries,
    budget=st.none() | budgets,
    breaker=st.none() | breakers,
    limit=st.none() | limits,
    learn_rate=st.booleans(),
)
words = st.none() | st.text(min_size=1).filter(
    lambda text: text.isprintable() and text != "none" and not is_token(text)
)
after = st.none() | positive
on = st.lists(st.sampled_from(POSSIBLE), min_size=1, max_size=3).map(tuple)
places = built(
    Place,
    provider=words,
    base_url=words,
    api_key_env=st.none() | st.just("A_KEY_OF_2026_AND_LATER"),
    model=st.just("m") | st.just("large"),
    models=st.dictionaries(st.sampled_from(["gpt-4.1-mini-2025-04-14", "a b", "o3"]), st.just("m")),
    weight=positive,
)
fallbacks = st.one_of(
    built(
        ToTargets,
        on=on,
        after=after,
        targets=st.lists(places, min_size=1, max_size=2).map(tuple),
        choose=st.sampled_from(TargetOrder),
    ),
    built(ToCache, on=on, after=after),
    built(ToDegraded, on=on, after=after, text=words),
)
policies = built(
    Policy,
    fallback=st.lists(fallbacks, max_size=3).map(tuple),
    cache=built(CachePolicy, path=words, max_age=positive, max_bytes=counting),
    deadline=st.none() | positive,
    patience=st.none() | positive,
    attempt_timeout=st.none() | positive,
    idle_timeout=st.none() | positive,
    stall_timeout=st.none() | positive,
    fail_fast=st.booleans(),
    cooldown=st.booleans(),
    priority=st.sampled_from(Priority),
    failures=st.lists(st.sampled_from(COUNTABLE[::2]), max_size=3).map(tuple),
    uncounted=st.lists(st.sampled_from(COUNTABLE[1::2]), max_size=3).map(tuple),
    retry=retries,
    budget=st.none() | budgets,
    breaker=st.none() | breakers,
    limit=limits,
    learn_rate=st.booleans(),
    shadow=st.none() | shadows,
    quota=quotas,
    share=st.floats(0.01, 1.0),
    spend=built(
        SpendPolicy,
        usd=st.none() | positive,
        per=st.none() | positive,
        longest_answer=st.none() | counting,
    ),
    hedge=st.none() | hedges,
    queue=built(
        QueuePolicy,
        size=from_zero,
        longest_pause=positive,
        least_share=st.floats(SMALLEST, 0.3),
        weights=st.dictionaries(st.text().filter(str.isprintable), positive, max_size=3),
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(policy=policies)
def test_a_described_policy_reads_back_equal(policy, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(describe(policy))
    assert policy == load_policy(path)


@pytest.mark.parametrize("name", PRESETS)
def test_a_described_preset_reads_back_equal_and_is_described_alike(name, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(describe(PRESETS[name]))
    assert load_policy(path) == PRESETS[name]
    assert describe(PRESETS[name]) == describe(load_policy(path))


def test_every_value_says_what_it_counts():
    paths = {path.removeprefix("shadow.") for path in _paths(Policy)}
    assert set(UNITS) == {path for path in paths if not path.endswith("kind")} | {"shadow"}


def test_what_is_described_says_seconds():
    text = describe(PRESETS["interactive"])
    assert "deadline = 600.0  # seconds for a call, over all attempts and waits" in text
    assert tomllib.loads(text)["retry"]["backoff"]["kind"] == "full_jitter"


def _paths(part, path=""):
    for key, hint in get_type_hints(part).items():
        listed = get_origin(hint) is tuple and key in ("fallback", "targets")
        if listed:
            yield f"{path}{key}"
        if parts := parts_of(get_args(hint)[0] if listed else hint):
            for below in parts:
                yield from _paths(below, f"{path}{key}.")
        else:
            yield f"{path}{key}"
