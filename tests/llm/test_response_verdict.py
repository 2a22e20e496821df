import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from table_test import table_test

from stormbreak.llm.endpoints import Shape
from stormbreak.llm.error_tables import BROAD, NAMED, STATUSES
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.llm.response_verdict import read_answer, verdict_of_status
from stormbreak.types import TREATMENTS, Verdict

NOW = 1795557600.0
CANARY = "sk-canary-Xq7-do not print me"


def read(status, error=None, *, headers=None, shape=Shape.CHAT, **fields):
    error = {"message": "x", **fields} if error is None else error
    body = json.dumps({"error": error}).encode()
    return read_answer(HttpResponse(status, headers or {}, body, NOW), shape)


def bare(status, body=b"", headers=None):
    return read_answer(HttpResponse(status, headers or {}, body, NOW), Shape.CHAT)


@table_test(
    ("statuses", "verdict"),
    [
        ((400, 406, 411, 413, 414, 415, 422, 424, 431, 451, 499, 501), Verdict.INVALID),
        ((401, 403, 407), Verdict.AUTH),
        ((402,), Verdict.BILLING),
        ((404, 405, 410), Verdict.NOT_FOUND),
        ((408,), Verdict.TIMEOUT),
        ((409, 429), Verdict.THROTTLED),
        ((498, 503, 529), Verdict.OVERLOADED),
        ((425, 500, 502, 504, 520, 521, 522, 523, 524, 530), Verdict.SERVER_ERROR),
        ((300, 301, 302, 304, 307, 308), Verdict.REDIRECTED),
        ((418, 444, 460), Verdict.INVALID),  # unknown 4xx: final
        ((505, 561, 599), Verdict.SERVER_ERROR),  # unknown 5xx
        ((-1, 0, 100, 101, 600, 999), Verdict.BROKEN),
    ],
)
def test_each_status_has_its_verdict(statuses, verdict):
    for status in statuses:
        assert verdict_of_status(status) is verdict
        assert bare(status).verdict is verdict
        assert bare(status, b"<html>edge</html>").verdict is verdict
        assert bare(status, b"\xff{]").verdict is verdict


@table_test(
    ("status", "fields", "verdict"),
    [
        # OpenAI and HolySheep
        (429, {"code": "rate_limit_exceeded", "type": "requests"}, Verdict.THROTTLED),
        (429, {"code": "slow_down", "type": "rate_limit_error"}, Verdict.THROTTLED),
        (503, {"code": "slow_down", "type": "rate_limit_error"}, Verdict.THROTTLED),
        (429, {"code": "insufficient_quota", "type": "insufficient_quota"}, Verdict.BILLING),
        (429, {"code": "credit_balance_exhausted", "type": "insufficient_quota"}, Verdict.BILLING),
        (429, {"code": "organization_spend_limit_exceeded"}, Verdict.BILLING),
        (429, {"code": "project_spend_limit_exceeded"}, Verdict.BILLING),
        (429, {"code": "organization_usage_limit_exceeded"}, Verdict.BILLING),
        (429, {"code": "something_new", "type": "insufficient_quota"}, Verdict.BILLING),
        (403, {"code": "insufficient_user_quota"}, Verdict.BILLING),
        (
            503,
            {"code": "server_is_overloaded", "type": "service_unavailable_error"},
            Verdict.OVERLOADED,
        ),
        (500, {"code": "server_is_overloaded"}, Verdict.OVERLOADED),
        (500, {"type": "server_error"}, Verdict.SERVER_ERROR),
        (400, {"code": "context_length_exceeded"}, Verdict.TOO_LONG),
        (400, {"message": "This model's maximum context length is 8192 tokens."}, Verdict.TOO_LONG),
        (400, {"message": "prompt is too long: 215000 tokens > 200000 maximum"}, Verdict.TOO_LONG),
        (400, {"type": "invalid_request_error"}, Verdict.INVALID),
        (400, {"code": "content_filter"}, Verdict.FILTERED),
        (400, {"code": "content_policy_violation"}, Verdict.FILTERED),
        (401, {"code": "invalid_api_key", "type": "invalid_request_error"}, Verdict.AUTH),
        (403, {"code": "unsupported_country_region_territory"}, Verdict.AUTH),
        (404, {"code": "model_not_found", "type": "invalid_request_error"}, Verdict.NOT_FOUND),
        # DeepSeek
        (402, {"message": "Insufficient Balance"}, Verdict.BILLING),
        (400, {"message": "Content Exists Risk"}, Verdict.FILTERED),
        (400, {"message": "Model Not Exist"}, Verdict.NOT_FOUND),
        # Groq
        (498, {"code": "capacity_exceeded"}, Verdict.OVERLOADED),
        (400, {"code": "model_decommissioned"}, Verdict.NOT_FOUND),
        (
            400,
            {"message": "Please reduce the length of the messages or completion."},
            Verdict.TOO_LONG,
        ),
        (413, {"code": "rate_limit_exceeded", "type": "tokens"}, Verdict.INVALID),
        # OpenRouter
        (402, {"code": 402}, Verdict.BILLING),
        (403, {"code": 403, "metadata": {"limit_source": "openrouter_key_limit"}}, Verdict.BILLING),
        (403, {"code": 403, "metadata": {"flagged_input": "..."}}, Verdict.FILTERED),
        (400, {"message": "x is not a valid model ID"}, Verdict.NOT_FOUND),
        (
            400,
            {
                "message": "Provider returned error",
                "metadata": {"raw": "maximum context length is"},
            },
            Verdict.TOO_LONG,
        ),
        # a code never makes a final answer retryable, nor a 429 ill health
        (400, {"code": "rate_limit_exceeded"}, Verdict.INVALID),
        (401, {"code": "server_is_overloaded"}, Verdict.AUTH),
        (429, {"code": "engine_overloaded"}, Verdict.THROTTLED),
        (301, {"code": "rate_limit_exceeded"}, Verdict.REDIRECTED),
        (301, {"code": "insufficient_quota"}, Verdict.REDIRECTED),
    ],
)
def test_each_status_and_code_have_their_verdict(status, fields, verdict):
    assert read(status, **fields).verdict is verdict


@table_test(
    ("message", "verdict"),
    [
        (
            "Request too large for m on TPM: Limit 30000, Requested 45000. Reduce it.",
            Verdict.TOO_LONG,
        ),
        ("Request too large for m: Limit 6000, Requested 6001, please reduce", Verdict.TOO_LONG),
        ("Request too large for m on TPM: Limit 30000, Requested 30000.", Verdict.THROTTLED),
        ("Rate limit reached: Limit 15000, Used 11972, Requested 45000.", Verdict.THROTTLED),
        ("the words maximum context length in a rate limit", Verdict.THROTTLED),
    ],
)
def test_a_request_above_the_limit_itself_is_too_long(message, verdict):
    reading = read(429, message=message, code="rate_limit_exceeded", headers={"retry-after": "2"})
    assert reading.verdict is verdict
    assert reading.retry_after == (2.0 if verdict is Verdict.THROTTLED else None)
    groq = read(413, message=message, code="rate_limit_exceeded")
    assert groq.verdict is not Verdict.THROTTLED


def test_a_full_in_flight_budget_of_openrouter_is_throttled():
    metadata = {"limit_source": "openrouter_in_flight_budget"}
    passing = read(402, code=402, metadata=metadata, headers={"retry-after": "4"})
    assert (passing.verdict, passing.retry_after) == (Verdict.THROTTLED, 4.0)
    assert read(402, code=402, metadata=metadata).verdict is Verdict.BILLING
    brief = read(402, code=402, metadata=metadata, headers={"retry-after-ms": "400"})
    assert (brief.verdict, brief.retry_after) == (Verdict.THROTTLED, 0.4)
    inside = read(200, code=402, metadata=metadata, headers={"retry-after": "4"})
    assert inside.verdict is Verdict.THROTTLED


@table_test(
    ("error", "verdict", "code"),
    [
        ({"code": 502, "message": "x"}, Verdict.SERVER_ERROR, "502"),
        ({"code": 429, "message": "x"}, Verdict.THROTTLED, "429"),
        ({"code": 401}, Verdict.AUTH, "401"),
        ({"code": "server_is_overloaded"}, Verdict.OVERLOADED, "server_is_overloaded"),
        ({"code": "insufficient_quota"}, Verdict.BILLING, "insufficient_quota"),
        ({"type": "invalid_request_error"}, Verdict.INVALID, "invalid_request_error"),
        (
            {"type": "invalid_request_error", "code": "rate_limit_exceeded"},
            Verdict.THROTTLED,
            "rate_limit_exceeded",
        ),
        ({"type": "authentication_error"}, Verdict.AUTH, "authentication_error"),
        ({"message": "maximum context length is 5"}, Verdict.TOO_LONG, None),
        ({"message": "who knows"}, Verdict.SERVER_ERROR, None),
        ("who knows", Verdict.SERVER_ERROR, None),
        ([1], Verdict.SERVER_ERROR, None),
        (True, Verdict.SERVER_ERROR, None),
    ],
)
@table_test("shape", Shape)
def test_an_error_inside_a_success_counts_as_what_it_names(error, verdict, code, shape):
    reading = read(200, error, shape=shape)
    assert (reading.verdict, reading.code) == (verdict, code)
    assert reading.detail == "an error in place of an answer"
    assert reading.maybe_processed


def test_only_retryable_verdicts_have_a_wait():
    headers = {"retry-after": "7"}
    assert read(429, headers=headers).retry_after == 7.0
    assert read(503, headers=headers).retry_after == 7.0
    assert read(400, headers=headers).retry_after is None
    assert read(429, code="insufficient_quota", headers=headers).retry_after is None
    assert read(429, message="Please try again in 1m3s.").retry_after == 63.0
    assert read(200, code=429, message="try again in 599ms").retry_after == pytest.approx(0.599)


@table_test(
    ("location", "detail"),
    [
        ("https://Login.Example.com:8443/v1?key=abc", "redirected to login.example.com"),
        ("//example.com", "redirected to example.com"),
        ("http://user:secret@example.com/", "redirected to example.com"),
        ("http://a@b@[::1]/", "redirected to [::1]"),
        ("/elsewhere/secret", "redirected without naming a host"),
        ("http://", "redirected without naming a host"),
        ("http://exa mple.com/", "redirected to exa"),
        ("javascript:alert(1)", "redirected without naming a host"),
        ("http://[::1", "redirected without naming a host"),
        ("", "redirected without naming a host"),
    ],
)
def test_a_redirect_names_the_host_only(location, detail):
    reading = bare(307, headers={"location": location})
    assert (reading.verdict, reading.detail) == (Verdict.REDIRECTED, detail)


def test_responses_that_may_have_been_billed_are_marked():
    marked = {status for status in range(300, 700) if bare(status).maybe_processed}
    untouched = {501, 505, 521, 522, 523, 525, 526, 529}
    assert {408, *range(500, 600)} - untouched == marked
    assert bare(200).maybe_processed


@table_test(
    ("error", "headers", "marked"),
    [
        ("server_is_overloaded", {}, False),
        ("slow_down", {}, False),
        (None, {"retry-after": "2"}, False),
        (None, {}, True),  # perhaps from a proxy that lost the server
        ("unknown_code", {}, True),
        ("change_outcome_unknown", {"retry-after": "2"}, True),
        ("insufficient_quota", {}, False),
    ],
)
def test_a_503_with_a_reason_was_not_processed(error, headers, marked):
    reading = read(503, code=error, headers=headers) if error else bare(503, headers=headers)
    assert marked == reading.maybe_processed


def test_an_html_body_is_named_in_the_detail():
    assert bare(502, b"\n <!doctype html>").detail == "html instead of json"
    assert bare(502, b"{}").detail is None


def test_the_request_id_is_an_identifier_or_none():
    assert bare(500, headers={"x-request-id": "req_1-a.b:c"}).request_id == "req_1-a.b:c"
    assert bare(500, headers={"request-id": "req_2"}).request_id == "req_2"
    assert bare(500, headers={"x-request-id": "two words"}).request_id is None
    assert bare(200, headers={"x-request-id": "req_3"}).request_id == "req_3"


def test_names_in_the_tables_are_lower_case_and_unique():
    assert all(name == name.lower() for name in [*NAMED, *BROAD])
    assert not NAMED.keys() & BROAD.keys()
    assert all(
        not TREATMENTS[verdict].retry
        for verdict in BROAD.values()
        if verdict is not Verdict.TIMEOUT
    )


STATUS = st.integers(-5, 1000) | st.sampled_from([200, 400, 402, 403, 429, 500, 503])
HEADERS = st.dictionaries(
    st.sampled_from(
        ["retry-after", "location", "x-request-id", "date", "x-ratelimit-reset", "content-type"]
    ),
    st.text(),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
KEYS = st.sampled_from(
    [
        "error",
        "message",
        "code",
        "type",
        "status",
        "details",
        "metadata",
        "limit_source",
        "choices",
        "message",
        "content",
        "finish_reason",
        "data",
        "embedding",
        "usage",
        "prompt_tokens",
        "object",
        "detail",
        "reason",
        "error_code",
        "retryDelay",
        "raw",
        "delta",
    ]
)
TREES = st.recursive(
    SCALARS | st.sampled_from([*NAMED, "stop", "error", "3s"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)
NEAR = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "message": st.just({"content": "x"}) | SCALARS,
                    "finish_reason": st.sampled_from(["stop", "length", "error", "", None, 5]),
                    "error": SCALARS,
                },
            ),
            max_size=2,
        ),
        "data": st.lists(st.dictionaries(st.just("embedding"), SCALARS | st.just([0.5]))),
        "error": SCALARS,
        "usage": TREES,
        "status": st.sampled_from(["completed", "incomplete", "failed", "queued", "x", None, 5]),
        "output": st.just([]) | SCALARS | st.lists(TREES, max_size=2),
        "incomplete_details": TREES,
        "content": st.just([]) | SCALARS | st.lists(TREES, max_size=2),
        "stop_reason": st.sampled_from(["end_turn", "", None, 5]),
    },
)
BODIES = st.binary() | (TREES | NEAR).map(lambda tree: json.dumps(tree).encode())


@given(STATUS, HEADERS, BODIES, st.sampled_from(Shape), st.floats())
@example(200, {}, b'{"x":' + b"[" * 100_000, Shape.JSON, 0.0)
@example(500, {}, b"[" * 100_000, Shape.JSON, 0.0)
def test_nothing_raises_and_only_complete_answers_are_ok(status, headers, body, shape, received_at):
    reading = read_answer(HttpResponse(status, headers, body, received_at), shape)
    if reading.verdict is not Verdict.OK:
        return
    assert 200 <= status <= 299
    if shape is Shape.RESOURCE:  # a file, a list, a failed job: see test_completeness.py
        return
    parsed = json.loads(body.decode())
    assert isinstance(parsed, dict)
    assert not parsed.get("error")
    if shape is Shape.CHAT:
        assert parsed["choices"]
        for choice in parsed["choices"]:
            assert isinstance(choice["message"], dict)
            assert choice["finish_reason"] not in {None, "", "error"}
    if shape is Shape.EMBEDDINGS:
        assert parsed["data"]
        assert all(item["embedding"] for item in parsed["data"])
    if shape is Shape.RESPONSES:
        assert parsed["status"] in {"completed", "incomplete"}
        assert isinstance(parsed["output"], list)
    if shape is Shape.MESSAGES:
        assert parsed["stop_reason"]
        assert isinstance(parsed["content"], list)


@given(
    STATUS,
    st.sampled_from(["message", "param", "code", "type", "status", "detail", "limit_source"]),
    st.sampled_from(["error", "flat", "metadata", "details", "list", "text"]),
)
def test_no_text_of_a_provider_gets_into_the_result(status, field, place):
    fields = {field: CANARY}
    body = {
        "error": {"error": fields},
        "flat": fields,
        "metadata": {"error": {"message": CANARY, "metadata": {**fields, "raw": CANARY}}},
        "details": {"error": {"details": [{"reason": CANARY, "error_code": CANARY, **fields}]}},
        "list": [{"error": fields}],
        "text": {"error": CANARY},
    }[place]
    reading = read_answer(HttpResponse(status, {}, json.dumps(body).encode(), NOW), Shape.CHAT)
    assert CANARY not in repr(reading)
    assert "canary" not in repr(reading).lower()


@table_test("status", sorted(STATUSES))
def test_a_final_4xx_stays_final_with_any_code(status):
    if TREATMENTS[STATUSES[status]].retry:
        return
    for name in NAMED:
        assert not TREATMENTS[read(status, code=name).verdict].retry


@table_test(
    ("status", "headers", "forbidden"),
    [
        (429, {"x-should-retry": "false"}, True),
        (429, {"x-should-retry": " FALSE "}, True),
        (409, {"x-should-retry": "false"}, True),
        (429, {"x-should-retry": "false", "retry-after": "7"}, False),  # the time counts
        (429, {"x-should-retry": "true"}, False),
        (429, {}, False),
        (400, {"x-should-retry": "false"}, False),  # final anyway
    ],
)
def test_x_should_retry_false_forbids_the_retry_of_a_429(status, headers, forbidden):
    reading = bare(status, headers=headers)
    assert forbidden == reading.forbidden
    assert verdict_of_status(status) is reading.verdict
