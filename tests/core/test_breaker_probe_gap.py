"""While attempts hang, probes are a small share of what a process usually sends."""

import pytest
from stage import OK, SERVER_ERROR, TIMEOUT
from table_test import table_test
from ward import Ward

from stormbreak.core.gate import READY
from stormbreak.core.trip import AnyRule, DeadTarget, FailureRate

HUNG, OTHERS = TIMEOUT, SERVER_ERROR


def dead(every, *outcomes, before=60, trip=None):
    """A circuit that timeouts have opened, after an answer `every` few seconds, and `outcomes` of probes since."""
    ward = Ward(trip=trip or DeadTarget(), open_duration=1.0)
    for _ in range(before):
        ward.send(OK)
        ward.now += every
    while ward.ready:
        ward.send(TIMEOUT)
        ward.now += every
    for outcome in outcomes:
        ward.now = max(ward.now, ward.breaker.ready_at(None, ward.now))
        ward.send(outcome)
    return ward


def gap(ward):
    """Seconds until the next probe."""
    at = ward.breaker.ready_at(None, ward.now)
    return 0.0 if at == READY else at - ward.now


@table_test(("every", "seconds"), [(0.05, 0.5), (0.5, 5.0), (2.0, 20.0), (3.5, 30.0), (20.0, 30.0)])
def test_the_gap_between_hung_probes_is_ten_usual_intervals_up_to_thirty_seconds(every, seconds):
    assert gap(dead(every, TIMEOUT)) == pytest.approx(seconds, rel=0.1)


def test_the_first_probe_has_no_gap():
    assert gap(dead(0.5)) <= 1.0


@table_test("outcome", [SERVER_ERROR, OK])
def test_a_probe_that_does_not_hang_ends_the_gap(outcome):
    assert gap(dead(0.5, TIMEOUT, outcome)) <= 1.0


def test_the_usual_rate_is_learned_within_two_minutes():
    ward = dead(5.0, before=24)
    ward.breaker.reset(ward.now)
    for _ in range(600):
        ward.send(OK)
        ward.now += 0.2
    while ward.ready:
        ward.send(TIMEOUT)
        ward.now += 0.2
    ward.now = ward.breaker.ready_at(None, ward.now)
    ward.send(TIMEOUT)

    assert 2.0 <= gap(ward) <= 3.0


def test_a_reset_circuit_counts_from_zero():
    ward = dead(0.5)
    assert ward.breaker.counts(ward.now).calls > 0
    ward.breaker.reset(ward.now)

    assert ward.breaker.counts(ward.now).calls == 0


def test_the_time_with_an_open_circuit_does_not_count_for_the_usual_rate():
    ward = dead(0.5)
    ward.now += 300.0
    ward.breaker.reset(ward.now)
    ward.send(OK)
    while ward.ready:
        ward.now += 0.5
        ward.send(TIMEOUT)
    ward.now = ward.breaker.ready_at(None, ward.now)
    ward.send(TIMEOUT)

    assert gap(ward) == pytest.approx(5.0, rel=0.1)


def test_any_rule_takes_the_longest_gap_and_a_rule_without_diagnosis_has_none():
    both = AnyRule(rules=(FailureRate(), DeadTarget()))

    assert gap(dead(0.5, TIMEOUT, trip=both)) == pytest.approx(5.0, rel=0.1)
    assert gap(dead(0.5, TIMEOUT, trip=FailureRate())) <= 1.0
