from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.llm.retry_after import MAX_WAIT, retry_after

NOW = 1795557600.0  # 2026-11-24T22:00:00Z


def wait(headers, *, status=429, hint=None, received_at=NOW):
    return retry_after(headers, status=status, received_at=received_at, hint=hint)


@table_test(
    ("value", "seconds"),
    [
        ("2", 2.0),
        (" 2 ", 2.0),
        ("1.5", 1.5),
        ("Tue, 24 Nov 2026 22:00:10 GMT", 10.0),
        ("Tuesday, 24-Nov-26 22:00:10 GMT", 10.0),
        ("Tue Nov 24 22:00:10 2026", 10.0),
        ("Tue, 24 Nov 2026 21:59:50 GMT", None),  # past: no wait
        ("Tue, 24 Nov 2026 22:00:00 GMT", None),
        ("0", None),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("-inf", None),
        ("", None),
        ("soon", None),
        ("5, 10", None),
        ("1e309", None),
        ("1e3", None),
        ("+10", None),
        ("5 5", None),
        ("Tue, 24 Nov 2026 22:00:10 UTC", 10.0),
        ("Tue, 24 Nov 2026 22:00:10 +0000", 10.0),
        ("Wed, 25 Nov 2026 00:00:10 +0200", 10.0),
        ("Tue, 24 Nov 2026 22:00:10", 10.0),
        ("2026-11-24T22:00:10Z", 10.0),
        ("2026-11-25T00:00:10+02:00", 10.0),
        ("1" + "0" * 30, MAX_WAIT),
        ("9" * 6000, MAX_WAIT),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_WAIT),
    ],
)
def test_each_form_of_retry_after_is_parsed(value, seconds):
    assert wait({"retry-after": value}) == seconds


@table_test(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "7000", "retry-after": "60"}, 7.0),
        ({"x-ms-retry-after-ms": "250", "retry-after": "60"}, 0.25),
        ({"retry-after-ms": "100", "x-ms-retry-after-ms": "250"}, 0.1),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"retry-after-ms": "0", "retry-after": "2"}, 2.0),
        ({"retry-after-ms": "-1", "retry-after": "2"}, 2.0),
        ({"retry-after-ms": "1e309", "retry-after": "2"}, 2.0),
        ({"x-amz-retry-after": "1500", "retry-after": "60"}, 1.5),
        ({"retry-after-ms": "9" * 400}, MAX_WAIT),
    ],
)
def test_a_valid_milliseconds_header_wins(headers, seconds):
    assert wait(headers) == seconds


def points(seconds):
    """A point in time as a bare number: seconds, or milliseconds."""
    return f"{NOW + seconds:.0f}", f"{(NOW + seconds) * 1000:.0f}"


@table_test("header", ["retry-after", "retry-after-ms", "x-ms-retry-after-ms", "x-amz-retry-after"])
@table_test("ahead", [2, 86_400, 29 * 86_400])
def test_a_bare_number_near_the_present_is_a_point_in_time(header, ahead):
    for value in points(ahead):
        assert wait({header: value}) == pytest.approx(ahead)
    own = formatdate(NOW - 100, usegmt=True)
    for value in points(ahead):
        assert wait({header: value, "date": own}) == pytest.approx(ahead + 100)
    for value in points(-ahead):
        assert wait({header: value}) is None  # past: no wait


@table_test(
    ("headers", "seconds"),
    [
        ({"retry-after": str(30 * 86_400 - 1)}, 30 * 86_400 - 1),
        ({"retry-after": str(30 * 86_400)}, 30 * 86_400),  # 1970 is not near: a very long wait
        ({"retry-after": points(-31 * 86_400)[0]}, MAX_WAIT),
        ({"retry-after": points(31 * 86_400)[0]}, MAX_WAIT),
        ({"retry-after": points(31 * 86_400)[1]}, MAX_WAIT),
        ({"retry-after-ms": str(30 * 86_400 * 1000)}, 30 * 86_400),
        ({"retry-after-ms": points(31 * 86_400)[1]}, MAX_WAIT),
        ({"retry-after-ms": points(-9)[1], "retry-after": "2"}, 2.0),
    ],
)
def test_a_bare_number_far_from_the_present_is_a_duration(headers, seconds):
    assert wait(headers) == seconds


def test_dates_are_relative_to_the_clock_of_the_server():
    at = formatdate(NOW + 30, usegmt=True)
    own = formatdate(NOW - 3600 + 20, usegmt=True)
    assert wait({"retry-after": at, "date": formatdate(NOW + 20, usegmt=True)}) == 10.0
    assert wait({"retry-after": at, "date": own}) == 3610.0
    assert wait({"retry-after": at, "date": "yesterday"}) == 30.0
    assert wait({"retry-after": at}, received_at=NOW + 3600) is None


def test_headers_override_the_body_and_the_body_overrides_resets():
    spent = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}
    assert wait({"retry-after": "3", **spent}, hint=5.0) == 3.0
    assert wait(spent, hint=5.0) == 5.0
    assert wait(spent, hint=0.0) == 360.0
    assert wait(spent) == 360.0


@table_test(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2m59.56s"}, 179.56),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "2m59.56s"}, None),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "60"}, None),
        ({"x-ratelimit-reset-requests": "60"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-requests": "60"}, None),
        (
            {
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "12ms",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
            },
            1.0,
        ),
        (
            {"x-ratelimit-remaining-tokens-minute": "0", "x-ratelimit-reset-tokens-minute": "11.4"},
            11.4,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "60"}, 60.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "2592000"}, None),  # a point in 1970
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{NOW + 9:.0f}"}, 9.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{(NOW + 9) * 1000:.0f}"}, 9.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{NOW - 9:.0f}"}, None),
        (
            {
                "anthropic-ratelimit-output-tokens-remaining": "0",
                "anthropic-ratelimit-output-tokens-reset": "2026-11-24T23:00:30+01:00",
            },
            30.0,
        ),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "50"}, 50.0),
        ({"ratelimit": '"default";r=0;t=30'}, 30.0),
        ({"ratelimit": '"default";r=50;t=30'}, None),
        ({"ratelimit": '"a";r=0;t=10, "b";r=0;t=20, "c";r=1;t=99'}, 20.0),
        ({"ratelimit": '"default";t=30'}, None),
        ({"ratelimit": '"default";r=0'}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "inf"}, None),
    ],
)
def test_a_reset_counts_if_nothing_remains(headers, seconds):
    assert wait(headers) == (None if seconds is None else pytest.approx(seconds))


def test_a_reset_counts_on_a_429_only():
    spent = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "60"}
    assert wait(spent, status=503) is None
    assert wait(spent, status=200) is None


NAMES = st.sampled_from(
    [
        "retry-after",
        "retry-after-ms",
        "date",
        "ratelimit",
        "x-ratelimit-reset",
        "x-ratelimit-remaining",
    ]
)
VALUES = (
    st.text()
    | st.integers().map(str)
    | st.floats().map(str)
    | st.from_regex(r"\A[0-9;=rt,smh.-]*\Z")
)


@given(st.dictionaries(NAMES, VALUES), st.floats(), st.none() | st.floats())
def test_a_wait_is_positive_and_bounded_for_any_input(headers, received_at, hint):
    seconds = wait(headers, received_at=received_at, hint=hint)
    assert seconds is None or 0 < seconds <= MAX_WAIT


@table_test(
    ("status", "reset", "answer", "seconds"),
    [
        ("rejected", "1795557630", 429, 30.0),
        ("rejected", "1795557630", 529, None),  # limits apply to 429s only
        ("allowed", "1795557630", 429, None),
        ("rejected", "1795557590", 429, None),  # past
        ("rejected", "-1", 429, None),
        ("rejected", "soon", 429, None),
        ("rejected", "", 429, None),
    ],
)
def test_the_unified_reset_counts_if_the_unified_limit_refused(status, reset, answer, seconds):
    headers = {
        "anthropic-ratelimit-unified-status": status,
        "anthropic-ratelimit-unified-reset": reset,
    }
    assert wait(headers, status=answer) == seconds
    assert wait({**headers, "retry-after": "2"}, status=answer) == 2.0
