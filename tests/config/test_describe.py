"""A policy written as a file reads back to an equal policy."""

import tomllib
from dataclasses import fields, is_dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stormbreak.config import describe, load_policy
from stormbreak.config.describe import UNITS
from stormbreak.core.admission import QueuePolicy
from stormbreak.core.backoff import Constant, Exponential, FullJitter, Linear, ProportionalJitter
from stormbreak.core.breaker import BreakerPolicy
from stormbreak.core.budget import BudgetPolicy
from stormbreak.core.concurrency import FixedLimit
from stormbreak.core.policy import Policy
from stormbreak.core.presets import PRESETS
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.trip import ConsecutiveFailures, FailureRate
from stormbreak.types import Priority, Verdict

positive = st.one_of(
    st.floats(min_value=0, exclude_min=True, allow_infinity=False), st.integers(1, 10**9)
)
not_negative = st.one_of(st.floats(min_value=0, allow_infinity=False), st.integers(0, 10**9))
share = st.floats(min_value=0, max_value=1)
part = st.floats(min_value=0, max_value=1, exclude_min=True)
counting = st.integers(1, 10**12)
from_zero = st.integers(0, 10**12)


@st.composite
def grown(draw, kind, **more):
    base, cap = sorted((draw(positive), draw(positive)))
    return kind(base=base, cap=cap, **{name: draw(values) for name, values in more.items()})


factor = st.floats(min_value=1, allow_infinity=False)
backoffs = st.one_of(
    st.builds(Constant, seconds=not_negative),
    grown(Linear),
    grown(Exponential, factor=factor),
    grown(FullJitter, factor=factor),
    grown(ProportionalJitter, factor=factor, share=share, floor=not_negative),
)
trips = st.one_of(
    st.builds(ConsecutiveFailures, threshold=counting),
    st.builds(FailureRate, share=part, calls=counting, seconds=positive),
)


@st.composite
def breakers(draw):
    at_once, probes = sorted((draw(counting), draw(counting)))
    return BreakerPolicy(
        trip=draw(trips),
        open_for=draw(positive),
        jitter=draw(st.floats(min_value=0, max_value=1, exclude_max=True)),
        probes=probes,
        at_once=at_once,
        close_at=draw(part),
        any_failure_reopens=draw(st.booleans()),
        lease=draw(positive),
    )


retries = st.builds(
    RetryPolicy,
    attempts=counting,
    backoff=backoffs,
    min_useful=not_negative,
    longest_wait=positive,
    one_step_longer=st.lists(st.integers(), max_size=3).map(tuple),
)
budgets = st.builds(
    BudgetPolicy,
    ratio=not_negative,
    cap=not_negative,
    decay=positive,
    lone_calls=from_zero,
    lone_seconds=positive,
    lone_retries=from_zero,
)
policies = st.builds(
    Policy,
    deadline=st.none() | positive,
    patience=st.none() | positive,
    attempt_timeout=st.none() | positive,
    idle_timeout=st.none() | positive,
    fail_fast=st.booleans(),
    priority=st.sampled_from(Priority),
    failures=st.lists(st.sampled_from(Verdict), max_size=3).map(tuple),
    retry=retries,
    budget=st.none() | budgets,
    breaker=st.none() | breakers(),
    limit=st.builds(FixedLimit, in_flight=counting),
    queue=st.builds(QueuePolicy, size=from_zero, longest_pause=positive),
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


def test_the_strategies_know_every_field():
    """A new field joins the strategies above: this list is what they draw."""
    drawn = {
        "deadline", "patience", "attempt_timeout", "idle_timeout", "fail_fast", "priority", "failures",
        "retry", "budget", "breaker", "limit", "queue",
    }  # fmt: skip
    assert drawn == {field.name for field in fields(Policy)}


def test_every_value_says_what_it_counts():
    for kinds in (
        PRESETS["interactive"],
        PRESETS["article"],
        Policy(retry=RetryPolicy(backoff=Constant())),
    ):
        for path, value in _values(kinds):
            assert path in UNITS or path.endswith("kind") or value is None, path


def test_what_is_described_says_seconds():
    text = describe(PRESETS["interactive"])
    assert "deadline = 600.0  # seconds for a call, over all attempts and waits" in text
    assert tomllib.loads(text)["retry"]["backoff"]["kind"] == "full_jitter"


def _values(part, path=""):
    for field in fields(part):
        value, here = getattr(part, field.name), f"{path}{field.name}"
        if is_dataclass(value):
            yield from _values(value, f"{here}.")
        else:
            yield here, value
