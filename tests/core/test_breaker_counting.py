import pytest
from stage import OK, SERVER_ERROR, THROTTLED, TIMEOUT
from ward import CLOSED, HALF_OPEN, OPEN, Ward

from stormbreak.core.trip import FailureRate, SlowRateOfLast
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


RATE = FailureRate(share=0.5, calls=4, seconds=10.0)


def test_quick_errors_at_a_cold_start_wait_for_slow_answers():
    ward = Ward(trip=RATE)
    tokens = [ward.take() for _ in range(20)]
    for token in tokens[:9]:
        ward.settle(token, SERVER_ERROR)
    assert ward.state is CLOSED  # nine of twenty, at the most
    ward.settle(tokens[9], SERVER_ERROR)
    assert ward.state is OPEN


def test_who_hangs_at_a_cold_start_is_waited_for_no_longer_than_a_probe():
    ward = Ward(trip=RATE)
    [ward.take() for _ in range(20)]
    ward.now = 29.9
    ward.send(*[SERVER_ERROR] * 4)
    assert ward.state is CLOSED
    ward.now = 30.0
    ward.send(SERVER_ERROR)
    assert ward.state is OPEN


def test_who_is_younger_than_the_failures_were_says_nothing():
    ward = Ward(trip=RATE)
    failing = [ward.take() for _ in range(4)]
    ward.now = 4.9
    [ward.take() for _ in range(99)]
    ward.now = 5.0
    for token in failing:
        ward.settle(token, SERVER_ERROR)

    assert ward.state is OPEN


def test_failures_that_the_window_has_forgotten_count_against_who_hangs():
    ward = Ward(trip=RATE)
    [ward.take() for _ in range(10)]
    for now in range(0, 24, 3):
        ward.now = float(now)
        ward.send(SERVER_ERROR)
    ward.send(SERVER_ERROR)
    assert ward.state is CLOSED  # nine of nineteen, at the most
    ward.send(SERVER_ERROR)
    assert ward.state is OPEN


def test_after_the_first_success_only_those_who_left_before_are_waited_for():
    ward = Ward(trip=RATE)
    cold = [ward.take() for _ in range(7)]
    ward.settle(cold[3], OK)
    [ward.take() for _ in range(99)]
    ward.send(*[SERVER_ERROR] * 6)
    assert ward.state is CLOSED  # six failures; a success and six that may become one
    ward.send(SERVER_ERROR)
    assert ward.state is OPEN


def test_a_circuit_that_closes_starts_cold_again():
    ward = Ward(trip=RATE)
    ward.send(OK)
    ward.breaker.reset(ward.now)
    for token in [ward.take() for _ in range(20)][:9]:
        ward.settle(token, SERVER_ERROR)

    assert ward.state is CLOSED  # nine of twenty, at the most


def test_what_is_cut_at_a_cold_start_is_waited_for_no_longer():
    ward = Ward(trip=RATE)
    for token in [ward.take() for _ in range(20)]:
        ward.settle(token, CANCELLED)
    ward.send(*[SERVER_ERROR] * 4)

    assert ward.state is OPEN
