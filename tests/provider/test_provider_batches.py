"""The embedded provider's own batch API, as the SDKs of OpenAI and Anthropic see it."""

import json
import time

import anthropic
import openai
import pytest

from stormbreak.errors import ConfigurationError
from stormbreak.provider.scenario import Batches
from stormbreak.testing import answer_text

QUICK = "[provider]\nservice = 0\n[batches]\nseconds = {seconds}\nexpired = {expired}\nfailed = {failed}\n"


def body(number, model="m"):
    return {"model": model, "messages": [{"role": "user", "content": f"row {number}"}]}


def line(number, **changes):
    asked = {"custom_id": f"id-{number}", "method": "POST", "url": "/v1/chat/completions"}
    return json.dumps(asked | {"body": body(number)} | changes) + "\n"


@pytest.fixture
def started(stormbreak_provider):
    def start(*more, seconds=0, expired=0, failed=0):
        text = QUICK.format(seconds=seconds, expired=expired, failed=failed) + "\n".join(more)
        return stormbreak_provider(text)

    return start


@pytest.fixture
def client_of():
    clients = []

    def make(kind, provider):
        base_url = provider.base_url if kind is openai.OpenAI else provider.base_url[:-3]
        clients.append(kind(base_url=base_url, api_key="any", max_retries=0))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def submit(client, lines):
    file = client.files.create(file=("rows.jsonl", "".join(lines).encode()), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"token": "abc"},
    )


def ended(client, batch):
    while batch.status in ("validating", "in_progress", "finalizing"):
        time.sleep(0.01)
        batch = client.batches.retrieve(batch.id)
    return batch


def test_an_openai_batch_returns_the_answers_of_single_calls(started, client_of):
    provider = started(seconds=0.2)
    client = client_of(openai.OpenAI, provider)
    batch = submit(client, map(line, range(5)))
    assert (batch.status, batch.output_file_id, batch.metadata) == (
        "in_progress", None, {"token": "abc"},
    )  # fmt: skip
    batch = ended(client, batch)
    assert (batch.status, batch.request_counts.completed, batch.error_file_id) == (
        "completed", 5, None,
    )  # fmt: skip
    lines = map(json.loads, client.files.content(batch.output_file_id).text.splitlines())
    texts = {
        each["custom_id"]: each["response"]["body"]["choices"][0]["message"]["content"]
        for each in lines
    }
    assert texts == {f"id-{number}": answer_text(body(number)) for number in range(5)}
    stats = provider.stats()
    assert (stats["keys"]["answers"], stats["billed"]["m"]["attempts"]) == (5, 5)


def test_rows_expire_and_fail_at_the_configured_ratios(started, client_of):
    client = client_of(openai.OpenAI, started(expired=0.3, failed=0.3))
    batch = ended(client, submit(client, map(line, range(50))))
    assert batch.status == "expired"
    lines = [*map(json.loads, client.files.content(batch.error_file_id).text.splitlines())]
    expired = [each for each in lines if each["error"]]
    failed = [each for each in lines if each["response"]]
    assert {each["error"]["code"] for each in expired} == {"batch_expired"}
    assert {each["response"]["status_code"] for each in failed} == {500}
    assert 5 < len(expired) < 25
    assert len(failed) == batch.request_counts.failed
    assert batch.request_counts.completed == 50 - len(lines)


@pytest.mark.parametrize(
    ("lines", "code", "number"),
    [
        ([line(1), "{}\n"], "invalid_json_line", 2),
        ([line(1), line(1)], "duplicate_custom_id", 2),
        ([line(1, url="/v1/embeddings", body={"model": "m", "input": "x"})], "mismatched_url", 1),
        ([line(1), line(2, body=body(2, model="other"))], "mismatched_model", 1),
    ],
)
def test_an_invalid_input_file_fails_the_whole_batch(started, client_of, lines, code, number):
    provider = started(seconds=1000)
    client = client_of(openai.OpenAI, provider)
    batch = client.batches.retrieve(submit(client, lines).id)
    assert (batch.status, batch.errors.data[0].code, batch.errors.data[0].line) == (
        "failed", code, number,
    )  # fmt: skip
    assert provider.stats()["billed"] == {}


def test_lists_of_batches_and_files_are_newest_first_and_paged(started, client_of):
    client = client_of(openai.OpenAI, started(seconds=1000))
    ids = [submit(client, [line(number)]).id for number in range(5)]
    assert [each.id for each in client.batches.list(limit=2)] == ids[::-1]
    files = [*client.files.list(purpose="batch", limit=2)]
    assert [each.purpose for each in files] == ["batch"] * 5
    assert [*client.files.list(purpose="batch_output")] == []


def test_a_cancelled_batch_has_processed_nothing(started, client_of):
    provider = started(seconds=1000)
    client = client_of(openai.OpenAI, provider)
    batch = client.batches.cancel(submit(client, [line(1)]).id)
    assert (batch.status, batch.output_file_id) == ("cancelled", None)
    assert "batch_cancelled" in client.files.content(batch.error_file_id).text
    assert provider.stats()["keys"]["answers"] == 0


def test_an_anthropic_batch_reports_succeeded_errored_and_expired_rows(started, client_of):
    client = client_of(anthropic.Anthropic, started(seconds=0.1, expired=0.2, failed=0.2))
    requests = [
        {"custom_id": f"id-{number}", "params": {**body(number), "max_tokens": 9}}
        for number in range(30)
    ]
    batch = client.messages.batches.create(requests=requests)
    assert (batch.processing_status, batch.request_counts.processing) == ("in_progress", 30)
    while batch.processing_status != "ended":
        time.sleep(0.01)
        batch = client.messages.batches.retrieve(batch.id)
    results = [*client.messages.batches.results(batch.id)]
    kinds = [each.result.type for each in results]
    counts = batch.request_counts
    assert [kinds.count(kind) for kind in ("succeeded", "errored", "expired")] == [
        counts.succeeded, counts.errored, counts.expired,
    ]  # fmt: skip
    assert min(counts.succeeded, counts.errored, counts.expired) > 0
    assert sorted(each.custom_id for each in results) == sorted(r["custom_id"] for r in requests)
    assert [each.id for each in client.messages.batches.list()] == [batch.id]
    with pytest.raises(anthropic.BadRequestError, match="ended"):
        client.messages.batches.cancel(batch.id)
    with pytest.raises(anthropic.BadRequestError, match="custom_id"):
        client.messages.batches.create(requests=[requests[0], requests[0]])


def test_faults_apply_to_requests_for_files_and_batches(started, client_of):
    rejected = '[[faults]]\nkind = "503"\nrequests = [1]'
    cut = '[[faults]]\nkind = "cut_body"\nmatch = "POST /v1/batches?"\nfirst_attempts = 1'
    provider = started(rejected, cut, seconds=1000)
    client = client_of(openai.OpenAI, provider)
    with pytest.raises(openai.InternalServerError):
        submit(client, [line(1)])
    with pytest.raises(openai.APIConnectionError):
        submit(client, [line(1)])
    assert len([*client.batches.list()]) == 1  # created, although its response was lost
    assert len([*client.files.list()]) == 1
    stats = provider.stats()
    assert {"503": 1, "cut_body": 1}.items() <= stats["faults"].items()
    assert stats["keys"]["asked"] == 0  # not calls of a model


def test_the_batch_api_requires_a_key_if_configured(stormbreak_provider):
    provider = stormbreak_provider("[provider]\nrequire_key = true\n")
    with openai.OpenAI(
        base_url=provider.base_url, api_key="any", max_retries=0, default_headers={"Authorization": ""}
    ) as client, pytest.raises(openai.AuthenticationError):  # fmt: skip
        client.batches.list()


def test_expired_and_failed_above_one_in_total_are_rejected():
    with pytest.raises(ConfigurationError, match="expired and failed must add up to 1"):
        Batches(expired=0.6, failed=0.6)
