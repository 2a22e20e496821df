import json
from math import inf, nan

import pytest
from stage import OK, SERVER_ERROR

from stormbreak.core.breaker import Breaker
from stormbreak.core.circuit import BreakerPolicy, Mode, State
from stormbreak.core.saved import Saved, read_saved
from stormbreak.core.trip import ConsecutiveFailures
from stormbreak.errors import ConfigurationError
from stormbreak.types import TREATMENTS


def fresh(**changes):
    rules = {"open_for": 10.0, "jitter": 0.0, "growth": 2.0, "probes": 2, "at_once": 2}
    policy = BreakerPolicy(trip=ConsecutiveFailures(threshold=1), **{**rules, **changes})
    return Breaker(policy, TREATMENTS, lambda *_, **__: None)


def fail(breaker, now):
    breaker.settle(breaker.take(now), SERVER_ERROR, now, 0.5)


def again(breaker, now, *, at, elapsed=0.0, **changes):
    """The circuit in another process, whose clock reads `at`."""
    text = json.dumps(breaker.save(now).as_dict())
    other = fresh(**changes)
    other.restore(read_saved(json.loads(text)), at, elapsed=elapsed)
    return other


def test_an_open_circuit_stays_open_for_what_was_left_less_what_has_passed():
    breaker = fresh()
    fail(breaker, 100.0)

    assert again(breaker, 103.0, at=5000.0).ready_at(5000.0) == 5007.0
    assert again(breaker, 103.0, at=5000.0, elapsed=4.0).ready_at(5000.0) == 5003.0
    assert again(breaker, 103.0, at=5000.0, elapsed=40.0).ready_at(5000.0) == -inf


def test_half_open_is_saved_as_open_whose_time_is_over():
    breaker = fresh()
    fail(breaker, 100.0)
    breaker.take(110.0)
    breaker.take(110.0)
    assert breaker.ready_at(110.0) > 110.0  # no probe is free
    other = again(breaker, 110.0, at=0.0)

    assert other.state is State.OPEN
    other.take(0.0)
    assert other.state is State.HALF_OPEN


def test_the_open_time_goes_on_growing():
    breaker = fresh()
    fail(breaker, 100.0)
    for now in (110.0, 110.0):  # one of two may fail
        fail(breaker, now)
    other = again(breaker, 115.0, at=0.0)
    assert other.ready_at(0.0) == 15.0
    fail(other, 15.0)
    fail(other, 15.0)
    assert other.until == 15.0 + 40.0


@pytest.mark.parametrize("by_hand", [True, False])
def test_closed_and_isolated_stay_as_they_are(by_hand):
    breaker = fresh()
    if by_hand:
        breaker.isolate(3.0)

    assert again(breaker, 9.0, at=0.0).state is breaker.state


def test_results_from_before_move_nothing():
    breaker = fresh()
    token = breaker.take(0.0)
    breaker.restore(breaker.save(1.0), 1.0)
    breaker.settle(token, SERVER_ERROR, 2.0, 0.5)
    assert breaker.state is State.CLOSED
    breaker.settle(breaker.take(3.0), OK, 3.0, 0.5)
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize("mode", [Mode.DISABLED, Mode.METRICS_ONLY, Mode.FORCED_OPEN])
def test_a_mode_goes_before_what_was_saved(mode):
    breaker = fresh()
    fail(breaker, 100.0)
    other = again(breaker, 100.0, at=0.0, mode=mode)

    assert other.state is (State.ISOLATED if mode is Mode.FORCED_OPEN else State.CLOSED)


GOOD = {"state": "open", "open_left": 1, "open_for": 5.0}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("state", "half_open", "state must be one of closed, open, isolated, got 'half_open'"),
        ("state", [], r"state must be one of closed, open, isolated, got \[\]"),
        ("open_left", -1, "open_left must not be negative, got -1"),
        ("open_left", nan, "open_left must be a finite number, got nan"),
        ("open_left", "1", "open_left must be a finite number, got '1'"),
        ("open_for", None, "open_for must be a finite number, got None"),
        ("open_for", 0, "open_for must be positive, got 0"),
        ("open_for", True, "open_for must be a finite number, got True"),
    ],
)
def test_what_cannot_have_been_saved_is_named(key, value, message):
    assert read_saved(GOOD).open_left == 1.0
    with pytest.raises(ConfigurationError, match=message):
        read_saved({**GOOD, key: value})


def test_half_open_is_no_state_to_keep():
    with pytest.raises(ConfigurationError, match="state must be one of closed, open, isolated"):
        Saved(state=State.HALF_OPEN, open_left=0.0, open_for=5.0)


def test_the_shortest_spans_are_possible():
    assert read_saved({**GOOD, "open_left": 0, "open_for": 0.1}).open_for == 0.1
