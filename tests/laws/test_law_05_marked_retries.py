"""Law 5. A retry of something that may have been processed is marked; one Idempotency-Key per call and target, the same
on every attempt.
"""

import json
from dataclasses import replace

import pytest
from clients import QUICK, SAY, client_of
from hypothesis import given
from hypothesis import strategies as st
from sockets import End, answer, failing, free_port, served
from stage import OK, OTHER, THROTTLED, Stage, policy
from table_test import table_test

from stormbreak.batch.job import Job, run_job
from stormbreak.batch.run_options import BatchOptions
from stormbreak.core.backoff import Backoff
from stormbreak.core.fallback_policy import TRANSIENT, Place, Step, ToTargets
from stormbreak.core.presets import BATCH
from stormbreak.core.retry import RetryPolicy
from stormbreak.events import CallEnded, FellBack, RetryPlanned
from stormbreak.http.client import AsyncClient
from stormbreak.types import Outcome, Verdict

HALF = answer()[:-20]  # all of the head, and a part of the body

MARKED = {
    "server_error": failing(500),
    "gateway": failing(502),
    "gateway_timeout": failing(504),
    "bare_503": answer(b"", 503),
    "request_timeout": failing(408),
    "reset": End.RESET,
    "closed": End.CLOSE,
    "silent": End.HANG,
    "cut": (HALF, End.CLOSE),
    "broken": answer(b"<html>"),
    "empty": answer(b""),
    "error_inside": answer(b'{"error": {"message": "no", "code": 502}}'),
}
UNMARKED = {
    "throttled": failing(429),
    "locked": failing(409),
    "too_early": failing(425),
    "overloaded": failing(503, {"code": "server_is_overloaded"}),
    "told_503": failing(503, retry_after_ms=1),
    "no_capacity": failing(529),
    "no_origin": failing(522),
}


def events_of(client):
    events = []
    client.subscribe(events.append)
    return events


def of_kind(events, kind):
    return [event for event in events if isinstance(event, kind)]


def keys(server):
    return [request.headers["idempotency-key"] for request in server.requests]


# ---------------------------------------------------------------- the mark, in the core

retried = st.sampled_from([Verdict.SERVER_ERROR, Verdict.TIMEOUT, Verdict.RESET, Verdict.THROTTLED])
failures = st.tuples(retried, st.booleans()).map(
    lambda drawn: Outcome(drawn[0], maybe_processed=drawn[1])
)


@given(st.lists(failures, max_size=8), st.booleans())
def test_every_retry_is_marked_if_its_attempt_may_have_been_processed(failed, answered):
    stage = Stage(
        policy(
            retry=RetryPolicy(max_attempts=9, backoff=Backoff(kind="constant", initial_delay=1.0))
        )
    ).listen()
    run = stage.start()
    for outcome in failed:
        run.step(outcome)
        stage.tick(1.0)
    ended = run.step(OK if answered else Outcome(Verdict.INVALID)).ended
    marks = [each.maybe_processed for each in failed]

    assert marks == [event.maybe_processed for event in of_kind(stage.events, RetryPlanned)]
    assert (len(failed) + 1, sum(marks)) == (ended.attempts, ended.maybe_processed)
    assert [sum(marks)] == [each.maybe_processed for each in of_kind(stage.events, CallEnded)]


@given(st.booleans(), st.booleans())
def test_a_fallback_is_marked_like_a_retry(first, second):
    stage = Stage(policy(retry=RetryPolicy(max_attempts=1))).listen()
    steps = (Step(frozenset(TRANSIENT), None, "fallback", ((OTHER, 1.0),)),)
    run = stage.start(fallbacks=steps)
    run.step(Outcome(Verdict.SERVER_ERROR, maybe_processed=first))
    ended = run.step(Outcome(Verdict.SERVER_ERROR, maybe_processed=second)).ended

    assert [first] == [event.maybe_processed for event in of_kind(stage.events, FellBack)]
    assert first + second == ended.maybe_processed


def test_a_call_without_retries_counts_no_processed_attempt():
    ended = Stage(policy()).start().step(OK).ended

    assert (ended.attempts, ended.maybe_processed, ended.history) == (1, 0, ())


# ---------------------------------------------------------------- the mark, on real sockets


@table_test("name", [*MARKED, *UNMARKED])
async def test_the_connection_knows_which_failures_may_have_been_processed(name):
    script = MARKED.get(name) or UNMARKED[name]
    chosen = replace(QUICK, attempt_timeout=0.2) if script is End.HANG else QUICK
    async with served(script, answer()) as server, client_of(server, chosen) as client:
        events = events_of(client)
        got = await client.chat(SAY)

    assert [name in MARKED] == [each.maybe_processed for each in of_kind(events, RetryPlanned)]
    assert (2, int(name in MARKED)) == (got.attempts, got.maybe_processed)


async def test_an_attempt_without_a_connection_was_not_processed():
    nowhere = AsyncClient(base_url=f"http://127.0.0.1:{free_port()}/v1", policy=QUICK)
    async with nowhere as client:
        events = events_of(client)
        ended = await client.ask("chat/completions", b'{"model":"m"}')

    assert (ended.attempts, ended.unconnected, ended.maybe_processed) == (4, 4, 0)
    assert not any(each.maybe_processed for each in of_kind(events, RetryPlanned))


async def test_a_stream_reports_processed_attempts_from_its_first_output():
    choice = {"index": 0, "delta": {"content": "fine"}, "finish_reason": "stop"}
    sse = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
    streamed = answer(sse, content_type="text/event-stream")
    async with (
        served(failing(500), failing(429), streamed) as server,
        client_of(server) as client,
        client.stream("chat/completions", {"messages": SAY}) as stream,
    ):
        early = (stream.attempts, stream.maybe_processed)
        got = await stream.answer()

    assert (3, 1) == early == (got.attempts, got.maybe_processed)


# ---------------------------------------------------------------- one key per call and target


async def test_all_attempts_of_a_call_share_a_key_that_no_other_call_has():
    async with served(End.RESET, failing(500), answer()) as server, client_of(server) as client:
        await client.chat(SAY)
        await client.chat(SAY)

    first, second, third, other = keys(server)
    assert first == second == third != other


@pytest.mark.parametrize("given_key", [None, "row-7"])
async def test_each_target_has_its_own_key(given_key):
    async with (
        served(failing(500)) as one,
        served(failing(500)) as two,
        served(answer()) as three,
    ):
        places = tuple(Place(base_url=each.base_url) for each in (two, three))
        rules = (ToTargets(targets=places),)
        retry = RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.01))
        async with client_of(one, replace(QUICK, retry=retry, fallback=rules)) as client:
            for _ in range(2):
                body = json.dumps({"model": "m", "messages": SAY}).encode()
                await client.ask("chat/completions", body, idempotency_key=given_key)

    sent = [keys(each) for each in (one, two, three)]
    calls = 1 if given_key else 2  # with a given key both are the same call
    assert [len(each) for each in sent] == [4, 4, 2]
    assert [calls, calls, calls] == [len(set(each)) for each in sent]
    assert len(set().union(*sent)) == 3 * calls
    assert (given_key is not None) == (sent[0][0] == given_key)


def batch(tmp_path, provider, **changes):
    source = tmp_path / "in.jsonl"
    if not source.exists():
        source.write_text(
            "".join(json.dumps({"prompt": "the same"} | changes) + "\n" for _ in range(3))
        )
    retry = RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.01))
    job = Job(
        source=source,
        output=tmp_path / "out.jsonl",
        options=BatchOptions(base_url=provider.base_url, model="storm-1"),
        policy=replace(BATCH, retry=retry, breaker=None, retry_budget=None),
    )
    return run_job(job)


def test_a_row_keeps_its_key_over_rounds_and_runs(tmp_path, stormbreak_provider):
    """As after a kill: the run file exists, the answers are lost."""
    provider = stormbreak_provider('[[faults]]\nkind = "500"\nfirst_attempts = 3\n', speed=50)
    summary = batch(tmp_path, provider)
    (tmp_path / "out.jsonl").unlink()
    batch(tmp_path, provider)
    seen = provider.stats()["idempotency"]

    assert (3, summary.attempts) == (seen["keys"], seen["repeats"])
    assert summary.attempts == 3 + summary.maybe_processed
    assert summary.maybe_processed > 0


def test_the_same_rows_in_another_batch_have_other_keys(tmp_path, stormbreak_provider):
    provider = stormbreak_provider("calm", speed=50)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        batch(tmp_path / name, provider)

    assert provider.stats()["idempotency"]["keys"] == 6


def test_the_failed_file_counts_attempts_that_may_have_been_billed(tmp_path, stormbreak_provider):
    fault = '[[faults]]\nkind = "{}"\nfirst_attempts = {}\n'
    provider = stormbreak_provider(fault.format("500", 3) + fault.format("400", 99), speed=50)
    batch(tmp_path, provider)
    lines = (tmp_path / "out.failed.jsonl").read_text().splitlines()
    failed = [json.loads(line) for line in lines]

    assert len(failed) == 3
    for line in failed:
        assert line["error"]["attempts"] == line["error"]["maybe_processed"] + 1


def test_a_throttled_call_is_never_marked():
    stage = Stage(
        policy(
            retry=RetryPolicy(max_attempts=3, backoff=Backoff(kind="constant", initial_delay=1.0))
        )
    ).listen()
    run = stage.start()
    for _ in range(3):
        run.step(THROTTLED)
        stage.tick(1.0)

    assert run.ended.maybe_processed == 0
