from math import inf

import pytest
from stage import INVALID, OK, SERVER_ERROR, THROTTLED, TIMEOUT

from stormbreak.core.breaker import Breaker, BreakerPolicy, State
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.errors import ConfigurationError
from stormbreak.types import CANCELLED, TREATMENTS

CLOSED, OPEN, HALF_OPEN, ISOLATED = State.CLOSED, State.OPEN, State.HALF_OPEN, State.ISOLATED
RULES = {
    "trip": ConsecutiveFailures(threshold=2),
    "open_for": 10.0,
    "jitter": 0.0,
    "probes": 3,
    "at_once": 3,
    "close_at": 0.5,
    "lease": 30.0,
}


class Ward:
    """One breaker, a clock, and what it told about its changes."""

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
        return self.breaker.ready_at(self.now) <= self.now

    def take(self):
        assert self.ready
        return self.breaker.take(self.now)

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
    (OPEN, waits_and_looks(10.0), OPEN),  # looking changes nothing
    (OPEN, lambda ward: (waits(10.0)(ward), ward.take()), HALF_OPEN),
    (OPEN, lambda ward: ward.breaker.isolate(ward.now), ISOLATED),
    (OPEN, lambda ward: ward.breaker.reset(ward.now), CLOSED),
    (HALF_OPEN, sends(OK), HALF_OPEN),
    (HALF_OPEN, sends(OK, OK), CLOSED),
    (HALF_OPEN, sends(SERVER_ERROR), HALF_OPEN),
    (HALF_OPEN, sends(SERVER_ERROR, OK), HALF_OPEN),
    (HALF_OPEN, sends(SERVER_ERROR, OK, OK), CLOSED),
    (HALF_OPEN, sends(SERVER_ERROR, SERVER_ERROR), OPEN),
    (HALF_OPEN, sends(*[THROTTLED] * 9, *[CANCELLED] * 9, *[INVALID] * 9), HALF_OPEN),
    (HALF_OPEN, sends(*[TIMEOUT._replace(own_deadline=True)] * 9), HALF_OPEN),
    (HALF_OPEN, lambda ward: ward.breaker.isolate(ward.now), ISOLATED),
    (HALF_OPEN, lambda ward: ward.breaker.reset(ward.now), CLOSED),
    (ISOLATED, waits(1e9), ISOLATED),
    (ISOLATED, lambda ward: ward.breaker.reset(ward.now), CLOSED),
]


@pytest.mark.parametrize(("state", "event", "after"), TRANSITIONS)
def test_transitions(state, event, after):
    ward = Ward().bring_to(state)
    event(ward)

    assert after is ward.state


def test_every_change_is_told_with_the_end_of_the_open_time():
    ward = Ward()
    ward.send(SERVER_ERROR, SERVER_ERROR)
    ward.now = 10.0
    ward.send(OK, OK)

    assert ward.changes == [
        (CLOSED, OPEN, 0.0, 10.0),
        (OPEN, HALF_OPEN, 10.0, None),
        (HALF_OPEN, CLOSED, 10.0, None),
    ]


READY = [
    (CLOSED, -inf),
    (OPEN, 10.0),
    (HALF_OPEN, -inf),
    (ISOLATED, inf),
]


@pytest.mark.parametrize(("state", "ready_at"), READY)
def test_when_a_call_may_leave(state, ready_at):
    ward = Ward().bring_to(state)

    assert ready_at == ward.breaker.ready_at(ward.now)


@pytest.mark.parametrize(("chance", "until"), [(0.0, 5.0), (0.5, 10.0), (0.9, 14.0)])
def test_open_time_is_moved_by_chance(chance, until):
    ward = Ward(jitter=0.5)
    ward.chance = chance
    ward.send(SERVER_ERROR, SERVER_ERROR)

    assert until == pytest.approx(ward.breaker.until)


def test_a_closed_circuit_counts_anew():
    ward = Ward()
    ward.send(SERVER_ERROR, SERVER_ERROR)
    ward.now += 10.0
    ward.send(OK, OK, SERVER_ERROR)

    assert ward.state is CLOSED
    ward.send(SERVER_ERROR)
    assert ward.state is OPEN


def test_reset_forgets_what_was_counted():
    ward = Ward()
    ward.send(SERVER_ERROR)
    ward.breaker.reset(ward.now)
    ward.send(SERVER_ERROR)

    assert ward.state is CLOSED


def test_at_most_so_many_probes_at_once():
    ward = Ward(probes=4, at_once=2).bring_to(HALF_OPEN)
    first, _ = ward.take(), ward.take()

    assert not ward.ready
    ward.settle(first, OK)
    assert ward.ready


def test_no_more_probes_than_are_still_to_be_counted():
    ward = Ward(probes=3, at_once=3, close_at=1.0).bring_to(HALF_OPEN)
    ward.send(OK)
    ward.take()
    ward.take()

    assert not ward.ready


def test_a_cancelled_or_throttled_probe_gives_its_place_back_uncounted():
    ward = Ward(probes=1, at_once=1, close_at=1.0).bring_to(HALF_OPEN)
    for outcome in (CANCELLED, THROTTLED, INVALID):
        ward.send(outcome)
        assert ward.ready
    ward.send(OK)

    assert ward.state is CLOSED


@pytest.mark.parametrize(
    ("probes", "close_at", "needed"),
    [(3, 0.5, 2), (4, 0.5, 2), (1, 0.1, 1), (10, 0.7, 7), (5, 1.0, 5), (3, 0.01, 1)],
)
def test_how_many_must_succeed(probes, close_at, needed):
    ward = Ward(probes=probes, at_once=probes, close_at=close_at).bring_to(HALF_OPEN)
    ward.send(*[SERVER_ERROR] * (probes - needed), *[OK] * (needed - 1))
    assert ward.state is HALF_OPEN
    ward.send(OK)
    assert ward.state is CLOSED


def test_any_failure_reopens_where_asked():
    ward = Ward(any_failure_reopens=True).bring_to(HALF_OPEN)
    ward.send(OK, SERVER_ERROR)

    assert ward.state is OPEN


def test_reopening_starts_a_new_open_time():
    ward = Ward().bring_to(HALF_OPEN)
    ward.now = 17.0
    ward.send(SERVER_ERROR, SERVER_ERROR)

    assert ward.breaker.ready_at(ward.now) == 27.0


def test_a_hung_probe_holds_its_place_for_its_lease_only():
    ward = Ward(probes=1, at_once=1, close_at=1.0).bring_to(HALF_OPEN)
    hung = ward.take()

    assert ward.breaker.ready_at(ward.now) == ward.now + 30.0
    ward.now += 30.0
    other = ward.take()
    ward.settle(hung, CANCELLED)
    assert not ward.ready  # it frees nobody else's place
    ward.settle(other, OK)
    assert ward.state is CLOSED


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize(("outcome", "after"), [(OK, CLOSED), (SERVER_ERROR, OPEN)])
def test_a_probe_later_than_its_lease_still_counts(replaced, outcome, after):
    ward = Ward(probes=1, at_once=1, close_at=1.0).bring_to(HALF_OPEN)
    late = ward.take()
    ward.now += 31.0
    if replaced:
        ward.take()
    ward.settle(late, outcome)

    assert ward.state is after


def test_results_of_an_earlier_state_move_nothing():
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


def test_probes_of_an_earlier_half_open_state_move_nothing():
    ward = Ward().bring_to(HALF_OPEN)
    old = ward.take()
    ward.send(SERVER_ERROR, SERVER_ERROR)
    ward.now += 10.0
    ward.send(CANCELLED)
    assert ward.state is HALF_OPEN
    ward.settle(old, SERVER_ERROR)
    ward.send(SERVER_ERROR)

    assert ward.state is HALF_OPEN


BAD = [
    ({"open_for": 0}, "open_for must be positive, got 0"),
    ({"jitter": 1}, r"jitter must lie in \[0, 1\), got 1"),
    ({"probes": 0}, "probes must be at least 1, got 0"),
    ({"at_once": 4}, r"at_once must lie in \[1, probes\], got 4"),
    ({"close_at": 0}, r"close_at must lie in \(0, 1\], got 0"),
    ({"lease": 0}, "lease must be positive, got 0"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_impossible_values_are_named(values, message):
    with pytest.raises(ConfigurationError, match=message):
        BreakerPolicy(**values)
