"""A breaker by itself, with a clock."""

from stage import SERVER_ERROR

from stormbreak.core.breaker import Breaker
from stormbreak.core.breaker_policy import BreakerPolicy, State
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.types import CANCELLED, TREATMENTS

CLOSED, OPEN, HALF_OPEN, ISOLATED = State.CLOSED, State.OPEN, State.HALF_OPEN, State.ISOLATED


RULES = {
    "trip": ConsecutiveFailures(failure_threshold=2),
    "open_duration": 10.0,
    "open_duration_jitter": 0.0,
    "open_duration_factor": 1.0,
    "max_open_duration": 120.0,
    "probes": 3,
    "max_concurrent_probes": 3,
    "success_ratio": 0.5,
    "probe_lease": 30.0,
}


class Ward:
    """One breaker, a clock, and the changes it reported."""

    def __init__(self, **changes):
        self.now = 0.0
        self.chance = 0.5
        self.changes = []
        self.breaker = Breaker(BreakerPolicy(**{**RULES, **changes}), TREATMENTS, self.on_change)

    def on_change(self, before, after, *, now, until):
        self.changes.append((before, after, now, until))

    @property
    def state(self):
        return self.breaker.state

    @property
    def ready(self):
        return self.breaker.ready_at(None, self.now) <= self.now

    def take(self):
        assert self.ready
        return self.breaker.take(None, self.now)

    def settle(self, token, outcome):
        self.breaker.settle(token, outcome, self.now, self.chance)

    def send(self, *outcomes):
        for outcome in outcomes:
            self.settle(self.take(), outcome)

    def bring_to(self, state):
        if state is ISOLATED:
            self.breaker.isolate(self.now)
        if state in (OPEN, HALF_OPEN):
            self.send(SERVER_ERROR, SERVER_ERROR)
        if state is HALF_OPEN:
            self.now += 10.0
            self.send(CANCELLED)
        assert self.state is state
        return self
