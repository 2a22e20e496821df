from collections.abc import Mapping
from dataclasses import is_dataclass
from fractions import Fraction
from types import NoneType
from typing import get_args, get_origin, get_type_hints

import pytest
from table_test import table_test

from stormbreak.core.automatic_limit import AutomaticLimit
from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.checks import (
    MAX_SHOWN,
    MIN_WINDOW,
    _rules,
    require,
    require_window,
    shown,
)
from stormbreak.core.concurrency_limit import AimdLimit, FixedLimit
from stormbreak.core.fallback_policy import CachePolicy, Place, ToCache, ToDegraded, ToTargets
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.policy import Policy
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.shadow import ShadowPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.trip import AnyRule, ConsecutiveFailures, FailureRate, SlowRate
from stormbreak.errors import ConfigurationError

WINDOWS = [
    (0, "seconds must be positive, got 0"),
    (-1.0, "seconds must be positive, got -1.0"),
    (float("nan"), "seconds must be positive, got nan"),
    (0.99 * MIN_WINDOW, "seconds must be at least 1e-06, got 9.9e-07"),
]


@table_test(("seconds", "message"), WINDOWS)
def test_an_invalid_window_is_rejected(seconds, message):
    with pytest.raises(ConfigurationError, match=f"^{message}$"):
        require_window("seconds", seconds)


@table_test("seconds", [1e-6, 0.5, 1, 1e9])
def test_a_valid_window_is_accepted(seconds):
    require_window("seconds", seconds)


def test_require_raises_with_the_value_only_if_the_rule_is_broken():
    require(True, "size must be 1", 2)
    with pytest.raises(ConfigurationError, match=r"^size must be 1, got 2$"):
        require(False, "size must be 1", 2)


def test_a_long_value_is_shortened_in_messages():
    assert MAX_SHOWN == 100
    assert shown("x" * 100) == "x" * 100
    assert shown("x" * 101) == "x" * 100 + "..."
    assert shown(10**5000) == "a number of thousands of digits"


POLICIES = (
    AimdLimit, AnyRule, AutomaticLimit, Backoff, BreakerPolicy, BudgetPolicy, CachePolicy, ConsecutiveFailures, FailureRate, FixedLimit, HedgePolicy, Place, Policy, QueuePolicy, RateLimitPolicy, RetryPolicy, ShadowPolicy, SlowRate, SpendPolicy, ToCache, ToDegraded, ToTargets,
)  # fmt: skip

WRONG = {
    int: [10.5, "10", True, [10]],
    float: ["1.5", True, [1.5], 1j],
    bool: [1, "yes"],
    str: [3, b"text"],
}


def wrong_values():
    for policy in POLICIES:
        for name, hint in get_type_hints(policy).items():
            whole = get_origin(hint) in (tuple, Mapping)
            members = set(() if whole else get_args(hint) or (hint,))
            parts = [member for member in members if is_dataclass(member)]
            kinds = members - {NoneType}
            odd = WRONG[kinds.pop()] if kinds and kinds < set(WRONG) else ["part"] if parts else []
            odd = ["part", 3] if whole else odd
            for value in odd if NoneType in members else [*odd, None] if odd else []:
                yield pytest.param(policy, name, value, id=f"{policy.__name__}.{name}={value!r}")


@table_test(("policy", "name", "value"), list(wrong_values()))
def test_a_policy_names_a_value_of_the_wrong_type(policy, name, value):
    with pytest.raises(ConfigurationError, match=rf"^{name} must be .*, got "):
        policy(**{name: value})


@table_test("policy", POLICIES)
def test_every_number_of_a_policy_is_checked_for_its_type(policy):
    assert {name for name, *_ in _rules(policy)} >= {
        name for name, hint in get_type_hints(policy).items() if hint in (int, float, bool)
    }


def test_integers_and_fractions_are_numbers_and_a_wrong_string_is_not_shown():
    assert FailureRate(window_seconds=10, ratio=Fraction(1, 2)).window_seconds == 10
    with pytest.raises(ConfigurationError, match=r"^rpm must be a number or None, got str$"):
        RateLimitPolicy(rpm="sk-secret")


@table_test(
    "rules", [FailureRate(), "consecutive", ("consecutive",), (AnyRule(),), (FailureRate(), None)]
)
def test_a_policy_names_an_invalid_rule(rules):
    with pytest.raises(ConfigurationError, match=r"^rules must be a tuple, each a "):
        AnyRule(rules=rules)


def test_a_list_of_rules_becomes_a_tuple():
    assert AnyRule(rules=[FailureRate()]).rules == (FailureRate(),)


@table_test("weights", [{"acme": "2"}, {"acme": None}, {"acme": True}, "acme", ["acme"]])
def test_invalid_weights_are_named(weights):
    with pytest.raises(
        ConfigurationError, match=r"^tenant_weights must be a mapping, each a number, got "
    ):
        QueuePolicy(tenant_weights=weights)
