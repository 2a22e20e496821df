from math import inf

from stage import INVALID, OK, SERVER_ERROR, THROTTLED
from table_test import table_test
from ward import CLOSED, HALF_OPEN, OPEN, Ward

from stormbreak.types import CANCELLED


def test_no_more_than_max_concurrent_probes_are_in_flight():
    ward = Ward(probes=4, max_concurrent_probes=2).bring_to(HALF_OPEN)
    first, _ = ward.take(), ward.take()

    assert not ward.ready
    ward.settle(first, OK)
    assert ward.ready


@table_test("counted", [OK, SERVER_ERROR])
def test_no_more_probes_leave_than_are_left_to_count(counted):
    ward = Ward(probes=3, max_concurrent_probes=3, success_ratio=0.5).bring_to(HALF_OPEN)
    ward.send(counted)
    ward.take()
    ward.take()

    assert not ward.ready


def test_a_cancelled_or_throttled_probe_frees_its_place_uncounted():
    ward = Ward(probes=1, max_concurrent_probes=1, success_ratio=1.0).bring_to(HALF_OPEN)
    for outcome in (CANCELLED, THROTTLED, INVALID):
        ward.send(outcome)
        assert ward.ready
    ward.send(OK)

    assert ward.state is CLOSED


@table_test(
    ("probes", "success_ratio", "needed"),
    [(3, 0.5, 2), (4, 0.5, 2), (1, 0.1, 1), (10, 0.7, 7), (5, 1.0, 5), (3, 0.01, 1)],
)
def test_success_ratio_sets_the_number_of_successful_probes(probes, success_ratio, needed):
    ward = Ward(probes=probes, max_concurrent_probes=probes, success_ratio=success_ratio).bring_to(
        HALF_OPEN
    )
    ward.send(*[SERVER_ERROR] * (probes - needed), *[OK] * (needed - 1))
    assert ward.state is HALF_OPEN
    ward.send(OK)
    assert ward.state is CLOSED


def test_any_failure_reopens_the_circuit_if_configured():
    ward = Ward(reopen_on_any_failure=True).bring_to(HALF_OPEN)
    ward.send(OK, SERVER_ERROR)

    assert ward.state is OPEN


def test_reopening_starts_a_new_open_time():
    ward = Ward().bring_to(HALF_OPEN)
    ward.now = 17.0
    ward.send(SERVER_ERROR, SERVER_ERROR)

    assert ward.breaker.ready_at(None, ward.now) == 27.0


def test_a_hung_probe_holds_its_place_until_its_lease_ends():
    ward = Ward(probes=1, max_concurrent_probes=1, success_ratio=1.0).bring_to(HALF_OPEN)
    hung = ward.take()

    assert ward.breaker.ready_at(None, ward.now) == ward.now + 30.0
    ward.now += 30.0
    other = ward.take()
    ward.settle(hung, CANCELLED)
    assert not ward.ready  # it frees its own place only
    ward.settle(other, OK)
    assert ward.state is CLOSED


def test_the_next_probe_leaves_when_the_first_lease_ends():
    ward = Ward(probes=2, max_concurrent_probes=2, probe_lease=30.0).bring_to(HALF_OPEN)
    began = ward.now
    ward.take()
    ward.now += 7.0
    ward.take()

    assert ward.breaker.ready_at(None, ward.now) == began + 30.0
    assert ward.breaker.ready_at(None, began + 30.0) == -inf
    ward.now = began + 30.0
    ward.take()
    assert ward.breaker.ready_at(None, ward.now) == began + 37.0


@table_test("replaced", [False, True])
@table_test(("outcome", "after"), [(OK, CLOSED), (SERVER_ERROR, OPEN)])
def test_a_probe_later_than_its_lease_still_counts(replaced, outcome, after):
    ward = Ward(probes=1, max_concurrent_probes=1, success_ratio=1.0).bring_to(HALF_OPEN)
    late = ward.take()
    ward.now += 31.0
    if replaced:
        ward.take()
    ward.settle(late, outcome)

    assert ward.state is after


@table_test(
    ("probes", "max_concurrent_probes", "leave"),
    [(1, 3, 1), (2, 9, 2), (3, 3, 3), (9, 3, 3), (4, 1, 1)],
)
def test_probes_in_flight_never_exceed_probes_or_their_maximum(
    probes, max_concurrent_probes, leave
):
    ward = Ward(probes=probes, max_concurrent_probes=max_concurrent_probes).bring_to(OPEN)
    ward.now += 10.0
    sent = 0
    while ward.ready:
        ward.take()
        sent += 1

    assert sent == leave


def test_probes_of_an_earlier_half_open_state_change_nothing():
    ward = Ward().bring_to(HALF_OPEN)
    old = ward.take()
    ward.send(SERVER_ERROR, SERVER_ERROR)
    ward.now += 10.0
    ward.send(CANCELLED)
    assert ward.state is HALF_OPEN
    ward.settle(old, SERVER_ERROR)
    ward.send(SERVER_ERROR)

    assert ward.state is HALF_OPEN


def test_a_half_open_state_without_a_decision_opens_the_circuit_again():
    ward = Ward(max_half_open_duration=100.0, open_duration_factor=2.0).bring_to(HALF_OPEN)
    began, hung = ward.now, ward.take()
    ward.send(OK)
    ward.now = began + 99.9
    assert ward.ready
    ward.now = began + 100.0
    assert ward.breaker.ready_at(None, ward.now) == began + 120.0
    assert ward.breaker.ready_at(None, began + 120.0) == -inf
    ward.now += 7.0
    ward.settle(hung, OK)  # of an earlier state by now
    assert (ward.state, ward.breaker.until) == (OPEN, began + 120.0)


def test_a_stale_half_open_state_makes_room_for_a_new_one():
    ward = Ward(max_half_open_duration=100.0).bring_to(HALF_OPEN)
    ward.send(OK)
    ward.now += 1000.0
    ward.send(OK)

    assert ward.state is HALF_OPEN
    assert [after for _, after, _, _ in ward.changes[2:]] == [OPEN, HALF_OPEN]


def test_without_max_half_open_duration_the_circuit_waits_for_ever():
    ward = Ward(max_half_open_duration=None).bring_to(HALF_OPEN)
    ward.send(OK)
    ward.now += 1e9
    ward.send(OK)

    assert ward.state is CLOSED
