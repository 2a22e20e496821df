"""The measures of calls that can be counted by hand."""

from dataclasses import replace

from table_test import table_test

from stormbreak.provider.scenario import Load
from stormbreak.storm.ideal import Amount
from stormbreak.storm.measures import Observed, Record, average, measure, quantile, recovery
from stormbreak.storm.result import series

LOAD = Load(rate=1.0, trigger_at=10.0, trigger_until=20.0)
SEEN = Observed(attempts=[1, 5, 2], wasted=0.25, openings=3)


def call(arrived, *, took=1.0, answered=True, attempts=1, queued=0.0):
    return Record(arrived, arrived + took, answered, attempts, queued)


def measured(records, ideal=(), load=LOAD):
    return measure(records, ideal, load, SEEN, duration=60.0)


def test_calls_before_the_trigger_are_left_out():
    records = [call(5.0, attempts=9), call(12.0, attempts=3), call(13.0)]
    measures = measured(records)

    assert measures.calls == 2
    assert measures.amplification == 2.0
    assert measured(records, load=replace(LOAD, trigger_at=None)).calls == 3


def test_goodput_counts_answers_when_they_come():
    """The first call arrives before the trigger and is answered inside it, the last one is answered after it."""
    records = [call(9.5), call(12.0), call(13.0, answered=False), call(19.5)]
    ideal = [Amount(9.0, 5.0), Amount(10.0, 1.0), Amount(15.0, 3.0), Amount(20.0, 1.0)]
    measures = measured(records, ideal)

    assert measures.goodput == 3 / 5
    assert measures.trigger_goodput == 2 / 4


def test_a_share_of_nothing_is_none():
    nothing = measured([])
    assert (nothing.goodput, nothing.trigger_goodput, nothing.success) == (None, None, None)

    later = measured([call(25.0)], [Amount(26.0, 1.0)])
    assert (later.goodput, later.trigger_goodput, later.success) == (1.0, None, 1.0)
    assert average([later, nothing]).goodput is None


def test_shed_counts_calls_without_any_attempt():
    records = [
        call(10.0, answered=False, attempts=0),
        call(11.0, attempts=3),
        call(12.0),
        call(13.0, answered=False, attempts=2),
    ]
    measures = measured(records)

    assert measures.shed == 1
    assert measures.amplification == 6 / 4
    assert measures.attempts_per_sent_call == 6 / 3
    assert measures.success == 2 / 4


def test_latencies_count_answers_in_time_and_waits_count_all_calls():
    records = [call(10.0, took=2.0), call(11.0, took=4.0, queued=1.0)]
    records += [call(12.0, took=30.0, queued=29.0, answered=False)]
    measures = measured(records)

    assert (measures.p50, measures.p99) == (2.0, 4.0)
    assert (measures.added_wait_p50, measures.added_wait_p99) == (1.0, 29.0)
    assert measures.makespan == 5.0


@table_test(("failed", "expected"), [(0, 198.0), (2, 198.0), (3, None)])
def test_makespan_99_is_the_time_at_which_99_percent_are_answered(failed, expected):
    records = [call(10.0, took=float(number + 1)) for number in range(200 - failed)]
    records += [call(10.0, answered=False) for _ in range(failed)]

    assert measured(records).makespan_99 == expected


def test_a_time_that_never_came_is_none():
    measures = measured([call(10.0, answered=False)])

    assert (measures.p50, measures.p99, measures.makespan, measures.recovery) == (None,) * 4
    assert measures.plain()["p99"] is None


def test_measures_include_peak_attempts_wasted_work_and_openings():
    measures = measured([call(10.0)])

    assert (measures.peak_attempts, measures.wasted, measures.openings) == (5, 0.25, 3)


@table_test(
    ("bad", "seconds"),
    [
        (set(), 0.0),
        ({15.0, 19.0}, 0.0),  # failures inside the trigger do not count
        ({20.0}, 0.0),  # one in thirty: 96.7 %
        ({20.0, 21.0}, 1.0),  # 93.3 % from 0 on, 96.7 % from 1 on
        ({20.0, 45.0, 46.0}, 26.0),
        ({float(second) for second in range(20, 80, 4)}, None),
    ],
)
def test_recovery_is_the_first_second_before_thirty_good_ones(bad, seconds):
    records = [call(float(second), answered=second not in bad) for second in range(80)]

    assert recovery(records, LOAD, 80.0) == seconds


def test_seconds_without_a_call_count_for_the_recovery():
    """Calls that end early or are rare do not mean that the storm goes on."""
    assert recovery([call(25.0)], LOAD, 50.0) == 0.0
    assert recovery([call(25.0, answered=False), call(27.0)], LOAD, 56.0) == 6.0
    assert recovery([call(25.0, answered=False)], LOAD, 300.0) is None


def test_without_a_call_after_the_trigger_there_is_no_recovery():
    assert recovery([call(15.0)], LOAD, 60.0) is None


def test_without_a_trigger_the_recovery_is_zero():
    assert recovery([], replace(LOAD, trigger_at=None, trigger_until=None), 60.0) == 0.0


@table_test(("share", "found"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0)])
def test_a_quantile_is_a_measured_value(share, found):
    assert quantile([float(number) for number in range(1, 101)], share) == found
    assert quantile([], share) is None


def test_an_average_has_the_worst_recovery_and_none_for_a_time_that_never_came():
    load = replace(LOAD, trigger_until=None)
    one = replace(measured([call(10.0)], load=load), recovery=3.0, goodput=1.0)
    two = replace(one, p99=2.0, recovery=8.0, shed=3, goodput=0.5)
    mean = average([one, two])

    assert (mean.p99, mean.recovery, mean.shed, mean.goodput) == (1.5, 8.0, 2, 0.75)
    assert average([one, replace(one, recovery=None, p99=None)]).recovery is None
    assert average([one, replace(one, recovery=None, p99=None)]).p99 is None


def test_the_series_counts_by_second():
    records = [call(0.5), call(0.7, answered=False), call(2.0, answered=False, attempts=0)]
    counts = series(records, [Amount(1.5, 2.5), Amount(1.6, 0.5), Amount(99.0, 1.0)], [2, 1])

    assert counts.calls == (2, 0, 1, 0)
    assert counts.attempts == (2, 1, 0, 0)
    assert counts.answers == (0, 1, 0, 0)
    assert counts.ideal == (0.0, 3.0, 0.0, 0.0)
    assert counts.failed == (0, 1, 0, 0)
    assert counts.shed == (0, 0, 0, 1)
