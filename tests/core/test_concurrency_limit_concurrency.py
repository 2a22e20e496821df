from math import inf

import pytest
from stage import OK

from stormbreak.core.concurrency_limit import FixedLimit, FixedLimiter
from stormbreak.errors import ConfigurationError


def test_a_fixed_limit_is_ready_while_a_slot_is_free():
    slots = FixedLimiter(FixedLimit(max_in_flight=2))
    readiness = []
    for _ in range(2):
        readiness.append(slots.ready_at(None, 0.0))
        slots.take(None, 0.0)

    assert readiness == [-inf, -inf]
    assert slots.ready_at(None, 0.0) == inf
    slots.settle(None, OK, 0.0, 0.0)
    assert slots.ready_at(None, 0.0) == -inf
    assert slots.in_flight == 1


def test_an_invalid_value_is_named():
    with pytest.raises(ConfigurationError, match="in_flight must be at least 1, got 0"):
        FixedLimit(max_in_flight=0)


def test_a_limit_of_one_is_valid_and_its_own_ceiling():
    policy = FixedLimit(max_in_flight=1)

    assert (policy.max_in_flight, FixedLimiter(policy).max_limit, FixedLimiter(policy).limit) == (
        1,
        1,
        1,
    )
    assert FixedLimit().max_in_flight == 256


def test_a_fixed_limit_always_binds():
    assert FixedLimiter(FixedLimit()).binds(0.0) is True
