from math import inf

import pytest
from stage import INVALID, OK, SERVER_ERROR, THROTTLED, TIMEOUT

from stormbreak.core.breaker import Breaker
from stormbreak.core.circuit import BreakerPolicy, Mode, State
from stormbreak.core.trip import ConsecutiveFailures, FailureRate, SlowRateOfLast
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
    (HALF_OPEN, sends(*[THROTTLED] * 4, *[CANCELLED] * 9, *[INVALID] * 4), HALF_OPEN),
    (HALF_OPEN, sends(*[THROTTLED] * 4, *[INVALID] * 5), OPEN),
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


def test_where_all_places_are_taken_the_first_lease_that_ends_makes_room():
    ward = Ward(probes=2, at_once=2, lease=30.0).bring_to(HALF_OPEN)
    began = ward.now
    ward.take()
    ward.now += 7.0
    ward.take()

    assert ward.breaker.ready_at(ward.now) == began + 30.0
    assert ward.breaker.ready_at(began + 30.0) == -inf
    ward.now = began + 30.0
    ward.take()
    assert ward.breaker.ready_at(ward.now) == began + 37.0


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


def fail_trial(ward):
    ward.now = ward.breaker.until
    ward.send(SERVER_ERROR, SERVER_ERROR)
    return ward.breaker.until - ward.now


def test_the_open_time_grows_with_each_failed_trial_up_to_its_cap_and_jitter_comes_after():
    ward = Ward(growth=2.0, longest_open=50.0).bring_to(OPEN)
    assert [fail_trial(ward) for _ in range(4)] == [20.0, 40.0, 50.0, 50.0]
    ward.now = ward.breaker.until
    ward.send(OK, OK, SERVER_ERROR, SERVER_ERROR)
    assert ward.breaker.until - ward.now == 10.0  # a circuit that closed begins anew

    spread = Ward(growth=9.0, longest_open=50.0, jitter=0.5)
    spread.chance = 0.999
    spread.bring_to(OPEN)
    fail_trial(spread)
    assert fail_trial(spread) == pytest.approx(75.0, rel=0.01)


def test_the_open_time_does_not_overflow():
    ward = Ward(growth=1e300).bring_to(OPEN)
    assert {fail_trial(ward) for _ in range(5000)} == {120.0}


def test_an_open_time_beyond_the_cap_stays_as_it_is():
    ward = Ward(open_for=500.0, growth=2.0).bring_to(OPEN)

    assert fail_trial(ward) == 500.0


@pytest.mark.parametrize(
    ("named", "heed", "chance", "open_for"),
    [
        (4.0, True, 0.0, 10.0),
        (40.0, True, 0.0, 40.0),
        (40.0, True, 0.5, 50.0),
        (1e9, True, 0.0, 900.0),
        (40.0, False, 0.0, 10.0),
    ],
)
def test_a_server_may_keep_the_circuit_open(named, heed, chance, open_for):
    ward = Ward(heed_server=heed)
    ward.chance = chance
    ward.send(SERVER_ERROR._replace(retry_after=named), SERVER_ERROR)

    assert ward.breaker.until == open_for


def test_even_less_than_a_second_that_a_server_names_is_heeded():
    ward = Ward(open_for=0.2)
    ward.chance = 0.0
    ward.send(SERVER_ERROR._replace(retry_after=0.8), SERVER_ERROR)

    assert ward.breaker.until == 0.8


def test_a_time_named_before_a_success_is_forgotten():
    ward = Ward()
    ward.send(SERVER_ERROR._replace(retry_after=600.0), OK, SERVER_ERROR, SERVER_ERROR)

    assert ward.breaker.until == 10.0


def test_a_probe_may_tell_when_to_come_back_too():
    ward = Ward(any_failure_reopens=True).bring_to(HALF_OPEN)
    ward.chance = 0.0
    ward.send(SERVER_ERROR._replace(retry_after=60.0))

    assert ward.breaker.until == ward.now + 60.0


def test_a_trial_that_comes_to_nothing_opens_the_circuit_again():
    ward = Ward(longest_half_open=100.0, growth=2.0).bring_to(HALF_OPEN)
    began, hung = ward.now, ward.take()
    ward.send(OK)
    ward.now = began + 99.9
    assert ward.ready
    ward.now = began + 100.0
    assert ward.breaker.ready_at(ward.now) == began + 120.0
    assert ward.breaker.ready_at(began + 120.0) == -inf
    ward.now += 7.0
    ward.settle(hung, OK)  # of an earlier state by now
    assert (ward.state, ward.breaker.until) == (OPEN, began + 120.0)


def test_a_stale_trial_that_nobody_looked_at_for_long_makes_room_for_a_new_one():
    ward = Ward(longest_half_open=100.0).bring_to(HALF_OPEN)
    ward.send(OK)
    ward.now += 1000.0
    ward.send(OK)

    assert ward.state is HALF_OPEN
    assert [after for _, after, _, _ in ward.changes[2:]] == [OPEN, HALF_OPEN]


def test_without_a_longest_time_a_trial_waits_for_ever():
    ward = Ward(longest_half_open=None).bring_to(HALF_OPEN)
    ward.send(OK)
    ward.now += 1e9
    ward.send(OK)

    assert ward.state is CLOSED


SLOW = SlowRateOfLast(share=1.0, slower_than=5.0, calls=2, last=2)
OURS = TIMEOUT._replace(own_deadline=True)


@pytest.mark.parametrize("outcome", [OK, SERVER_ERROR, CANCELLED, OURS])
@pytest.mark.parametrize(("took", "after"), [(4.9, CLOSED), (5.0, OPEN)])
def test_slow_calls_open_even_those_that_we_cut_ourselves(outcome, took, after):
    ward = Ward(trip=SLOW)
    tokens = [ward.take(), ward.take()]
    ward.now += took
    for token in tokens:
        ward.settle(token, outcome)

    assert ward.state is after


@pytest.mark.parametrize(
    ("took", "outcome", "after"),
    [(4.9, OK, CLOSED), (5.0, OK, OPEN), (5.0, CANCELLED, OPEN), (5.0, THROTTLED, HALF_OPEN)],
)
def test_a_slow_probe_is_no_sign_of_health_where_slowness_is_what_opens(took, outcome, after):
    ward = Ward(trip=SLOW, probes=1, at_once=1)
    tokens = [ward.take(), ward.take()]
    ward.now += 5.0
    for token in tokens:
        ward.settle(token, OK)
    ward.now += 10.0
    probe = ward.take()
    ward.now += took
    ward.settle(probe, outcome)

    assert ward.state is after


RATE = FailureRate(share=0.5, calls=4, seconds=10.0)


def test_quick_errors_at_a_cold_start_wait_for_slow_answers():
    ward = Ward(trip=RATE)
    tokens = [ward.take() for _ in range(20)]
    for token in tokens[:9]:
        ward.settle(token, SERVER_ERROR)
    assert ward.state is CLOSED  # nine of twenty, at the most
    ward.settle(tokens[9], SERVER_ERROR)
    assert ward.state is OPEN


def test_who_hangs_at_a_cold_start_is_waited_for_no_longer_than_a_probe():
    ward = Ward(trip=RATE)
    [ward.take() for _ in range(20)]
    ward.now = 29.9
    ward.send(*[SERVER_ERROR] * 4)
    assert ward.state is CLOSED
    ward.now = 30.0
    ward.send(SERVER_ERROR)
    assert ward.state is OPEN


def test_after_the_first_success_only_those_who_left_before_are_waited_for():
    ward = Ward(trip=RATE)
    cold = [ward.take() for _ in range(7)]
    ward.settle(cold[3], OK)
    [ward.take() for _ in range(99)]
    ward.send(*[SERVER_ERROR] * 6)
    assert ward.state is CLOSED  # six failures; a success and six that may become one
    ward.send(SERVER_ERROR)
    assert ward.state is OPEN


def test_a_circuit_that_closes_starts_cold_again():
    ward = Ward(trip=RATE)
    ward.send(OK)
    ward.breaker.reset(ward.now)
    for token in [ward.take() for _ in range(20)][:9]:
        ward.settle(token, SERVER_ERROR)

    assert ward.state is CLOSED  # nine of twenty, at the most


def test_what_is_cut_at_a_cold_start_is_waited_for_no_longer():
    ward = Ward(trip=RATE)
    for token in [ward.take() for _ in range(20)]:
        ward.settle(token, CANCELLED)
    ward.send(*[SERVER_ERROR] * 4)

    assert ward.state is OPEN


def test_metrics_only_counts_and_never_opens():
    ward = Ward(mode=Mode.METRICS_ONLY)
    ward.send(*[SERVER_ERROR] * 7)

    assert (ward.state, ward.breaker.trips, ward.changes) == (CLOSED, 3, [])


def test_disabled_lets_pass_and_counts_nothing():
    ward = Ward(mode=Mode.DISABLED)
    ward.send(*[SERVER_ERROR] * 9)

    assert (ward.state, ward.breaker.trips) == (CLOSED, 0)
    assert not ward.breaker._cold._left_at


def test_forced_open_lets_nothing_pass_and_is_not_reset_by_hand():
    ward = Ward(mode=Mode.FORCED_OPEN)
    assert ward.breaker.ready_at(ward.now) == inf
    ward.breaker.reset(ward.now)
    assert ward.state is ISOLATED


@pytest.mark.parametrize("mode", Mode)
def test_isolating_by_hand_works_in_every_mode(mode):
    ward = Ward(mode=mode)
    ward.breaker.isolate(ward.now)

    assert ward.breaker.ready_at(ward.now) == inf


BAD = [
    ({"open_for": 0}, "open_for must be positive, got 0"),
    ({"jitter": -0.1}, r"jitter must lie in \[0, 1\), got -0.1"),
    ({"jitter": 1}, r"jitter must lie in \[0, 1\), got 1"),
    ({"probes": 0}, "probes must be at least 1, got 0"),
    ({"at_once": 0}, r"at_once must lie in \[1, probes\], got 0"),
    ({"at_once": 4}, r"at_once must lie in \[1, probes\], got 4"),
    ({"close_at": 0}, r"close_at must lie in \(0, 1\], got 0"),
    ({"mode": "off"}, "mode must be one of normal, metrics_only, disabled, forced_open, got off"),
    ({"close_at": 1.01}, r"close_at must lie in \(0, 1\], got 1.01"),
    ({"lease": 0}, "lease must be positive, got 0"),
    ({"growth": 0.9}, "growth must be at least 1, got 0.9"),
    ({"longest_open": 0}, "longest_open must be positive, got 0"),
    ({"longest_half_open": 0}, "longest_half_open must be positive, got 0"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_impossible_values_are_named(values, message):
    with pytest.raises(ConfigurationError, match=message):
        BreakerPolicy(**values)


@pytest.mark.parametrize("mode", Mode)
def test_a_mode_may_be_given_as_a_word(mode):
    assert mode is BreakerPolicy(mode=mode.value).mode


@pytest.mark.parametrize(("probes", "at_once"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_where_nothing_is_said_as_many_as_three_probes_go_at_once(probes, at_once):
    assert at_once == BreakerPolicy(probes=probes).at_once


def test_the_utmost_values_are_possible():
    BreakerPolicy(
        open_for=0.1,
        jitter=0,
        growth=1,
        longest_open=0.1,
        probes=1,
        at_once=1,
        close_at=1,
        lease=0.1,
    )
    BreakerPolicy(close_at=0.01, jitter=0.99, longest_half_open=0.1)


def test_the_defaults():
    assert BreakerPolicy() == BreakerPolicy(
        mode=Mode.NORMAL,
        trip=FailureRate(),
        open_for=5.0,
        jitter=0.5,
        growth=1.0,
        longest_open=120.0,
        heed_server=True,
        probes=3,
        at_once=3,
        close_at=0.5,
        any_failure_reopens=False,
        lease=60.0,
        longest_half_open=900.0,
    )
