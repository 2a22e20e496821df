"""A slower target with free slots: its time becomes usual, since sending less does not help."""

import random
from math import inf

import pytest
from stage import SERVER_ERROR, THROTTLED, TIMEOUT
from table_test import table_test
from watch import Watch

from stormbreak.core.diagnosis import Cause
from stormbreak.core.failure_evidence import REMEMBERED
from stormbreak.core.late_answers import RESET_AFTER
from stormbreak.types import Outcome, Verdict

OVERLOADED = Outcome(Verdict.OVERLOADED)


class Load:
    """A diagnosis that knows a calm in which answers take 1 s on average; attempts leave one after the other."""

    def __init__(self, *, limited=True):
        self.watch = Watch(limited=limited)
        self._chance = random.Random(1)
        self.run(32, self.service)

    @property
    def diagnosis(self):
        return self.watch.diagnosis

    def service(self):
        return self._chance.lognormvariate(-0.125, 0.5)

    def slower(self):
        return 4 * self.service()

    def queued(self):
        return 3.0 + self.service()

    def later(self):
        """As in a longer queue."""
        return 12.0 + self.service()

    def run(self, count, time_of, *, until=lambda: False):
        """Send `count` attempts, three a second, and wait for their answers, or until `until()` is true."""
        began = self.watch.now
        leaves = [(began + number / 3, number, False) for number in range(count)]
        moments = sorted(leaves + [(at + time_of(), number, True) for at, number, _ in leaves])
        flights = {}
        for at, number, ends in moments:
            if until():
                return
            self.watch.now = at
            if ends:
                self.watch.end([flights.pop(number)])
            else:
                flights[number] = self.watch.send()[0]


def test_late_answers_that_spread_as_in_a_calm_become_usual():
    load = Load()
    assert load.diagnosis.mean == pytest.approx(1.0, rel=0.3)
    load.run(60, load.slower)

    assert load.diagnosis.mean > 2.5  # the first answers are short ones
    assert load.diagnosis.judge.usual < 4.0  # of all answers, not only of the late ones


def test_answers_are_no_evidence_once_their_time_is_usual():
    load = Load()
    load.run(60, load.slower, until=lambda: load.diagnosis.late_at > 0)
    assert load.watch.cause is Cause.OVERLOAD
    load.run(60, load.slower, until=lambda: load.diagnosis.mean > 2.5)

    assert (load.diagnosis.late_at, load.watch.cause) == (-inf, Cause.NONE)
    assert load.watch.is_healthy


def test_late_answers_with_like_waits_are_a_queue():
    load = Load()
    usual = load.diagnosis.judge.usual
    load.run(100, load.queued)

    assert load.diagnosis.judge.usual == usual
    assert load.watch.cause is Cause.OVERLOAD
    assert load.diagnosis.evidence_at == load.diagnosis.late_at > load.watch.now - 2.0


def trial():
    """After two minutes of lateness a trial begins."""
    load = Load()
    load.run(int(3 * RESET_AFTER) + 40, load.queued)
    return load


def test_the_time_of_late_answers_becomes_usual_on_trial_after_two_minutes():
    load = trial()

    assert load.diagnosis.mean == pytest.approx(4.0, rel=0.1)
    assert load.watch.is_healthy
    assert load.diagnosis.late_at > 0  # the limit grows slowly


def test_no_trial_begins_while_attempts_time_out():
    load = Load()
    usual = load.diagnosis.judge.usual
    for _ in range(8):
        load.run(60, load.queued)
        load.watch.fail(1, TIMEOUT)

    assert load.watch.now > 1.2 * RESET_AFTER
    assert load.diagnosis.judge.usual == usual
    assert load.watch.cause is Cause.OVERLOAD


def test_a_trial_that_makes_answers_later_restores_the_usual_time():
    load = trial()
    usual, mean = Load().diagnosis.judge.usual, Load().diagnosis.mean
    load.run(40, load.later)

    assert (load.diagnosis.judge.usual, load.diagnosis.mean) == (usual, mean)
    assert load.watch.cause is Cause.OVERLOAD
    load.run(int(3 * RESET_AFTER) + 40, load.queued)
    assert load.diagnosis.judge.usual == usual  # the next trial waits twice as long


def test_a_trial_after_which_the_target_dies_restores_the_usual_time():
    load = trial()
    load.watch.fail(10, TIMEOUT)

    assert load.watch.cause is Cause.DEAD
    assert load.diagnosis.mean == Load().diagnosis.mean


def test_a_trial_that_changes_nothing_lasts():
    load = trial()
    load.run(int(6 * RESET_AFTER), load.queued)
    mean = load.diagnosis.mean
    load.run(40, load.later)

    assert load.diagnosis.mean == mean == pytest.approx(4.0, rel=0.1)
    assert load.watch.cause is Cause.OVERLOAD


@table_test(("ago", "accepted"), [(REMEMBERED - 60, False), (REMEMBERED + 60, True)])
def test_a_slower_time_is_not_accepted_soon_after_many_failures(ago, accepted):
    """After an overload the target may have a queue of attempts that callers have given up."""
    load = Load()
    load.watch.fail(5, SERVER_ERROR)
    load.run(30, load.service)
    load.watch.wait(ago)
    load.run(100, load.slower)

    assert accepted == (load.diagnosis.mean > 2.5)


@table_test(
    ("outcome", "accepted"), [(THROTTLED, False), (OVERLOADED, False), (SERVER_ERROR, True)]
)
def test_a_slower_time_is_not_accepted_after_a_refusal_for_load(outcome, accepted):
    load = Load()
    load.watch.fail(1, outcome)
    load.run(100, load.slower)

    assert accepted == (load.diagnosis.mean > 2.5)
