"""A full disk, a changed input or a signal stops a run, and the run keeps its answers."""

import json
import os
import signal
import subprocess
import threading

import pytest
from batches import (
    PATIENCE,
    assert_answered,
    chat_rows,
    read,
    run_args,
    scenario,
    size_of,
    started,
    wait_until,
    write,
)
from odd_servers import post_server

from stormbreak.errors import ConfigurationError
from stormbreak.testing import answer_text

DRAINING = "answers are still to come"


def test_a_full_disk_stops_the_run_and_loses_no_answer(
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


def test_a_changed_input_stops_the_run_and_keeps_its_answers(
    run_rows, output, stormbreak_provider, tmp_path
):
    provider = stormbreak_provider(scenario(service=0.05))
    source = tmp_path / "in.jsonl"

    def tick(runner):
        if runner.journal.done > 20 and source.read_bytes()[:1] != b" ":
            source.write_bytes(b" " * source.stat().st_size)

    with pytest.raises(ConfigurationError, match="was changed during the run"):
        run_rows(chat_rows(200), provider, limit=4, tick=tick)
    asked = provider.stats()["keys"]
    assert len(read(output)) == asked["answered"] == asked["asked"]


@pytest.mark.parametrize("size", [0, 500])
def test_a_truncated_output_stops_the_run_and_keeps_rows_in_flight(
    run_rows, output, stormbreak_provider, size
):
    provider = stormbreak_provider(scenario(service=0.05))
    rows, cut = chat_rows(200), []

    def tick(runner):
        if runner.journal.done > 20 and not cut:
            cut.append(output.read_bytes().count(b"\n"))
            os.truncate(output, size)

    with pytest.raises(ConfigurationError, match="another process cut it short"):
        run_rows(rows, provider, limit=4, tick=tick)
    asked = provider.stats()["keys"]
    assert asked["asked"] < 200
    assert asked["answered"] == asked["asked"]  # the requests in flight were answered ...
    kept = len(read(output))  # ... and written, each on its own line
    assert asked["answered"] - cut[0] <= kept < asked["answered"]
    assert run_rows(rows, provider).successful == 200
    assert_answered(rows, output)


# ------------------------------------------------------------ signals to a child process


@pytest.fixture
def gated():
    """Serve one answer, and the others when `go` is set; yield the URL, the prompts asked for, and `go`."""
    asked, go = [], threading.Event()

    def answer(_, body):
        payload = json.loads(body)
        asked.append(payload["messages"][0]["content"])
        assert len(asked) == 1 or go.wait(PATIENCE)
        message = {"content": answer_text(payload)}
        return 200, json.dumps(
            {"choices": [{"message": message, "finish_reason": "stop"}]}
        ).encode()

    with post_server(answer) as url:
        yield f"{url}/v1", asked, go
        go.set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_first_signal_drains_and_the_same_command_resumes(tmp_path, output, gated, number):
    url, asked, go = gated
    rows = chat_rows(300)
    args = run_args(write(tmp_path / "in.jsonl", rows), output, url)
    with started(*args, "--concurrency", 20, "--json") as process:
        wait_until(lambda: size_of(output), "a first answer")
        process.send_signal(number)
        assert DRAINING in process.stderr.readline()
        go.set()
        out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    summary = json.loads(out)
    assert summary["end"] == "interrupted"
    assert 0 < summary["successful"] < 300
    assert len(asked) == summary["successful"] == len(read(output))
    with started(*args, "--concurrency", 100) as process:
        assert process.wait(PATIENCE) == 0
    assert_answered(rows, output)
    assert len(asked) == len({*asked}) == 300


def test_two_sighups_only_drain_the_run(tmp_path, output, gated):
    """A closed terminal sends two: one from the shell and one from the kernel."""
    url, asked, go = gated
    args = run_args(write(tmp_path / "in.jsonl", chat_rows(400)), output, url)
    with started(*args, "--concurrency", 20, "--json") as process:
        wait_until(lambda: size_of(output), "a first answer")
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        assert DRAINING in process.stderr.readline()
        go.set()
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert len(asked) == len(read(output)) < 400


def test_a_run_under_nohup_ignores_sighup(tmp_path, output, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.3))
    rows = chat_rows(30)
    args = run_args(write(tmp_path / "in.jsonl", rows), output, provider.base_url)
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with started(*args, "--concurrency", 10, **ignoring) as process:
        wait_until(lambda: size_of(output), "a first answer")
        process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE) == 0
    assert_answered(rows, output)


def test_a_second_signal_stops_at_once(tmp_path, output, stormbreak_provider):
    provider = stormbreak_provider(
        scenario({"kind": "slow_headers", "added_latency": 30, "share": 0.5})
    )
    args = run_args(write(tmp_path / "in.jsonl", chat_rows(100)), output, provider.base_url)
    with started(*args, "--concurrency", 10, "--json") as process:
        wait_until(
            lambda: size_of(output) and not provider.stats()["in_service"], "answers, and a hang"
        )
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.7)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert json.loads(out)["successful"] == len(read(output))
    assert f"{DRAINING}; Ctrl-C again stops at once" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_input_is_read_is_one_line(output, number):
    args = run_args("-", output, "http://127.0.0.1:9/v1")
    row = json.dumps(chat_rows(1)[0]["body"]) + "\n"
    with started(*args, stdin=subprocess.PIPE) as process:
        process.stdin.write(row * 2_000)  # more than a pipe holds, so the process reads it
        process.stdin.flush()
        process.send_signal(number)
        process.wait(timeout=PATIENCE)
        assert process.stderr.read() == (
            "stormbreak: interrupted; run the same command again to continue\n"
        )
    assert process.returncode == 130
    assert list(output.parent.iterdir()) == []


def test_a_run_restores_the_signal_handlers_of_the_program(run_rows, stormbreak_provider):
    def mine(*_):
        pass

    before = {number: signal.signal(number, mine) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        run_rows(chat_rows(1), stormbreak_provider(scenario()))
        assert [signal.getsignal(number) for number in before] == [mine, mine]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
