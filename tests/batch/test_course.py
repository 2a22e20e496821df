import pytest
from hypothesis import given
from hypothesis import strategies as st

from stormbreak.batch.run_timeseries import (
    FIRST_WIDTH,
    KINDS,
    OTHERS,
    SLICES,
    Course,
    RunSample,
    Told,
)
from stormbreak.events import CallEnded, Hedged, RetryPlanned, Returned, Sent
from stormbreak.types import Target, Verdict

TARGET = Target("p", "m")


def sent(call, attempt=1, at=0.0, target=TARGET):
    return Sent(at, call, target, attempt)


def returned(call, verdict=Verdict.OK, status=200, code=None, at=0.0, took=0.1):
    return Returned(at, call, TARGET, 1, verdict, status, code, took)


def ended(call, waited=0.0):
    return CallEnded(0.0, call, TARGET, Verdict.OK, 1, waited)


def sight(at, **more):
    fields = dict.fromkeys(RunSample._fields, 0) | {"at": at} | more
    return RunSample(**fields)


def told(*events):
    course = Course(began=0.0)
    for event in events:
        course.hear(event)
    return course


def test_retries_count_by_what_the_attempt_before_came_to():
    course = told(
        sent(1),
        returned(1, Verdict.THROTTLED, 429),
        RetryPlanned(0.0, 1, TARGET, 1, 5.0, free=False),
        sent(1, 2),
        returned(1, Verdict.TIMEOUT, None),
        sent(1, 3),
        returned(1),
        ended(1),
        sent(2),
        returned(2, Verdict.THROTTLED, 429),
        RetryPlanned(0.0, 2, TARGET, 1, 5.0, free=False),
        ended(2),  # and no retry was sent
    )
    assert course.retries == {"throttled": 1, "timeout": 1}


def test_a_hedge_is_no_retry():
    course = told(sent(1), Hedged(0.0, 1, TARGET, 2, 1.0), sent(1, 2), returned(1), ended(1))
    assert not course.retries
    assert sum(each.attempts for each in course.slices) == 2


def test_trouble_counts_by_verdict_status_and_code():
    course = told(
        returned(1, Verdict.THROTTLED, 429, "slow_down"),
        returned(2, Verdict.THROTTLED, 429, "slow_down"),
        returned(3, Verdict.RESET, None),
        returned(4),
    )
    assert course.trouble == {Told("throttled", 429, "slow_down"): 2, Told("reset"): 1}


def test_kinds_of_strangers_are_bounded():
    course = Course(began=0.0)
    for number in range(10 * KINDS):
        course.hear(returned(number, Verdict.INVALID, 400, f"code-{number}"))
        course.hear(sent(number, target=Target("p", f"model-{number}")))
    assert len(course.trouble) == len(course.targets) == KINDS + 1
    assert course.trouble[Told(OTHERS)] == course.targets[OTHERS] == 9 * KINDS


def test_only_answers_have_a_latency():
    course = told(returned(1, took=2.0), returned(2, Verdict.TIMEOUT, None, took=60.0))
    assert len(course.latencies) == 1
    assert course.latencies.quantile(0.5) == pytest.approx(2.0, rel=0.1)


def test_a_slice_sums_up_how_things_stood():
    course = Course(began=100.0)
    course.look(sight(100.0, in_flight=2, limit=4, waiting=7, open_circuits=1))
    course.look(sight(100.1, in_flight=4, limit=8, cooling=2, answered=9))
    (only,) = course.slices
    assert (only.sights, only.in_flight, only.limit, only.waiting) == (2, 6, 12, 7)
    assert (only.open_circuits, only.cooling) == (1, 2)
    assert only.last.answered == 9
    assert course.first.at == 100.0


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=60))
def test_however_long_a_run_lasts_nothing_is_lost_and_little_is_kept(times):
    course = Course(began=0.0)
    for call, at in enumerate(sorted(times)):
        course.look(sight(at, answered=call))
        course.hear(sent(call, at=at))
        course.hear(returned(call, at=at))
    assert len(course.slices) <= SLICES
    assert sum(each.attempts for each in course.slices) == len(times)
    assert sum(each.verdicts["ok"] for each in course.slices) == len(times)
    assert sum(len(each.latencies) for each in course.slices) == len(times)
    assert sum(each.sights for each in course.slices) == len(times)
    *_, (start, end, last) = course.times()
    assert start <= max(times) < end
    assert last.last.answered == len(times) - 1
    assert course.width == FIRST_WIDTH or max(times) >= SLICES * course.width / 2


def test_what_comes_before_the_beginning_is_in_the_first_slice():
    course = Course(began=10.0)
    course.hear(sent(1, at=9.0))
    assert [each.attempts for each in course.slices] == [1]


def test_nothing_is_kept_of_calls_that_have_ended():
    course = Course(began=0.0)
    for call in range(100):
        course.hear(sent(call))
        course.hear(Hedged(0.0, call, TARGET, 2, 1.0))
        course.hear(returned(call, Verdict.RESET, None))
        course.hear(ended(call))
    assert not course._before
    assert not course._hedges


def test_slices_that_become_one_keep_the_most_of_both():
    """A pause or an open circuit in the first of them does not go under."""
    course = Course(began=0.0)
    course.look(sight(0.1, cooling=3, open_circuits=1))
    course.look(sight(0.6, cooling=1, open_circuits=2))
    course.look(sight(SLICES * FIRST_WIDTH))

    assert course.width == 2 * FIRST_WIDTH
    assert (course.slices[0].cooling, course.slices[0].open_circuits) == (3, 2)
