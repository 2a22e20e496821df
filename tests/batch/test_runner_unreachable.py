"""A run whose provider cannot be reached, is slow to answer, or goes away."""

from types import SimpleNamespace

import pytest
from batches import assert_answered, chat_rows, read, scenario, write

from stormbreak.batch.job import Job, run_job
from stormbreak.batch.run_options import BatchOptions
from stormbreak.core.presets import BATCH
from stormbreak.http.prepared_request import CONNECT_TIMEOUT


def test_nothing_there(tmp_path, output, free_port):
    source = write(tmp_path / "in.jsonl", chat_rows(5))
    url = f"http://127.0.0.1:{free_port}/v1"
    options = BatchOptions(base_url=url, connect_grace=0.3)
    job = Job(source=source, output=output, policy=BATCH, options=options)
    summary = run_job(job)
    assert (summary.end, summary.connect_error) == ("unreachable", "connection refused")
    assert (summary.left, summary.failed) == (5, 0)


def test_nothing_there_ends_the_run_whatever_the_deadline(run_rows, output, free_port):
    nowhere = SimpleNamespace(base_url=f"http://127.0.0.1:{free_port}/v1")
    within = {"deadline": 0.6}
    summary = run_rows(chat_rows(500), nowhere, within=within, connect_grace=1.5)
    assert (summary.end, summary.failed, summary.left) == ("unreachable", 0, 500)
    assert not (output.parent / "out.failed.jsonl").exists()


@pytest.mark.parametrize("within", [{"attempt_timeout": 2.0}, {"deadline": 2.0}])
def test_connections_that_never_open_reach_nothing(run_rows, full_port, within):
    """Connecting has nine tenths of either: on a busy machine, too, that must end first."""
    nowhere = SimpleNamespace(base_url=f"http://127.0.0.1:{full_port}/v1")
    summary = run_rows(chat_rows(30), nowhere, within=within, connect_grace=2.5)
    assert (summary.end, summary.connect_error) == ("unreachable", "connection timed out")
    assert (summary.left, summary.failed) == (30, 0)


def test_giving_up_waits_for_nobody(run_rows, full_port):
    """The attempts that are still connecting are cut off, not waited for."""
    nowhere = SimpleNamespace(base_url=f"http://127.0.0.1:{full_port}/v1")

    def tick(runner):
        runner.stats.connect_error = runner.stats.connect_error or "an earlier attempt"

    summary = run_rows(chat_rows(5), nowhere, tick=tick, connect_grace=0.3)
    assert summary.end == "unreachable"
    assert summary.elapsed < CONNECT_TIMEOUT


# ------------------------------------------------------------ somebody there


def test_a_server_that_keeps_silent_is_there(run_rows, output, stormbreak_provider):
    """It took the request: the row fails for its timeout, and not the run for the address."""
    provider = stormbreak_provider(scenario({"kind": "slow_headers", "added_latency": 60}))
    # Long enough to connect on a busy machine. A row whose deadline is over before it was ever sent would be rejected.
    within = {"attempt_timeout": 1.0, "deadline": 3.0}
    summary = run_rows(chat_rows(3), provider, within=within, connect_grace=0.3)
    assert (summary.end, summary.failed) == ("finished", 3)
    failures = read(output.parent / "out.failed.jsonl")
    assert {line["error"]["verdict"] for line in failures} == {"timeout"}


def test_a_first_answer_may_take_longer_than_the_grace(run_rows, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=1.0))
    summary = run_rows(chat_rows(2), provider, connect_grace=0.1)
    assert (summary.end, summary.successful) == ("finished", 2)


def test_after_the_first_answer_it_waits_for_a_provider_that_went_away(
    run_rows, output, stormbreak_provider
):
    down = {"kind": "reset", "at": 0.3, "until": 1.2, "respond_after": 0.0}
    provider = stormbreak_provider(scenario(down, service=0.05))
    rows = chat_rows(60)
    summary = run_rows(rows, provider, limit=4, connect_grace=0.5)
    assert summary.end == "finished"
    assert_answered(rows, output)
    assert summary.verdicts["reset"] > 0
