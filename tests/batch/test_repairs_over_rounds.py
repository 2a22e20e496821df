"""Rows whose repair must wait: a later round resumes the repairs, and each key has one body."""

import json
from dataclasses import replace

import pytest
from batches import chat_rows, read, run, run_args, started, wait_until, write
from metering import prices
from sockets import End, answer, failing, served, served_aside

from stormbreak.core import row_schedule
from stormbreak.core.backoff import Backoff
from stormbreak.core.fallback_policy import Place, ToTargets
from stormbreak.core.policy import Policy
from stormbreak.core.presets import BATCH
from stormbreak.core.retry import RetryPolicy
from stormbreak.events import Sent
from stormbreak.http.answer_schema import AnswerSchema, Misfit, Repairs
from stormbreak.http.client import AsyncClient
from stormbreak.http.request import RequestTemplate

SCHEMA = {"type": "object", "properties": {"stars": {"type": "integer"}}, "required": ["stars"]}
GOOD, PROSE, LIST = '{"stars": 3}', "Three stars.", "[3]"
ONE_A_ROUND = replace(BATCH, retry=RetryPolicy(max_attempts=1))
TWO = RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.01))


def answer_of(text):
    choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
    return answer(json.dumps({"choices": [choice], "usage": {}}).encode())


@pytest.fixture(autouse=True)
def without_backoff(monkeypatch):
    """Retry rows without delay: these tests check the requests, not their times."""
    monkeypatch.setattr(row_schedule, "_MIN", 0.01)
    monkeypatch.setattr(
        row_schedule, "_BACKOFF", replace(row_schedule._BACKOFF, initial_delay=0.01)
    )


@pytest.fixture
def one_row(run_rows):
    """Send one row to a server with these responses; return the summary and the requests."""

    def send(*scripts, **options):
        schema = AnswerSchema(SCHEMA, repairs=options.pop("repairs", 2))
        with served_aside(*scripts) as server:
            summary = run_rows(chat_rows(1), server, schema=schema, policy=ONE_A_ROUND, **options)
            return summary, server.requests

    return send


def keys(requests):
    return [request.headers["idempotency-key"] for request in requests]


def last_texts(requests):
    """The earlier answer that each request contains, or None."""
    turns = [json.loads(request.body)["messages"] for request in requests]
    return [turn[1]["content"] if len(turn) == 3 else None for turn in turns]


def test_a_later_round_resumes_the_repair_of_a_row(one_row, output):
    """Each round has one attempt, so no repair fits into its round."""
    summary, requests = one_row(answer_of(PROSE), answer_of(LIST), answer_of(GOOD))
    assert last_texts(requests) == [None, PROSE, LIST]
    assert len(set(keys(requests))) == 3
    assert (summary.successful, summary.attempts) == (1, 3)
    assert read(output)[0]["attempts"] == 3


def test_a_failed_repair_is_retried_with_the_same_body_and_key(one_row):
    summary, requests = one_row(answer_of(PROSE), failing(503), failing(503), answer_of(GOOD))
    first, *repair = requests
    assert last_texts(requests) == [None, PROSE, PROSE, PROSE]
    assert {request.body for request in repair} == {repair[0].body}
    assert len(set(keys(repair))) == 1
    assert keys([first]) != keys(repair[:1])
    assert summary.successful == 1


@pytest.mark.parametrize(("repairs", "sent"), [(0, 1), (1, 2), (2, 3)])
def test_the_limit_of_repairs_counts_all_rounds(one_row, files, repairs, sent):
    summary, requests = one_row(answer_of(PROSE), repairs=repairs)
    assert (summary.failed, len(requests)) == (1, sent)
    (line,) = read(files.failed)
    assert (line["error"]["verdict"], line["error"]["attempts"]) == ("schema_mismatch", sent)


async def test_a_later_round_reserves_the_tokens_of_the_repair():
    body = b'{"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Rate it."}]}'
    schema, repairs = AnswerSchema(SCHEMA), Repairs()
    async with AsyncClient(base_url="http://127.0.0.1:9/v1") as client:
        first = RequestTemplate("chat/completions", body, schema=schema, repairs=repairs)
        client.prepare(first)
        repairs.misfits[client.target("m")] = Misfit(PROSE, "It is not JSON.", "a-key")
        again = RequestTemplate("chat/completions", body, schema=schema, repairs=repairs)
        request = client.prepare(again)
    assert request.headers["Idempotency-Key"] == "a-key"
    assert again.token_bound() == again.token_bound(request.body) != first.token_bound()
    assert again.estimated_tokens() == again.estimated_tokens(request.body)
    assert again.estimated_tokens() > first.estimated_tokens()


@pytest.mark.parametrize("between", [[failing(404)], [answer_of(PROSE), failing(404)]])
async def test_a_repair_at_a_fallback_reserves_its_maximum_cost(between):
    """In the second round, the first target fails at once, or after a short repair."""
    body = b'{"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Rate it."}]}'
    schema, repairs, sent = AnswerSchema(SCHEMA, repairs=5), Repairs(), []
    async with served(failing(404), *between) as first, served(answer_of(PROSE * 900)) as second:
        rule = ToTargets(targets=(Place(base_url=second.base_url),))
        policy = Policy(fallback=(rule,), retry=TWO, retry_budget=None)
        async with AsyncClient(base_url=first.base_url, policy=policy) as client:
            client.subscribe(lambda event: sent.append(event) if type(event) is Sent else None)
            for attempts in (2, 1 + len(between)):
                await client.ask(
                    "chat/completions", body, schema=schema, repairs=repairs, attempts=attempts
                )
        there = [event for event in sent if event.target.provider.endswith(f":{second.port}")]
    bounds = [event.bound.input_tokens for event in there]
    sizes = [len(request.body) for request in second.requests]
    assert last_texts(second.requests)[:2] == [None, PROSE * 900]
    assert all(size <= bound for size, bound in zip(sizes, bounds, strict=True))


def test_repairs_at_a_fallback_do_not_exceed_the_maximum_cost(run_rows, files):
    with (
        served_aside(failing(503)) as failing_server,
        served_aside(answer_of(PROSE * 5000)) as healthy,
    ):
        summary = run_rows(
            chat_rows(1, max_tokens=9), failing_server, schema=AnswerSchema(SCHEMA), policy=replace(BATCH, retry=TWO),
            within={"fallback": (ToTargets(targets=(Place(base_url=healthy.base_url),)),)},
            max_cost=0.02, price_of=prices,
        )  # fmt: skip
        assert last_texts(healthy.requests) == [None]
    assert summary.spent <= 0.02
    (line,) = read(files.failed)
    assert "the limit is 0.02 USD" in line["error"]["message"]


def test_another_output_token_limit_changes_the_idempotency_key(run_rows):
    with served_aside(End.RESET) as server:
        for tokens in (50, 50, 60):
            run_rows(
                chat_rows(1), server, max_cost=5.0, max_output_tokens=tokens, price_of=prices,
                connect_grace=0.01,
            )  # fmt: skip
        sent = {(request.headers["idempotency-key"], request.body) for request in server.requests}
    assert len(server.requests) >= 3
    assert len({key for key, _ in sent}) == len({body for _, body in sent}) == len(sent) == 2


# ------------------------------------------------------------ kill -9


class RememberingProvider:
    """A provider that always repeats the answer to a key, and bills it once.

    The first answer to every second row is prose; the first attempt at every second of their repairs fails.
    """

    def __init__(self):
        self.bodies = {}
        self.answers = {}
        self.failed = set()
        self.conflicts = 0
        self.replayed = 0

    async def __call__(self, request, writer):
        key, body = request.headers["idempotency-key"], json.loads(request.body)
        self.conflicts += self.bodies.setdefault(key, request.body) != request.body
        turns = body["messages"]
        number = int(turns[0]["content"].split()[-1])
        if len(turns) == 3 and number % 4 == 1 and number not in self.failed:
            self.failed.add(number)
            writer.write(failing(503))
        else:
            self.replayed += key in self.answers
            text = PROSE if number % 2 and len(turns) == 1 else GOOD
            writer.write(self.answers.setdefault(key, answer_of(text)))
        await writer.drain()


def test_a_resumed_run_sends_the_same_bodies_under_the_same_keys(tmp_path, output):
    rows, provider = chat_rows(40), RememberingProvider()
    source = write(tmp_path / "in.jsonl", rows)
    schema, policy = tmp_path / "stars.json", tmp_path / "one.toml"
    schema.write_text(json.dumps(SCHEMA))
    policy.write_text('preset = "batch"\n[retry]\nmax_attempts = 1\n')
    more = ("--schema", schema, "--policy", policy, "--deadline", "25", "--quiet")
    with served_aside([provider]) as server:
        words = (*run_args(source, output, server.base_url), *more)
        with started(*words) as process:
            wait_until(lambda: len(server.requests) >= 42, "a repair")
            process.kill()
        assert len(read(output)) < 40
        assert run(*words).returncode == 0
    assert provider.conflicts == 0
    assert provider.replayed > 0
    assert len(provider.answers) == 60  # billed: each row, and one repair of every other
    assert sorted(line["custom_id"] for line in read(output)) == sorted(
        r["custom_id"] for r in rows
    )
