"""`stormbreak batch run`: exit codes, stdout and stderr."""

import json

import pytest
from batches import (
    PATIENCE,
    assert_answered,
    chat_rows,
    provider_process,
    read,
    run,
    run_args,
    scenario,
    size_of,
    started,
    wait_until,
    write,
)

from stormbreak.cli.main import main

pytestmark = pytest.mark.usefixtures("no_words_about_providers")


def test_a_complete_run_exits_with_0(batch_run, output, stormbreak_provider):
    code, out, errors = batch_run(provider=stormbreak_provider(scenario()))
    assert code == 0
    assert_answered(chat_rows(30), output)
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["answered"] == "30 of 30 rows"
    assert lines["failed"] == "0"
    assert lines["answers"] == str(output)
    assert errors.splitlines()[-1].startswith("30 done, 0 failed, 0 left, ")


def test_failed_rows_exit_with_1_and_are_explained(batch_run, output, failed, stormbreak_provider):
    provider = stormbreak_provider(scenario({"kind": "400", "share": 0.3}), seed=2)
    code, out, _ = batch_run("--json", "--quiet", provider=provider)
    summary = json.loads(out)
    assert code == 1
    assert summary["successful"] + summary["failed"] == 30
    assert summary["failed"] == summary["verdicts"]["invalid"] > 0
    explained = read(failed)
    assert {line["custom_id"] for line in explained}.isdisjoint(
        line["custom_id"] for line in read(output)
    )
    assert len(explained) == summary["failed"]
    for line in explained:
        assert line["response"]["status_code"] == 400
        assert line["error"]["verdict"] == "invalid"
        assert line["error"]["attempts"] == 1


def test_json_prints_only_json_on_stdout_and_progress_on_stderr(source, output):
    with provider_process() as url:
        done = run(*run_args(source, output, url), "--json")
    assert done.returncode == 0
    summary = json.loads(done.stdout)
    assert summary.keys() >= {
        "total", "successful", "failed", "elapsed", "throughput", "attempts", "verdicts",
    }  # fmt: skip
    assert (summary["total"], summary["successful"], summary["failed"]) == (30, 30, 0)
    assert summary["throughput"] == pytest.approx(30 / summary["elapsed"], rel=0.1)
    assert "30 done" in done.stderr


def test_quiet_shows_no_progress(batch_run, stormbreak_provider):
    code, out, errors = batch_run("--quiet", provider=stormbreak_provider(scenario()))
    assert (code, errors) == (0, "")
    assert "30 of 30" in out


def test_printed_lines_have_at_most_100_columns(batch_run, stormbreak_provider):
    provider = stormbreak_provider(scenario({"kind": "400", "share": 0.3}))
    _, out, errors = batch_run(provider=provider)
    lines = [line for line in out.splitlines() if "/" not in line] + errors.splitlines()
    assert max(map(len, lines)) <= 100


def test_the_key_appears_in_no_output_and_no_file(
    batch_run, tmp_path, stormbreak_provider, monkeypatch
):
    monkeypatch.setenv("MY_KEY", "sk-canary-1234567890")
    provider = stormbreak_provider(scenario(require_key=True))
    code, out, errors = batch_run("--api-key-env", "MY_KEY", provider=provider)
    assert code == 0
    texts = [out, errors, *(path.read_text() for path in tmp_path.iterdir() if path.is_file())]
    assert not any("sk-canary" in text for text in texts)


def test_status_counts_rows_during_a_run_and_after_it(source, output, stormbreak_provider, capsys):
    write(source, chat_rows(60))
    provider = stormbreak_provider(scenario(service=0.2))
    args = run_args(source, output, provider.base_url)
    with started(*args, "--concurrency", "5") as process:
        wait_until(lambda: size_of(output), "a first answer")
        assert main(["batch", "status", str(output), "--json"]) == 0
        during = json.loads(capsys.readouterr().out)
        assert during["active"]
        assert 0 < during["done"] < 60
        assert process.wait(PATIENCE) == 0
    assert main(["batch", "status", str(output), "--json"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert (after["active"], after["done"], after["left"], after["failed"]) == (False, 60, 0, {})


# ------------------------------------------------------------ runs without requests


def test_a_run_that_sends_nothing_names_the_reason_and_the_next_command(
    source, output, batch_run, stormbreak_provider, capsys
):
    write(source, chat_rows(3))
    assert batch_run(provider=stormbreak_provider(scenario({"kind": "401"})))[0] == 1
    calm = stormbreak_provider(scenario())
    code, out, _ = batch_run("--quiet", provider=calm)
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert code == 1
    assert lines["sent"].startswith("nothing: batch run does not resend rows")
    command = lines["next"].partition(": stormbreak ")[2]
    assert main([*command.split(), "--base-url", calm.base_url, "--quiet"]) == 0
    capsys.readouterr()
    assert "sent       nothing: all rows were answered before" in batch_run(provider=calm)[1]
    assert main([*command.split(), "--quiet"]) == 0
    assert "sent       nothing: no row has failed\n" in capsys.readouterr().out
