from stage import OK, SERVER_ERROR, THROTTLED, TIMEOUT
from table_test import table_test
from ward import CLOSED, HALF_OPEN, OPEN, Ward

from stormbreak.core.trip import DeadTarget, SlowRate
from stormbreak.types import CANCELLED

SLOW = SlowRate(ratio=1.0, slow_call_threshold=5.0, min_calls=2, window_calls=2)


OURS = TIMEOUT._replace(own_deadline=True)


@table_test("outcome", [OK, SERVER_ERROR, CANCELLED, OURS])
@table_test(("took", "after"), [(4.9, CLOSED), (5.0, OPEN)])
def test_slow_calls_open_the_circuit_also_if_we_cut_them(outcome, took, after):
    ward = Ward(trip=SLOW)
    tokens = [ward.take(), ward.take()]
    ward.now += took
    for token in tokens:
        ward.settle(token, outcome)

    assert ward.state is after


@table_test(
    ("took", "outcome", "after"),
    [(4.9, OK, CLOSED), (5.0, OK, OPEN), (5.0, CANCELLED, OPEN), (5.0, THROTTLED, HALF_OPEN)],
)
def test_a_slow_probe_is_no_success_under_a_slow_call_rule(took, outcome, after):
    ward = Ward(trip=SLOW, probes=1, max_concurrent_probes=1)
    tokens = [ward.take(), ward.take()]
    ward.now += 5.0
    for token in tokens:
        ward.settle(token, OK)
    ward.now += 10.0
    probe = ward.take()
    ward.now += took
    ward.settle(probe, outcome)

    assert ward.state is after


def known(ward):
    """A breaker alone, after answers of a second."""
    tokens = [ward.take() for _ in range(32)]
    ward.now += 1.0
    for token in tokens:
        ward.settle(token, OK)
    ward.now += 10.0
    return ward


def test_a_breaker_alone_opens_for_a_dead_target_and_closes_after_a_success():
    ward = known(Ward(trip=DeadTarget(), success_ratio=0.3))
    ward.send(*[SERVER_ERROR] * 7)
    assert ward.state is CLOSED
    ward.send(SERVER_ERROR)
    assert ward.state is OPEN
    ward.now += 10.0
    ward.send(OK)
    assert ward.state is CLOSED
    ward.send(*[SERVER_ERROR] * 7)
    assert ward.state is CLOSED


def test_attempts_sent_before_the_circuit_opened_count_for_nothing_after_it_closed():
    """Attempts in flight when it opened say nothing of a target that has recovered."""
    ward = known(Ward(trip=DeadTarget(), success_ratio=0.3))
    answered, hanging = ([ward.take() for _ in range(20)] for _ in range(2))
    ward.now += 0.1
    ward.send(*[SERVER_ERROR] * 8)
    assert ward.state is OPEN
    for token in answered:
        ward.settle(token, OK)
    ward.now += 10.0
    ward.send(OK)
    assert ward.state is CLOSED
    ward.send(SERVER_ERROR)
    assert ward.state is CLOSED
    for token in hanging:
        ward.settle(token, TIMEOUT)

    assert ward.state is CLOSED
