import pytest
from table_test import table_test

from stormbreak.core.breaker_policy import BreakerPolicy, Mode
from stormbreak.core.trip import DeadTarget
from stormbreak.errors import ConfigurationError

BAD = [
    ({"open_duration": 0}, "open_duration must be positive, got 0"),
    ({"open_duration_jitter": -0.1}, r"open_duration_jitter must lie in \[0, 1\), got -0.1"),
    ({"open_duration_jitter": 1}, r"open_duration_jitter must lie in \[0, 1\), got 1"),
    ({"probes": 0}, "probes must be at least 1, got 0"),
    ({"max_concurrent_probes": 0}, "max_concurrent_probes must be at least 1, got 0"),
    ({"success_ratio": 0}, r"success_ratio must be within \(0, 1\], got 0"),
    ({"mode": "off"}, "mode must be one of normal, metrics_only, disabled, forced_open, got off"),
    ({"success_ratio": 1.01}, r"success_ratio must be within \(0, 1\], got 1.01"),
    ({"probe_lease": 0}, "probe_lease must be positive, got 0"),
    ({"open_duration_factor": 0.9}, "open_duration_factor must be at least 1, got 0.9"),
    ({"max_open_duration": 0}, "max_open_duration must be positive, got 0"),
    ({"max_half_open_duration": 0}, "max_half_open_duration must be positive, got 0"),
]


@table_test(("values", "message"), BAD)
def test_an_invalid_value_is_named(values, message):
    with pytest.raises(ConfigurationError, match=message):
        BreakerPolicy(**values)


def test_extreme_values_are_valid():
    BreakerPolicy(
        open_duration=0.1,
        open_duration_jitter=0,
        open_duration_factor=1,
        max_open_duration=0.1,
        probes=1,
        max_concurrent_probes=1,
        success_ratio=1,
        probe_lease=0.1,
    )
    BreakerPolicy(success_ratio=0.01, open_duration_jitter=0.99, max_half_open_duration=0.1)


def test_breaker_policy_defaults():
    assert BreakerPolicy() == BreakerPolicy(
        mode=Mode.NORMAL,
        trip=DeadTarget(),
        open_duration=0.75,
        open_duration_jitter=0.25,
        open_duration_factor=1.1,
        max_open_duration=5.0,
        respect_retry_after=True,
        probes=3,
        max_concurrent_probes=3,
        success_ratio=0.33,
        reopen_on_any_failure=False,
        probe_lease=60.0,
        max_half_open_duration=900.0,
    )


def test_a_mode_may_be_a_string():
    assert BreakerPolicy(mode="disabled").mode is Mode.DISABLED
