"""The reason why rows failed, in the provider's words, without secrets or request text."""

import json

from table_test import table_test

from stormbreak.batch.running.failure_reasons import KINDS, LONGEST, FailureReasons, message_in
from stormbreak.types import Outcome, Verdict

ASKED = json.dumps(
    {
        "model": "storm-1",
        "messages": [{"role": "user", "content": "tell me of the quick brown fox"}],
        "max_tokens": 5,
    }
).encode()


def shown_for(message):
    return message_in(json.dumps({"error": {"message": message}}).encode(), ASKED)


@table_test(
    "body",
    [
        {"error": {"message": "No credit."}},
        {"error": "No credit."},
        {"message": "No credit."},
        {"detail": "No credit."},
        {"detail": [{"msg": "No credit.", "loc": ["body"]}]},
        [{"error": {"message": "No credit."}}],
        {"errors": [{"message": "No credit."}]},
    ],
)
def test_the_message_is_found_in_the_error_format_of_each_api(body):
    assert message_in(json.dumps(body).encode(), ASKED) == "No credit."


@table_test("body", [b"", b"<html>", b"null", b"[]", b'{"error": {}}', b"[" * 9999])
def test_a_body_without_a_message_has_none(body):
    assert message_in(body, ASKED) == ""


@table_test(
    ("message", "shown"),
    [
        ("The model `storm-1` does not exist", "The model `storm-1` does not exist"),
        ("Invalid 'max_tokens': 'abc'", "Invalid 'max_tokens': 'abc'"),
        ("Wrong: 'quick brown'", "Wrong: '[...]'"),
        ("I read of the quick brown fox here", "I read [...] here"),
        ("Bad key sk-abcdefgh12345678.", "Bad key (what looks like a key)."),
        ("Incorrect API key provided: sk-proj-****wxyz.", "Incorrect API key provided: [...]"),
        ("no no no", "no no no"),
        ("two\n lines \x1b[31m", "two lines \\x1b[31m"),
    ],
)
def test_keys_and_parts_of_the_request_are_redacted(message, shown):
    assert shown_for(message) == shown


def test_a_long_message_is_cut():
    assert len(shown_for("word " * 1000)) == LONGEST


def test_the_most_frequent_reason_has_its_message():
    reasons = FailureReasons()
    assert reasons.most_frequent() is None
    for rows, status in ((1, 400), (3, 422)):
        for _ in range(rows):
            reasons.add(Outcome(Verdict.INVALID, status=status), b'{"error": "no"}', ASKED)
    reasons.add(Outcome(Verdict.AUTH, status=401, code="bad_key"), b"", ASKED)
    most = reasons.most_frequent()
    assert (most.rows, most.status, most.message, str(most)) == (3, 422, "no", "422: no")
    assert str(reasons.most_frequent(Verdict.AUTH)) == "401 bad_key"
    assert reasons.most_frequent(Verdict.BILLING) is None


def test_a_reason_has_the_end_of_the_longest_wait():
    reasons, others = FailureReasons(), FailureReasons()
    throttled = Outcome(Verdict.THROTTLED, status=429)
    for each, retry_at in ((reasons, 300.0), (reasons, 200.0), (others, 400.0), (others, None)):
        each.add(throttled, b"", ASKED, retry_at=retry_at)
    assert reasons.most_frequent().retry_at == 300.0
    reasons.merge(others)
    assert (reasons.most_frequent().retry_at, reasons.most_frequent().rows) == (400.0, 4)


def test_the_number_of_reasons_is_bounded():
    reasons = FailureReasons()
    for number in range(2 * KINDS):
        reasons.add(Outcome(Verdict.INVALID, status=400, code=str(number)), b"", ASKED)
    assert len(reasons._counted) == KINDS
