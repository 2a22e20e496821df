"""The statistics of a run: totals, histograms, slices."""

import pytest
from batches import a_snapshot
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.batch.running.stats import (
    FIRST_WIDTH,
    KINDS,
    LEAST,
    MOST,
    OTHERS,
    SLICES,
    FailureKind,
    Histogram,
    RunStats,
)
from stormbreak.events import CallEnded, Hedged, Queued, RetryPlanned, Returned, Sent
from stormbreak.types import Outcome, Target, Usage, Verdict

TARGET = Target("p", "m")


def sent(call, attempt=1, at=0.0, target=TARGET):
    return Sent(at, call, target, attempt)


def returned(call, verdict=Verdict.OK, status=200, code=None, at=0.0, took=0.1):
    return Returned(at, call, TARGET, 1, verdict, status, code, took)


def ended(call, waited=0.0):
    return CallEnded(0.0, call, TARGET, Verdict.OK, 1, waited)


def stats_of(*events):
    stats = RunStats(began=0.0)
    for event in events:
        stats.hear(event)
    return stats


def test_retries_count_by_the_verdict_of_the_previous_attempt():
    stats = stats_of(
        sent(1),
        returned(1, Verdict.THROTTLED, 429),
        RetryPlanned(0.0, 1, TARGET, 1, 5.0, free=False),
        sent(1, 2),
        returned(1, Verdict.TIMEOUT, None),
        sent(1, 3),
        returned(1),
        ended(1),
        sent(2),
        returned(2, Verdict.THROTTLED, 429),
        RetryPlanned(0.0, 2, TARGET, 1, 5.0, free=False),
        ended(2),  # and no retry was sent
    )
    assert stats.retry_reasons == {"throttled": 1, "timeout": 1}


def test_a_hedge_does_not_count_as_a_retry():
    stats = stats_of(sent(1), Hedged(0.0, 1, TARGET, 2, 1.0), sent(1, 2), returned(1), ended(1))
    assert not stats.retry_reasons
    assert sum(each.attempts for each in stats.slices) == 2


def test_failures_count_by_verdict_status_and_code():
    stats = stats_of(
        returned(1, Verdict.THROTTLED, 429, "slow_down"),
        returned(2, Verdict.THROTTLED, 429, "slow_down"),
        returned(3, Verdict.RESET, None),
        returned(4),
    )
    assert stats.failures == {
        FailureKind("throttled", 429, "slow_down"): 2,
        FailureKind("reset"): 1,
    }


def test_the_number_of_failure_kinds_and_targets_is_bounded():
    stats = RunStats(began=0.0)
    for number in range(10 * KINDS):
        stats.hear(returned(number, Verdict.INVALID, 400, f"code-{number}"))
        stats.hear(sent(number, target=Target("p", f"model-{number}")))
    assert len(stats.failures) == len(stats.targets) == KINDS + 1
    assert stats.failures[FailureKind(OTHERS)] == stats.targets[OTHERS] == 9 * KINDS


def test_only_successful_attempts_have_a_latency():
    stats = stats_of(returned(1, took=2.0), returned(2, Verdict.TIMEOUT, None, took=60.0))
    assert len(stats.latencies) == 1
    assert stats.latencies.quantile(0.5) == pytest.approx(2.0, rel=0.1)


def test_a_slice_sums_up_its_samples():
    stats = RunStats(began=100.0)
    stats.sample(a_snapshot(100.0, in_flight=2, limit=4, waiting=7, open_circuits=1))
    stats.sample(a_snapshot(100.1, in_flight=4, limit=8, cooling=2, done=9))
    (only,) = stats.slices
    assert (only.samples, only.in_flight, only.limit, only.waiting) == (2, 6, 12, 7)
    assert (only.open_circuits, only.cooling) == (1, 2)
    assert only.last.done == 9
    assert stats.first.at == 100.0


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=60))
def test_slices_of_a_long_run_are_bounded_and_lose_no_count(times):
    stats = RunStats(began=0.0)
    for call, at in enumerate(sorted(times)):
        stats.sample(a_snapshot(at, done=call))
        stats.hear(sent(call, at=at))
        stats.hear(returned(call, at=at))
    assert len(stats.slices) <= SLICES
    assert sum(each.attempts for each in stats.slices) == len(times)
    assert sum(each.verdicts["ok"] for each in stats.slices) == len(times)
    assert sum(len(each.latencies) for each in stats.slices) == len(times)
    assert sum(each.samples for each in stats.slices) == len(times)
    *_, (start, end, last) = stats.times()
    assert start <= max(times) < end
    assert last.last.done == len(times) - 1
    assert stats.width == FIRST_WIDTH or max(times) >= SLICES * stats.width / 2


def test_merged_stats_of_two_processes_equal_those_of_one():
    events = [
        event
        for call in range(40)
        for event in (
            sent(call, at=call / 2),
            returned(call, Verdict.OK if call % 3 else Verdict.OVERLOADED, at=call / 2, took=call),
            ended(call, waited=1.0),
        )
    ]
    whole, first, second = stats_of(*events), stats_of(*events[:60]), stats_of(*events[60:])
    for _ in range(2):
        second._widen()
    second.merge(first)
    while whole.width < second.width:
        whole._widen()
    assert (second.attempts, second.waited) == (whole.attempts, whole.waited) == (40, 40.0)
    assert second.verdicts == whole.verdicts
    assert second.failures == whole.failures
    assert second.latencies.quantile(0.9) == whole.latencies.quantile(0.9)
    columns = [(each.attempts, each.verdicts) for each in whole.slices]
    assert [(each.attempts, each.verdicts) for each in second.slices] == columns


def test_an_event_before_the_start_counts_in_the_first_slice():
    stats = RunStats(began=10.0)
    stats.hear(sent(1, at=9.0))
    assert [each.attempts for each in stats.slices] == [1]


def test_stats_keep_no_state_of_ended_calls():
    stats = RunStats(began=0.0)
    for call in range(100):
        stats.hear(sent(call))
        stats.hear(Hedged(0.0, call, TARGET, 2, 1.0))
        stats.hear(returned(call, Verdict.RESET, None))
        stats.hear(ended(call))
    assert not stats._failed
    assert not stats._hedges


def test_a_merged_slice_keeps_the_maximum_of_both_slices():
    """A cooldown or an open circuit of the first slice stays visible."""
    stats = RunStats(began=0.0)
    stats.sample(a_snapshot(0.1, cooling=3, open_circuits=1))
    stats.sample(a_snapshot(0.6, cooling=1, open_circuits=2))
    stats.sample(a_snapshot(SLICES * FIRST_WIDTH))

    assert stats.width == 2 * FIRST_WIDTH
    assert (stats.slices[0].cooling, stats.slices[0].open_circuits) == (3, 2)


# ------------------------------------------------------------ totals


def test_stats_count_attempts_retries_verdicts_tokens_and_waiting_time():
    stats = RunStats()
    for event in (
        Sent(0.0, 1, TARGET, 1),
        returned(1, Verdict.THROTTLED, 429),
        Sent(1.0, 1, TARGET, 2),
        returned(1, Verdict.OK, 200),
        CallEnded(2.0, 1, TARGET, Verdict.OK, 2, 0.75),
    ):
        stats.hear(event)
    stats.add_usage(Usage(input_tokens=3, output_tokens=4))
    assert (stats.attempts, stats.retries, stats.waited) == (2, 1, 0.75)
    assert stats.verdicts == {"throttled": 1, "ok": 1}
    assert (stats.input_tokens, stats.output_tokens) == (3, 4)


@table_test(
    "then",
    [
        Sent(1.0, 1, TARGET, 2),
        Queued(1.0, 1, TARGET, "slots"),
        CallEnded(1.0, 1, TARGET, Verdict.RESET, 1, 0.0),
    ],
)
def test_a_call_backs_off_until_its_next_event(then):
    stats = RunStats()
    stats.hear(RetryPlanned(0.0, 1, TARGET, 1, 5.0, free=True))
    stats.hear(RetryPlanned(0.0, 2, TARGET, 1, 5.0, free=True))
    assert stats.backing_off == 2
    stats.hear(then)
    assert stats.backing_off == 1


@table_test("verdict", [Verdict.CONNECT_FAILED, Verdict.RESET, Verdict.BROKEN])
def test_a_failure_without_a_response_means_unreachable(verdict):
    stats = RunStats()
    assert not stats.unreachable
    stats.hear(returned(1, verdict, None))
    assert stats.unreachable
    assert stats.connect_error == verdict.value.replace("_", " ")
    stats.explain(Outcome(verdict, detail="host not found"))
    assert stats.connect_error == "host not found"


@table_test(("verdict", "status"), [(Verdict.SERVER_ERROR, 502), (Verdict.TIMEOUT, None)])
def test_a_status_or_a_timeout_means_reachable(verdict, status):
    stats = RunStats()
    stats.hear(returned(1, Verdict.RESET, None))
    stats.hear(returned(1, verdict, status))
    assert not stats.unreachable


def test_a_cancelled_attempt_does_not_mean_unreachable():
    stats = RunStats()
    stats.hear(returned(1, Verdict.CANCELLED, None))
    assert not stats.unreachable


# ------------------------------------------------------------ histogram

SECONDS = st.floats(min_value=LEAST, max_value=MOST)


def counted(values):
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@given(st.lists(SECONDS, min_size=1), st.floats(min_value=0.01, max_value=1.0))
def test_a_quantile_is_accurate_to_5_percent(values, share):
    ordered = sorted(values)
    wanted = next(value for place, value in enumerate(ordered, 1) if place >= share * len(ordered))
    assert counted(values).quantile(share) == pytest.approx(wanted, rel=0.05)


@given(st.lists(SECONDS), st.lists(SECONDS))
def test_update_adds_two_histograms(some, others):
    together = counted(some)
    together.update(counted(others))
    assert len(together) == len(some) + len(others)
    for share in (0.5, 0.99):
        assert together.quantile(share) == counted([*some, *others]).quantile(share)


@table_test("odd", [0.0, -1.0, float("inf"), float("nan"), 1e300, 1e-300])
def test_a_value_outside_the_range_is_counted(odd):
    assert len(counted([odd])) == 1


def test_an_empty_histogram_has_no_quantile():
    assert Histogram().quantile(0.5) is None
