"""A target that is slower, with slots to spare: its time becomes the usual one, since sending less does not help."""

from math import inf

import pytest
from stage import OK, SERVER_ERROR, THROTTLED
from watch import Watch

from stormbreak.core.diagnosis import REMEMBERED, Cause
from stormbreak.types import Outcome, Verdict

OVERLOADED = Outcome(Verdict.OVERLOADED)


def known():
    """A diagnosis beside an automatic limit; answers usually take 1 s."""
    return Watch(limited=True).know()


def steady(watch, in_flight, seconds, time_of):
    """Keep so many attempts in flight; `time_of(in_flight)` seconds each. Return the times of evidence."""
    found, flying = [], []
    ends = watch.now + seconds
    gap = time_of(in_flight) / in_flight
    while watch.now < ends:
        flying.append((watch.now + time_of(in_flight), *watch.send()))
        watch.now += gap
        for at, flight in flying:
            if at <= watch.now:
                watch.end([flight])
        flying = [each for each in flying if each[0] > watch.now]
        found.append(watch.diagnosis.evidence_at)
    for at, flight in flying:
        watch.now = max(watch.now, at)
        watch.end([flight])
    return found


def slower(_in_flight):
    return 3.0


def queued(in_flight):
    return in_flight / 10


def test_if_sending_less_does_not_shorten_answers_their_time_becomes_usual():
    watch = known()
    steady(watch, 30, 10.0, slower)
    assert watch.diagnosis.late_at > 0
    assert watch.cause is Cause.OVERLOAD
    steady(watch, 5, 20.0, slower)
    diagnosis = watch.diagnosis
    evidence_at = diagnosis.evidence_at
    steady(watch, 30, 30.0, slower)

    assert diagnosis.late_at == -inf
    assert diagnosis.evidence_at == evidence_at
    assert diagnosis.judge.usual == pytest.approx(1.3 * 3.0, rel=0.05)
    assert diagnosis.mean == pytest.approx(3.0, rel=0.05)
    assert watch.is_healthy
    assert watch.cause is Cause.NONE


def test_if_sending_less_shortens_them_they_stay_late():
    watch = known()
    usual = watch.diagnosis.judge.usual
    steady(watch, 60, 10.0, queued)
    steady(watch, 20, 20.0, queued)

    assert watch.diagnosis.judge.usual == usual
    assert watch.cause is Cause.OVERLOAD
    assert watch.diagnosis.evidence_at == watch.diagnosis.late_at > watch.now - 2.0


def test_answers_on_time_count_too():
    """Half of the answers are quick again: sending less has helped."""
    watch = known()
    steady(watch, 30, 10.0, slower)
    for _ in range(25):
        quick, late = watch.send(2)
        watch.now += 0.5
        watch.end([quick])
        watch.now += 2.5
        watch.end([late])

    assert watch.diagnosis.late_at == watch.now


def test_as_soon_as_the_time_is_usual_the_target_is_healthy():
    watch = known()
    steady(watch, 30, 10.0, slower)
    assert not watch.is_healthy
    while watch.diagnosis.late_at > -inf:
        flights = watch.send(2)
        watch.now += 3.0
        watch.end(flights)

    assert watch.is_healthy
    watch.late(1)
    assert watch.diagnosis.late_at == -inf


@pytest.mark.parametrize(("ago", "accepted"), [(REMEMBERED - 60, False), (REMEMBERED + 60, True)])
def test_after_failures_that_stood_out_they_stay_late(ago, accepted):
    """Of an overload that was too much, the target may have a queue of attempts that have been given up."""
    watch = known()
    watch.fail(5, SERVER_ERROR).answer(30).wait(ago)
    steady(watch, 30, 10.0, slower)
    steady(watch, 5, 20.0, slower)

    assert accepted == (watch.diagnosis.late_at == -inf)


@pytest.mark.parametrize(
    ("outcome", "accepted"), [(THROTTLED, False), (OVERLOADED, False), (SERVER_ERROR, True)]
)
def test_after_a_refusal_because_of_load_they_stay_late(outcome, accepted):
    watch = known().fail(1, outcome)
    steady(watch, 30, 10.0, slower)
    steady(watch, 5, 20.0, slower)

    assert accepted == (watch.diagnosis.late_at == -inf)


def test_without_an_automatic_limit_nothing_is_held_back_and_nothing_accepted():
    watch = Watch().know()
    steady(watch, 30, 10.0, slower)
    steady(watch, 5, 20.0, slower)

    assert watch.cause is Cause.OVERLOAD


def test_outstanding_are_attempts_since_the_newest_answered_one():
    watch = Watch()
    one, two, three = watch.send(3)
    assert [flight.outstanding for flight in (one, two, three)] == [1, 2, 3]
    watch.end([two])
    assert watch.send()[0].outstanding == 2
    watch.end([one], OK)  # an older one does not count

    assert watch.send()[0].outstanding == 3


def test_after_a_first_output_an_attempt_is_not_outstanding():
    watch = Watch()
    flights = watch.send(3, streams=True)
    watch.first(flights[1:2])

    assert watch.send(streams=True)[0].outstanding == 2
