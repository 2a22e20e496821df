"""Spend limits when the policies change."""

import pytest
from metering import price_of, usage
from stage import OK, Stage, policy

from stormbreak.core.engine import Engine
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.cost.spend_gate import SpendAccounts
from stormbreak.types import Target

DOLLAR, LITTLE = usage(1_000_000), usage(1)
A, B = Target("a", "m", name="a"), Target("b", "m", name="b")


def rules(usd, per=None):
    return policy(retry=RetryPolicy(max_attempts=1), spend=SpendPolicy(max_usd=usd, period=per))


@pytest.fixture
def made():
    """All targets share one limit, of which a dollar is spent."""
    stage = Stage(rules(2.0))
    stage.engine = Engine(rules(2.0), SpendAccounts(price_of))
    govern(stage, 2.0, a=2.0, b=2.0)
    stage.start(target=A, bound=DOLLAR).step(OK)
    return stage


def govern(stage, usd, **targets):
    accounts = {Target(name, "", name=name): rules(limit) for name, limit in targets.items()}
    stage.engine.govern(rules(usd), accounts, stage.now)


def spent(stage):
    return {
        float(each["limit"]): float(each["spent"]) for each in stage.engine.snapshot(0)["spend"]
    }


def test_targets_that_leave_a_shared_limit_keep_its_spend(made):
    govern(made, 5.0, a=3.0, b=4.0)

    assert spent(made) == {5.0: 1.0, 3.0: 1.0, 4.0: 1.0}


@pytest.mark.parametrize("kept", ["a", "b"])
def test_a_target_that_keeps_its_limit_keeps_its_spend(made, kept):
    govern(made, 5.0, **{"a": 3.0, "b": 3.0, kept: 2.0})

    assert spent(made) == {2.0: 1.0, 5.0: 1.0, 3.0: 1.0}


def test_a_new_target_has_spent_nothing(made):
    govern(made, 5.0, a=2.0, b=2.0, c=4.0)
    made.start(target=Target("c", "m", name="c"), bound=LITTLE)

    assert spent(made) == {2.0: 1.0, 5.0: 1.0, 4.0: 0.0}


def test_a_target_that_returns_keeps_its_spend(made):
    govern(made, 2.0, a=2.0)
    govern(made, 2.0, a=2.0, b=4.0)

    assert spent(made) == {2.0: 1.0, 4.0: 1.0}


@pytest.mark.parametrize("between", [(None, None), (9.0, 60.0), (None, 60.0)])
def test_a_limit_that_returns_within_its_period_keeps_its_spend(between):
    made, day = Stage(rules(2.0, "day")), rules(2.5, "day")
    engine = made.engine = Engine(made.engine.policy, SpendAccounts(price_of, lambda: 0.0))
    made.start(target=A, bound=DOLLAR).step(OK)
    for other in (rules(*between), day, rules(*between), rules(3.0, "day")):
        engine.govern(other, {A: other}, made.now)
    made.start(target=A, bound=DOLLAR).step(OK)
    assert spent(made)[3.0] == 2.0


def test_a_limit_that_returns_takes_the_spend_of_the_target_that_kept_it(made):
    govern(made, None, a=2.0, b=None)
    govern(made, 3.0, a=2.0, b=3.0)
    assert spent(made) == {2.0: 1.0, 3.0: 1.0}


@pytest.mark.parametrize("between", [{"a": None}, {"a": None, "b": 7.0}, {"b": 2.0}])
def test_a_target_limit_that_returns_keeps_its_spend(made, between):
    """Also if the limit returns with another amount."""
    govern(made, None, a=2.0, b=2.0)
    for targets in (between, between, {**between, "a": 3.0}):
        govern(made, None, **targets)
    made.start(target=A, bound=DOLLAR).step(OK)

    assert spent(made)[3.0] == 2.0


def test_an_attempt_in_flight_is_settled_with_the_limit_that_reserved_it(made):
    late = made.start(target=B, bound=DOLLAR)
    govern(made, 5.0, a=3.0, b=4.0)
    late.step(OK)

    assert spent(made) == {5.0: 2.0, 3.0: 1.0, 4.0: 1.0}
