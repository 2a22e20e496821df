"""The limit on open files: checked before the first request, with a reserve for output files."""

import errno
import json
import os
import resource
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from batches import (
    PATIENCE,
    assert_answered,
    chat_rows,
    command,
    environment,
    one_line,
    read,
    run_args,
    scenario,
    write,
)
from odd_servers import post_server
from sockets import BODY
from table_test import table_test

from stormbreak import AsyncClient, RejectedError
from stormbreak.batch.running.file_descriptors import RESERVE, ReservedFiles, make_room
from stormbreak.batch.store.durable_file import OutputError
from stormbreak.batch.store.output_files import Store

FILES = resource.RLIMIT_NOFILE


def sh(soft, hard, *words):
    """The command line that runs `words` with these limits on open files."""
    return ["sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "sh", *words]


@contextmanager
def none_left():
    """Exhaust the file descriptors of this process."""
    before = resource.getrlimit(FILES)
    highest = max(int(file.name) for file in Path("/dev/fd").iterdir())
    resource.setrlimit(FILES, (highest + 1, before[1]))
    taken = []
    with suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    try:
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(FILES, before)


# ------------------------------------------------------------ before the first request


@pytest.fixture
def limited(tmp_path, output):
    """Run the command with these limits on open files."""

    def call(soft, hard, provider, rows, *flags):
        source = write(tmp_path / "in.jsonl", rows)
        words = sh(soft, hard, *command(*run_args(source, output, provider.base_url), *flags))
        return subprocess.run(
            words, check=False, capture_output=True, text=True, timeout=PATIENCE, env=environment()
        )

    return call


def test_the_soft_limit_is_raised_for_the_requested_concurrency(
    limited, output, stormbreak_provider
):
    """Every answer is written, at a concurrency above the soft limit."""
    provider = stormbreak_provider(scenario(service=0.5))
    rows = chat_rows(400)
    done = limited(100, 1000, provider, rows, "--concurrency", "200")
    assert done.returncode == 0, done.stderr
    assert_answered(rows, output)
    assert provider.stats()["arrivals"] == 400
    assert provider.stats()["connections"]["opened"] == 200


def test_a_concurrency_above_the_hard_limit_is_rejected_at_the_start(
    limited, output, stormbreak_provider
):
    provider = stormbreak_provider(scenario())
    done = limited(150, 150, provider, chat_rows(30), "--concurrency", "200")
    assert done.returncode == 2
    message = one_line(done.stderr)
    assert "concurrency 200" in message
    assert "150 files that this process may open (ulimit -Hn); use at most " in message
    most = int(message.split("use at most ")[1].split(",")[0])
    assert 10 < most < 150 - RESERVE
    assert provider.stats()["arrivals"] == 0
    assert not output.exists()


@table_test("concurrency", ["200", "auto"])
def test_the_error_proposes_no_concurrency_when_no_connection_fits(
    limited, stormbreak_provider, concurrency
):
    provider = stormbreak_provider(scenario())
    done = limited(64, 64, provider, chat_rows(3), "--concurrency", concurrency)
    assert done.returncode == 2
    message = "the 64 files that this process may open (ulimit -Hn) are too few for a run; raise the limit"
    assert message in one_line(done.stderr)


def test_auto_concurrency_stays_below_the_open_file_limit(limited, output, stormbreak_provider):
    provider = stormbreak_provider(scenario(service=0.2))
    rows = chat_rows(200)
    done = limited(120, 120, provider, rows, "--concurrency", "auto")
    assert done.returncode == 0, done.stderr
    assert_answered(rows, output)
    assert provider.stats()["arrivals"] == 200
    assert provider.stats()["connections"]["opened"] < 120 - RESERVE


def test_a_concurrency_above_the_connection_maximum_is_rejected(limited, stormbreak_provider):
    done = limited(256, 256, stormbreak_provider(scenario()), chat_rows(3), "--concurrency", "5000")
    assert done.returncode == 2
    assert "concurrency 5,000: a run has at most 4,096 connections" in one_line(done.stderr)


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "fit", "then"),
    [
        (1000, 1000, 100, 100, 1000),
        (100, 1000, 200, 200, 100 + RESERVE + 200),
        (100, 256, 1000, 156 - RESERVE, 256),
        (100, resource.RLIM_INFINITY, 200, 200, 100 + RESERVE + 200),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 10**6, 10**6, resource.RLIM_INFINITY),
        (64, 64, 10, 0, 64),
    ],
)
def test_make_room_raises_the_soft_limit_up_to_the_hard_limit(
    monkeypatch, soft, hard, wanted, fit, then
):
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    monkeypatch.setattr("stormbreak.batch.running.file_descriptors._open_now", lambda: 100)
    assert make_room(wanted) == fit
    assert limits[-1][0] == then


def test_make_room_fits_the_soft_limit_when_the_system_rejects_a_raise(monkeypatch):
    def never(*_):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", never)
    monkeypatch.setattr("stormbreak.batch.running.file_descriptors._open_now", lambda: 100)
    assert make_room(1000) == 156 - RESERVE


# ------------------------------------------------------------ during a run


def test_a_reserve_can_be_opened_when_nothing_else_can():
    spare = ReservedFiles()
    with none_left():
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        with spare.released(), spare.released():
            opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
        for fd in opened:
            os.close(fd)
    spare.close()
    spare.close()


def test_rows_without_a_free_file_descriptor_wait_and_lose_no_attempt(
    run_rows, output, monkeypatch
):
    """Connections close after each response, and for a while no new one can be opened."""
    monkeypatch.setattr("stormbreak.batch.running.runner.MAX_OUT_OF_FILES", 1_000)
    asked, shortage = [], []

    def answer(_, body):
        asked.append(body)
        return 200, BODY

    before = resource.getrlimit(FILES)

    def tick(runner):
        if len(asked) > 5 and not shortage:
            shortage.append(1)
            resource.setrlimit(FILES, (3, before[1]))
        elif runner.stats.verdicts["rejected"] and len(shortage) == 1:
            shortage.append(1)
            resource.setrlimit(FILES, before)

    def slow(path, body):
        time.sleep(0.05)
        return answer(path, body)

    try:
        with post_server(slow, connection="close") as url:
            place = SimpleNamespace(base_url=f"{url}/v1")
            summary = run_rows(chat_rows(60), place, limit=4, tick=tick)
    finally:
        resource.setrlimit(FILES, before)
    assert len(shortage) == 2
    assert (summary.end, summary.successful, summary.failed) == ("finished", 60, 0)
    assert len(asked) == 60
    assert summary.verdicts["rejected"] >= 1
    assert len(read(output)) == 60


async def test_a_client_reports_too_many_open_files_and_blames_no_target():
    with post_server(lambda *_: (200, BODY)) as url:
        async with AsyncClient(base_url=f"{url}/v1", model="m") as client:
            with none_left(), pytest.raises(RejectedError) as raised:
                await client.chat([{"role": "user", "content": "hi"}])
            assert "too many open files in this process; raise the limit (ulimit -n)" in str(
                raised.value
            )
            assert raised.value.policy == "open_files"
            assert (await client.chat([{"role": "user", "content": "hi"}])).text == "fine"
            [target] = client.snapshot()["targets"].values()
            assert target["in_flight"] == 0


# ------------------------------------------------------------ failed writes


@pytest.mark.parametrize("shortage", [errno.ENOSPC, errno.EIO])
def test_a_run_file_that_cannot_be_written_drains_the_rows_in_flight(
    run_rows, output, stormbreak_provider, monkeypatch, shortage
):
    provider = stormbreak_provider(scenario(service=0.4))
    note = Store.note

    def fails(self, account, *more):
        if account.at_work and output.exists() and read(output):
            raise OutputError("out.jsonl.run: cannot write") from OSError(shortage, "no")
        note(self, account, *more)

    monkeypatch.setattr(Store, "note", fails)
    with pytest.raises(OutputError, match=r"out\.jsonl\.run: cannot write"):
        run_rows(chat_rows(500), provider, limit=20)
    asked = provider.stats()["keys"]
    assert 20 <= asked["asked"] < 500
    assert asked["asked"] == asked["answered"] == len(read(output))


def test_a_run_file_write_without_a_free_file_descriptor_is_retried(
    run_rows, output, stormbreak_provider, monkeypatch
):
    monkeypatch.setattr("stormbreak.batch.running.runner.OUT_OF_FILES_PAUSE", 0.1)
    monkeypatch.setattr("stormbreak.batch.running.runner.RECORD_EVERY", 0.1)
    provider = stormbreak_provider(scenario(service=0.2))
    note, failed = Store.note, []

    def fails(self, account, *more):
        if account.at_work and len(failed) < 3:
            failed.append(1)
            raise OutputError("no") from OSError(errno.EMFILE, "no")
        note(self, account, *more)

    monkeypatch.setattr(Store, "note", fails)
    summary = run_rows(chat_rows(60), provider, limit=10)
    assert (summary.end, summary.successful, len(failed)) == ("finished", 60, 3)


def test_a_failed_file_that_cannot_be_written_drains_the_rows_in_flight(run_rows, output):
    asked = []

    def answer(_, body):
        asked.append(body)
        if b"document 30" in body:
            return 413, b'{"error": {"message": "too long"}}'
        time.sleep(0.2)
        return 200, BODY

    def tick(runner):
        failed = output.parent / "out.failed.jsonl"
        if not failed.exists():
            failed.mkdir()

    with post_server(answer) as url:
        place = SimpleNamespace(base_url=f"{url}/v1")
        with pytest.raises(OutputError, match=r"out\.failed\.jsonl"):
            run_rows(chat_rows(200), place, limit=8, tick=tick)
    assert len(asked) < 200
    assert len(read(output)) == len(asked) - 1
    assert json.loads((output.parent / "out.jsonl.run").read_text())["account"]["at_work"] is False
