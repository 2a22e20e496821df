import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stormbreak.core.trip import ConsecutiveFailures, FailureRate
from stormbreak.errors import ConfigurationError

F, S = True, False


def tripped_at(rule, outcomes, *, pause=0.0):
    """Index of the outcome that trips, or None."""
    machine = rule.machine()
    for index, failed in enumerate(outcomes):
        if machine.record(index * pause, failed=failed):
            return index
    return None


TABLE = [
    # rule, outcomes, seconds between them, index of the outcome that opens
    (ConsecutiveFailures(threshold=3), [F, F, F], 0.0, 2),
    (ConsecutiveFailures(threshold=3), [F, F, S, F, F], 0.0, None),
    (ConsecutiveFailures(threshold=3), [F, F, S, F, F, F], 0.0, 5),
    (ConsecutiveFailures(threshold=1), [S, F], 0.0, 1),
    (FailureRate(share=0.5, calls=4, seconds=10), [F, F, F], 0.0, None),
    (FailureRate(share=0.5, calls=4, seconds=10), [F, F, S, S], 0.0, None),  # a success never opens
    (FailureRate(share=0.5, calls=4, seconds=10), [S, S, F, F], 0.0, 3),
    (FailureRate(share=0.5, calls=4, seconds=10), [F, F, F, F], 4.0, None),  # too far apart
    (FailureRate(share=0.8, calls=10, seconds=10), [S, S, *[F] * 8], 0.0, 9),
    (FailureRate(share=0.8, calls=10, seconds=10), [S, S, S, *[F] * 11], 0.0, None),
    (FailureRate(share=0.8, calls=10, seconds=10), [S, S, S, *[F] * 12], 0.0, 14),
]


@pytest.mark.parametrize(("rule", "outcomes", "pause", "index"), TABLE)
def test_trips(rule, outcomes, pause, index):
    assert index == tripped_at(rule, outcomes, pause=pause)


@pytest.mark.parametrize("rule", [ConsecutiveFailures(threshold=2), FailureRate(share=1, calls=2)])
def test_reset_forgets(rule):
    machine = rule.machine()
    machine.record(0.0, failed=True)
    machine.reset()

    assert not machine.record(0.0, failed=True)
    assert machine.record(0.0, failed=True)


@example(percent=28, calls=25)  # 0.28 * 25 is a little more than 7
@given(percent=st.integers(1, 100), calls=st.integers(1, 100))
def test_the_rate_is_met_exactly_where_arithmetic_says_so(percent, calls):
    needed = -(-percent * calls // 100)  # in whole numbers, where nothing is rounded
    rule = FailureRate(share=percent / 100, calls=calls, seconds=10)

    assert calls - 1 == tripped_at(rule, [S] * (calls - needed) + [F] * needed)
    if needed > 1:
        assert tripped_at(rule, [S] * (calls - needed + 1) + [F] * (needed - 1)) is None


def test_impossible_values_are_named():
    with pytest.raises(ConfigurationError, match="threshold must be at least 1, got 0"):
        ConsecutiveFailures(threshold=0)
    with pytest.raises(ConfigurationError, match=r"share must lie in \(0, 1\], got 0"):
        FailureRate(share=0)
    with pytest.raises(ConfigurationError, match="calls must be at least 1, got 0"):
        FailureRate(calls=0)
    with pytest.raises(ConfigurationError, match="seconds must be positive, got 0"):
        FailureRate(seconds=0)
