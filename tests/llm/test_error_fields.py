import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.llm.error_fields import identifier, parse_error


def error_of(value, *, is_error=True):
    return parse_error(json.dumps(value).encode(), is_error=is_error)


@table_test(
    ("body", "names", "status"),
    [
        ({"error": {"code": "c", "type": "t"}}, ("c", "t"), None),
        ([{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}], ("RESOURCE_EXHAUSTED",), 429),
        ({"error": {"code": "429", "type": None}}, (), 429),
        ({"error": {"code": True}}, (), None),
        ({"error": {"code": 99}}, (), None),
        ({"error": "text"}, (), None),
        ({"type": "error", "error": {"type": "overloaded_error"}}, ("overloaded_error",), None),
        ({"error": {"type": "t", "details": {"error_code": "e"}}}, ("e", "t"), None),
        (
            {"error": {"code": 400, "details": [{"reason": "API_KEY_INVALID"}]}},
            ("API_KEY_INVALID",),
            400,
        ),
        ({"object": "error", "type": "BadRequestError", "code": 400}, ("BadRequestError",), 400),
        ({"choices": [{"error": {"code": 502}}]}, (), 502),
    ],
)
def test_every_known_error_form_is_parsed(body, names, status):
    found = error_of(body)
    assert (found.names, found.status) == (names, status)


def test_looser_forms_count_only_with_an_error_status():
    for loose in ({"message": "x", "code": "c"}, {"detail": "x"}, {}):
        assert error_of(loose, is_error=False) is None
        assert error_of(loose) is not None
    for strict in (
        {"error": {}},
        {"error": None},
        {"error": ""},
        {"choices": [{"error": None}]},
        [{"error": 1}],
    ):
        assert error_of(strict, is_error=False) is None
    assert error_of({"object": "error"}, is_error=False) is not None
    assert error_of({"type": "error", "code": "c"}, is_error=False).names == ("c", "error")


@table_test(
    ("message", "seconds"),
    [
        ("Please try again in 599ms.", 0.599),
        ("Please try again in 5.289s. Visit", 5.289),
        ("Please try again in 1m3s", 63.0),
        ("try again in 2h0m0.5s.", 7200.5),
        ("Please retry after 37 seconds.", 37.0),
        ("Please retry in 53.016342224s.", 53.016342224),
        ("Try again in 1 minute", 60.0),
        ("Please try again later", None),
        ("Please try again in a moment", None),
        ("try again in 5 apples", None),
        ("try again in 5", None),
        ("We take 5s.", None),
    ],
)
def test_a_message_may_contain_a_wait(message, seconds):
    found = error_of({"error": {"message": message}}).wait
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_a_retry_delay_overrides_the_message():
    error = {"message": "retry in 53.01s", "details": [{"x": 1}, {"retryDelay": "53s"}]}
    assert error_of({"error": error}).wait == 53.0
    error["details"] = [{"retryDelay": 5}, "x", None]
    assert error_of({"error": error}).wait == 53.01


@table_test(
    ("text", "passes"),
    [
        ("rate_limit_exceeded", True),
        ("invalid_request_error", True),
        ("api_error", True),
        ("ResponsibleAIPolicyViolation", True),
        ("http:429.x-y", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("", False),
        ("two words", False),
        ("line\n", False),
        ("caf\u00e9", False),
        ("sk-canary", False),
        ("gsk_canary", False),
        ("hs-abcdef", False),
        ("AIzaSyCanary", False),
        ("1234567", True),
        ("a1b2c3d4e5f6g7h8", False),
        (429, False),
        (None, False),
    ],
)
def test_an_identifier_is_neither_a_sentence_nor_a_key(text, passes):
    assert identifier(text) == (text if passes else None)


@given(st.binary(), st.booleans())
def test_no_body_raises(body, is_error):
    parse_error(body, is_error=is_error)
