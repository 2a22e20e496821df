"""Probes with inconclusive results freed their slots without limit: five hundred 429s in one half-open period."""

from hypothesis import given
from hypothesis import strategies as st
from stage import INVALID, OK, SERVER_ERROR, THROTTLED
from table_test import table_test

from stormbreak.core.breaker import Breaker
from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.types import CANCELLED, TREATMENTS


class Trial:
    """A circuit that has just become half-open, with an open duration that has grown to 20 s."""

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

    def send_until_rejected(self, outcome, maximum=1000):
        for sent in range(maximum):
            if self.breaker.ready_at(None, self.now) > self.now:
                return sent
            self.send(outcome)
        return maximum


@table_test("probes", [1, 3, 10])
@table_test(("outcome", "times"), [(THROTTLED, 3), (INVALID, 3), (CANCELLED, 10)])
def test_the_number_of_probes_in_a_trial_is_bounded(probes, outcome, times):
    trial = Trial(probes)

    assert times * probes == trial.send_until_rejected(outcome)
    assert trial.breaker.state is State.OPEN
    assert trial.breaker.until == trial.now + 20.0  # unchanged: it grows only when a trial fails


@given(
    outcomes=st.lists(st.sampled_from([THROTTLED, INVALID, CANCELLED]), min_size=99, max_size=99)
)
def test_mixed_inconclusive_probes_do_not_exceed_the_bound(outcomes):
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
def test_a_probe_in_flight_can_still_decide_a_used_up_trial(outcome, after):
    trial = Trial(success_ratio=0.3, reopen_on_any_failure=True)
    under_way = trial.take()
    assert trial.send_until_rejected(THROTTLED) == 9
    assert trial.breaker.state is State.HALF_OPEN
    assert trial.breaker.ready_at(None, trial.now) == trial.now + 60.0 + 20.0
    trial.now += 59.0
    trial.settle(under_way, outcome)

    assert trial.breaker.state is after
    assert trial.breaker.ready_at(None, trial.now) == (
        -float("inf") if outcome is OK else trial.now + 40.0
    )


def test_the_last_inconclusive_probe_ends_the_trial():
    trial = Trial(success_ratio=1.0)
    two = [trial.take() for _ in range(2)]
    trial.send_until_rejected(THROTTLED)
    trial.now += 7.0
    trial.settle(two[0], THROTTLED)
    assert trial.breaker.state is State.HALF_OPEN
    trial.settle(two[1], OK)

    assert (trial.breaker.state, trial.breaker.until) == (State.OPEN, trial.now + 20.0)


def test_a_hanging_probe_extends_a_used_up_trial_only_to_its_lease():
    trial = Trial()
    hung = trial.take()
    trial.send_until_rejected(THROTTLED)
    began = trial.now
    trial.now += 60.0 + 20.0
    trial.send(CANCELLED)
    assert trial.breaker.state is State.HALF_OPEN  # the next trial
    assert trial.now == began + 80.0
    trial.settle(hung, OK)
    assert trial.breaker.trial.succeeded == 0
