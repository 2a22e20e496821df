"""Probes whose answers tell nothing of health gave their places back without end: five hundred 429s in one trial."""

from hypothesis import given
from hypothesis import strategies as st
from stage import INVALID, OK, SERVER_ERROR, THROTTLED
from table_test import table_test

from stormbreak.core.breaker import Breaker
from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.types import CANCELLED, TREATMENTS


class Trial:
    """A circuit that has just become half-open; its open time has grown to 20 s on the way."""

    def __init__(self, probes=3, **changes):
        defaults = {
            "open_duration": 5.0,
            "open_duration_factor": 2.0,
            "max_open_duration": 60.0,
            "open_duration_jitter": 0.0,
            "probe_lease": 60.0,
        }
        policy = BreakerPolicy(
            trip=ConsecutiveFailures(failure_threshold=1), probes=probes, **{**defaults, **changes}
        )
        self.breaker = Breaker(policy, TREATMENTS, lambda *_, **__: None)
        self.now = 0.0
        self.send(SERVER_ERROR)
        for _ in range(2):
            self.now = self.breaker.until
            while self.breaker.state is not State.OPEN or self.breaker.until <= self.now:
                self.send(SERVER_ERROR)
        assert self.breaker.until - self.now == 20.0
        self.now = self.breaker.until

    def take(self):
        assert self.breaker.ready_at(None, self.now) <= self.now
        return self.breaker.take(None, self.now)

    def settle(self, token, outcome):
        self.breaker.settle(token, outcome, self.now, 0.5)

    def send(self, outcome):
        self.settle(self.take(), outcome)

    def send_until_refused(self, outcome, most=1000):
        for sent in range(most):
            if self.breaker.ready_at(None, self.now) > self.now:
                return sent
            self.send(outcome)
        return most


@table_test("probes", [1, 3, 10])
@table_test(("outcome", "times"), [(THROTTLED, 3), (INVALID, 3), (CANCELLED, 10)])
def test_what_one_trial_sends_has_a_bound(probes, outcome, times):
    trial = Trial(probes)

    assert times * probes == trial.send_until_refused(outcome)
    assert trial.breaker.state is State.OPEN
    assert trial.breaker.until == trial.now + 20.0  # as before: it grows when a trial fails


@given(
    outcomes=st.lists(st.sampled_from([THROTTLED, INVALID, CANCELLED]), min_size=99, max_size=99)
)
def test_no_mixture_sends_more(outcomes):
    trial = Trial()
    sent = 0
    for outcome in outcomes:
        if trial.breaker.ready_at(None, trial.now) > trial.now:
            break
        trial.send(outcome)
        sent += 1

    answered = [outcome for outcome in outcomes[:sent] if outcome is not CANCELLED]
    assert len(answered) == 9 or (sent == 30 and len(answered) < 9)


@table_test(("outcome", "after"), [(OK, State.CLOSED), (SERVER_ERROR, State.OPEN)])
def test_a_probe_that_is_under_way_may_still_decide(outcome, after):
    trial = Trial(success_ratio=0.3, reopen_on_any_failure=True)
    under_way = trial.take()
    assert trial.send_until_refused(THROTTLED) == 9
    assert trial.breaker.state is State.HALF_OPEN
    assert trial.breaker.ready_at(None, trial.now) == trial.now + 60.0 + 20.0
    trial.now += 59.0
    trial.settle(under_way, outcome)

    assert trial.breaker.state is after
    assert trial.breaker.ready_at(None, trial.now) == (
        -float("inf") if outcome is OK else trial.now + 40.0
    )


def test_the_last_one_that_decides_nothing_ends_the_trial():
    trial = Trial(success_ratio=1.0)
    two = [trial.take() for _ in range(2)]
    trial.send_until_refused(THROTTLED)
    trial.now += 7.0
    trial.settle(two[0], THROTTLED)
    assert trial.breaker.state is State.HALF_OPEN
    trial.settle(two[1], OK)

    assert (trial.breaker.state, trial.breaker.until) == (State.OPEN, trial.now + 20.0)


def test_one_that_hangs_does_not_keep_a_spent_trial_beyond_its_lease():
    trial = Trial()
    hung = trial.take()
    trial.send_until_refused(THROTTLED)
    began = trial.now
    trial.now += 60.0 + 20.0
    trial.send(CANCELLED)
    assert trial.breaker.state is State.HALF_OPEN  # the next trial
    assert trial.now == began + 80.0
    trial.settle(hung, OK)
    assert trial.breaker.trial.succeeded == 0
