"""`batch run --workers N`: several processes, one batch. Real processes, signals and kills."""

import csv
import gc
import json
import os
import random
import signal
import time
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pytest
from batches import (
    PATIENCE,
    assert_answered,
    chat_rows,
    line_size,
    one_line,
    provider_process,
    read,
    run,
    scenario,
    size_of,
    started,
    stats,
    wait_until,
    write,
)
from forking import in_child

from stormbreak.batch import run as run_batch
from stormbreak.batch.running import worker
from stormbreak.cli.main import main
from stormbreak.errors import ConfigurationError
from stormbreak.fleet.store_thread import leave
from stormbreak.testing import serve

pytestmark = pytest.mark.usefixtures("no_words_about_providers")
finds_workers = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")


def finished(*args, code=0):
    """Run the command in a child process, which may fork; return stdout."""
    with started(*args) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    return out


def batch(url, *more, workers=2):
    return ("batch", "run", "in.jsonl", "-o", "out.jsonl", "--base-url", url, "-q", "--workers", workers, *more)  # fmt: skip


def workers_of(pid):
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid):
    with suppress(ProcessLookupError, FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# ------------------------------------------------------------ one batch


def test_every_command_treats_the_output_of_workers_as_one_batch(at):
    rows = chat_rows(60)
    write(at / "in.jsonl", rows)
    bad = {"kind": "content_filter", "match": "document 7"}
    with serve(scenario(bad, service=0.01)) as provider:
        url = provider.base_url
        report = ["--report", "report.html", "--json"]
        summary = json.loads(finished(*batch(url, *report), code=1))
    assert (summary["total"], summary["successful"], summary["failed"]) == (60, 59, 1)
    assert (summary["end"], summary["attempts"]) == ("finished", 60)
    assert summary["reason"]["rows"] == 1
    assert "<svg" in (at / "report.html").read_text()
    assert {path.name for path in at.glob("out*")} == {
        "out.jsonl", "out.failed.jsonl", "out.jsonl.run", "out.jsonl.lock",
    }  # fmt: skip
    assert "failed   1 (filtered 1)" in run("batch", "status", "out.jsonl").stdout
    assert run("cost", "report", "out.jsonl").returncode == 0
    assert run("batch", "export", "out.jsonl", "out.csv").returncode == 0
    with (at / "out.csv").open(newline="") as file:
        assert [bool(row["answer"]) for row in csv.DictReader(file)].count(False) == 1
    with serve(scenario()) as provider:
        url = provider.base_url
        finished("batch", "retry", "out.jsonl", "--base-url", url, "-q")  # with its workers
        assert json.loads(finished(*batch(url, "--json", workers=3)))["attempts"] == 0
    assert_answered(rows, at / "out.jsonl")


def write_scenario(at, *faults, **options):
    path = at / "scenario.toml"
    path.write_text(scenario(*faults, **options))
    return path


def test_workers_share_duplicates_of_a_table(at):
    (at / "rows.csv").write_text("id,title\n" + "".join(f"{n},{n % 20}\n" for n in range(80)))
    with serve(scenario()) as provider:
        url = provider.base_url
        place = ("--base-url", url, "-m", "storm-1", "--id", "id", "--prompt", "Tell {title}", "-q")
        more = ("--dedupe", "--cache", "cache", "--workers", 3, "--json")
        done = json.loads(finished("batch", "run", "rows.csv", "-o", "out.csv", *place, *more))
    assert (done["successful"], done["attempts"]) == (80, 20)
    with (at / "out.csv").open(newline="") as file:
        table = [*csv.DictReader(file)]
    assert [row["id"] for row in table] == [str(number) for number in range(80)]
    assert all(row["answer"] for row in table)


def test_workers_keep_the_frozen_objects_of_the_garbage_collector(at, monkeypatch):
    """The first collection after such a run used to scan all imported objects."""
    write(at / "in.jsonl", chat_rows(4))
    monkeypatch.setattr(gc, "unfreeze", None)
    with serve(scenario()) as provider:
        words = [*map(str, batch(provider.base_url))]
        assert in_child(lambda: main(words) == 0, seconds=180)


def test_workers_leave_before_their_store_closes(at, monkeypatch):
    """Found: after a pause of the parent, a worker logged that the parent process is gone."""
    write(at / "in.jsonl", chat_rows(4))

    def leave_late(url):
        time.sleep(0.2)
        leave(url)
        if Path(url.removeprefix("parent:")).exists():
            (at / f"left-{os.getpid()}").touch()

    monkeypatch.setattr(worker, "leave", leave_late)
    with serve(scenario()) as provider:
        words = [*map(str, batch(provider.base_url))]
        assert in_child(lambda: main(words) == 0, seconds=180)
    assert len([*at.glob("left-*")]) == 2


# ------------------------------------------------------------ shared limits


def test_workers_share_a_fixed_concurrency(at):
    write(at / "in.jsonl", chat_rows(200))
    narrow = scenario(service=0.03, slots=4, queue=0)
    with serve(narrow) as provider:
        url = provider.base_url
        done = json.loads(finished(*batch(url, "-c", 4, "--json")))
    # The provider rejects a fifth concurrent request.
    assert (done["successful"], done["attempts"]) == (200, 200)


def test_workers_share_the_request_rate(at):
    write(at / "in.jsonl", chat_rows(40))
    with serve(scenario()) as provider:
        url = provider.base_url
        done = json.loads(finished(*batch(url, "--rpm", 900, "--json", workers=3)))
        peak = provider.stats()["peak_attempts_per_second"]
    assert done["successful"] == 40
    assert peak <= 15 * 2 + 1  # the units of a second may lapse a second later


def priced(at, url):
    (at / "prices.toml").write_text(
        f'[[prices]]\nprovider = "{url.split("/")[2]}"\nmodel = "storm-1"\ninput = 3\noutput = 15\n'
    )
    return ("--prices", "prices.toml")


def billed(provider):
    return sum(
        (3 * each["input_tokens"] + 15 * each["output_tokens"]) / Decimal(1_000_000)
        for each in provider.stats()["billed"].values()
    )


@finds_workers
def test_workers_keep_the_spend_limit_when_processes_are_killed(at):
    """Each row costs about 0.0156 dollars."""
    write(at / "in.jsonl", chat_rows(200, max_tokens=1000))
    calm = scenario(service=0.05, slots=20, use_max_tokens=True)
    with serve(calm) as provider:
        url = provider.base_url
        words = batch(url, *priced(at, url), "--max-cost", "1.5", "-c", 20)
        with started(*words) as process:
            wait_until(lambda: size_of(at / "out.jsonl") > 0, "an answer")
            killed(process, "worker", at / "out.jsonl")
        with started(*words) as process:
            before = size_of(at / "out.jsonl")
            wait_until(lambda: size_of(at / "out.jsonl") > before, "another answer")
            killed(process, "parent", at / "out.jsonl")
        spent = json.loads(finished(*words, "--json", code=1))
        assert spent["end"] == "spent"
        assert Decimal("0.9") < billed(provider) <= Decimal("1.5")
        before = len(read(at / "out.jsonl"))
        more = batch(url, *priced(at, url), "--max-cost", "20", "-c", 20)
        assert json.loads(finished(*more, "--json"))["successful"] == 200
        assert before > 50


# ------------------------------------------------------------ kills and signals


def killed(process, target, output):
    """Kill the parent, a worker, or all processes, and wait until all have ended.

    If a worker is killed, the other worker continues and then drains.
    """
    workers = workers_of(process.pid)
    assert len(workers) == 2
    for pid in {"parent": [process.pid], "worker": workers[:1], "all": [*workers, process.pid]}[
        target
    ]:
        os.kill(pid, signal.SIGKILL)
    if target == "worker":
        size = size_of(output)
        wait_until(lambda: size_of(output) > size or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
    process.wait(60)
    wait_until(lambda: not any(map(is_running, workers)), "the end of all workers")


@finds_workers
@pytest.mark.parametrize(
    ("count", "kills", "seed"),
    [
        (600, ("parent", "worker", "all"), 1),
        pytest.param(50_000, ("parent", "worker", "all") * 3 + ("parent",), 2, marks=pytest.mark.prove),
    ],
)  # fmt: skip
def test_kill_9_loses_no_row_and_repeats_only_rows_in_flight(at, count, kills, seed):
    width, chance = 100, random.Random(seed)
    rows = chat_rows(count)
    output = at / "out.jsonl"
    write(at / "in.jsonl", rows)
    began = time.monotonic()
    with provider_process("--scenario", write_scenario(at, service=0.05, variation=0.3)) as url:
        words = batch(url, "-c", width)
        for target in kills:
            with started(*words) as process:
                have = whole_lines(output)
                goal = have + chance.uniform(0.02, 0.3) * (count - have)
                wait_until(
                    lambda: size_of(output) >= goal * line_size(output),  # noqa: B023
                    f"{goal:,.0f} rows",
                )
                killed(process, target, output)
            print(f"{target} killed after {goal:,.0f} rows: {whole_lines(output):,} are written")
        finished(*words)
        keys = stats(url)["keys"]
    assert_answered(rows, output)
    paid_twice = keys["answers"] - count
    print(f"answers paid twice: {paid_twice}, in {time.monotonic() - began:.0f} s")
    assert keys["answered"] == count
    assert paid_twice <= len(kills) * width


def whole_lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_ctrl_c_drains_workers_and_a_second_one_stops_them(at):
    write(at / "in.jsonl", chat_rows(400))
    with serve(scenario(service=1.0)) as provider:
        url = provider.base_url
        words = batch(url, "-c", 10, "--json")
        with started(*words, start_new_session=True) as process:
            wait_until(lambda: provider.stats()["in_service"] == 10, "ten in flight")
            os.killpg(process.pid, signal.SIGINT)
            out, _ = process.communicate(timeout=PATIENCE)
        summary = json.loads(out)
        assert process.returncode == 130
        assert (summary["end"], summary["attempts"]) == ("interrupted", summary["successful"])
        assert provider.stats()["in_service"] == 0
    with serve(scenario(service=60.0)) as provider:  # no answer comes between the two
        words = batch(provider.base_url, "-c", 10, "--json")
        with started(*words, start_new_session=True) as process:
            wait_until(lambda: provider.stats()["in_service"] == 10, "ten in flight")
            for _ in range(2):
                os.killpg(process.pid, signal.SIGINT)
                time.sleep(0.2)
            assert process.wait(60) == 130
        assert provider.stats()["arrivals"] == 10
    assert len(read(at / "out.jsonl")) == summary["successful"]


# ------------------------------------------------------------ errors that end a run


def test_a_rejected_api_key_stops_all_workers(at):
    write(at / "in.jsonl", chat_rows(300))
    with serve(scenario({"kind": "401"}, service=0.01)) as provider:
        url = provider.base_url
        summary = json.loads(finished(*batch(url, "--json"), code=1))
    assert (summary["end"], summary["refused_by"]) == ("refused", "auth")
    assert summary["attempts"] <= 80
    assert not (at / "out.failed.jsonl").exists()


def test_workers_without_a_server_end_with_one_line(at):
    write(at / "in.jsonl", chat_rows(3))
    with started(*batch("http://127.0.0.1:9/v1", "--connect-grace", 1)) as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "nothing answers there" in one_line(err)


def test_options_that_exclude_workers_are_rejected(at):
    write(at / "in.jsonl", chat_rows(3))
    for more, why in (
        (["--metrics-port", "0"], "--metrics-port: not with --workers"),
        (["--fleet", "redis://localhost", "--max-cost", "1"], "give at most two of them"),
        (["--workers", "0"], "must be a whole number from 1 to 64"),
    ):
        refused = run(*batch("http://127.0.0.1:9/v1", *more))
        assert refused.returncode == 2
        assert why in one_line(refused.stderr)
    with pytest.raises(ConfigurationError, match="only the command line"):
        run_batch([{"prompt": "a"}], output="o.jsonl", model="m", workers=2, base_url="http://127.0.0.1:9/v1")  # fmt: skip


def test_a_full_disk_ends_the_run_with_one_line(small_disk, at):
    write(at / "in.jsonl", chat_rows(400))
    with serve(scenario()) as provider:
        url = provider.base_url
        words = [*batch(url)]
        words[words.index("out.jsonl")] = small_disk / "out.jsonl"
        with started(*words) as process:
            _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "disk full" in one_line(err)


# ------------------------------------------------------------ batch set


@pytest.mark.parametrize("workers", [1, 2])
def test_set_changes_the_concurrency_of_a_run(at, workers):
    write(at / "in.jsonl", chat_rows(2_000))
    with serve(scenario(service=2.0)) as provider:
        url = provider.base_url
        with started(*batch(url, "-c", 2, workers=workers), env={}) as process:
            wait_until(lambda: provider.stats()["in_service"] == 2, "two in flight")
            assert (
                run("batch", "set", "out.jsonl", "--concurrency", 30).stdout == "concurrency 30\n"
            )
            wait_until(lambda: provider.stats()["in_service"] == 30, "thirty in flight")
            assert run("batch", "set", "out.jsonl", "-c", 5).returncode == 0
            wait_until(lambda: provider.stats()["in_service"] == 5, "five in flight")
            seen = {provider.stats()["in_service"] for _ in range(100) if not time.sleep(0.005)}
            assert max(seen) == 5
            refused = run("batch", "set", "out.jsonl", "-c", 5000)
            assert "at most 4,096 connections" in one_line(refused.stderr)
            top = json.loads(run("top", "out.jsonl", "--json").stdout)
            assert (top["batch"]["total"], len(top["targets"])) == (2_000, 1)
            assert top["counts"]["attempts"] >= 30
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 130
        refused = run("batch", "set", "out.jsonl", "-c", 5)
        assert one_line(refused.stderr) == "out.jsonl: no run is active"
