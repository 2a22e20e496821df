import json
import os
import signal
import stat
from contextlib import ExitStack

import pytest
from forking import exit_code_of

from stormbreak.batch.input.spool import spooled
from stormbreak.batch.store.lock import held, locked
from stormbreak.batch.store.output_files import open_store
from stormbreak.batch.store.output_line import Failure, Response
from stormbreak.errors import ConfigurationError
from stormbreak.types import Verdict

OK = Response(status_code=200, body=b"{}")
OPTIONS = {"model": "m"}
FAILED = Failure(code="x", message="x", verdict=Verdict.TIMEOUT, attempts=1)


def test_a_store_locks_its_files_and_the_next_run_resumes(files, make_rows):
    rows = make_rows("a", "b", "c")
    with open_store(files.output, rows, recorded=OPTIONS) as store:
        assert held(store.files)
        assert store.files.run.exists()
        store.journal.succeed(rows.row_at(1), OK)
    assert not held(files)
    with open_store(files.output, rows, recorded=OPTIONS | {"rpm": 5}) as store:
        assert store.changed == ("rpm",)
        assert store.journal.done == 1
        assert [rows.row_at(index).custom_id for index in store.journal.left()] == ["a", "c"]


def test_a_rejected_output_is_not_touched(files, make_rows, tree):
    rows = make_rows("a")
    files.output.write_text("precious")
    before = tree()
    with pytest.raises(ConfigurationError), open_store(files.output, rows, recorded=OPTIONS):
        pytest.fail("overwrote a foreign file")
    assert tree() == before


def test_a_broken_output_leaves_the_run_file_unchanged(files, make_rows, tree):
    rows = make_rows("a")
    with open_store(files.output, rows, recorded=OPTIONS):
        pass
    files.output.write_bytes(b"broken\n" * 2)
    before = tree()
    again = open_store(files.output, rows, recorded=OPTIONS | {"rpm": 5})
    with pytest.raises(ConfigurationError, match=r"out\.jsonl:1: not a line of batch"), again:
        pytest.fail("overwrote a broken file")
    assert tree() == before
    assert not held(files)


def test_a_second_run_on_one_output_is_rejected(files, make_rows):
    rows = make_rows("a")
    first, second = (open_store(files.output, rows, recorded=OPTIONS) for _ in range(2))
    with first, pytest.raises(ConfigurationError, match="another run is writing to"), second:
        pytest.fail("two runs on one output")


def test_answers_are_kept_when_the_run_raises(files, make_rows):
    rows = make_rows("a", "b")

    def run():
        with open_store(files.output, rows, recorded=OPTIONS) as store:
            store.journal.succeed(rows.row_at(0), OK)
            raise KeyError

    with pytest.raises(KeyError):
        run()
    assert not held(files)
    with open_store(files.output, rows, recorded=OPTIONS) as store:
        assert store.journal.done == 1


def test_a_second_run_on_a_hard_link_of_the_output_is_rejected(tmp_path, files, make_rows):
    rows = make_rows("a")
    with open_store(files.output, rows, recorded=OPTIONS) as store:
        store.journal.succeed(rows.row_at(0), OK)
        (tmp_path / "other.jsonl").hardlink_to(files.output)
        (tmp_path / "other.jsonl.run").write_bytes(files.run.read_bytes())
        second = open_store(tmp_path / "other.jsonl", rows, recorded=OPTIONS)
        with pytest.raises(ConfigurationError, match="another run is writing to it"), second:
            pytest.fail("two runs on one file")


def test_a_removed_lock_file_admits_no_second_run(files, make_rows):
    rows = make_rows("a")
    with open_store(files.output, rows, recorded=OPTIONS) as store:
        store.journal.succeed(rows.row_at(0), OK)
        files.lock.unlink()
        second = open_store(files.output, rows, recorded=OPTIONS)
        with pytest.raises(ConfigurationError, match="another run is writing to it"), second:
            pytest.fail("two runs on one output")


def test_a_resume_makes_the_output_files_private(files, make_rows):
    rows = make_rows("a", "b")
    with open_store(files.output, rows, recorded=OPTIONS) as store:
        store.journal.succeed(rows.row_at(0), OK)
        store.journal.fail(rows.row_at(1), FAILED)
    for path in (files.output, files.failed):
        path.chmod(0o666)
    with open_store(files.output, rows, recorded=OPTIONS):
        for path in (files.output, files.failed, files.run, files.lock):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["failed", "run", "lock"])
def test_a_symbolic_link_as_batch_file_is_rejected(files, make_rows, tmp_path, name):
    rows = make_rows("a")
    getattr(files, name).symlink_to(tmp_path / "victim")
    with (
        pytest.raises(ConfigurationError, match="is a symbolic link"),
        open_store(files.output, rows, recorded=OPTIONS),
    ):
        pytest.fail("followed a link")
    assert not (tmp_path / "victim").exists()


def test_a_run_removes_temporary_files_of_a_killed_run(files, make_rows):
    rows = make_rows("a")
    left = [path.with_name(f"{path.name}.stormbreak-new") for path in (files.output, files.failed)]
    for path in left:
        path.write_bytes(b"half")
    with open_store(files.output, rows, recorded=OPTIONS):
        assert not any(path.exists() for path in left)


def test_spooled_rows_stay_while_another_run_holds_the_lock(files):
    """The other run has not written its run file yet; `batch retry` would miss the rows."""
    with ExitStack() as taken:
        with spooled(files, [{"prompt": "x"}]):
            taken.enter_context(locked(files))
        assert files.input.exists()
    with spooled(files, [{"prompt": "x"}]):
        pass
    assert not files.input.exists()


def test_kill_9_loses_no_written_line(files, make_rows):
    rows = make_rows(*(f"id {number}" for number in range(1000)))

    def write_some_and_die():
        with open_store(files.output, rows, recorded=OPTIONS) as store:
            for index in list(store.journal.left())[:300]:
                store.journal.succeed(rows.row_at(index), OK)
            os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(3):
        assert exit_code_of(write_some_and_die) == -signal.SIGKILL
    with open_store(files.output, rows, recorded=OPTIONS) as store:
        assert store.journal.done == 900
        for index in store.journal.left():
            store.journal.succeed(rows.row_at(index), OK)
    ids = [json.loads(line)["custom_id"] for line in files.output.read_bytes().splitlines()]
    assert ids == [rows.row_at(index).custom_id for index in range(1000)]
