"""`results` and `aresults` yield each row as it ends, and the run waits for its reader."""

import asyncio
import subprocess
import sys
import threading
import time
from contextlib import aclosing

import pytest
from batches import chat_rows, read, scenario
from odd_servers import post_server
from sockets import BODY

from stormbreak.batch import aresults, results, run
from stormbreak.batch.background_run import MAX_UNREAD
from stormbreak.errors import ConfigurationError
from stormbreak.testing import answer_text


@pytest.fixture
def place(stormbreak_provider):
    return {"base_url": stormbreak_provider(scenario()).base_url, "model": "storm-1"}


def check(rows, found):
    texts = {each.custom_id: each.text for each in found}
    assert len(found) == len(rows)
    assert texts == {row["custom_id"]: answer_text(row["body"]) for row in rows}


def test_results_yields_each_row_once(output, place):
    rows = chat_rows(600)
    check(rows, [*results(iter(rows), output=output, **place)])
    assert [*results(rows, output=output, **place)] == []  # earlier runs have answered them


async def test_aresults_yields_each_row_once(output, place):
    rows = chat_rows(600)

    async def source():
        for row in rows:
            yield row

    check(rows, [each async for each in aresults(source(), output=output, **place)])


def test_results_yields_failures(output, stormbreak_provider):
    bad = stormbreak_provider(scenario({"kind": "content_filter", "share": 0.5})).base_url
    found = [*results(chat_rows(40), output=output, base_url=bad)]
    assert len(found) == 40
    assert {getattr(each, "verdict", "ok") for each in found} == {"ok", "filtered"}


def test_a_slow_reader_pauses_the_run(output, place):
    rows = chat_rows(600)
    reader = results(rows, output=output, concurrency=16, **place)
    found = [next(reader)]
    lines = 0
    while lines != (lines := len(read(output))):  # until the run has paused
        time.sleep(0.5)
    assert MAX_UNREAD <= lines <= MAX_UNREAD + 5 * 16 + 1
    check(rows, [*found, *reader])


def test_a_reader_that_leaves_its_loop_stops_the_run(output, place):
    rows = chat_rows(600)
    for _ in results(rows, output=output, concurrency=16, **place):
        break
    kept = len(read(output))
    assert 1 <= kept < len(rows)
    summary = run(rows, output=output, **place)
    assert (summary.answered, summary.successful) == (len(rows) - kept, len(rows))


def test_a_program_that_raises_while_it_reads_results_exits(output, place):
    # The frame of the exception keeps the reader alive.
    code = f"""
from stormbreak.batch import results

def main():
    reader = results(({{"prompt": str(i)}} for i in range(1000)), output={str(output)!r}, **{place})
    for each in reader:
        raise LookupError(each.custom_id)

main()
"""
    failed = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=180
    )
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("LookupError: row-")
    assert not output.with_name(f"{output.name}.sock").exists()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="an exit handler can start no thread")
def test_an_exit_handler_reads_all_results(output, place):
    """The main thread counts as ended there, so the handler used to get only the first rows."""
    code = f"""
import atexit
from stormbreak.batch import results

rows = [{{"prompt": str(i)}} for i in range(60)]
atexit.register(lambda: print(len([*results(rows, output={str(output)!r}, **{place})])))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=180
    )
    assert (done.stdout, done.stderr) == ("60\n", "")


async def test_an_async_reader_that_leaves_its_loop_stops_the_run(output, place):
    rows = chat_rows(600)
    async with aclosing(aresults(rows, output=output, concurrency=16, **place)) as found:
        async for _ in found:
            break
    assert 1 <= len(read(output)) < len(rows)


async def test_aresults_does_not_block_the_event_loop(output):
    """The server answers only after the loop has run."""
    asked, ran, waited = threading.Event(), threading.Event(), []

    def answer(*_):
        asked.set()
        waited.append(ran.wait(30))
        return 200, BODY

    async def run_beside():
        while not asked.is_set():  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(0.01)
        ran.set()

    with post_server(answer) as url:
        beside = asyncio.create_task(run_beside())
        found = [each async for each in aresults(chat_rows(4), output=output, base_url=f"{url}/v1")]
        await beside
    assert [each.text for each in found] == ["fine"] * 4
    assert waited == [True] * 4


def test_invalid_arguments_raise_at_the_first_next(output):
    with pytest.raises(ConfigurationError, match="must be a string"):
        next(results([], output=output, base_url="http://127.0.0.1:1/v1", model=3))
