from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime, parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.llm.retry_after import parse_http_date, rfc3339

NOW = datetime(2026, 11, 24, 22, tzinfo=UTC)


def between(first, last):
    """Draw times from UTC years `first` to `last`, with bounds without a zone, as Hypothesis requires."""
    start, end = (datetime(year, 1, 1, tzinfo=UTC).replace(tzinfo=None) for year in (first, last))
    return st.datetimes(min_value=start, max_value=end)


WHOLE_SECONDS = between(1000, 9999).map(lambda at: at.replace(microsecond=0, tzinfo=UTC))


@given(WHOLE_SECONDS)
def test_imf_fixdate_round_trips(at):
    text = format_datetime(at, usegmt=True)
    assert at.timestamp() == parse_http_date(text, NOW.timestamp())
    assert parsedate_to_datetime(text) == at


@given(WHOLE_SECONDS)
def test_asctime_round_trips(at):
    text = f"{at:%a %b} {at.day:2d} {at:%H:%M:%S} {at.year:04d}"
    assert at.timestamp() == parse_http_date(text, NOW.timestamp())


@given(between(1977, 2076))
def test_rfc850_round_trips_within_half_a_century(at):
    at = at.replace(microsecond=0, tzinfo=UTC)
    assert at.timestamp() == parse_http_date(f"{at:%A, %d-%b-%y %H:%M:%S} GMT", NOW.timestamp())


@given(
    st.datetimes(
        timezones=st.timedeltas(timedelta(hours=-14), timedelta(hours=14)).map(
            lambda ahead: timezone(timedelta(minutes=ahead // timedelta(minutes=1)))
        )
    )
)
def test_rfc3339_round_trips(at):
    assert at.timestamp() == pytest.approx(rfc3339(at.isoformat()), abs=1e-3)


@table_test(
    ("text", "now", "year"),
    [
        ("Sunday, 06-Nov-94 08:49:37 GMT", 2026, 1994),
        ("Saturday, 01-Jan-76 00:00:00 GMT", 2026, 2076),
        ("Saturday, 01-Jan-77 00:00:00 GMT", 2026, 1977),
        ("Saturday, 01-Jan-01 00:00:00 GMT", 2099, 2101),
    ],
)
def test_a_two_digit_year_is_within_half_a_century(text, now, year):
    at = parse_http_date(text, datetime(now, 6, 1, tzinfo=UTC).timestamp())
    assert year == datetime.fromtimestamp(at, UTC).year


def test_the_examples_of_rfc_9110_are_one_instant():
    texts = (
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    )
    assert {784111777.0} == {parse_http_date(text, NOW.timestamp()) for text in texts}
    assert rfc3339("1994-11-06T09:49:37.5+01:00") == 784111777.5
    assert rfc3339("1994-11-06t08:49:37z") == 784111777.0


@table_test(
    "text",
    [
        "",
        "soon",
        "Sun, 31 Feb 2026 08:49:37 GMT",
        "Sun, 29 Feb 2026 08:49:37 GMT",
        "Sun, 06 Nox 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 CET",
        "Sun, 06 Nov 1994 08:49",
        "Sun, \u0660\u0666 Nov 1994 08:49:37 GMT",
    ],
)
def test_an_invalid_date_is_none(text):
    assert parse_http_date(text, NOW.timestamp()) is None
    assert rfc3339(text) is None


def test_leap_days_and_leap_seconds_are_valid():
    assert parse_http_date("Thu, 29 Feb 2024 00:00:00 GMT", 0) == 1709164800.0
    assert parse_http_date("Sat, 31 Dec 2016 23:59:60 GMT", 0) == 1483228800.0
    assert parse_http_date("Fri, 29 Feb 1900 00:00:00 GMT", 0) is None
    assert rfc3339("2026-02-29T00:00:00Z") is None


@given(st.text(), st.floats())
def test_no_text_raises(text, now):
    parse_http_date(text, now)
    rfc3339(text)


@given(st.floats())
def test_an_invalid_clock_does_not_raise(now):
    parse_http_date("Sunday, 06-Nov-94 08:49:37 GMT", now)


@table_test(
    "form",
    ["Tue, 24 Nov 2026 22:01:40", "Tuesday, 24-Nov-26 22:01:40", "Tue Nov 24 22:01:40 2026"],
)
@table_test(
    ("zone", "ahead"),
    [
        ("", 0),
        (" GMT", 0),
        (" UTC", 0),
        (" UT", 0),
        (" Z", 0),
        (" +0000", 0),
        (" -0000", 0),
        (" +0200", 7200),
        (" -0830", -30600),
    ],
)
def test_a_zone_may_be_written_in_any_form_or_left_out(form, zone, ahead):
    assert parse_http_date(form + zone, NOW.timestamp()) == NOW.timestamp() + 100 - ahead


@table_test("zone", [" PST", " +2400", " +0260", " +02:00", " +02", "GMT", " gmt GMT", " "])
def test_an_unknown_zone_is_no_date(zone):
    assert parse_http_date("Tue, 24 Nov 2026 22:01:40" + zone, NOW.timestamp()) is None


def test_a_day_may_have_one_digit():
    assert parse_http_date("Sun, 6 Nov 1994 08:49:37 GMT", 0) == parse_http_date(
        "Sun, 06 Nov 1994 08:49:37 GMT", 0
    )
