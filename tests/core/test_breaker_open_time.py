import pytest
from stage import OK, SERVER_ERROR
from table_test import table_test
from ward import HALF_OPEN, OPEN, Ward


@table_test(("chance", "until"), [(0.0, 5.0), (0.5, 10.0), (0.9, 14.0)])
def test_the_open_time_is_jittered(chance, until):
    ward = Ward(open_duration_jitter=0.5)
    ward.chance = chance
    ward.send(SERVER_ERROR, SERVER_ERROR)

    assert until == pytest.approx(ward.breaker.until)


def fail_trial(ward):
    ward.now = ward.breaker.until
    ward.send(SERVER_ERROR, SERVER_ERROR)
    return ward.breaker.until - ward.now


def test_the_open_time_grows_with_each_failed_trial_up_to_its_cap():
    ward = Ward(open_duration_factor=2.0, max_open_duration=50.0).bring_to(OPEN)
    assert [fail_trial(ward) for _ in range(4)] == [20.0, 40.0, 50.0, 50.0]
    ward.now = ward.breaker.until
    ward.send(OK, OK, SERVER_ERROR, SERVER_ERROR)
    assert ward.breaker.until - ward.now == 10.0  # a circuit that closed begins anew

    spread = Ward(open_duration_factor=9.0, max_open_duration=50.0, open_duration_jitter=0.5)
    spread.chance = 0.999
    spread.bring_to(OPEN)
    fail_trial(spread)
    assert fail_trial(spread) == pytest.approx(75.0, rel=0.01)


def test_the_open_time_does_not_overflow():
    ward = Ward(open_duration_factor=1e300).bring_to(OPEN)
    assert {fail_trial(ward) for _ in range(5000)} == {120.0}


def test_an_open_time_beyond_the_cap_does_not_grow():
    ward = Ward(open_duration=500.0, open_duration_factor=2.0).bring_to(OPEN)

    assert fail_trial(ward) == 500.0


@table_test(
    ("named", "respect", "chance", "open_for"),
    [
        (4.0, True, 0.0, 10.0),
        (40.0, True, 0.0, 40.0),
        (40.0, True, 0.5, 50.0),
        (1e9, True, 0.0, 900.0),
        (40.0, False, 0.0, 10.0),
    ],
)
def test_retry_after_may_keep_the_circuit_open(named, respect, chance, open_for):
    ward = Ward(respect_retry_after=respect)
    ward.chance = chance
    ward.send(SERVER_ERROR._replace(retry_after=named), SERVER_ERROR)

    assert ward.breaker.until == open_for


def test_a_retry_after_below_a_second_is_respected():
    ward = Ward(open_duration=0.2)
    ward.chance = 0.0
    ward.send(SERVER_ERROR._replace(retry_after=0.8), SERVER_ERROR)

    assert ward.breaker.until == 0.8


def test_a_success_forgets_an_earlier_retry_after():
    ward = Ward()
    ward.send(SERVER_ERROR._replace(retry_after=600.0), OK, SERVER_ERROR, SERVER_ERROR)

    assert ward.breaker.until == 10.0


def test_the_retry_after_of_a_probe_is_respected():
    ward = Ward(reopen_on_any_failure=True).bring_to(HALF_OPEN)
    ward.chance = 0.0
    ward.send(SERVER_ERROR._replace(retry_after=60.0))

    assert ward.breaker.until == ward.now + 60.0


def test_a_success_forgets_the_retry_after_of_a_probe_in_the_same_trial():
    ward = Ward(success_ratio=0.6).bring_to(HALF_OPEN)
    ward.send(SERVER_ERROR._replace(retry_after=600.0), OK, SERVER_ERROR)

    assert (ward.state, ward.breaker.until) == (OPEN, ward.now + 10.0)
