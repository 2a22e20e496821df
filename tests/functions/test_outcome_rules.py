"""Rules of the user turn exceptions and results into verdicts."""

from math import inf, nan

import pytest
from table_test import table_test

from stormbreak import ConfigurationError, Judge, Verdict
from stormbreak.drivers.judge import FAILED, UNCOUNTED
from stormbreak.errors import CircuitOpenError, broken_stream, error_for
from stormbreak.functions.outcome_rules import Rules
from stormbreak.types import CallResult, Outcome, Rejection, Target


class RefusedError(ConnectionError):
    """Names the time to retry."""

    after = 3.0


class StatusError(Exception):
    """As SDKs raise them."""

    def __init__(self, status_code):
        self.status_code = status_code


def outcome_of(on, error, **more):
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
def test_a_rule_may_be_a_class_tuple_function_mapping_or_judge(on):
    assert outcome_of(on, ConnectionError("x")) == FAILED
    assert outcome_of(on, KeyError("y")) == UNCOUNTED


def test_failures_without_a_rule_count_and_are_not_retried():
    assert outcome_of(None, ValueError()) == FAILED._replace(forbidden=True)
    assert outcome_of(None, StatusError(429)).verdict is Verdict.THROTTLED


def test_the_status_of_an_exception_decides_unless_the_rule_names_a_verdict():
    assert outcome_of(StatusError, StatusError(429)) == Outcome(Verdict.THROTTLED, status=429)
    assert outcome_of(StatusError, StatusError(401)).verdict is Verdict.AUTH
    assert outcome_of({StatusError: Verdict.OVERLOADED}, StatusError(401)) == Outcome(
        Verdict.OVERLOADED, status=401
    )
    outcome = Outcome(Verdict.THROTTLED, retry_after=2.0)
    assert outcome_of({StatusError: outcome}, StatusError(401)) == outcome


def test_the_nearest_class_in_a_mapping_decides():
    on = {Exception: Verdict.INVALID, OSError: Verdict.RESET, RefusedError: Verdict.THROTTLED}
    kinds = {ValueError: "invalid", ConnectionError: "reset", RefusedError: "throttled"}
    assert kinds == {kind: outcome_of(on, kind()).verdict for kind in kinds}


@table_test(("named", "wait"), [(2.0, 2.0), (-1.0, 0.0), (None, None), (nan, None), (inf, None)])
def test_retry_after_is_respected_if_it_is_a_finite_number(named, wait):
    assert outcome_of(OSError, RefusedError(), retry_after=lambda _: named).retry_after == wait


def test_retry_after_is_not_called_for_an_error_that_is_not_retried():
    assert outcome_of(OSError, ValueError(), retry_after=lambda error: error.after) == UNCOUNTED


def test_a_rule_for_results_gives_their_verdict():
    rules = Rules(None, {1: True, 2: Verdict.THROTTLED}.get)
    assert [rules.of_result(value).verdict for value in (0, 1, 2)] == [
        "ok", "server_error", "throttled",
    ]  # fmt: skip
    assert Rules(Judge(failed_result=bool)).of_result(1) == FAILED


@table_test("verdict", [Verdict.OK, Verdict.REJECTED, Verdict.CANCELLED])
def test_a_rule_may_return_only_verdicts_of_failures(verdict):
    with pytest.raises(ConfigurationError, match=f"got {verdict}$"):
        outcome_of(lambda _: verdict, ValueError())


def test_a_rejection_by_another_call_keeps_no_rejection_details():
    ended = CallResult(Outcome(Verdict.REJECTED, rejection=Rejection("breaker", "open")))
    error = error_for(Target("other", ""), ended)
    assert isinstance(error, CircuitOpenError)
    assert outcome_of(Exception, error) == Outcome(Verdict.REJECTED)


def test_a_stream_broken_in_another_call_is_not_committed_here():
    ended = CallResult(Outcome(Verdict.BROKEN, committed=True))
    error = broken_stream(Target("other", ""), ended, size=3, received=b"one")
    assert outcome_of(Exception, error) == Outcome(Verdict.BROKEN)
