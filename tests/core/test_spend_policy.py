"""The periods of a spend limit: when they end by the calendar, after the clock was set back, and after a restart."""

from datetime import UTC, datetime
from itertools import pairwise
from math import inf

from table_test import table_test

from stormbreak.core.spend_policy import (
    SpendPolicy,
    bounded_end,
    period_end,
    restored_end,
    time_left,
)

HOUR, DAY = 3600.0, 86_400.0


def at(year, month, day, hour=0, minute=0):
    return datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp()


NOON = at(2026, 7, 15, 12)


@table_test(
    ("period", "words"), [(None, "ever"), ("day", "day"), (60, "60 s"), (1e7 + 0.5, "10000000.5 s")]
)
def test_the_period_has_a_text(period, words):
    assert SpendPolicy(period=period).per == words


def test_an_hour_and_a_day_end_by_utc():
    assert period_end("hour", NOON - 1) == NOON
    assert period_end("hour", NOON) == NOON + HOUR
    assert period_end("day", NOON) == NOON + DAY / 2
    assert period_end("day", NOON + DAY / 2) == NOON + DAY * 1.5


def test_every_month_ends_with_the_first_of_the_next_also_in_leap_years():
    firsts = [at(year, month, 1) for year in (*range(2096, 2102), 2400) for month in range(1, 13)]
    for first, following in pairwise(firsts):
        if following - first <= 31 * DAY:
            assert period_end("month", first) == period_end("month", following - 1) == following


@table_test(("period", "seconds"), [(None, inf), (60.0, 60.0), ("hour", HOUR), ("day", DAY / 2)])
def test_time_left_is_the_rest_of_the_calendar_period(period, seconds):
    assert time_left(period, NOON) == seconds


@table_test(
    ("calendar", "ahead", "ends_in"),
    [
        ("hour", 1.5 * HOUR, 1.5 * HOUR),
        ("hour", 2 * HOUR, 2 * HOUR),
        ("hour", 2 * HOUR + 1, HOUR),
        ("day", 2 * DAY, 2 * DAY),
        ("day", 2 * DAY + 1, DAY / 2),
        ("month", 62 * DAY, 62 * DAY),
        ("month", 62 * DAY + 1, 16.5 * DAY),
    ],
)
def test_a_clock_set_back_keeps_a_near_end_of_the_period(calendar, ahead, ends_in):
    assert bounded_end(calendar, NOON + ahead, NOON) == NOON + ends_in


@table_test(
    ("period", "file_says", "ends_in"),
    [
        (60.0, 20.0, 20.0),
        (60.0, 3600.0, 60.0),  # it was longer before
        ("hour", HOUR, HOUR),
        ("hour", HOUR - 5, HOUR),
        ("day", DAY / 2 - 5, DAY / 2),
        ("day", DAY / 2, DAY / 2),
        ("day", HOUR, DAY / 2),  # it was an hour
        ("month", DAY / 2, 16.5 * DAY),
        ("hour", 16.5 * DAY, HOUR),  # it was a month
    ],
)
def test_a_restored_period_ends_as_saved_within_the_bounds_of_the_policy(
    period, file_says, ends_in
):
    assert restored_end(period, NOON + file_says, NOON) == NOON + ends_in
