import pytest
from metering import price_of

from stormbreak.batch.store.output_files import open_store
from stormbreak.batch.store.output_line import Failure, Response
from stormbreak.batch.store.reader import read_status
from stormbreak.errors import ConfigurationError
from stormbreak.types import Verdict

OK = Response(status_code=200, body=b"{}")


def failure(verdict):
    return Failure(code="x", message="y", verdict=verdict, attempts=1)


def counts(files):
    status = read_status(files.output, price_of)
    return status.total, status.done, dict(status.failed), status.left


def test_status_counts_rows_during_a_run_and_after_it(files, make_rows, tree):
    rows = make_rows(*"abcdef")
    with open_store(files.output, rows, recorded={"model": "m"}) as store:
        assert counts(files) == (6, 0, {}, 6)
        store.journal.succeed(rows.row_at(0), OK)
        assert counts(files) == (6, 1, {}, 5)
        store.journal.fail(rows.row_at(1), failure(Verdict.TIMEOUT))
        store.journal.fail(rows.row_at(2), failure(Verdict.TIMEOUT))
        store.journal.fail(rows.row_at(2), failure(Verdict.INVALID))
        store.journal.fail(rows.row_at(3), failure(Verdict.INVALID))
        assert counts(files) == (6, 1, {"invalid": 2, "timeout": 1}, 2)
        store.journal.succeed(rows.row_at(1), OK)
        before = tree()
        assert counts(files) == (6, 2, {"invalid": 2}, 2)
        assert read_status(files.output, price_of).active
        assert tree() == before
        store.journal.compact_failed()
        assert counts(files) == (6, 2, {"invalid": 2}, 2)
    status = read_status(files.output, price_of)
    assert not status.active
    assert (status.input, status.output) == (str(rows.path), str(files.output))
    assert status.started_at > 1e9


def test_status_ignores_an_incomplete_last_line(files, make_rows):
    rows = make_rows(*"abc")
    with open_store(files.output, rows, recorded={}) as store:
        store.journal.succeed(rows.row_at(0), OK)
        store.journal.fail(rows.row_at(1), failure(Verdict.INVALID))
    for path in (files.output, files.failed):
        with path.open("ab") as file:
            file.write(b'{"id":"batch_req_')
    assert counts(files) == (3, 1, {"invalid": 1}, 1)


def test_status_of_a_file_that_is_no_batch_output_is_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match=r"x\.jsonl is not the output of a batch run"):
        read_status(tmp_path / "x.jsonl", price_of)
