"""The flags of `stormbreak batch run`, and each format of rows."""

import json

import pytest
from batches import assert_answered, chat_row, chat_rows, read, scenario, write

pytestmark = pytest.mark.usefixtures("no_words_about_providers")


def test_ordered_writes_the_output_in_input_order(batch_run, source, output, stormbreak_provider):
    write(source, chat_rows(200))
    provider = stormbreak_provider(scenario(service=0.02, variation=1.0))
    assert batch_run("--ordered", "--concurrency", "50", provider=provider)[0] == 0
    assert [line["custom_id"] for line in read(output)] == [f"row-{n}" for n in range(200)]


def test_model_applies_to_rows_that_name_none(batch_run, source, output, stormbreak_provider):
    write(source, [{"prompt": "one"}, {"prompt": "two", "model": "storm-1-mini"}])
    assert batch_run("--model", "storm-1", provider=stormbreak_provider(scenario()))[0] == 0
    models = {line["custom_id"]: line["response"]["body"]["model"] for line in read(output)}
    assert models == {"row-1": "storm-1", "row-2": "storm-1-mini"}


def test_concurrency_limits_the_connections(batch_run, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.05))
    assert batch_run("--concurrency", "3", provider=provider)[0] == 0
    assert provider.stats()["connections"]["opened"] == 3


def test_auto_concurrency_opens_several_connections_at_once(batch_run, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.3))
    assert batch_run("--concurrency", "auto", provider=provider)[0] == 0
    assert provider.stats()["connections"]["opened"] > 3


# ------------------------------------------------------------ requests, tokens and time


@pytest.mark.parametrize("policy", ["batch", "off"])
def test_rpm_limits_the_request_rate(batch_run, stormbreak_provider, policy):
    provider = stormbreak_provider(scenario(service=0.01))
    code, out, _ = batch_run("--policy", policy, "--rpm", "1200", "--json", provider=provider)
    summary = json.loads(out)
    assert (code, summary["attempts"]) == (0, 30)
    assert summary["elapsed"] >= 0.45  # twenty at once, ten more within half a second


def test_tpm_limits_the_connections(batch_run, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.01))
    assert batch_run("--tpm", "60000", provider=provider)[0] == 0
    # The tokens of one second are enough for one row. Without --tpm, it is 20.
    assert provider.stats()["connections"]["opened"] < 5


def test_timeout_and_idle_timeout_end_a_hanging_attempt(batch_run, source, stormbreak_provider):
    write(source, chat_rows(3))
    for flag in ("--timeout", "--idle-timeout"):
        hang = {"kind": "hang", "until": 0.9}
        provider = stormbreak_provider(scenario(hang))
        code, out, _ = batch_run(flag, "0.4", "--json", provider=provider)
        assert code == 0
        assert json.loads(out)["verdicts"]["timeout"] >= 3
        source.with_name("out.jsonl").unlink()


def test_deadline_ends_rows_that_hang(batch_run, failed, stormbreak_provider):
    provider = stormbreak_provider(scenario({"kind": "hang", "share": 1.0}))
    code, out, _ = batch_run("--deadline", "0.5", "--json", provider=provider)
    summary = json.loads(out)
    assert code == 1
    assert summary["elapsed"] < 5
    assert summary["failed"] == len(read(failed)) == 30
    assert {line["error"]["verdict"] for line in read(failed)} <= {"timeout", "rejected"}


@pytest.mark.parametrize("flags", [("--timeout", "0.3"), ("--deadline", "0.3")])
def test_timeout_and_deadline_apply_to_a_disabled_policy(
    batch_run, failed, stormbreak_provider, monkeypatch, flags
):
    monkeypatch.setenv("STORMBREAK_DISABLED", "1")
    provider = stormbreak_provider(scenario({"kind": "slow_headers", "added_latency": 60}))
    code, out, _ = batch_run(*flags, "--json", "--concurrency", "10", provider=provider)
    summary = json.loads(out)
    assert (code, summary["attempts"], summary["failed"]) == (1, 30, 30)
    assert {line["error"]["verdict"] for line in read(failed)} == {"timeout"}
    assert provider.stats()["connections"]["opened"] == 30


# ------------------------------------------------------------ rows


def test_streamed_rows_are_written_as_one_body(batch_run, source, output, stormbreak_provider):
    rows = [
        chat_row(n, stream=bool(n % 2), stream_options={"include_usage": True}) for n in range(40)
    ]
    write(source, rows)
    provider = stormbreak_provider(scenario({"kind": "cut_stream", "share": 0.2}))
    assert batch_run(provider=provider)[0] == 0
    assert_answered(rows, output)
    for line in read(output):
        body = line["response"]["body"]
        assert body["object"] == "chat.completion"
        assert body["choices"][0]["finish_reason"] == "stop"
        assert body["usage"]["completion_tokens"] > 0


def test_rows_of_embeddings_are_answered(batch_run, source, output, stormbreak_provider):
    write(
        source,
        [
            {
                "custom_id": f"e{n}",
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {"model": "storm-1", "input": [f"text {n}", "more"]},
            }
            for n in range(5)
        ],
    )
    assert batch_run(provider=stormbreak_provider(scenario()))[0] == 0
    assert [len(line["response"]["body"]["data"]) for line in read(output)] == [2] * 5
