import pytest
from table_test import table_test

from stormbreak.core.circuit import BreakerPolicy, Mode
from stormbreak.core.trip import DeadTarget
from stormbreak.errors import ConfigurationError

BAD = [
    ({"open_for": 0}, "open_for must be positive, got 0"),
    ({"jitter": -0.1}, r"jitter must lie in \[0, 1\), got -0.1"),
    ({"jitter": 1}, r"jitter must lie in \[0, 1\), got 1"),
    ({"probes": 0}, "probes must be at least 1, got 0"),
    ({"at_once": 0}, "at_once must be at least 1, got 0"),
    ({"close_at": 0}, r"close_at must lie in \(0, 1\], got 0"),
    ({"mode": "off"}, "mode must be one of normal, metrics_only, disabled, forced_open, got off"),
    ({"close_at": 1.01}, r"close_at must lie in \(0, 1\], got 1.01"),
    ({"lease": 0}, "lease must be positive, got 0"),
    ({"growth": 0.9}, "growth must be at least 1, got 0.9"),
    ({"longest_open": 0}, "longest_open must be positive, got 0"),
    ({"longest_half_open": 0}, "longest_half_open must be positive, got 0"),
]


@table_test(("values", "message"), BAD)
def test_impossible_values_are_named(values, message):
    with pytest.raises(ConfigurationError, match=message):
        BreakerPolicy(**values)


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
        trip=DeadTarget(),
        open_for=0.75,
        jitter=0.25,
        growth=1.1,
        longest_open=5.0,
        heed_server=True,
        probes=3,
        at_once=3,
        close_at=0.33,
        any_failure_reopens=False,
        lease=60.0,
        longest_half_open=900.0,
    )


def test_a_mode_may_be_given_as_a_word():
    assert BreakerPolicy(mode="disabled").mode is Mode.DISABLED
