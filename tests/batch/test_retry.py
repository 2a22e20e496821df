"""Retry failed rows from Python."""

import json

import pytest
from batches import assert_answered, chat_rows, read, scenario, write
from failing import failing_scenario, ids, named, rows_that_fail
from sockets import End, answer, failing, served_aside

from stormbreak.batch.run_options import failed_rows
from stormbreak.errors import ConfigurationError
from stormbreak.types import Verdict

pytestmark = pytest.mark.usefixtures("no_words_about_providers")


def test_a_job_can_retry_failed_rows_by_verdict(run_rows, stormbreak_provider, files):
    rows = rows_that_fail(40, _400=range(5), _404=range(5, 15))
    assert run_rows(rows, stormbreak_provider(failing_scenario())).failed == 15
    healthy = stormbreak_provider(scenario())
    some = run_rows(rows, healthy, choice=failed_rows([Verdict.NOT_FOUND]))
    assert (some.retried, some.recovered, some.answered, some.failed) == (10, 10, 10, 5)
    assert named(read(files.failed)) == ids(range(5))
    rest = run_rows(rows, healthy, choice=failed_rows())
    assert (rest.retried, rest.recovered, rest.failed, rest.left) == (5, 5, 0, 0)
    assert healthy.stats()["arrivals"] == 15
    assert_answered(rows, files.output)


def test_a_retry_without_an_earlier_run_is_an_error(run_rows, stormbreak_provider, files, tmp_path):
    write(tmp_path / "in.jsonl", rows_that_fail(3))
    with pytest.raises(ConfigurationError, match="is not the output of a batch run"):
        run_rows([], stormbreak_provider(scenario()), choice=failed_rows())
    assert not files.output.exists()
    assert not files.lock.exists()


def test_rows_that_always_fail_do_not_stop_a_retry(run_rows, stormbreak_provider, files):
    """They are the first failed rows, as many as the run uses to decide whether to stop."""
    rows = rows_that_fail(500, _404=range(1, 500))
    assert run_rows(rows, stormbreak_provider(failing_scenario())).failed == 499
    hopeless = [{"kind": "404", "match": f"document {number} (meets"} for number in range(1, 26)]
    summary = run_rows(rows, stormbreak_provider(scenario(*hopeless)), choice=failed_rows())
    assert (summary.end, summary.recovered, summary.failed) == ("finished", 474, 25)


def test_a_retried_row_stays_in_the_failed_file_until_it_is_answered(
    run_rows, stormbreak_provider, files
):
    rows = rows_that_fail(3, _400=range(1, 3))
    assert run_rows(rows, stormbreak_provider(failing_scenario())).failed == 2
    seen = []
    flaky = stormbreak_provider(scenario({"kind": "503", "until": 1.0}))

    def look(runner):
        if runner.journal.pending:  # a line counts when it is durable
            return
        seen.append((len(read(files.output)), len(read(files.failed)), runner.journal.again))

    summary = run_rows(rows, flaky, tick=look, choice=failed_rows())
    assert (summary.recovered, summary.failed) == (2, 0)
    assert summary.attempts > 2
    assert seen[0] == (1, 2, 2)
    assert {answers + again for answers, _, again in seen} == {3}
    assert all(failures == 2 for _, failures, again in seen if again)
    assert not files.failed.exists()


# ---------------------------------------------------------------- Idempotency-Key

GONE = failing(404)
CHOICE = {"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}
ANSWER = answer(json.dumps({"choices": [CHOICE], "usage": {}}).encode())


def keys(server):
    return [request.headers["idempotency-key"] for request in server.requests]


def test_a_row_that_failed_for_good_gets_a_new_key(run_rows):
    """A provider may answer the old key with the stored error."""
    with served_aside(GONE, GONE, ANSWER) as server:
        run_rows(chat_rows(1), server)
        run_rows([], server, choice=failed_rows())
        assert run_rows([], server, choice=failed_rows()).recovered == 1
    assert len(set(keys(server))) == len(server.requests) == 3


def test_a_killed_retry_resumes_with_the_same_key(run_rows):
    """A provider that has stored the answer does not bill it again."""
    with served_aside(GONE, End.HANG, ANSWER) as server:

        def kill(runner):
            if len(server.requests) == 2:
                runner.interrupt()
                runner.interrupt()

        run_rows(chat_rows(1), server)
        assert run_rows([], server, tick=kill, choice=failed_rows()).end == "interrupted"
        assert run_rows([], server, choice=failed_rows()).recovered == 1
    refused, killed, answered = keys(server)
    assert refused != killed == answered


def test_a_row_that_may_have_been_answered_keeps_its_key(run_rows):
    """The lost answer may be billed already and stored under that key."""
    with served_aside(End.RESET, GONE, ANSWER) as server:
        assert run_rows(chat_rows(1), server).verdicts == {"reset": 1, "not_found": 1}
        assert run_rows([], server, choice=failed_rows()).recovered == 1
    assert len(set(keys(server))) == 1
