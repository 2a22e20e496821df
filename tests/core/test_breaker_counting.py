import pytest
from stage import OK, SERVER_ERROR, THROTTLED, TIMEOUT
from ward import CLOSED, HALF_OPEN, OPEN, Ward

from stormbreak.core.trip import SlowRateOfLast
from stormbreak.types import CANCELLED

SLOW = SlowRateOfLast(share=1.0, slower_than=5.0, calls=2, last=2)


OURS = TIMEOUT._replace(own_deadline=True)


@pytest.mark.parametrize("outcome", [OK, SERVER_ERROR, CANCELLED, OURS])
@pytest.mark.parametrize(("took", "after"), [(4.9, CLOSED), (5.0, OPEN)])
def test_slow_calls_open_even_those_that_we_cut_ourselves(outcome, took, after):
    ward = Ward(trip=SLOW)
    tokens = [ward.take(), ward.take()]
    ward.now += took
    for token in tokens:
        ward.settle(token, outcome)

    assert ward.state is after


@pytest.mark.parametrize(
    ("took", "outcome", "after"),
    [(4.9, OK, CLOSED), (5.0, OK, OPEN), (5.0, CANCELLED, OPEN), (5.0, THROTTLED, HALF_OPEN)],
)
def test_a_slow_probe_is_no_sign_of_health_where_slowness_is_what_opens(took, outcome, after):
    ward = Ward(trip=SLOW, probes=1, at_once=1)
    tokens = [ward.take(), ward.take()]
    ward.now += 5.0
    for token in tokens:
        ward.settle(token, OK)
    ward.now += 10.0
    probe = ward.take()
    ward.now += took
    ward.settle(probe, outcome)

    assert ward.state is after
