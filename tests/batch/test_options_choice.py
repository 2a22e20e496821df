from table_test import table_test

from stormbreak.batch.row_selection import UNFINISHED_ROWS, failed_rows
from stormbreak.types import Verdict

PASSING = {
    Verdict.THROTTLED,
    Verdict.OVERLOADED,
    Verdict.SERVER_ERROR,
    Verdict.BROKEN,
    Verdict.RESET,
    Verdict.TIMEOUT,
    Verdict.CONNECT_FAILED,
    Verdict.REJECTED,
    Verdict.CANCELLED,
}


@table_test("verdict", [*Verdict])
def test_a_run_that_goes_on_takes_what_passes(verdict):
    assert UNFINISHED_ROWS.takes(verdict.value) is (verdict in PASSING)


def test_a_verdict_that_nobody_knows_may_pass():
    assert UNFINISHED_ROWS.takes("of another version")
    assert UNFINISHED_ROWS.takes(None)
    assert UNFINISHED_ROWS.fresh


@table_test("verdict", [*(each.value for each in Verdict), "of another version", None])
def test_a_retry_takes_all_that_failed_and_nothing_fresh(verdict):
    assert failed_rows().takes(verdict)
    assert not failed_rows().fresh


def test_a_retry_by_verdict():
    choice = failed_rows(iter([Verdict.AUTH, Verdict.TIMEOUT]))
    assert {each for each in Verdict if choice.takes(each.value)} == {Verdict.AUTH, Verdict.TIMEOUT}
    assert not choice.takes("of another version")
    assert not choice.takes(None)
