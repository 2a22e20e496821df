from table_test import table_test

from stormbreak.core.automatic_limit import AutomaticLimit, AutomaticLimiter
from stormbreak.core.concurrency_limit import (
    AimdLimit,
    AimdLimiter,
    FixedLimit,
    FixedLimiter,
    limiter,
)
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.types import TREATMENTS


def limiter_of(policy, share=1.0):
    return limiter(policy, Diagnosis(TREATMENTS), paused=lambda _: False, share=share)


KINDS = [
    (FixedLimit(), FixedLimiter),
    (AimdLimit(), AimdLimiter),
    (AutomaticLimit(), AutomaticLimiter),
]


@table_test(("policy", "machine"), KINDS)
def test_each_kind_of_limit_has_its_limiter(policy, machine):
    assert isinstance(limiter_of(policy), machine)


def test_a_single_process_has_all_of_a_fixed_limit():
    assert limiter_of(FixedLimit(max_in_flight=7)).limit == 7


@table_test(
    ("in_flight", "share", "limit"), [(10, 1.0, 10), (10, 0.25, 2), (3, 0.25, 1), (8, 1 / 8, 1)]
)
def test_a_process_has_its_share_of_a_fixed_limit_and_at_least_one_slot(in_flight, share, limit):
    policy = FixedLimit(max_in_flight=in_flight)

    assert limiter_of(policy, share).limit == limit


@table_test("policy", [AimdLimit(), AutomaticLimit()])
def test_adaptive_limits_ignore_the_share(policy):
    alone, beside = (limiter_of(policy, share) for share in (1.0, 0.1))

    assert alone.limit == beside.limit
