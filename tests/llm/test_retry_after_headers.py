"""Any value of any header that may name a wait: no wait, a long one, and never an error."""

from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.llm.response_verdict import read_answer
from stormbreak.llm.retry_after import MAX_WAIT, retry_after
from stormbreak.types import Verdict

NOW = 1795557600.0  # 2026-11-24T22:00:00Z

NAMED_WAITS = ("retry-after", "retry-after-ms", "x-ms-retry-after-ms", "x-amz-retry-after")

RESETS = {
    "x-ratelimit-reset-requests": {"x-ratelimit-remaining-requests": "0"},
    "x-ratelimit-reset-tokens": {"x-ratelimit-remaining-tokens": "0"},
    "x-ratelimit-reset-tokens-minute": {"x-ratelimit-remaining-tokens-minute": "0"},
    "x-ratelimit-reset": {"x-ratelimit-remaining": "0"},
    "ratelimit-reset": {"ratelimit-remaining": "0"},
    "anthropic-ratelimit-requests-reset": {"anthropic-ratelimit-requests-remaining": "0"},
    "anthropic-ratelimit-input-tokens-reset": {"anthropic-ratelimit-input-tokens-remaining": "0"},
    "anthropic-ratelimit-unified-reset": {"anthropic-ratelimit-unified-status": "rejected"},
}

NO_WAIT = [
    "-1",
    "-5.5",
    "0",
    "0.0",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "",
    " ",
    "soon",
    "0x10",
    "5,6",
    "1e309",
    "1e3",
    "+10",
    " 5 5",
    "5.",
    "\x00",
]

PAST = [
    "Tue, 24 Nov 2026 21:59:59 GMT",
    "Tuesday, 24-Nov-26 21:59:59 GMT",
    "Tue Nov 24 21:59:59 2026",
    "1795557599",
    "1795557599000",
]


@table_test("name", [*NAMED_WAITS, *RESETS])
@table_test("value", [*NO_WAIT, *PAST, "2026-11-24T21:59:59Z"])
def test_an_invalid_wait_in_any_header_is_none(name, value):
    headers = {name: value, **RESETS.get(name, {})}
    assert retry_after(headers, status=429, received_at=NOW) is None


@table_test("name", [*NAMED_WAITS, *RESETS])
@table_test("value", ["1" + "0" * 400, "9" * 5000])
def test_a_huge_wait_is_capped_and_not_ignored(name, value):
    headers = {name: value, **RESETS.get(name, {})}
    assert retry_after(headers, status=429, received_at=NOW) == MAX_WAIT


@given(
    st.sampled_from([*NAMED_WAITS, *RESETS, "ratelimit", "date"]),
    st.text() | st.floats().map(str) | st.integers().map(str),
    st.binary(),
    st.integers(100, 599),
)
def test_no_header_raises_or_names_a_wait_out_of_bounds(name, value, body, status):
    headers = {name: value, **RESETS.get(name, {})}
    reading = read_answer(HttpResponse(status, headers, body, NOW), Shape.CHAT)
    assert reading.retry_after is None or 0 < reading.retry_after <= MAX_WAIT
    assert reading.verdict is not Verdict.OK
