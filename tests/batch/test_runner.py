"""The runner, against the embedded provider on real sockets."""

import asyncio
import json
import logging
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from batches import (
    assert_answered,
    chat_rows,
    environment,
    read,
    scenario,
    size_of,
    started,
    wait_until,
    write,
)

from stormbreak.batch.job import WIDEST, Job, run_job
from stormbreak.core.backoff import Constant
from stormbreak.core.concurrency import FixedLimit
from stormbreak.core.presets import BATCH, OFF, for_batch
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import ConfigurationError
from stormbreak.http.client import AsyncClient


@pytest.fixture
def run_rows(tmp_path):
    """Run rows against a provider; return the summary."""

    def run(rows, provider, *, tick=lambda _: None, listeners=(), limit=16, **options):
        source = tmp_path / "in.jsonl"
        if not source.exists():
            write(source, rows)
        policy = options.pop("policy", BATCH)
        policy = replace(
            for_batch(policy), limit=FixedLimit(in_flight=limit), **options.pop("within", {})
        )
        job = Job(
            source=source,
            output=tmp_path / "out.jsonl",
            base_url=provider.base_url,
            policy=policy,
            **options,
        )
        return run_job(job, tick, listeners=listeners)

    return run


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.jsonl"


def test_every_row_is_answered_once_and_the_figures_agree(run_rows, output, stormbreak_provider):
    provider = stormbreak_provider(scenario())
    rows = chat_rows(300)
    summary = run_rows(rows, provider)
    assert_answered(rows, output)
    assert (summary.total, summary.successful, summary.failed, summary.left) == (300, 300, 0, 0)
    assert (summary.attempts, summary.retries, summary.verdicts) == (300, 0, {"ok": 300})
    assert (summary.end, summary.answered) == ("finished", 300)
    usages = [line["response"]["body"]["usage"] for line in read(output)]
    assert summary.input_tokens == sum(usage["prompt_tokens"] for usage in usages)
    assert summary.output_tokens == sum(usage["completion_tokens"] for usage in usages)
    assert not (output.parent / "out.failed.jsonl").exists()


def test_so_many_are_in_flight_and_no_more(run_rows, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.05))
    seen = []
    run_rows(chat_rows(100), provider, limit=10, tick=lambda _: seen.append(in_flight(provider)))
    stats = provider.stats()
    assert max(seen) <= 10
    assert stats["connections"]["opened"] <= 10


def in_flight(provider):
    return provider.stats()["in_service"]


def test_there_is_no_task_per_row(run_rows, stormbreak_provider):
    tasks = []
    provider = stormbreak_provider(scenario())
    run_rows(
        chat_rows(1000),
        provider,
        limit=8,
        listeners=[lambda _: tasks.append(len(asyncio.all_tasks()))],
    )
    assert max(tasks) <= 2 * 8 + 8  # a call, what aiohttp starts for it, and the runner's own


def test_the_deadline_of_a_row_is_not_spent_in_our_own_queue(run_rows, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.2))
    summary = run_rows(chat_rows(40), provider, limit=4, within={"deadline": 0.7})
    assert (summary.successful, summary.failed, summary.attempts) == (40, 0, 40)


def test_a_deadline_shorter_than_a_cooldown_fails_no_row_unsent(
    run_rows, output, stormbreak_provider
):
    """The deadline of the others begins when they leave, after the pause."""
    told = {"kind": "429", "retry_after": 2.0, "at": 0.3, "until": 0.8}
    provider = stormbreak_provider(scenario(told, service=0.02))
    summary = run_rows(chat_rows(300), provider, limit=4, within={"deadline": 1.0})
    assert summary.successful + summary.failed == 300
    assert 0 < summary.failed <= 4
    failures = read(output.parent / "out.failed.jsonl")
    assert {line["error"]["verdict"] for line in failures} == {"throttled"}
    assert all(line["error"]["attempts"] for line in failures)


def test_nothing_there_ends_the_run_whatever_the_deadline(run_rows, output, free_port):
    nowhere = SimpleNamespace(base_url=f"http://127.0.0.1:{free_port}/v1")
    within = {"deadline": 0.6}
    summary = run_rows(chat_rows(500), nowhere, within=within, connect_grace=1.5)
    assert (summary.end, summary.failed, summary.left) == ("unreachable", 0, 500)
    assert not (output.parent / "out.failed.jsonl").exists()


def test_a_call_that_backs_off_makes_room(run_rows, stormbreak_provider):
    """There is one slot only, and yet the pauses of all rows pass at the same time."""
    patient = RetryPolicy(attempts=20, backoff=Constant(seconds=0.3))
    policy = replace(BATCH, budget=None, breaker=None, retry=patient)
    provider = stormbreak_provider(scenario({"kind": "500", "share": 0.4}))
    summary = run_rows(chat_rows(30), provider, limit=1, policy=policy)
    assert summary.successful == 30
    assert summary.retries > 10
    assert summary.elapsed < summary.retries * 0.3 / 2


@pytest.mark.parametrize("disabled", [False, True])
def test_switched_off_a_row_is_sent_once(
    run_rows, output, stormbreak_provider, monkeypatch, disabled
):
    monkeypatch.setenv("STORMBREAK_DISABLED", str(int(disabled)))
    provider = stormbreak_provider(scenario({"kind": "500", "share": 0.5}))
    summary = run_rows(chat_rows(40), provider, policy=BATCH if disabled else OFF)
    assert (summary.attempts, summary.left) == (40, 0)
    assert summary.successful == summary.verdicts["ok"] < 40


def test_no_policy_makes_a_run_wider_than_it_can_bear(run_rows, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.4))
    open_at_once = []
    run_rows(
        chat_rows(600),
        provider,
        limit=1_000_000_000,
        listeners=[lambda _: open_at_once.append(len(asyncio.all_tasks()))],
    )
    assert provider.stats()["connections"]["opened"] <= WIDEST
    assert max(open_at_once) < 2 * WIDEST + 8


def test_concurrency_says_more_than_that(run_rows, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.4))
    run_rows(chat_rows(600), provider, concurrency=WIDEST + 40)
    assert provider.stats()["connections"]["opened"] == WIDEST + 40


def test_calls_that_back_off_are_bounded_too(run_rows, stormbreak_provider):
    """One slot, and four more that back off: everyone is told to come back late."""
    under_way = []
    slow = RetryPolicy(attempts=2, backoff=Constant(seconds=0.3))
    policy = replace(BATCH, budget=None, breaker=None, retry=slow)
    provider = stormbreak_provider(scenario({"kind": "500", "until": 0.8}))
    runners = []

    def tick(runner):
        runners.append(runner)

    def look(_):
        if runners:
            under_way.append(runners[0].under_way)

    summary = run_rows(chat_rows(60), provider, limit=2, policy=policy, tick=tick, listeners=[look])
    assert summary.successful == 60
    assert max(under_way) == 5 * 2


def test_a_server_that_keeps_silent_is_there(run_rows, output, stormbreak_provider):
    """It took the request: the row fails for its timeout, and not the run for the address."""
    provider = stormbreak_provider(scenario({"kind": "slow_headers", "seconds": 60}))
    within = {"attempt_timeout": 0.2, "deadline": 1.0}
    summary = run_rows(chat_rows(3), provider, within=within, connect_grace=0.3)
    assert (summary.end, summary.failed) == ("finished", 3)
    failures = read(output.parent / "out.failed.jsonl")
    assert {line["error"]["verdict"] for line in failures} == {"timeout"}


def test_giving_up_waits_for_nobody(run_rows, full_port):
    """The attempts that are still connecting are cut off, not waited for."""
    nowhere = SimpleNamespace(base_url=f"http://127.0.0.1:{full_port}/v1")

    def tick(runner):
        runner.counts.trouble = runner.counts.trouble or "an earlier attempt"

    summary = run_rows(chat_rows(5), nowhere, tick=tick, connect_grace=0.3)
    assert summary.end == "unreachable"
    assert summary.elapsed < 3


def test_a_row_is_sent_twenty_times_and_no_more(run_rows, output, stormbreak_provider):
    """Rounds of six are cut short in time; a policy that allows more is held to it, too."""
    provider = stormbreak_provider(scenario({"kind": "500"}))
    hasty = RetryPolicy(attempts=1000, backoff=Constant(seconds=0.001))
    policy = replace(BATCH, budget=None, breaker=None, retry=hasty)
    summary = run_rows(chat_rows(3), provider, policy=policy)
    assert (summary.failed, summary.attempts) == (3, 60)
    failures = read(output.parent / "out.failed.jsonl")
    assert [line["error"]["attempts"] for line in failures] == [20] * 3


def test_a_row_has_one_idempotency_key_over_all_its_rounds(run_rows, stormbreak_provider):
    provider = stormbreak_provider(scenario({"kind": "500", "share": 0.3}), seed=5)
    summary = run_rows(chat_rows(40), provider)
    assert summary.successful == 40
    assert summary.attempts > 40
    assert provider.stats()["idempotency"] == {"keys": 40, "repeats": summary.attempts - 40}


def test_a_listener_that_raises_fails_nothing(run_rows, output, stormbreak_provider, caplog):
    def listener(_):
        raise RuntimeError("no")

    rows = chat_rows(30)
    summary = run_rows(rows, stormbreak_provider(scenario()), listeners=[listener])
    assert summary.successful == 30
    assert_answered(rows, output)
    assert len(caplog.records) == 1


def test_a_tick_that_raises_fails_nothing(run_rows, output, stormbreak_provider, caplog):
    ticks = []

    def tick(_):
        ticks.append(1)
        raise BrokenPipeError

    rows = chat_rows(30)
    with caplog.at_level(logging.WARNING, "stormbreak"):
        summary = run_rows(rows, stormbreak_provider(scenario(service=0.2)), tick=tick)
    assert summary.successful == 30
    assert_answered(rows, output)
    assert (len(ticks), len(caplog.records)) == (1, 1)


def test_a_first_answer_may_take_longer_than_the_grace(run_rows, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=1.0))
    summary = run_rows(chat_rows(2), provider, connect_grace=0.1)
    assert (summary.end, summary.successful) == ("finished", 2)


def test_after_the_first_answer_it_waits_for_a_provider_that_went_away(
    run_rows, output, stormbreak_provider
):
    down = {"kind": "reset", "at": 0.3, "until": 1.2, "after": 0.0}
    provider = stormbreak_provider(scenario(down, service=0.05))
    rows = chat_rows(60)
    summary = run_rows(rows, provider, limit=4, connect_grace=0.5)
    assert summary.end == "finished"
    assert_answered(rows, output)
    assert summary.verdicts["reset"] > 0


@pytest.mark.parametrize("within", [{"attempt_timeout": 0.5}, {"deadline": 0.5}])
def test_connections_that_never_open_reach_nothing(run_rows, full_port, within):
    nowhere = SimpleNamespace(base_url=f"http://127.0.0.1:{full_port}/v1")
    summary = run_rows(chat_rows(30), nowhere, within=within, connect_grace=1.5)
    assert (summary.end, summary.trouble) == ("unreachable", "connection timed out")
    assert (summary.left, summary.failed) == (30, 0)


def test_a_row_that_the_client_refuses_fails_alone(
    run_rows, output, stormbreak_provider, monkeypatch
):
    """Should the check of INPUT ever let pass what the client does not."""
    ask = AsyncClient.ask

    async def picky(self, endpoint, body, **options):
        if b'document 7"' in body:
            raise ConfigurationError("the body cannot be sent: no")
        return await ask(self, endpoint, body, **options)

    monkeypatch.setattr(AsyncClient, "ask", picky)
    summary = run_rows(chat_rows(40), stormbreak_provider(scenario()))
    assert (summary.end, summary.successful, summary.failed) == ("finished", 39, 1)
    [line] = read(output.parent / "out.failed.jsonl")
    assert (line["custom_id"], line["error"]["verdict"]) == ("row-7", "invalid")
    assert line["error"]["message"] == "invalid; the body cannot be sent: no"
    assert line["error"]["attempts"] == 0


def test_nothing_there(tmp_path, output, free_port):
    source = write(tmp_path / "in.jsonl", chat_rows(5))
    url = f"http://127.0.0.1:{free_port}/v1"
    job = Job(source=source, output=output, base_url=url, policy=BATCH, connect_grace=0.3)
    summary = run_job(job)
    assert (summary.end, summary.trouble) == ("unreachable", "connection refused")
    assert (summary.left, summary.failed) == (5, 0)


def test_an_input_that_changes_under_way_stops_the_run_and_keeps_what_was_answered(
    run_rows, output, stormbreak_provider, tmp_path
):
    provider = stormbreak_provider(scenario(service=0.05))
    source = tmp_path / "in.jsonl"

    def tick(runner):
        if runner.journal.done > 20 and source.read_bytes()[:1] != b" ":
            source.write_bytes(b" " * source.stat().st_size)

    with pytest.raises(ConfigurationError, match="was changed while the run was at work"):
        run_rows(chat_rows(200), provider, limit=4, tick=tick)
    asked = provider.stats()["keys"]
    assert len(read(output)) == asked["answered"] == asked["asked"]


# ------------------------------------------------------------ a full disk


def test_a_full_disk_stops_the_run_and_loses_nothing(
    run_rows, output, stormbreak_provider, file_limit
):
    provider = stormbreak_provider(scenario())
    rows = chat_rows(200)
    write(output.parent / "in.jsonl", rows)
    with file_limit(20_000), pytest.raises(ConfigurationError, match=r"out\.jsonl: cannot write"):
        run_rows(rows, provider)
    kept = read(output)
    assert 10 < len(kept) < 60
    summary = run_rows(rows, provider)
    assert read(output)[: len(kept)] == kept
    assert summary.successful == 200
    assert_answered(rows, output)


# ------------------------------------------------------------ signals, to a process of its own


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_drains_and_the_same_command_goes_on(
    tmp_path, output, stormbreak_provider, number
):
    provider = stormbreak_provider(scenario(service=0.3))
    rows = chat_rows(100)
    args = run_args(write(tmp_path / "in.jsonl", rows), output, provider)
    with started(*args, "--concurrency", 20, "--json") as process:
        wait_until(lambda: size_of(output), "a first answer")
        process.send_signal(number)
        said, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    summary = json.loads(said)
    assert summary["end"] == "interrupted"
    assert 0 < summary["successful"] < 100
    asked = provider.stats()["keys"]
    assert asked["asked"] == asked["answered"] == summary["successful"] == len(read(output))
    with started(*args, "--concurrency", 50) as process:
        assert process.wait(20) == 0
    assert_answered(rows, output)
    assert provider.stats()["keys"]["answered_twice"] == 0


def test_a_second_signal_stops_at_once(tmp_path, output, stormbreak_provider):
    provider = stormbreak_provider(scenario({"kind": "slow_headers", "seconds": 30, "share": 0.5}))
    args = run_args(write(tmp_path / "in.jsonl", chat_rows(100)), output, provider)
    with started(*args, "--concurrency", 10, "--json") as process:
        wait_until(lambda: size_of(output) and in_flight(provider) == 0, "answers, and a hang")
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.7)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=10)
    assert process.returncode == 130, errors
    assert json.loads(said)["successful"] == len(read(output))
    assert "answers are still to come; Ctrl-C again stops at once" in errors


def run_args(source, output, provider):
    return ("batch", "run", source, "--output", output, "--base-url", provider.base_url)


# ------------------------------------------------------------ memory


MEASURED = """
import re, sys
from pathlib import Path
from types import SimpleNamespace
from stormbreak.cli.main import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("count", [3_000, pytest.param(50_000, marks=pytest.mark.prove)])
def test_memory_is_bounded(tmp_path, output, stormbreak_provider, count):
    """Peak memory of the process, which needs some 50 MB for itself; the input is 2 kB a row."""
    provider = stormbreak_provider(scenario())
    source = write(tmp_path / "in.jsonl", chat_rows(count, user="x" * 2_000))
    args = [*run_args(source, output, provider), "--concurrency", "32", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, args)],
        check=True,
        env=environment(),
        timeout=180,
        capture_output=True,
        text=True,
    )
    assert len(read(output)) == count
    assert int(done.stdout.split()[-1]) < 80_000, "kilobytes"


def test_a_row_that_came_back_was_sent_again(run_rows, stormbreak_provider):
    """Retries are all sends but a row's first, whether its call or its schedule sent it again."""
    provider = stormbreak_provider(scenario({"kind": "500", "share": 0.2}))
    once_a_round = replace(BATCH, breaker=None, retry=RetryPolicy(attempts=1))
    summary = run_rows(chat_rows(20), provider, policy=once_a_round)
    assert summary.successful == 20
    assert summary.retries == summary.attempts - 20 > 0
