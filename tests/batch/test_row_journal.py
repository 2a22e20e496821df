import asyncio
import json
import stat
import time
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journals import OK, Ids, failure, ids_in, lines

from stormbreak.batch.store.durable_file import OutputError
from stormbreak.batch.store.output_line import Response, failure_line, success_line
from stormbreak.batch.store.paths import BatchPaths
from stormbreak.batch.store.row_journal import RowJournal
from stormbreak.errors import ConfigurationError
from stormbreak.types import Verdict


@pytest.fixture
def ids():
    return Ids("abcdefgh")


@pytest.fixture
def journal(files, ids):
    with closing(RowJournal(files, ids)) as journal:
        yield journal


def test_a_row_counts_when_it_is_durable(journal, ids, files):
    journal.succeed(ids.row(0), OK)
    journal.fail(ids.row(1), failure())
    assert (journal.done, journal.failed, journal.pending) == (0, 0, 2)
    assert ids_in(files.output) == ["a"]  # but written at once
    assert ids_in(files.failed) == ["b"]
    assert journal.flush() == 2
    assert (journal.done, journal.failed, journal.pending) == (1, 1, 0)
    assert journal.flush() == 0


def test_a_later_answer_replaces_the_failure_of_a_row(journal, ids, files):
    journal.fail(ids.row(1), failure())
    journal.fail(ids.row(1), failure())
    journal.flush()
    assert (journal.done, journal.failed) == (0, 1)
    journal.succeed(ids.row(1), OK)
    journal.flush()
    assert (journal.done, journal.failed) == (1, 0)


def test_a_second_answer_to_a_row_raises(journal, ids, files):
    journal.succeed(ids.row(0), OK)
    for write in (
        lambda: journal.succeed(ids.row(0), OK),
        lambda: journal.fail(ids.row(0), failure()),
    ):
        with pytest.raises(ValueError, match="row 0 is already answered"):
            write()
    assert ids_in(files.output) == ["a"]
    assert not files.failed.exists()


def test_left_lists_unanswered_rows_that_may_succeed(journal, ids):
    journal.succeed(ids.row(0), OK)
    journal.fail(ids.row(2), failure())
    journal.fail(ids.row(3), failure(Verdict.INVALID))
    assert list(journal.left()) == [1, 4, 5, 6, 7]


def test_a_later_run_does_not_retry_permanent_failures(journal, ids, files):
    journal.fail(ids.row(2), failure())
    journal.fail(ids.row(3), failure(Verdict.FILTERED))
    journal.close()
    later = RowJournal(files, ids)
    assert list(later.left()) == [0, 1, 2, 4, 5, 6, 7]
    assert (later.done, later.failed) == (0, 2)
    later.close()


@pytest.mark.parametrize("verdict", [Verdict.AUTH, Verdict.BILLING, Verdict.NOT_FOUND])
def test_deleting_the_failed_file_makes_a_later_run_retry_its_rows(journal, ids, files, verdict):
    journal.fail(ids.row(3), failure(verdict))
    journal.close()
    later = RowJournal(files, ids)
    assert 3 not in list(later.left())
    later.close()
    files.failed.unlink()
    fresh = RowJournal(files, ids)
    assert 3 in list(fresh.left())
    fresh.close()


def test_journal_files_are_private(journal, ids, files):
    journal.fail(ids.row(0), failure())
    assert [stat.S_IMODE(path.stat().st_mode) for path in (files.output, files.failed)] == [
        0o600
    ] * 2


def test_a_flush_does_not_count_lines_written_during_its_sync(journal, ids, monkeypatch):
    def sync(fd):
        journal.succeed(ids.row(1), OK)

    monkeypatch.setattr("stormbreak.batch.store.durable_file._sync", sync)
    journal.succeed(ids.row(0), OK)
    assert journal.flush() == 1
    assert (journal.done, journal.pending) == (1, 1)
    monkeypatch.undo()
    assert journal.flush() == 1


async def test_flush_in_a_thread_beside_a_writing_event_loop_loses_nothing(files):
    ids = Ids(f"id {number}" for number in range(2000))
    with closing(RowJournal(files, ids)) as journal:
        writing = True

        async def flush():
            while writing:
                await asyncio.to_thread(journal.flush)

        flusher = asyncio.create_task(flush())
        for index in range(len(ids)):
            journal.succeed(ids.row(index), OK)
            if not index % 50:
                await asyncio.sleep(0)
        writing = False
        await flusher
        journal.flush()
        assert (journal.done, journal.pending) == (2000, 0)
    assert ids_in(files.output) == ids


def test_lines_of_a_killed_run_are_synced_before_they_count(files, ids, monkeypatch):
    files.output.write_bytes(success_line("a", OK))
    synced = []
    monkeypatch.setattr("stormbreak.batch.store.durable_file._sync", synced.append)
    with closing(RowJournal(files, ids)) as journal:
        assert (journal.done, len(synced)) == (1, 1)


def test_a_failed_sync_counts_nothing(files, ids, monkeypatch):
    def fail(fd):
        raise OSError(28, "No space left on device")

    journal = RowJournal(files, ids)
    journal.succeed(ids.row(0), OK)
    monkeypatch.setattr("stormbreak.batch.store.durable_file._sync", fail)
    for _ in range(2):
        with pytest.raises(OutputError, match="disk full"):
            journal.flush()
    assert (journal.done, journal.pending) == (0, 1)
    with pytest.raises(OutputError, match="disk full"):
        journal.close()


def test_a_full_disk_loses_no_line_and_the_next_run_resumes(small_disk):
    files = BatchPaths.of(small_disk / "out.jsonl")
    ids = Ids(f"id {number}" for number in range(20))
    big = Response(status_code=200, body=json.dumps("x" * 9_000).encode())
    with closing(RowJournal(files, ids)) as journal:
        for index in range(7):
            journal.succeed(ids.row(index), big)
        with pytest.raises(OutputError, match=r"out\.jsonl: cannot write: disk full"):
            journal.succeed(ids.row(7), big)
        journal.flush()
        assert journal.done == 7
    with closing(RowJournal(files, ids)) as journal:
        assert (journal.done, next(iter(journal.left()))) == (7, 7)


ACTS = st.lists(st.tuples(st.sampled_from(["succeed", "fail"]), st.integers(0, 5)), max_size=20)
ON_DISK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@ON_DISK
@given(acts=ACTS, cut=st.integers(0, 10_000), torn=st.sampled_from(["output", "failed"]))
def test_a_journal_after_any_crash_keeps_the_complete_lines(tmp_path_factory, acts, cut, torn):
    files = BatchPaths.of(tmp_path_factory.mktemp("crash") / "out.jsonl")
    ids = Ids(["a", "é", "\x1b[1m", "d" * 200, '"', "\\n"])
    expected = play(acts, files, ids)

    path = getattr(files, torn)
    whole = path.read_bytes() if path.exists() else b""
    kept = whole[: cut % (len(whole) + 1)]
    if path.exists():
        path.write_bytes(kept)
    # A line that lacks nothing but its newline is complete.
    complete = whole.splitlines(keepends=True)
    ends = [sum(map(len, complete[: n + 1])) for n in range(len(complete))]
    survivors = sum(len(kept) >= end - 1 for end in ends)

    with closing(RowJournal(files, ids)) as journal:
        assert (path.read_bytes() if path.exists() else b"") == b"".join(complete[:survivors])
        answered, failed = set(ids_in(files.output)), set(ids_in(files.failed))
        assert journal.done == len(answered)
        assert journal.failed == len(failed - answered)
        assert [ids[index] for index in journal.left()] == [i for i in ids if i not in answered]
        for index in list(journal.left()):
            journal.succeed(ids.row(index), OK)
    assert sorted(ids_in(files.output)) == sorted(ids)
    assert expected[0] >= answered


def play(acts, files, ids):
    """Write `acts`, except those that no runner does; return the ids that succeeded and failed."""
    answered, failed = set(), {}
    with closing(RowJournal(files, ids)) as journal:
        for number, (act, index) in enumerate(acts):
            if ids[index] in answered:
                continue
            if act == "succeed":
                journal.succeed(ids.row(index), OK)
                answered.add(ids[index])
            else:
                journal.fail(ids.row(index), failure(attempts=number))
                failed[ids[index]] = failed.get(ids[index], 0) + number
    return answered, {name: number for name, number in failed.items() if name not in answered}


@ON_DISK
@given(acts=ACTS, reopened=st.booleans())
def test_compaction_keeps_one_line_per_failed_row_with_all_attempts(
    tmp_path_factory, acts, reopened
):
    files = BatchPaths.of(tmp_path_factory.mktemp("compact") / "out.jsonl")
    ids = Ids("abcdef")
    answered, failed = play(acts, files, ids)
    before = files.output.read_bytes()
    with closing(RowJournal(files, ids)) as journal:
        assert (journal.done, journal.failed) == (len(answered), len(failed))
        journal.compact_failed()
        assert {
            line["custom_id"]: line["error"]["attempts"] for line in lines(files.failed)
        } == failed
        assert len(lines(files.failed)) == len(failed)
        assert files.failed.exists() == bool(failed)
        journal.compact_failed()
        if reopened and failed:  # the journal still works
            index = ids.index(min(failed))
            journal.fail(ids.row(index), failure(attempts=99))
            journal.compact_failed()
            assert lines(files.failed)[-1]["error"]["attempts"] == failed[ids[index]] + 99
            assert len(lines(files.failed)) == len(failed)
    assert files.output.read_bytes() == before
    assert not list(files.output.parent.glob("*.stormbreak-new"))


def test_compaction_on_a_full_disk_leaves_the_failed_file_unchanged(files, ids, file_limit):
    with closing(RowJournal(files, ids)) as journal:
        for _ in range(3):
            for index in range(8):
                journal.fail(ids.row(index), failure())
        before = files.failed.read_bytes()
        with file_limit(500), pytest.raises(OutputError, match="left as it was"):
            journal.compact_failed()
        assert files.failed.read_bytes() == before


def refused(files, ids, tree):
    before = tree()
    with pytest.raises(ConfigurationError) as raised:
        RowJournal(files, ids)
    assert tree() == before
    assert str(raised.value).isprintable()
    return str(raised.value)


@pytest.mark.parametrize("name", ["output", "failed"])
def test_a_broken_line_in_the_middle_is_an_error_and_changes_no_file(files, ids, tree, name):
    good = success_line if name == "output" else lambda i, _: failure_line(i, failure())
    files.output.write_bytes(success_line("h", OK) + b"torn")
    getattr(files, name).write_bytes(good("a", OK) + b"broken\n" + good("b", OK) + b"torn")
    assert f"{getattr(files, name).name}:2: not a line of batch output" in refused(files, ids, tree)


def test_the_error_for_a_repeated_answer_names_both_lines(files, ids, tree):
    files.output.write_bytes(b"".join(success_line(name, OK) for name in "abcb"))
    assert "out.jsonl:4: custom_id 'b' is already answered on line 2" in refused(files, ids, tree)


def test_an_answer_without_a_row_is_an_error(files, ids, tree):
    files.output.write_bytes(success_line("a", OK) + success_line("\x1b[31mz", OK))
    message = refused(files, ids, tree)
    assert r"out.jsonl:2: no row of the input is '\x1b[31mz'" in message


def test_a_failure_line_in_the_output_is_an_error(files, ids, tree):
    files.output.write_bytes(failure_line("a", failure()))
    assert "out.jsonl:1: a failure, which belongs in" in refused(files, ids, tree)


def test_an_answer_in_the_failed_file_is_an_error(files, ids, tree):
    files.failed.write_bytes(failure_line("a", failure()) + success_line("a", OK))
    assert "out.failed.jsonl:2: an answer, which belongs in" in refused(files, ids, tree)


def test_writing_a_row_takes_less_than_100_microseconds(files):
    ids = Ids(f"id {number}" for number in range(5000))
    rows = [ids.row(index) for index in range(5000)]
    body = Response(status_code=200, body=json.dumps({"text": "y" * 1000}).encode())
    with closing(RowJournal(files, ids)) as journal:
        begun = time.process_time()
        for row in rows:
            journal.succeed(row, body)
        journal.flush()
        spent = time.process_time() - begun
    assert spent / 5000 < 100e-6  # about 10 us on a quiet machine; the bound is for a loaded one
