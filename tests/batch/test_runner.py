"""The runner against the embedded provider on real sockets: each row is answered once or fails with a reason."""

import logging
import time
from dataclasses import replace

import pytest
from batches import assert_answered, chat_rows, read, scenario

from stormbreak.core.backoff import Backoff
from stormbreak.core.presets import BATCH, OFF
from stormbreak.core.retry import RetryPolicy
from stormbreak.errors import ConfigurationError
from stormbreak.http.client import AsyncClient


def test_every_row_is_answered_once_and_the_summary_matches(run_rows, output, stormbreak_provider):
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


# ------------------------------------------------------------ retries of a row


def test_retries_include_rows_that_the_schedule_sends_again(run_rows, stormbreak_provider):
    """Each attempt after the first of a row is a retry, whether the call or the schedule sends it."""
    provider = stormbreak_provider(scenario({"kind": "500", "share": 0.2}))
    once_a_round = replace(BATCH, breaker=None, retry=RetryPolicy(max_attempts=1))
    summary = run_rows(chat_rows(20), provider, policy=once_a_round)
    assert summary.successful == 20
    assert summary.retries == summary.attempts - 20 > 0


def test_a_row_gets_at_most_ten_attempts(run_rows, output, stormbreak_provider):
    """The last round is shortened, also for a policy that allows more attempts."""
    provider = stormbreak_provider(scenario({"kind": "500"}))
    many = RetryPolicy(max_attempts=1000, backoff=Backoff(kind="constant", initial_delay=0.001))
    policy = replace(BATCH, retry_budget=None, breaker=None, retry=many)
    summary = run_rows(chat_rows(3), provider, policy=policy)
    assert (summary.failed, summary.attempts) == (3, 30)
    failures = read(output.parent / "out.failed.jsonl")
    assert [line["error"]["attempts"] for line in failures] == [10] * 3


def test_a_row_that_must_wait_for_more_than_a_day_says_so(run_rows, output, stormbreak_provider):
    provider = stormbreak_provider(scenario({"kind": "429", "retry_after": 900_000.0}))
    began = time.time()
    summary = run_rows(chat_rows(1), provider)
    (failed,) = read(output.parent / "out.failed.jsonl")
    assert failed["error"]["message"] == (
        "throttled; status 429; it must wait for more than a day, which is too long for a row"
    )
    assert summary.reason.retry_at == failed["error"]["retry_at"] > began + 86_400


def test_all_rounds_of_a_row_share_one_idempotency_key(run_rows, stormbreak_provider):
    provider = stormbreak_provider(scenario({"kind": "500", "share": 0.3}), seed=5)
    summary = run_rows(chat_rows(40), provider)
    assert summary.successful == 40
    assert summary.attempts > 40
    assert provider.stats()["idempotency"] == {"keys": 40, "repeats": summary.attempts - 40}


@pytest.mark.parametrize("disabled", [False, True])
def test_a_disabled_policy_sends_each_row_once(
    run_rows, output, stormbreak_provider, monkeypatch, disabled
):
    monkeypatch.setenv("STORMBREAK_DISABLED", str(int(disabled)))
    provider = stormbreak_provider(scenario({"kind": "500", "share": 0.5}))
    summary = run_rows(chat_rows(40), provider, policy=BATCH if disabled else OFF)
    assert (summary.attempts, summary.left) == (40, 0)
    assert summary.successful == summary.verdicts["ok"] < 40


# ------------------------------------------------------------ deadlines


def test_the_local_queue_does_not_consume_the_deadline_of_a_row(run_rows, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.2))
    summary = run_rows(chat_rows(40), provider, limit=4, within={"deadline": 0.7})
    assert (summary.successful, summary.failed, summary.attempts) == (40, 0, 40)


def test_a_deadline_shorter_than_a_cooldown_fails_no_unsent_row(
    run_rows, output, stormbreak_provider
):
    """The deadline of waiting rows begins when they are sent, after the pause."""
    throttled = {"kind": "429", "retry_after": 2.0, "at": 0.3, "until": 0.8}
    provider = stormbreak_provider(scenario(throttled, service=0.02))
    summary = run_rows(chat_rows(300), provider, limit=4, within={"deadline": 1.0})
    assert summary.successful + summary.failed == 300
    assert 0 < summary.failed <= 4
    failures = read(output.parent / "out.failed.jsonl")
    assert {line["error"]["verdict"] for line in failures} == {"throttled"}
    assert all(line["error"]["attempts"] for line in failures)


# ------------------------------------------------------------ local errors


def test_a_listener_that_raises_fails_no_row(run_rows, output, stormbreak_provider, caplog):
    def listener(_):
        raise RuntimeError("no")

    rows = chat_rows(30)
    summary = run_rows(rows, stormbreak_provider(scenario()), listeners=[listener])
    assert summary.successful == 30
    assert_answered(rows, output)
    assert len(caplog.records) == 1


def test_a_tick_that_raises_fails_no_row(run_rows, output, stormbreak_provider, caplog):
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


def test_a_row_that_the_client_rejects_fails_alone(
    run_rows, output, stormbreak_provider, monkeypatch
):
    """The check of INPUT may miss an error that the client finds."""
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
