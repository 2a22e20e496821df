import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from stage import SERVER_ERROR
from table_test import table_test

from stormbreak.core.diagnosis import Diagnosis
from stormbreak.core.trip import AnyRule, ConsecutiveFailures, DeadTarget, FailureRate, SlowRate
from stormbreak.errors import ConfigurationError
from stormbreak.types import TREATMENTS

F, S = True, False


def counter(rule):
    return rule.counter(Diagnosis(TREATMENTS))


def tripped_at(rule, outcomes, *, pause=0.0):
    """Index of the outcome that trips, or None."""
    machine = counter(rule)
    for index, failed in enumerate(outcomes):
        if machine.record(index * pause, failed=failed, took=0.0):
            return index
    return None


TABLE = [
    # rule, outcomes, seconds between them, index of the outcome that opens
    (ConsecutiveFailures(failure_threshold=3), [F, F, F], 0.0, 2),
    (ConsecutiveFailures(failure_threshold=3), [F, F, S, F, F], 0.0, None),
    (ConsecutiveFailures(failure_threshold=3), [F, F, S, F, F, F], 0.0, 5),
    (ConsecutiveFailures(failure_threshold=1), [S, F], 0.0, 1),
    (FailureRate(ratio=0.5, min_calls=4, window_seconds=10), [F, F, F], 0.0, None),
    (
        FailureRate(ratio=0.5, min_calls=4, window_seconds=10),
        [F, F, S, S],
        0.0,
        None,
    ),  # a success never opens
    (FailureRate(ratio=0.5, min_calls=4, window_seconds=10), [S, S, F, F], 0.0, 3),
    (
        FailureRate(ratio=0.5, min_calls=4, window_seconds=10),
        [F, F, F, F],
        4.0,
        None,
    ),  # too far apart
    (FailureRate(ratio=0.8, min_calls=10, window_seconds=10), [S, S, *[F] * 8], 0.0, 9),
    (FailureRate(ratio=0.8, min_calls=10, window_seconds=10), [S, S, S, *[F] * 11], 0.0, None),
    (FailureRate(ratio=0.8, min_calls=10, window_seconds=10), [S, S, S, *[F] * 12], 0.0, 14),
    (FailureRate(ratio=0.5, min_calls=4, window_calls=4), [F, F, F], 0.0, None),
    (
        FailureRate(ratio=0.5, min_calls=4, window_calls=4),
        [F, F, F, F],
        1e6,
        3,
    ),  # however far apart
    (FailureRate(ratio=0.75, min_calls=2, window_calls=4), [S, S, S, S, F, F, F], 0.0, 6),
    (FailureRate(ratio=1.0, min_calls=3, window_calls=3), [F, F, S, F, F, F], 0.0, 5),
    (AnyRule(rules=(ConsecutiveFailures(failure_threshold=3),)), [F, F, F], 0.0, 2),
    (
        AnyRule(
            rules=(
                ConsecutiveFailures(failure_threshold=3),
                FailureRate(ratio=0.5, window_calls=10),
            )
        ),
        [F, S, F, F, S, S, S, F, S, F],
        0.0,
        9,
    ),
]


@table_test(("rule", "outcomes", "pause", "index"), TABLE)
def test_each_rule_trips_at_its_threshold(rule, outcomes, pause, index):
    assert index == tripped_at(rule, outcomes, pause=pause)


Q, L = 1.0, 5.0  # quick; slow
SLOW = {"ratio": 0.5, "slow_call_threshold": 5.0, "min_calls": 4}
SLOWNESS = [
    # rule, what the calls took, seconds between them, index of the one that opens
    (SlowRate(**SLOW, window_seconds=60), [L, L, L], 0.0, None),
    (SlowRate(**SLOW, window_seconds=60), [L, L, Q, Q], 0.0, None),  # a quick one never opens
    (SlowRate(**SLOW, window_seconds=60), [Q, Q, L, L], 0.0, 3),
    (SlowRate(**SLOW, window_seconds=60), [L, L, L, L], 30.0, None),  # too far apart
    (SlowRate(**SLOW, window_calls=4), [L, L, L, L], 1e6, 3),
    (SlowRate(**SLOW, window_calls=4), [L, Q, Q, Q, L, L], 0.0, 5),
    (AnyRule(rules=(ConsecutiveFailures(failure_threshold=1), SlowRate(**SLOW))), [L] * 4, 0.0, 3),
    (ConsecutiveFailures(failure_threshold=1), [L] * 9, 0.0, None),
    (FailureRate(min_calls=1), [L] * 9, 0.0, None),
]


@table_test("failed", [False, None])
@table_test(("rule", "spans", "pause", "index"), SLOWNESS)
def test_slow_calls_trip_whether_they_succeeded_or_were_cut(rule, spans, pause, index, failed):
    machine = counter(rule)
    if failed is None and Q in spans:
        return  # a call cut before it is slow does not count: see below
    tripped = [
        machine.cut(i * pause, took)
        if failed is None
        else machine.record(i * pause, failed=failed, took=took)
        for i, took in enumerate(spans)
    ]
    assert index == next((i for i, trips in enumerate(tripped) if trips), None)


def test_a_call_cut_before_it_is_slow_does_not_count():
    machine = counter(SlowRate(**SLOW))
    for _ in range(99):
        assert not machine.cut(0.0, Q)
    for _ in range(3):
        assert not machine.cut(0.0, L)
    assert machine.cut(0.0, L)


def test_a_slow_failure_counts_as_slow_and_as_failed():
    rule = AnyRule(rules=(SlowRate(**SLOW), FailureRate(ratio=1.0, min_calls=5)))
    machine = counter(rule)
    assert [machine.record(0.0, failed=True, took=Q) for _ in range(5)][4]
    machine.reset()
    assert [machine.record(0.0, failed=True, took=L) for _ in range(4)][3]


def test_dead_target_trips_by_the_diagnosis_and_only_reports_its_window():
    diagnosis = Diagnosis(TREATMENTS)
    machine = DeadTarget().counter(diagnosis)
    for _ in range(7):
        diagnosis.settle(diagnosis.take(None, 0.0), SERVER_ERROR, 0.0, 0.5)
    assert not any(machine.record(0.0, failed=True, took=0.0) for _ in range(99))
    diagnosis.settle(diagnosis.take(None, 0.0), SERVER_ERROR, 0.0, 0.5)

    assert machine.record(0.0, failed=True, took=0.0)
    assert not machine.record(0.0, failed=False, took=0.0)  # a success never opens
    counts = machine.counts(0.0)
    assert (counts.calls, counts.failures, counts.failure_rate) == (101, 100, 100 / 101)
    assert machine.counts(11.0).calls == 0
    machine.reset()
    assert (machine.counts(0.0).calls, len(diagnosis.run)) == (0, 0)
    assert not machine.record(0.0, failed=True, took=0.0)


FRESH = [
    ConsecutiveFailures(failure_threshold=2),
    FailureRate(ratio=1, min_calls=2),
    FailureRate(window_calls=50, ratio=1, min_calls=2),
    AnyRule(rules=(ConsecutiveFailures(failure_threshold=2), FailureRate(ratio=1, min_calls=2))),
]


@table_test("rule", FRESH)
def test_reset_forgets_counted_failures(rule):
    machine = counter(rule)
    machine.record(0.0, failed=True, took=0.0)
    machine.reset()

    assert not machine.record(0.0, failed=True, took=0.0)
    assert machine.record(0.0, failed=True, took=0.0)


@example(percent=28, calls=25)  # 0.28 * 25 is a little more than 7
@given(percent=st.integers(1, 100), calls=st.integers(1, 100))
def test_the_failure_rate_is_exact_despite_rounding(percent, calls):
    needed = -(-percent * calls // 100)  # integers: nothing is rounded
    rule = FailureRate(ratio=percent / 100, min_calls=calls, window_seconds=10)

    assert calls - 1 == tripped_at(rule, [S] * (calls - needed) + [F] * needed)
    if needed > 1:
        assert tripped_at(rule, [S] * (calls - needed + 1) + [F] * (needed - 1)) is None


def test_a_call_is_slow_if_any_rule_calls_it_slow():
    rule = AnyRule(
        rules=(FailureRate(), SlowRate(slow_call_threshold=5.0), SlowRate(slow_call_threshold=9.0))
    )

    assert [counter(rule).is_slow(took) for took in (4.9, 5.0, 9.0)] == [False, True, True]


DEFAULTS = [
    (ConsecutiveFailures(), {"failure_threshold": 5}),
    (FailureRate(), {"ratio": 0.8, "min_calls": 10, "window_seconds": 10.0}),
    (FailureRate(window_calls=50), {"ratio": 0.8, "min_calls": 10, "window_calls": 50}),
    (
        SlowRate(),
        {"ratio": 0.8, "slow_call_threshold": 60.0, "min_calls": 10, "window_seconds": 60.0},
    ),
    (
        SlowRate(window_calls=50),
        {"ratio": 0.8, "slow_call_threshold": 60.0, "min_calls": 10, "window_calls": 50},
    ),
    (AnyRule(), {"rules": (FailureRate(), SlowRate())}),
]


@table_test(("rule", "values"), DEFAULTS)
def test_each_rule_has_its_defaults(rule, values):
    assert type(rule)(**values) == rule


def test_extreme_values_are_valid():
    ConsecutiveFailures(failure_threshold=1)
    FailureRate(ratio=1, min_calls=1, window_seconds=0.1)
    FailureRate(ratio=0.01, min_calls=7, window_calls=7)
    FailureRate(window_calls=100_000)
    SlowRate(ratio=1, min_calls=1, slow_call_threshold=0.1, window_seconds=0.1)
    SlowRate(ratio=1, min_calls=1, slow_call_threshold=0.1, window_calls=1)


RATES = [FailureRate, SlowRate]
IMPOSSIBLE = [
    (ConsecutiveFailures, {"failure_threshold": 0}, "failure_threshold must be at least 1, got 0"),
    *((rule, {"ratio": 0}, r"ratio must be within \(0, 1\], got 0") for rule in RATES),
    *((rule, {"ratio": 1.01}, r"ratio must be within \(0, 1\], got 1.01") for rule in RATES),
    *((rule, {"min_calls": 0}, "min_calls must be at least 1, got 0") for rule in RATES),
    (FailureRate, {"window_seconds": 0}, "window_seconds must be positive, got 0"),
    (SlowRate, {"window_seconds": 0}, "window_seconds must be positive, got 0"),
    (SlowRate, {"slow_call_threshold": 0}, "slow_call_threshold must be positive, got 0"),
    (
        FailureRate,
        {"min_calls": 6, "window_calls": 5},
        "window_calls must not be below min_calls, got 5",
    ),
    (
        SlowRate,
        {"min_calls": 6, "window_calls": 5},
        "window_calls must not be below min_calls, got 5",
    ),
    (
        FailureRate,
        {"window_calls": 100_001},
        "window_calls must be at most 100000, got 100001",
    ),
    (SlowRate, {"window_calls": 100_001}, "window_calls must be at most 100000, got 100001"),
    *(
        (
            rule,
            {"window_calls": 50, "window_seconds": 9},
            "window_seconds must be none beside window_calls, got 9",
        )
        for rule in RATES
    ),
    (AnyRule, {"rules": ()}, "rules must name at least one rule, got none"),
]


@table_test(("rule", "values", "message"), IMPOSSIBLE)
def test_an_invalid_value_is_named(rule, values, message):
    with pytest.raises(ConfigurationError, match=message):
        rule(**values)
