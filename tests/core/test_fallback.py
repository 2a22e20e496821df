"""The rules; law 17 tests what a call does with them."""

import pytest
from table_test import table_test

from stormbreak.core.fallback import ordered
from stormbreak.core.fallback_policy import (
    CachePolicy,
    Place,
    Step,
    TargetOrder,
    ToCache,
    ToDegraded,
    ToTargets,
)
from stormbreak.errors import ConfigurationError
from stormbreak.types import Target, Verdict

LARGE = Place(model="large")
A, B, C = (Target(name, "m") for name in "abc")
WRONG = [
    (Place, "a target must name a provider, base_url, api_key_env, model or models, got none"),
    (lambda: Place(model="m", weight=0), "weight must be positive, got 0"),
    (ToTargets, "targets must hold a target, got none"),
    (
        lambda: ToTargets(targets=(LARGE,), on=(Verdict.OK,)),
        "on must name only verdicts of calls that failed, got ok",
    ),
    (
        lambda: ToCache(on=(Verdict.CANCELLED,)),
        "on must name only verdicts of calls that failed, got cancelled",
    ),
    (
        lambda: ToCache(on=(Verdict.UNREPEATABLE,)),
        "on must name only verdicts of calls that failed, got unrepeatable",
    ),
    (lambda: ToDegraded(on=()), "on must name a verdict, got none"),
    (lambda: ToCache(max_wait=0), "max_wait must be positive, got 0"),
    (lambda: CachePolicy(max_age=0), "max_age must be positive, got 0"),
    (lambda: CachePolicy(max_bytes=0), "max_bytes must be positive, got 0"),
]


@table_test(("make", "message"), WRONG)
def test_an_invalid_value_is_named(make, message):
    with pytest.raises(ConfigurationError, match=f"^{message}$"):
        make()


def order(choose, *weights, uniform=0.0, loads=None):
    places = tuple(zip((A, B, C), weights, strict=False))
    loads = loads or {}
    step = Step(frozenset(), None, "fallback", places, choose)
    return "".join(
        target.provider for target in ordered(step, uniform, lambda each: loads.get(each, 0.0))
    )


def test_in_order_keeps_the_written_order_at_any_load():
    assert order(TargetOrder.IN_ORDER, 1, 9, 5, loads={A: 2.0}) == "abc"


def test_least_loaded_puts_the_least_loaded_target_first():
    assert order(TargetOrder.LEAST_LOADED, 1, 1, 1, loads={A: 0.5, B: 0.2, C: 1.4}) == "bac"
    assert order(TargetOrder.LEAST_LOADED, 1, 1, 1) == "abc"


@table_test(
    ("uniform", "expected"),
    [(0.0, "acb"), (0.19, "acb"), (0.2, "bca"), (0.39, "bca"), (0.4, "cab")],
)
def test_weighted_draws_the_first_target_by_weight(uniform, expected):
    assert order(TargetOrder.WEIGHTED, 2, 2, 6, uniform=uniform) == expected


def test_weighted_puts_targets_without_room_last():
    assert order(TargetOrder.WEIGHTED, 2, 2, 6, uniform=0.99, loads={C: 1.0}) == "bac"
    assert (
        order(TargetOrder.WEIGHTED, 2, 2, 6, uniform=0.99, loads={A: 1.0, B: 1.0, C: 1.0}) == "cab"
    )


def test_weighted_rounding_falls_back_to_the_last_target():
    assert order(TargetOrder.WEIGHTED, 0.1, 0.2, 0.3, uniform=1 - 2**-53) == "cba"


def test_rules_have_defaults():
    """They match the page about fallbacks."""
    assert ToTargets(targets=(LARGE,)).max_wait == 2.0
    assert (ToCache().max_wait, ToDegraded().max_wait, LARGE.weight) == (None, None, 1.0)
    assert (CachePolicy().max_age, CachePolicy().max_bytes) == (86_400.0, 268_435_456)


def test_small_values_are_valid():
    assert ToCache(max_wait=0.5).max_wait == CachePolicy(max_age=0.5).max_age == 0.5
    assert CachePolicy(max_bytes=1).max_bytes == 1
