"""A run whose provider cannot be reached, is slow to answer, or goes away."""

from types import SimpleNamespace

import pytest
from batches import assert_answered, chat_rows, read, scenario, write

from stormbreak.batch.job import Job, run_job
from stormbreak.batch.run_options import BatchOptions
from stormbreak.core.presets import BATCH
from stormbreak.http.prepared_request import CONNECT_TIMEOUT


def test_a_refused_connection_ends_the_run_as_unreachable(tmp_path, output, free_port):
    source = write(tmp_path / "in.jsonl", chat_rows(5))
    url = f"http://127.0.0.1:{free_port}/v1"
    options = BatchOptions(base_url=url, connect_grace=0.3)
    job = Job(source=source, output=output, policy=BATCH, options=options)
    summary = run_job(job)
    assert (summary.end, summary.connect_error) == ("unreachable", "connection refused")
    assert (summary.left, summary.failed) == (5, 0)


def test_an_unreachable_provider_ends_the_run_despite_short_deadlines(run_rows, output, free_port):
    nowhere = SimpleNamespace(base_url=f"http://127.0.0.1:{free_port}/v1")
    within = {"deadline": 0.6}
    summary = run_rows(chat_rows(500), nowhere, within=within, connect_grace=1.5)
    assert (summary.end, summary.failed, summary.left) == ("unreachable", 0, 500)
    assert not (output.parent / "out.failed.jsonl").exists()


@pytest.mark.parametrize("within", [{"attempt_timeout": 2.0}, {"deadline": 2.0}])
def test_connections_that_time_out_end_the_run_as_unreachable(run_rows, full_port, within):
    """Connecting may use nine tenths of the time limit, and must end first on a busy machine."""
    nowhere = SimpleNamespace(base_url=f"http://127.0.0.1:{full_port}/v1")
    summary = run_rows(chat_rows(30), nowhere, within=within, connect_grace=2.5)
    assert (summary.end, summary.connect_error) == ("unreachable", "connection timed out")
    assert (summary.left, summary.failed) == (30, 0)


def test_an_unreachable_run_cuts_off_attempts_that_still_connect(run_rows, full_port):
    """The run ends before their connect timeout."""
    nowhere = SimpleNamespace(base_url=f"http://127.0.0.1:{full_port}/v1")

    def tick(runner):
        runner.stats.connect_error = runner.stats.connect_error or "an earlier attempt"

    summary = run_rows(chat_rows(5), nowhere, tick=tick, connect_grace=0.3)
    assert summary.end == "unreachable"
    assert summary.elapsed < CONNECT_TIMEOUT


# ------------------------------------------------------------ a server that accepts


def test_a_silent_server_fails_rows_and_is_not_unreachable(run_rows, output, stormbreak_provider):
    """The server accepted the request, so the row fails with a timeout and the run continues."""
    provider = stormbreak_provider(scenario({"kind": "slow_headers", "added_latency": 60}))
    # Long enough to connect. A row whose deadline passes before it is sent, on a busy machine, is rejected.
    within = {"attempt_timeout": 1.0, "deadline": 3.0}
    summary = run_rows(chat_rows(3), provider, within=within, connect_grace=0.3)
    assert (summary.end, summary.failed) == ("finished", 3)
    verdicts = {line["error"]["verdict"] for line in read(output.parent / "out.failed.jsonl")}
    assert "timeout" in verdicts
    assert verdicts <= {"timeout", "rejected"}


def test_a_first_answer_may_take_longer_than_connect_grace(run_rows, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=1.0))
    summary = run_rows(chat_rows(2), provider, connect_grace=0.1)
    assert (summary.end, summary.successful) == ("finished", 2)


def test_a_run_waits_for_a_provider_that_goes_down_after_an_answer(
    run_rows, output, stormbreak_provider
):
    down = {"kind": "reset", "at": 0.3, "until": 1.2, "respond_after": 0.0}
    provider = stormbreak_provider(scenario(down, service=0.05))
    rows = chat_rows(60)
    summary = run_rows(rows, provider, limit=4, connect_grace=0.5)
    assert summary.end == "finished"
    assert_answered(rows, output)
    assert summary.verdicts["reset"] > 0
