"""Rows in every known format, streamed and not, in one file, also with broken responses."""

import asyncio
import json
from collections import Counter
from dataclasses import replace

import pytest
from batches import chat_row, read, run, scenario, size_of, started, wait_until, write
from sockets import served

from stormbreak.batch.job import Job, run_job
from stormbreak.batch.run_options import BatchOptions
from stormbreak.cli.main import main
from stormbreak.core.presets import OFF
from stormbreak.testing import answer_text

STREAMED = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
URLS = (*STREAMED, "/v1/embeddings")
TEXT_OF = {
    "/v1/chat/completions": lambda body: body["choices"][0]["message"]["content"],
    "/v1/responses": lambda body: body["output"][0]["content"][0]["text"],
    "/v1/messages": lambda body: body["content"][0]["text"],
}
HALF = 40_000  # bytes of OUTPUT
HASTY = """
preset = "batch"
breaker = "none"
retry_budget = "none"
retry.max_attempts = 20
retry.backoff = { kind = "constant", initial_delay = 0.01 }
"""


def row(number, url, *, stream=False):
    text = f"document {number}"
    asked = {"input": text} if url in ("/v1/responses", "/v1/embeddings") else {}
    asked = asked or {"messages": [{"role": "user", "content": text}]}
    more = {"max_tokens": 100} if url == "/v1/messages" else {}
    body = {"model": "storm-1", **asked, **more} | ({"stream": True} if stream else {})
    name = f"{url}-{number}-{'streamed' if stream else 'plain'}"
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


def mixed(count):
    """Every url, plain and streamed, and last a row without one."""
    streams = [(url, stream) for url in STREAMED for stream in (False, True)]
    made = [
        row(n, url, stream=stream)
        for n in range(count)
        for url, stream in [*streams, ("/v1/embeddings", False)]
    ]
    lone = chat_row(count)
    return [*made, {"custom_id": "lone", **lone["body"]}]


def body_of(asked):
    lone = {name: value for name, value in asked.items() if name != "custom_id"}
    return asked.get("body", lone)


def assert_each_has_its_own(rows, output):
    lines = {line["custom_id"]: line for line in read(output)}
    assert Counter(line["custom_id"] for line in read(output)) == Counter(
        each["custom_id"] for each in rows
    )
    for each in rows:
        response = lines[each["custom_id"]]["response"]
        url = each.get("url", "/v1/chat/completions")
        assert response["status_code"] == 200
        if url == "/v1/embeddings":
            assert len(response["body"]["data"]) == 1
        else:
            assert TEXT_OF[url](response["body"]) == answer_text(body_of(each))


@pytest.fixture
def batch_run(tmp_path, capsys):
    def call(rows, provider, *flags):
        source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
        to = ("--output", str(output), "--base-url", provider.base_url)
        code = main(["batch", "run", str(source), *to, *flags])
        return code, *capsys.readouterr()

    return call


def test_one_input_may_hold_rows_of_every_url(batch_run, tmp_path, stormbreak_provider):
    rows, output = mixed(4), tmp_path / "out.jsonl"
    provider = stormbreak_provider(scenario())
    code, out, errors = batch_run(rows, provider, "--json")

    assert (code, errors.count("Traceback")) == (0, 0)
    assert_each_has_its_own(rows, output)
    summary = json.loads(out)
    assert summary["successful"] == len(rows)
    assert summary["input_tokens"] > 0
    bodies = {line["custom_id"]: line["response"]["body"] for line in read(output)}
    for url in STREAMED[1:]:
        for n in range(4):
            assert bodies[f"{url}-{n}-streamed"] == bodies[f"{url}-{n}-plain"]


@pytest.mark.parametrize("url", STREAMED)
def test_no_broken_response_counts_as_an_answer(batch_run, tmp_path, stormbreak_provider, url):
    """Cut streams and errors inside a 200 response are retried and never written."""
    rows = [row(n, url, stream=bool(n % 2)) for n in range(60)]
    kinds = ("cut_stream", "error_in_200", "error_early", "cut_body", "stream_reset")
    provider = stormbreak_provider(scenario(*({"kind": kind, "share": 0.1} for kind in kinds)))
    (tmp_path / "policy.toml").write_text(HASTY)
    code, *_ = batch_run(rows, provider, "--policy", str(tmp_path / "policy.toml"))

    assert code == 0
    assert_each_has_its_own(rows, tmp_path / "out.jsonl")
    seen = provider.stats()
    assert set(kinds) <= {kind for kind, count in seen["faults"].items() if count}
    assert seen["keys"]["answered_twice"] == 0


@pytest.mark.parametrize("url", STREAMED)
def test_an_error_in_the_format_of_the_url_fails_without_a_retry(
    batch_run, tmp_path, stormbreak_provider, url
):
    rows = [row(n, url) for n in range(3)]
    provider = stormbreak_provider(scenario({"kind": "context_length", "share": 1.0}))
    code, *_ = batch_run(rows, provider)

    assert code == 1
    failed = read(tmp_path / "out.failed.jsonl")
    assert {line["response"]["status_code"] for line in failed} == {400}
    assert {line["error"]["attempts"] for line in failed} == {1}
    assert "document" not in json.dumps([line["error"] for line in failed])


def test_a_killed_run_resumes_with_every_url(tmp_path, stormbreak_provider):
    rows = mixed(30)
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    provider = stormbreak_provider(scenario(service=0.05))
    flags = ("batch", "run", source, "--output", output, "--base-url", provider.base_url)
    with started(*flags, "--concurrency", 8, "--quiet") as process:
        wait_until(lambda: size_of(output) > HALF, "half of it")
        process.kill()
        process.wait()
    done = run(*flags, "--concurrency", 64, "--quiet")

    assert (done.returncode, done.stderr) == (0, "")
    assert_each_has_its_own(rows, output)
    assert provider.stats()["arrivals"] <= len(rows) + 8


async def test_the_url_of_a_row_is_appended_to_the_base_url(tmp_path):
    """A `/v1` of the base URL is not repeated, and is omitted if the base URL ends differently."""
    async with served() as server:
        for base in (server.base_url, server.base_url.replace("/v1", "/v1beta/openai")):
            rows = [row(n, url) for n, url in enumerate(URLS)]
            source = write(tmp_path / "in.jsonl", rows)
            job = Job(
                source=source,
                output=tmp_path / f"{base[-2:]}.jsonl",
                options=BatchOptions(base_url=base),
                policy=replace(OFF, attempt_timeout=5.0),
            )
            await asyncio.to_thread(run_job, job)

    paths = Counter(request.line.split()[1] for request in server.requests)
    assert paths == Counter(
        prefix + url.removeprefix("/v1") for prefix in ("/v1", "/v1beta/openai") for url in URLS
    )
