from asyncio import CancelledError
from types import SimpleNamespace

from stage import TARGET
from table_test import table_test

from stormbreak.drivers.judge import Judge, outcome_of
from stormbreak.errors import RejectedError, ThrottledError, error_for
from stormbreak.types import TREATMENTS, CallResult, Outcome, Rejection, Tally, Verdict


class StatusError(Exception):
    """An exception as of an SDK: each SDK has its own attribute for the status."""

    def __init__(self, **places):
        super().__init__()
        self.__dict__.update(places)


def answer(status, **headers):
    return SimpleNamespace(status_code=status, headers=headers)


def tally_of(outcome):
    return TREATMENTS[outcome.verdict].tally


@table_test(
    ("error", "verdict", "retry_after"),
    [
        (StatusError(status_code=429), Verdict.THROTTLED, None),
        (StatusError(status=401), Verdict.AUTH, None),
        (StatusError(response=answer(503)), Verdict.OVERLOADED, None),
        (StatusError(response=answer(500, **{"Retry-After": "7"})), Verdict.SERVER_ERROR, 7.0),
        (StatusError(status=529, headers={"retry-after-ms": 1500}), Verdict.OVERLOADED, 1.5),
    ],
)
def test_the_status_of_an_exception_decides_its_verdict(error, verdict, retry_after):
    outcome = Judge().of_error(error)

    assert (outcome.verdict, outcome.retry_after) == (verdict, retry_after)


def test_our_own_exceptions_carry_their_outcome():
    throttled = Outcome(Verdict.THROTTLED, status=429, retry_after=3.0)
    error = error_for(TARGET, CallResult(throttled))
    assert isinstance(error, ThrottledError)
    assert Judge().of_error(error) == throttled
    rejected = Outcome(Verdict.REJECTED, rejection=Rejection("queue", "full"))
    error = error_for(TARGET, CallResult(rejected))
    assert isinstance(error, RejectedError)
    assert tally_of(Judge().of_error(error)) is Tally.NOTHING


@table_test(
    "error",
    [
        ValueError(),
        StatusError(),
        StatusError(status="down"),
        StatusError(status=200),
        StatusError(status=None, response=None),
    ],
)
def test_an_exception_without_a_status_is_a_failure(error):
    assert outcome_of(error) is None
    assert tally_of(Judge().of_error(error)) is Tally.FAILURE


@table_test("error", [CancelledError(), KeyboardInterrupt(), SystemExit()])
def test_cancels_interrupts_and_exits_are_no_failures(error):
    judge = Judge(failures=(BaseException,))

    assert judge.of_error(error).verdict is Verdict.CANCELLED


def test_failures_and_ignored_choose_the_exceptions_that_count():
    judge = Judge(failures=(OSError,), ignored=(FileNotFoundError,))

    assert tally_of(judge.of_error(ConnectionError())) is Tally.FAILURE
    assert tally_of(judge.of_error(FileNotFoundError())) is Tally.NOTHING
    assert tally_of(judge.of_error(ValueError())) is Tally.NOTHING


def test_without_outcome_of_no_status_is_read():
    judge = Judge(outcome_of=None)

    assert tally_of(judge.of_error(StatusError(status_code=429))) is Tally.FAILURE


def test_failed_result_chooses_the_results_that_count():
    judge = Judge(failed_result=lambda text: not text)

    assert tally_of(judge.of_result("")) is Tally.FAILURE
    assert tally_of(judge.of_result("hello")) is Tally.SUCCESS
    assert tally_of(Judge().of_result("")) is Tally.SUCCESS
