"""The journal of a run that retries rows of earlier runs."""

import json
from contextlib import closing

import pytest
from journals import OK, Ids, failure, ids_in, lines

from stormbreak.batch.run_options import UNFINISHED_ROWS, failed_rows
from stormbreak.batch.store.output_line import Response
from stormbreak.batch.store.row_journal import RowJournal
from stormbreak.core.row_schedule import PROBE_ROWS
from stormbreak.types import Verdict


@pytest.fixture
def ids():
    return Ids("abcdef")


@pytest.fixture
def begun(files, ids):
    """One row is answered, three have failed, two are left."""
    with closing(RowJournal(files, ids)) as journal:
        journal.succeed(ids.row(0), OK)
        journal.fail(ids.row(1), failure(Verdict.TIMEOUT, attempts=20))
        journal.fail(ids.row(2), failure(Verdict.AUTH))
        journal.fail(ids.row(3), failure(Verdict.INVALID))
    return files


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (UNFINISHED_ROWS, [1, 4, 5]),
        (failed_rows(), [1, 2, 3]),
        (failed_rows([Verdict.AUTH]), [2]),
        (failed_rows([Verdict.AUTH, Verdict.TIMEOUT]), [1, 2]),
        (failed_rows([Verdict.FILTERED]), []),
    ],
)
def test_the_choice_of_rows_selects_by_verdict(begun, ids, choice, sent):
    with closing(RowJournal(begun, ids, choice)) as journal:
        assert sorted(journal.left()) == sent
        again = len(set(sent) & {1, 2, 3})
        assert (journal.retried, journal.again, journal.failed, journal.done) == (
            again,
            again,
            3,
            1,
        )


def test_the_last_failure_of_a_row_decides_its_verdict(begun, ids):
    with closing(RowJournal(begun, ids)) as journal:
        journal.fail(ids.row(1), failure(Verdict.AUTH))
    with closing(RowJournal(begun, ids, failed_rows([Verdict.TIMEOUT]))) as journal:
        assert list(journal.left()) == []


def test_retried_rows_count_as_recovered_or_failed_after_a_flush(begun, ids):
    with closing(RowJournal(begun, ids, failed_rows())) as journal:
        journal.succeed(ids.row(1), OK)
        journal.fail(ids.row(2), failure(Verdict.AUTH))
        assert (journal.again, journal.recovered, journal.failed, journal.done) == (3, 0, 3, 1)
        journal.flush()
        assert (journal.again, journal.recovered, journal.failed, journal.done) == (1, 1, 2, 2)
        assert journal.retried == 3


def test_left_yields_a_retried_row_once(begun, ids):
    with closing(RowJournal(begun, ids, failed_rows())) as journal:
        left = journal.left()
        first = next(left)
        journal.fail(ids.row(first), failure())
        assert {first, *left} == {1, 2, 3}


def test_the_first_rows_of_a_retry_are_a_random_sample(files):
    ids = Ids(f"id {number}" for number in range(1000))
    with closing(RowJournal(files, ids)) as journal:
        for index in range(1000):
            journal.fail(ids.row(index), failure(Verdict.AUTH))
    with closing(RowJournal(files, ids, failed_rows())) as journal:
        rows = [*journal.left()]
    assert sorted(rows) == [*range(1000)]
    assert rows[PROBE_ROWS:] == sorted(rows[PROBE_ROWS:])
    assert (
        max(rows[:PROBE_ROWS]) > 500 > min(rows[:PROBE_ROWS])
    )  # each fails by chance once in a million runs


def test_compaction_keeps_the_failures_of_rows_that_were_not_sent(begun, ids):
    before = lines(begun.failed)
    with closing(RowJournal(begun, ids, failed_rows([Verdict.AUTH, Verdict.INVALID]))) as journal:
        journal.succeed(ids.row(3), OK)
        journal.compact_failed()
    assert lines(begun.failed) == before[:2]
    assert ids_in(begun.output) == ["a", "d"]


def test_compaction_sums_attempts_and_keeps_the_last_failure(begun, ids):
    body = b'{"n": 1.50, "u":"\\u00e9"}'
    with closing(RowJournal(begun, ids, failed_rows())) as journal:
        journal.fail(
            ids.row(1), failure(Verdict.AUTH, attempts=3), Response(status_code=401, body=body)
        )
        assert [line["error"]["attempts"] for line in lines(begun.failed)] == [20, 1, 1, 3]
        journal.compact_failed()
    assert body in begun.failed.read_bytes()
    last = next(line for line in lines(begun.failed) if line["custom_id"] == "b")
    assert (last["error"]["attempts"], last["error"]["verdict"]) == (23, "auth")
    assert last["response"]["body"] == json.loads(body)
    before = begun.failed.read_bytes()
    with closing(RowJournal(begun, ids, failed_rows())) as journal:
        journal.compact_failed()
    assert before == begun.failed.read_bytes()
