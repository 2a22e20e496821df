"""What a user's rules make of exceptions and results."""

from math import inf, nan

import pytest
from table_test import table_test

from stormbreak import ConfigurationError, Judge, Verdict
from stormbreak.drivers.judge import FAILED, UNCOUNTED
from stormbreak.errors import CircuitOpenError, broken_stream, error_for
from stormbreak.functions.outcome_rules import Rules
from stormbreak.types import CallResult, Outcome, Rejection, Target


class RefusedError(ConnectionError):
    """Says when to come back."""

    after = 3.0


class StatusError(Exception):
    """As SDKs raise them."""

    def __init__(self, status_code):
        self.status_code = status_code


def said(on, error, **more):
    outcome = Rules(on, **more).of_error(error)
    assert outcome.error is error
    return outcome._replace(error=None)


@table_test(
    "on",
    [
        ConnectionError,
        (ValueError, ConnectionError),
        lambda error: isinstance(error, OSError),
        (ValueError, lambda error: "x" in str(error)),
        {OSError: False, ConnectionError: True},
        {OSError: lambda error: "x" in str(error)},
        Judge(failures=(OSError,)),
    ],
)
def test_forms_of_the_same_rule(on):
    assert said(on, ConnectionError("x")) == FAILED
    assert said(on, KeyError("y")) == UNCOUNTED


def test_no_rule_counts_failures_and_retries_none():
    assert said(None, ValueError()) == FAILED._replace(forbidden=True)
    assert said(None, StatusError(429)).verdict is Verdict.THROTTLED


def test_what_an_exception_carries_decides_unless_a_verdict_is_said():
    assert said(StatusError, StatusError(429)) == Outcome(Verdict.THROTTLED, status=429)
    assert said(StatusError, StatusError(401)).verdict is Verdict.AUTH
    assert said({StatusError: Verdict.OVERLOADED}, StatusError(401)) == Outcome(
        Verdict.OVERLOADED, status=401
    )
    told = Outcome(Verdict.THROTTLED, retry_after=2.0)
    assert said({StatusError: told}, StatusError(401)) == told


def test_the_nearest_class_speaks():
    on = {Exception: Verdict.INVALID, OSError: Verdict.RESET, RefusedError: Verdict.THROTTLED}
    kinds = {ValueError: "invalid", ConnectionError: "reset", RefusedError: "throttled"}
    assert kinds == {kind: said(on, kind()).verdict for kind in kinds}


@table_test(("named", "wait"), [(2.0, 2.0), (-1.0, 0.0), (None, None), (nan, None), (inf, None)])
def test_a_named_time_is_heeded_if_it_is_one(named, wait):
    assert said(OSError, RefusedError(), retry_after=lambda _: named).retry_after == wait


def test_nobody_is_asked_for_the_time_of_what_is_not_retried():
    assert said(OSError, ValueError(), retry_after=lambda error: error.after) == UNCOUNTED


def test_results_are_judged():
    rules = Rules(None, {1: True, 2: Verdict.THROTTLED}.get)
    assert [rules.of_result(value).verdict for value in (0, 1, 2)] == [
        "ok", "server_error", "throttled",
    ]  # fmt: skip
    assert Rules(Judge(failed_result=bool)).of_result(1) == FAILED


@table_test("verdict", [Verdict.OK, Verdict.REJECTED, Verdict.CANCELLED])
def test_a_rule_may_say_only_what_a_failure_can_be(verdict):
    with pytest.raises(ConfigurationError, match=f"got {verdict}$"):
        said(lambda _: verdict, ValueError())


def test_a_rejection_elsewhere_is_none_of_this_call():
    ended = CallResult(Outcome(Verdict.REJECTED, rejection=Rejection("breaker", "open")))
    error = error_for(Target("other", ""), ended)
    assert isinstance(error, CircuitOpenError)
    assert said(Exception, error) == Outcome(Verdict.REJECTED)


def test_what_was_committed_elsewhere_is_not_committed_here():
    ended = CallResult(Outcome(Verdict.BROKEN, committed=True))
    error = broken_stream(Target("other", ""), ended, size=3, received=b"one")
    assert said(Exception, error) == Outcome(Verdict.BROKEN)
