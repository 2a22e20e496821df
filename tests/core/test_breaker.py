from math import inf

import pytest
from stage import INVALID, OK, SERVER_ERROR, THROTTLED, TIMEOUT, retry_in
from table_test import table_test
from ward import CLOSED, HALF_OPEN, ISOLATED, OPEN, RULES, Ward

from stormbreak.core.breaker import Breaker
from stormbreak.core.breaker_policy import BreakerPolicy, Mode
from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.trip import SlowRate
from stormbreak.errors import ConfigurationError
from stormbreak.types import CANCELLED, TREATMENTS, Verdict


def sends(*outcomes):
    return lambda ward: ward.send(*outcomes)


def waits(seconds):
    def wait(ward):
        ward.now += seconds

    return wait


def waits_and_looks(seconds):
    def wait(ward):
        ward.now += seconds
        assert ward.ready

    return wait


TRANSITIONS = [
    # state, event, next
    (CLOSED, sends(OK, SERVER_ERROR, OK, SERVER_ERROR), CLOSED),
    (CLOSED, sends(SERVER_ERROR, SERVER_ERROR), OPEN),
    (CLOSED, sends(THROTTLED, THROTTLED, INVALID, INVALID, CANCELLED, CANCELLED), CLOSED),
    (CLOSED, sends(SERVER_ERROR, THROTTLED, CANCELLED, TIMEOUT), OPEN),
    (CLOSED, sends(*[TIMEOUT._replace(own_deadline=True)] * 3), CLOSED),
    (CLOSED, lambda ward: ward.breaker.isolate(ward.now), ISOLATED),
    (OPEN, waits(9.9), OPEN),
    (OPEN, waits_and_looks(10.0), OPEN),  # a check changes nothing
    (OPEN, lambda ward: (waits(10.0)(ward), ward.take()), HALF_OPEN),
    (OPEN, lambda ward: ward.breaker.isolate(ward.now), ISOLATED),
    (OPEN, lambda ward: ward.breaker.reset(ward.now), CLOSED),
    (HALF_OPEN, sends(OK), HALF_OPEN),
    (HALF_OPEN, sends(OK, OK), CLOSED),
    (HALF_OPEN, sends(SERVER_ERROR), HALF_OPEN),
    (HALF_OPEN, sends(SERVER_ERROR, OK), HALF_OPEN),
    (HALF_OPEN, sends(SERVER_ERROR, OK, OK), CLOSED),
    (HALF_OPEN, sends(SERVER_ERROR, SERVER_ERROR), OPEN),
    (HALF_OPEN, sends(*[THROTTLED] * 4, *[CANCELLED] * 9, *[INVALID] * 4), HALF_OPEN),
    (HALF_OPEN, sends(*[THROTTLED] * 4, *[INVALID] * 5), OPEN),
    (HALF_OPEN, sends(*[TIMEOUT._replace(own_deadline=True)] * 9), HALF_OPEN),
    (HALF_OPEN, lambda ward: ward.breaker.isolate(ward.now), ISOLATED),
    (HALF_OPEN, lambda ward: ward.breaker.reset(ward.now), CLOSED),
    (ISOLATED, waits(1e9), ISOLATED),
    (ISOLATED, lambda ward: ward.breaker.reset(ward.now), CLOSED),
]


@table_test(("state", "event", "after"), TRANSITIONS)
def test_transitions(state, event, after):
    ward = Ward().bring_to(state)
    event(ward)

    assert after is ward.state


def test_every_change_is_reported_with_the_end_of_the_open_time():
    ward = Ward()
    ward.send(SERVER_ERROR, SERVER_ERROR)
    ward.now = 10.0
    ward.send(OK, OK)

    assert ward.changes == [
        (CLOSED, OPEN, 0.0, 10.0),
        (OPEN, HALF_OPEN, 10.0, None),
        (HALF_OPEN, CLOSED, 10.0, None),
    ]


@table_test("state", [CLOSED, ISOLATED])
def test_a_change_without_effect_is_not_reported(state):
    ward = Ward().bring_to(state)
    reported = len(ward.changes)
    ward.breaker.reset(ward.now) if state is CLOSED else ward.breaker.isolate(ward.now)

    assert (ward.state, len(ward.changes)) == (state, reported)


READY = [
    (CLOSED, -inf),
    (OPEN, 10.0),
    (HALF_OPEN, -inf),
    (ISOLATED, inf),
]


@table_test(("state", "ready_at"), READY)
def test_each_state_has_its_time_for_the_next_call(state, ready_at):
    ward = Ward().bring_to(state)

    assert ready_at == ward.breaker.ready_at(None, ward.now)


def test_a_circuit_that_closed_counts_from_zero():
    ward = Ward()
    ward.send(SERVER_ERROR, SERVER_ERROR)
    ward.now += 10.0
    ward.send(OK, OK, SERVER_ERROR)

    assert ward.state is CLOSED
    ward.send(SERVER_ERROR)
    assert ward.state is OPEN


def test_reset_forgets_counted_failures():
    ward = Ward()
    ward.send(SERVER_ERROR)
    ward.breaker.reset(ward.now)
    ward.send(SERVER_ERROR)

    assert ward.state is CLOSED


def test_results_of_an_earlier_state_change_nothing():
    ward = Ward()
    old = [ward.take() for _ in range(9)]
    ward.send(SERVER_ERROR, SERVER_ERROR)
    for token in old[:3]:
        ward.settle(token, OK)
    assert ward.state is OPEN
    ward.now += 10.0
    probe = ward.take()
    for token in old[3:6]:
        ward.settle(token, SERVER_ERROR)
    assert ward.state is HALF_OPEN
    ward.settle(probe, OK)
    ward.send(OK)
    assert ward.state is CLOSED
    for token in old[6:]:
        ward.settle(token, SERVER_ERROR)
    assert ward.state is CLOSED


def test_metrics_only_mode_counts_and_never_opens():
    ward = Ward(mode=Mode.METRICS_ONLY)
    ward.send(*[SERVER_ERROR] * 7)

    assert (ward.state, ward.breaker.trips, ward.changes) == (CLOSED, 3, [])


def test_disabled_mode_counts_nothing():
    ward = Ward(mode=Mode.DISABLED)
    ward.send(*[SERVER_ERROR] * 9)

    assert (ward.state, ward.breaker.trips) == (CLOSED, 0)
    assert not ward.breaker._diagnosis._watched


def test_a_forced_open_circuit_rejects_calls_also_after_a_reset():
    ward = Ward(mode=Mode.FORCED_OPEN)
    assert ward.breaker.ready_at(None, ward.now) == inf
    ward.breaker.reset(ward.now)
    assert ward.state is ISOLATED


@table_test("mode", Mode)
def test_isolate_works_in_every_mode(mode):
    ward = Ward(mode=mode)
    ward.breaker.isolate(ward.now)

    assert ward.breaker.ready_at(None, ward.now) == inf


@table_test("mode", Mode)
def test_a_mode_may_be_a_string(mode):
    assert mode is BreakerPolicy(mode=mode.value).mode


def test_a_timed_isolation_ends_half_open():
    ward = Ward()
    ward.breaker.isolate(ward.now, duration=60.0)
    assert (ward.state, ward.breaker.ready_at(None, ward.now)) == (ISOLATED, 60.0)
    assert ward.changes == [(CLOSED, ISOLATED, 0.0, 60.0)]
    ward.now = 60.0
    ward.send(OK)
    assert ward.state is HALF_OPEN
    ward.send(OK)
    assert ward.state is CLOSED


def test_a_timed_isolation_can_be_changed_and_reset():
    ward = Ward()
    ward.breaker.isolate(ward.now, duration=60.0)
    ward.breaker.isolate(ward.now, duration=5.0)
    assert ward.breaker.ready_at(None, ward.now) == 5.0
    ward.breaker.isolate(ward.now)
    assert ward.breaker.ready_at(None, ward.now) == inf
    ward.breaker.reset(ward.now)
    assert ward.ready


@table_test(
    ("mode", "ready", "after"),
    [(Mode.METRICS_ONLY, -inf, CLOSED), (Mode.DISABLED, -inf, CLOSED)],
)
def test_a_timed_isolation_ends_closed_in_modes_without_probes(mode, ready, after):
    ward = Ward(mode=mode)
    ward.breaker.isolate(ward.now, duration=60.0)
    assert ward.breaker.ready_at(None, 59.0) == 60.0
    ward.now = 60.0
    assert ward.breaker.ready_at(None, ward.now) == ready
    ward.send(SERVER_ERROR)
    assert ward.state is after


def test_a_forced_open_circuit_stays_open_after_a_timed_isolation():
    ward = Ward(mode=Mode.FORCED_OPEN)
    ward.breaker.isolate(ward.now, duration=60.0)

    assert ward.breaker.ready_at(None, 61.0) == inf


@table_test(("duration", "until"), [(None, None), (0.5, 0.5)])
def test_listeners_get_the_end_of_a_timed_isolation(duration, until):
    ward = Ward()
    ward.breaker.isolate(0.0, duration=duration)

    assert ward.changes == [(CLOSED, ISOLATED, 0.0, until)]


@table_test("duration", [0, -1.0, inf, float("nan"), "60", True, 1e9])
def test_an_invalid_duration_is_rejected(duration):
    ward = Ward()
    with pytest.raises(ConfigurationError, match="duration must be"):
        ward.breaker.isolate(ward.now, duration=duration)
    assert ward.state is CLOSED


@table_test(
    ("state", "waited", "seconds"),
    [
        (CLOSED, 0.0, None),
        (OPEN, 0.0, 10.0),
        (OPEN, 4.0, 6.0),
        (OPEN, 11.0, 0.0),
        (HALF_OPEN, 0.0, None),
        (ISOLATED, 0.0, None),
    ],
)
def test_the_breaker_knows_the_seconds_to_the_next_probe(state, waited, seconds):
    ward = Ward().bring_to(state)
    ward.now += waited

    assert ward.breaker.next_probe(ward.now) == seconds


def by_target(ward, *, short_way):
    """A breaker that shares the diagnosis of its target, and what it does with a success."""
    trip = SlowRate(ratio=0.5, slow_call_threshold=10.0, min_calls=2)
    policy = BreakerPolicy(**RULES | {"trip": trip})
    breaker = Breaker(policy, TREATMENTS, ward.on_change, diagnosis=Diagnosis(TREATMENTS))
    return breaker, breaker.on_success if short_way else breaker.settle


@table_test("short_way", [False, True])
def test_a_success_counts_the_same_by_the_short_way(short_way):
    ward = Ward()
    breaker, succeed = by_target(ward, short_way=short_way)
    old = breaker.take(None, 100.0)
    breaker.settle(breaker.take(None, 100.0), retry_in(100.0, Verdict.SERVER_ERROR), 101.0, 0.5)
    succeed(breaker.take(None, 101.0), OK, 102.0, 0.5)  # the named time is forgotten
    assert breaker.state is CLOSED
    for _ in range(2):
        succeed(breaker.take(None, 102.0), OK, 112.0, 0.5)  # both are slow
    assert (breaker.state, breaker.until) == (OPEN, 122.0)
    succeed(old, OK, 113.0, 0.5)
    assert breaker.state is OPEN
    probe = breaker.take(None, 122.0)
    succeed(probe, OK, 123.0, 0.5)
    assert breaker.state is HALF_OPEN
    succeed(breaker.take(None, 123.0), OK, 124.0, 0.5)

    assert breaker.state is CLOSED


def test_the_diagnosis_knows_when_probes_set_the_pace():
    ward = Ward()
    diagnosis = Diagnosis(TREATMENTS)
    breaker = Breaker(BreakerPolicy(**RULES), TREATMENTS, ward.on_change, diagnosis=diagnosis)
    seen = []
    for _ in range(2):
        breaker.settle(breaker.take(None, 0.0), SERVER_ERROR, 0.0, 0.5)
    seen.append(diagnosis.probed)  # open
    breaker.take(None, 10.0)
    seen.append(diagnosis.probed)  # half-open
    breaker.isolate(10.0)
    seen.append(diagnosis.probed)
    breaker.reset(10.0)

    assert [*seen, diagnosis.probed] == [True, True, False, False]


def test_a_probe_that_hangs_after_a_timed_isolation_starts_the_usual_open_time():
    ward = Ward(open_duration_jitter=0.5)
    ward.breaker.isolate(ward.now, duration=60.0)
    ward.now = 60.0
    ward.take()
    ward.now = ward.breaker.trial.ends_at

    assert ward.breaker.state_at(ward.now) is OPEN
    assert ward.breaker.ready_at(None, ward.now) == ward.now + 10.0


def test_forced_open_during_a_timed_isolation_holds_until_it_is_lifted():
    ward = Ward()
    ward.breaker.isolate(ward.now, duration=60.0)
    ward.breaker.force(True, 1.0)
    assert ward.breaker.ready_at(None, 1.0) == inf
    ward.breaker.force(False, 2.0)
    assert ward.breaker.ready_at(None, 2.0) == 60.0


def test_a_reset_circuit_forgets_the_retry_after_of_an_earlier_probe():
    ward = Ward()
    ward.breaker = Breaker(BreakerPolicy(**RULES), TREATMENTS, ward.on_change, alone=True)
    ward.bring_to(HALF_OPEN)
    ward.send(retry_in(500.0))
    assert not ward.ready
    ward.breaker.reset(ward.now)
    ward.bring_to(HALF_OPEN)
    assert ward.ready
