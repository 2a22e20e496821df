"""Every documented response of an LLM API gets the verdict of docs/verdicts.md; the rows are in tests/support/facts.py."""

import json

from facts import FACTS, anthropic, aws
from table_test import table_test

from stormbreak.llm.endpoints import Shape
from stormbreak.llm.error_tables import is_known
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.llm.response_verdict import read_answer
from stormbreak.types import TREATMENTS, Tally, Verdict

NOW = 1795557600.0  # 2026-11-24T22:00:00Z


def body_of(named):
    """A name becomes an error as of most providers; a bare error object is wrapped in `error`."""
    if named is None:
        return b""
    if isinstance(named, bytes):
        return named
    if isinstance(named, str):
        named = {"error": {"message": "x", "code": named, "type": named}}
    flat = isinstance(named, list) or named.keys() & {"error", "object", "__type"}
    bare = not flat and named.keys() == {"message"} and named["message"] == "x"
    return json.dumps(named if flat or bare else {"error": named}).encode()


def name_of(row):
    provider, status, named, verdict, *_ = row
    return (
        f"{provider}-{status}-{named if isinstance(named, str) else type(named).__name__}-{verdict}"
    )


@table_test("row", FACTS)
def test_each_documented_response_has_its_verdict_and_wait(row):
    _, status, named, verdict, wait, headers = row
    reading = read_answer(HttpResponse(status, headers, body_of(named), NOW), Shape.CHAT)
    assert (reading.verdict, reading.retry_after) == (verdict, wait)


BREAKER = {
    Verdict.SERVER_ERROR: Tally.FAILURE,
    Verdict.OVERLOADED: Tally.FAILURE,
    Verdict.TIMEOUT: Tally.FAILURE,
    Verdict.BROKEN: Tally.FAILURE,
    Verdict.UNREPEATABLE: Tally.FAILURE,
}


@table_test("verdict", sorted({row[3] for row in FACTS}))
def test_each_verdict_of_the_facts_has_its_tally_and_retry(verdict):
    treatment = TREATMENTS[verdict]
    assert treatment.tally is BREAKER.get(verdict, Tally.NOTHING)
    assert treatment.retry == (
        verdict in BREAKER.keys() - {Verdict.UNREPEATABLE} | {Verdict.THROTTLED}
    )


def test_an_unknown_outcome_may_have_been_billed():
    body = json.dumps(anthropic("api_error", "change_outcome_unknown")).encode()
    reading = read_answer(HttpResponse(503, {}, body, NOW), Shape.JSON)
    assert (reading.code, reading.maybe_processed) == ("change_outcome_unknown", True)


def test_the_error_type_header_of_aws_is_the_code():
    headers = aws("ThrottlingException:http://internal.amazon.com/coral/com.amazon.bedrock/")
    reading = read_answer(HttpResponse(429, headers, b"{}", NOW), Shape.JSON)
    assert reading.code == "ThrottlingException"
    assert is_known(reading.code)
    assert is_known("ModelStreamErrorException")
