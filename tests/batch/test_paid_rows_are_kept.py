"""Every paid answer is written, also when something else fails."""

import json
import os
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest
from batches import (
    assert_answered,
    chat_rows,
    command,
    environment,
    one_line,
    read,
    run_args,
    scenario,
    size_of,
    started,
    wait_until,
    write,
)
from odd_servers import post_server
from sockets import BODY

from stormbreak.batch import run
from stormbreak.batch.job import Job, run_job
from stormbreak.batch.run_options import BatchOptions
from stormbreak.batch.store.durable_file import OutputError
from stormbreak.cli.main import main
from stormbreak.core.presets import BATCH
from stormbreak.errors import ConfigurationError

pytestmark = pytest.mark.usefixtures("no_words_about_providers")

PROMPTS = [{"prompt": f"document {number}"} for number in range(100)]


# ------------------------------------------------------------ callbacks and standard error


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_callback_that_exits_first_drains_the_rows_in_flight(output, stormbreak_provider, kind):
    provider = stormbreak_provider(scenario(service=0.3))

    def look(view):
        if view.done:
            raise kind

    with pytest.raises(kind):
        run(
            PROMPTS,
            output=output,
            base_url=provider.base_url,
            model="m",
            concurrency=10,
            on_progress=look,
        )
    asked = provider.stats()["keys"]
    assert 0 < asked["asked"] < 100
    assert asked["asked"] == asked["answered"] == len(read(output))


@pytest.mark.parametrize("how", ["2>&-", "2>/dev/full", "closed pipe"])
def test_a_run_continues_without_standard_error(tmp_path, output, stormbreak_provider, how):
    rows = chat_rows(60)
    provider = stormbreak_provider(scenario(service=0.2))
    args = run_args(write(tmp_path / "in.jsonl", rows), output, provider.base_url)
    words = command(*args, "--concurrency", "10", "--json")
    reader, writer = os.pipe()
    os.close(reader)
    redirect = f"2>&{writer}" if how == "closed pipe" else how
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" {redirect}', "sh", *words],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[writer],
        env=environment(),
        timeout=60,
    )
    os.close(writer)
    assert done.returncode == 0
    assert json.loads(done.stdout)["successful"] == 60
    assert_answered(rows, output)


def test_an_error_without_standard_error_still_sets_the_exit_code(tmp_path):
    words = command("batch", "run", tmp_path / "none.jsonl", "--output", tmp_path / "o.jsonl")
    for redirect in ("2>&-", "2>/dev/full"):
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {redirect}', "sh", *words],
            check=False,
            capture_output=True,
            text=True,
            env=environment(),
        )
        assert (done.returncode, done.stdout) == (2, "")


# ------------------------------------------------------------ OUTPUT, truncated by another process


@pytest.mark.parametrize("left", [0, 1000])
def test_a_run_reports_a_truncated_output_and_loses_no_further_row(
    run_rows, output, stormbreak_provider, left
):
    provider = stormbreak_provider(scenario(service=0.1))
    rows = chat_rows(300)
    cut = []

    def tick(runner):
        if runner.journal.done >= 20 and not cut:
            cut.append(len(read(output)))
            os.truncate(output, left)

    with pytest.raises(OutputError, match=r"out\.jsonl: another process cut it short while"):
        run_rows(rows, provider, limit=8, tick=tick)
    kept = read(output)  # whole lines only
    asked = provider.stats()["keys"]
    assert asked["asked"] == asked["answered"] < 300
    assert 0 < len(kept) <= asked["answered"]
    assert len(kept) >= asked["answered"] - cut[0] - 16
    summary = run_rows(rows, provider)
    assert summary.successful == 300
    assert_answered(rows, output)


def test_a_truncated_output_ends_the_run_with_one_line_and_code_2(
    tmp_path, output, stormbreak_provider
):
    provider = stormbreak_provider(scenario(service=0.3))
    args = run_args(write(tmp_path / "in.jsonl", chat_rows(100)), output, provider.base_url)
    with started(*args, "--concurrency", "10", "--quiet") as process:
        wait_until(lambda: size_of(output), "an answer")
        os.truncate(output, 0)
        _, errors = process.communicate(timeout=180)
    assert process.returncode == 2
    assert "another process cut it short" in one_line(errors)


# ------------------------------------------------------------ a slow server


def test_requests_in_flight_are_not_given_up_as_unreachable(run_rows, output, monkeypatch):
    """The first connection was lost and no response has arrived. The other requests are sent and paid."""
    monkeypatch.setattr("stormbreak.batch.running.runner.CONNECTED_AFTER", 0.3)
    lost, release = [], threading.Event()

    def answer(_, body):
        if not lost:
            lost.append(body)
            raise ConnectionResetError
        release.wait(30)
        return 200, BODY

    def tick(runner):
        if runner.stats.connect_error and time.monotonic() > began + 1.5:
            release.set()

    began = time.monotonic()
    with post_server(answer) as url:
        place = SimpleNamespace(base_url=f"{url}/v1")
        summary = run_rows(chat_rows(3), place, tick=tick, connect_grace=0.5)
    assert (summary.end, summary.successful) == ("finished", 3)


# ------------------------------------------------------------ Retry-After


def test_a_pause_of_the_provider_survives_a_kill(tmp_path, output):
    """The next run waits as long as the killed run would have waited."""
    named, times = [], []

    def answer(_, body):
        times.append(time.monotonic())
        if len(times) == 5:
            named.append(time.monotonic())
            return 429, b'{"error": {"message": "slow down"}}'
        return 200, BODY

    source = write(tmp_path / "in.jsonl", chat_rows(30))
    with post_server(answer, **{"retry-after": "4"}) as url:
        place = f"{url}/v1"
        args = run_args(source, output, place)
        with started(*args, "--concurrency", "1", "--quiet") as process:
            wait_until(lambda: named and _pauses(output), "a pause that is written down")
            process.kill()
        before = len(times)
        options = BatchOptions(base_url=place, concurrency=1)
        summary = run_job(Job(source=source, output=output, policy=BATCH, options=options))
    assert summary.successful == 30
    assert times[before] - named[0] >= 4.0
    assert _pauses(output) == {}


def _pauses(output):
    return json.loads((output.parent / "out.jsonl.run").read_text())["pauses"]


def test_a_pause_does_not_apply_to_another_address(run_rows, output, stormbreak_provider):
    waits = stormbreak_provider(scenario({"kind": "429", "retry_after": 600.0}))
    with pytest.raises(ConfigurationError, match="stop"):
        run_rows(chat_rows(5), waits, tick=_stop_at_the_first_cooldown)
    assert max(_pauses(output).values()) > time.time() + 300
    summary = run_rows(chat_rows(5), stormbreak_provider(scenario()))
    assert summary.successful == 5


def _stop_at_the_first_cooldown(runner):
    if runner.stats.cooldowns:
        runner._give_up(ConfigurationError("stop"))


# ------------------------------------------------------------ the command line


def test_the_help_of_retry_shows_no_unused_default(capsys):
    assert main(["batch", "retry", "--help"]) == 0
    assert "[default:" not in capsys.readouterr().out
    assert main(["batch", "run", "--help"]) == 0
    assert capsys.readouterr().out.count("[default:") == 9


def test_the_report_of_a_run_names_a_reached_spend_limit(
    tmp_path, output, stormbreak_provider, capsys
):
    provider = stormbreak_provider(scenario(use_max_tokens=True))
    rows = chat_rows(40, max_tokens=1000)
    source, prices = write(tmp_path / "in.jsonl", rows), tmp_path / "deal.toml"
    prices.write_text(
        f'[[prices]]\nprovider = "127.0.0.1:{provider.port}"\nmodel = "storm-1"\ninput = 3\noutput = 15\n'
    )
    report = tmp_path / "r.html"
    flags = ["--max-cost", "0.2", "--prices", str(prices), "--report", str(report), "--quiet"]
    assert main([*map(str, run_args(source, output, provider.base_url)), *flags]) == 1
    assert "no report" not in capsys.readouterr().err
    assert "The run stopped early: the spend limit was reached." in report.read_text()
