"""No number of a policy breaks an engine: it is rejected in one line when the policy is made, or it works."""

from dataclasses import fields, is_dataclass
from math import inf, nan
from typing import get_args, get_type_hints

import pytest
from table_test import table_test
from types_within import parts_of

from stormbreak.core.backoff import Backoff
from stormbreak.core.breaker_policy import BreakerPolicy
from stormbreak.core.concurrency_limit import Limit
from stormbreak.core.fallback_policy import CachePolicy
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.policy import LARGEST, SMALLEST, Policy
from stormbreak.core.queue_order import QueuePolicy
from stormbreak.core.rate_limit_gate import RateLimitPolicy
from stormbreak.core.retry import RetryPolicy
from stormbreak.core.retry_budget import BudgetPolicy
from stormbreak.core.spend_policy import SpendPolicy
from stormbreak.core.trip import AnyRule, FailureRate, TripRule
from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario import Burst, Fault, Kind, Load, Provider, Scenario
from stormbreak.storm import simulate

REAL = (5e-324, 1e-310, 1e-7, SMALLEST, 0.0, -1.0, LARGEST, 1e13, 1e308, nan, inf, 10**400)
WHOLE = (-1, 0, 10**12, 10**13, 10**400, 10**5000)

ROUGH = Scenario(
    name="rough",
    duration=12.0,
    provider=Provider(slots=3, service=0.5),
    faults=(
        Fault(kind=Kind.S429, share=0.3),
        Fault(kind=Kind.S500, share=0.3),
        Fault(kind=Kind.S503, share=0.1, retry_after=1.0),
        Fault(kind=Kind.HANG, share=0.1),
    ),
    load=Load(rate=3.0, bursts=(Burst(at=2.0, calls=10),), deadline=6.0, timeout=2.0),
)


def parts(part=Policy):
    """Every value that a policy can be made of."""
    found = {part}
    for hint in get_type_hints(part).values():
        found |= {below for kind in parts_of(hint) for below in parts(kind)}
        found |= {kind for kind in get_args(hint) if is_dataclass(kind)}
    return found


def numbers():
    for part in sorted(parts(), key=lambda part: part.__name__):
        hints = get_type_hints(part)
        for field in fields(part):
            kinds = {hints[field.name], *get_args(hints[field.name])}
            if kinds & {int, float} and field.name != "tenant_weights":
                values = REAL if float in kinds else WHOLE
                yield pytest.param(part, field.name, values, id=f"{part.__name__}.{field.name}")


def policy_or_error(make):
    """The policy, or the message of the error."""
    try:
        return make(), ""
    except ConfigurationError as error:
        return None, str(error)


def policy_with(part):
    """A policy with this part."""
    places = {
        Backoff: lambda: Policy(retry=RetryPolicy(backoff=part)),
        **dict.fromkeys(get_args(TripRule), lambda: Policy(breaker=BreakerPolicy(trip=part))),
        **dict.fromkeys(get_args(Limit), lambda: Policy(limit=part)),
        AnyRule: lambda: Policy(breaker=BreakerPolicy(trip=part)),
        BreakerPolicy: lambda: Policy(breaker=part),
        BudgetPolicy: lambda: Policy(retry_budget=part),
        CachePolicy: lambda: Policy(cache=part),
        HedgePolicy: lambda: Policy(hedge=part),
        QueuePolicy: lambda: Policy(queue=part),
        RateLimitPolicy: lambda: Policy(rate_limit=part),
        SpendPolicy: lambda: Policy(spend=part),
        RetryPolicy: lambda: Policy(retry=part),
        Policy: lambda: part,
    }
    return places[type(part)]()


@table_test(("part", "name", "values"), list(numbers()))
def test_a_number_is_rejected_in_one_line_or_works(part, name, values):
    for value in values:
        given = (value,) if name == "longer_backoff_on" else value
        policy, message = policy_or_error(lambda given=given: policy_with(part(**{name: given})))
        if policy is not None:
            assert simulate(ROUGH, policy).measures.calls > 20
        else:
            assert name in message
            assert "\n" not in message
            assert len(message) < 300


def test_a_weight_is_rejected_or_works():
    for value in REAL:
        policy, message = policy_or_error(
            lambda value=value: Policy(queue=QueuePolicy(tenant_weights={"shop": value}))
        )
        if policy is not None:
            assert SMALLEST <= value <= LARGEST
        else:
            assert "weights.shop" in message


@table_test(
    ("make", "message"),
    [
        (
            lambda: Policy(rate_limit=RateLimitPolicy(rpm=5e-324)),
            "rate_limit.rpm must be at least 1e-06 and at most 1e+12, got 5e-324",
        ),
        (
            lambda: BudgetPolicy(low_traffic_window=1e-310),
            "low_traffic_window must be at least 1e-06, got 1e-310",
        ),
        (lambda: FailureRate(window_seconds=1e-310), "seconds must be at least 1e-06"),
        (lambda: Policy(priority="batch"), "priority must be a Priority, got 'batch'"),
        (lambda: Policy(deadline=10**5000), "got a number of thousands of digits"),
    ],
)
def test_a_number_out_of_range_is_named(make, message):
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert message in str(caught.value)
