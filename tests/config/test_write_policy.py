"""A policy written as a file reads back to an equal policy."""

import tomllib
from dataclasses import fields, replace
from typing import get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from types_within import parts_of

from stormbreak.config import describe, load_policy
from stormbreak.config.write_policy import UNITS
from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import FIELDS, Backoff
from stormbreak.core.breaker_policy import COUNTABLE, BreakerPolicy, Mode
from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.fallback_policy import (
    POSSIBLE,
    CachePolicy,
    Place,
    TargetOrder,
    ToCache,
    ToDegraded,
    ToTargets,
)
from stormbreak.core.fleet_policy import FleetPolicy
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.policy import LARGEST, SMALLEST, Policy
from stormbreak.core.presets import PRESETS
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.shadow import ShadowPolicy
from stormbreak.core.spend_policy import CALENDARS, SpendPolicy
from stormbreak.core.trip import AnyRule, ConsecutiveFailures, DeadTarget, FailureRate, SlowRate
from stormbreak.hidden_keys import is_token
from stormbreak.types import Priority

positive = st.one_of(st.floats(SMALLEST, LARGEST), st.integers(1, 10**9))
not_negative = st.one_of(st.just(0.0), positive)
part = st.floats(SMALLEST, 1)
share = st.one_of(st.just(0.0), part)
counting = st.integers(1, 10**12)
from_zero = st.integers(0, 10**12)


def built(kind, **values):
    """`st.builds` that requires every field, so that a new field cannot be forgotten."""
    assert {field.name for field in fields(kind)} - {"kind"} == set(values)
    return st.builds(kind, **values)


@st.composite
def ordered(draw, kind, low, high, **values):
    """Like `built`, where one value must not be below another."""
    below, above = sorted((draw(values[low]), draw(values[high])))
    return draw(built(kind, **{**values, low: st.just(below), high: st.just(above)}))


growth = {"initial_delay": positive, "max_delay": positive}
factor = st.floats(1, LARGEST)


@st.composite
def backoffs(draw):
    """Every kind of backoff, with the fields that it uses."""
    kind = draw(st.sampled_from([*FIELDS]))
    values = {
        "factor": draw(factor), "jitter": draw(st.floats(SMALLEST, 1)), "min_delay": draw(not_negative),
    }  # fmt: skip
    values["initial_delay"], values["max_delay"] = sorted((draw(positive), draw(positive)))
    return Backoff(kind=kind, **{name: values[name] for name in FIELDS[kind]})


windows = [
    {"window_seconds": positive, "window_calls": st.none(), "min_calls": counting},
    {
        "window_seconds": st.none(),
        "window_calls": st.integers(100, 200),
        "min_calls": st.integers(1, 100),
    },
]
rules = st.one_of(
    built(DeadTarget),
    built(ConsecutiveFailures, failure_threshold=counting),
    *(built(FailureRate, ratio=part, **window) for window in windows),
    *(built(SlowRate, ratio=part, slow_call_threshold=positive, **window) for window in windows),
)
trips = rules | built(AnyRule, rules=st.lists(rules, min_size=1, max_size=3).map(tuple))
breakers = ordered(
    BreakerPolicy,
    "max_concurrent_probes",
    "probes",
    mode=st.sampled_from(Mode),
    trip=trips,
    open_duration=positive,
    open_duration_jitter=st.floats(SMALLEST, 1, exclude_max=True),
    open_duration_factor=factor,
    max_open_duration=positive,
    respect_retry_after=st.booleans(),
    probes=counting,
    max_concurrent_probes=counting,
    success_ratio=part,
    reopen_on_any_failure=st.booleans(),
    probe_lease=positive,
    max_half_open_duration=st.none() | positive,
)
retries = built(
    RetryPolicy,
    max_attempts=counting,
    backoff=backoffs(),
    min_time_left=not_negative,
    retry_after_jitter=not_negative,
    max_wait=positive,
    longer_backoff_on=st.lists(st.integers(-600, 600), max_size=3).map(tuple),
)
budgets = built(
    BudgetPolicy,
    ratio=not_negative,
    capacity=not_negative,
    decay_time=positive,
    low_traffic_calls=from_zero,
    low_traffic_window=positive,
    low_traffic_retries=from_zero,
    no_free_retries=st.booleans(),
)
BOUNDS = ("min_in_flight", "initial_in_flight", "max_in_flight")
limits = st.one_of(
    built(FixedLimit, max_in_flight=counting),
    st.builds(
        lambda limit, bounds: replace(limit, **dict(zip(BOUNDS, sorted(bounds), strict=True))),
        built(
            AimdLimit,
            initial_in_flight=st.just(20),
            increase=positive,
            decrease_factor=st.floats(SMALLEST, 1, exclude_max=True),
            min_in_flight=st.just(1),
            max_in_flight=st.just(256),
            slow_call_threshold=st.none() | positive,
        ),
        st.tuples(counting, counting, counting),
    ),
    built(AutomaticLimit, max_in_flight=counting, headroom_factor=factor, headroom=not_negative),
)
quotas = built(
    RateLimitPolicy,
    rpm=st.none() | positive,
    tpm=st.none() | positive,
    burst_seconds=not_negative,
    learn_from_headers=st.booleans(),
)
hedges = st.one_of(
    built(HedgePolicy, delay=not_negative, percentile=st.none(), max_hedges=counting),
    built(
        HedgePolicy,
        delay=st.none() | not_negative,
        percentile=st.floats(0.01, 0.99),
        max_hedges=counting,
    ),
)
verdicts = st.lists(st.sampled_from(COUNTABLE), max_size=3).map(tuple)
shadows = built(
    ShadowPolicy,
    failures=st.none() | verdicts,
    ignored=st.none(),
    fail_fast=st.none() | st.booleans(),
    rate_limit=st.none() | quotas,
    retry=st.none() | retries,
    retry_budget=st.none() | budgets,
    breaker=st.none() | breakers,
    limit=st.none() | limits,
    adaptive_rate=st.booleans(),
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
        max_wait=after,
        targets=st.lists(places, min_size=1, max_size=2).map(tuple),
        order=st.sampled_from(TargetOrder),
    ),
    built(ToCache, on=on, max_wait=after),
    built(ToDegraded, on=on, max_wait=after, text=words),
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
    ignored=st.lists(st.sampled_from(COUNTABLE[1::2]), max_size=3).map(tuple),
    retry=retries,
    retry_budget=st.none() | budgets,
    breaker=st.none() | breakers,
    limit=limits,
    adaptive_rate=st.booleans(),
    shadow=st.none() | shadows,
    rate_limit=quotas,
    process_share=st.floats(0.01, 1.0),
    spend=built(
        SpendPolicy,
        max_usd=st.none() | positive,
        period=st.none() | positive | st.sampled_from(CALENDARS),
        max_output_tokens=st.none() | counting,
    ),
    fleet=built(
        FleetPolicy,
        url=st.none()
        | st.sampled_from(["redis://cache:6379/0", "rediss://app@cache", "unix:///run/valkey"]),
        name=st.sampled_from(["default", "shop batch"]),
        fallback=st.sampled_from(["share", "half"]),
        on_store_loss=st.sampled_from(["reject", "allow"]),
        spend=st.booleans(),
    ),
    hedge=st.none() | hedges,
    queue=built(
        QueuePolicy,
        max_size=from_zero,
        max_pause=positive,
        min_share=st.floats(SMALLEST, 0.3),
        tenant_weights=st.dictionaries(st.text().filter(str.isprintable), positive, max_size=3),
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(policy=policies)
def test_a_described_policy_reads_back_equal(policy, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(describe(policy))
    assert policy == load_policy(path)


@pytest.mark.parametrize("name", PRESETS)
def test_a_described_preset_reads_back_equal_with_the_same_description(name, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(describe(PRESETS[name]))
    assert load_policy(path) == PRESETS[name]
    assert describe(PRESETS[name]) == describe(load_policy(path))


def test_every_value_has_a_unit():
    paths = {path.removeprefix("shadow.") for path in _paths(Policy)}
    assert set(UNITS) == {path for path in paths if not path.endswith("kind")} | {"shadow"}


def test_a_described_policy_names_the_unit_seconds():
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
