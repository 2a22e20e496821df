"""Recorded and documented responses of real providers get the expected verdicts."""

import json
from pathlib import Path

from table_test import table_test

from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.llm.response_verdict import read_answer
from stormbreak.llm.retry_after import retry_after
from stormbreak.types import TREATMENTS, Tally, Verdict

DATA = Path(__file__).parent / "data"
NOW = 1795557600.0  # 2026-11-24T22:00:00Z
ERRORS = json.loads((DATA / "provider_errors.json").read_text())
HEADERS = json.loads((DATA / "ratelimit_headers.json").read_text())

VERDICTS = {
    "rate_limited": {Verdict.THROTTLED},
    "request_too_large_for_limit": {Verdict.TOO_LONG},
    "quota_exhausted": {Verdict.BILLING},
    "overloaded": {Verdict.OVERLOADED, Verdict.THROTTLED},  # the breaker column decides
    "context_length": {Verdict.TOO_LONG},
    "auth": {Verdict.AUTH},
    "permission": {Verdict.AUTH},
    "not_found": {Verdict.NOT_FOUND},
    "timeout": {
        Verdict.TIMEOUT,
        Verdict.SERVER_ERROR,
    },  # the 504 of a gateway is a server error here
    "invalid_request": {Verdict.INVALID},
    "server_error": {
        Verdict.SERVER_ERROR,
        Verdict.INVALID,
        Verdict.UNREPEATABLE,
    },  # the retry column decides
    "cancelled": {Verdict.INVALID},
}


def answer_of(case):
    body = case["body"]
    raw = (
        body.encode()
        if isinstance(body, str)
        else b""
        if body is None
        else json.dumps(body).encode()
    )
    return HttpResponse(case["status"], case["headers"], raw, NOW)


@table_test("case", ERRORS)
def test_each_recorded_error_has_its_verdict(case):
    reading = read_answer(answer_of(case), Shape.CHAT)
    expected = case["expect"]
    assert reading.verdict in VERDICTS[expected["category"]]
    assert expected["wait_s"] == reading.retry_after
    treatment = TREATMENTS[reading.verdict]
    # A long wait is still a throttle: the policy decides whether to wait that long.
    assert treatment.retry == (expected["retry"] or expected["wait_source"] == "header")
    assert (treatment.tally is Tally.FAILURE) == (expected["breaker"] == "failure")


@table_test("case", HEADERS)
def test_each_recorded_header_has_its_wait(case):
    headers = {name.lower(): value for name, value in case["headers"].items()}
    wait = retry_after(headers, status=case["status"], received_at=NOW)
    assert case["expect"]["retry_after_s"] == wait
