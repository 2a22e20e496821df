import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.llm.retry_after import MAX_WAIT, duration, number, wait


@table_test(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("12ms", 0.012),
        ("500us", 0.0005),
        ("500µs", 0.0005),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723.0),
        ("1d2h", 93_600.0),
        ("37 seconds", 37.0),
        ("1 minute", 60.0),
        ("250 milliseconds", 0.25),
        ("2hours", 7200.0),
        ("1.5 days", 129_600.0),
        ("", None),
        ("5", None),
        ("1s2", None),
        ("s", None),
        ("-1s", None),
        ("1 s", None),
        ("1S", None),
        ("1 fortnight", None),
        ("inf", None),
        ("\u0661s", None),
    ],
)
def test_each_form_of_a_duration_is_parsed(text, seconds):
    assert duration(text) == (None if seconds is None else pytest.approx(seconds))


@table_test(
    ("text", "value"),
    [
        ("0", 0.0),
        ("1.5", 1.5),
        ("1e3", None),
        ("+2", None),
        ("1e309", None),
        ("1.", None),
        ("5 5", None),
        ("9" * 5000, math.inf),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("0x10", None),
        ("1_000", None),
        ("\u00b2", None),
        ("\uff11", None),
        ("", None),
        ("5 ", None),
    ],
)
def test_each_form_of_a_number_is_parsed(text, value):
    assert number(text) == value


@table_test(
    ("seconds", "expected"),
    [
        (None, None),
        (0.0, None),
        (-1.0, None),
        (math.nan, None),
        (-math.inf, None),
        (math.inf, MAX_WAIT),
        (1e30, MAX_WAIT),
        (0.001, 0.001),
    ],
)
def test_a_wait_is_positive_and_capped(seconds, expected):
    assert wait(seconds) == expected


@given(st.text())
def test_no_text_raises(text):
    number(text)
    duration(text)
