"""A model of the article's batch code, beside `stormbreak batch run --policy article`."""

import asyncio
import json
import signal

import aiohttp
import pytest
from article_models import Batch, retrying
from batches import (
    assert_answered,
    chat_row,
    chat_rows,
    read,
    scenario,
    size_of,
    started,
    wait_until,
    write,
)
from sockets import answer, served
from stage import OK, TARGET, THROTTLED, Stage
from virtual_loop import now, run

from stormbreak import AsyncClient, ConfigurationError
from stormbreak.batch.input.index import Rows
from stormbreak.batch.job import Job, run_job
from stormbreak.batch.run_options import BatchOptions
from stormbreak.cli.main import main
from stormbreak.core.engine import Engine
from stormbreak.core.presets import ARTICLE, ARTICLE_BODY, for_batch
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.types import Call

pytestmark = pytest.mark.usefixtures("no_words_about_providers")

DAY = 86_400.0
SAY = [{"role": "user", "content": "hello"}]


@pytest.fixture
def batch_run(tmp_path, capsys):
    """Run rows under the preset in this process; return the exit code, the summary, and OUTPUT."""

    def call(provider, rows, *flags, name="in"):
        source, output = write(tmp_path / f"{name}.jsonl", rows), tmp_path / f"{name}.out.jsonl"
        where = ["--output", str(output), "--base-url", provider.base_url]
        code = main(["batch", "run", str(source), *where, "--policy", "article", "--json", *flags])
        return code, json.loads(capsys.readouterr().out), output

    return call


def refusing(first, ended):
    """Return a send function that rejects the first attempt of the rows in `first`, and records the times in `ended`."""
    rejected = set()

    async def send(index, row):
        await asyncio.sleep(0.1)
        if index in first and index not in rejected:
            rejected.add(index)
            return "refused"
        ended[index] = now()
        return row

    return send


# ------------------------------------------------------------ rejected rows


def test_a_rejected_row_sleeps_by_its_number_and_holds_its_slot():
    ended = {}

    async def theirs():
        batch = Batch(refusing(range(20, 30), ended))
        try:
            async with asyncio.timeout(6 * DAY):
                await batch.run(range(60))
        except TimeoutError:
            return "six days later"

    assert run(theirs) == "six days later"
    assert sorted(ended) == [*range(20)]  # ten rows sleep in the ten slots, and thirty wait

    timeline, done = Timeline(), {}
    driver = VirtualDriver(Engine(for_batch(ARTICLE)), timeline)

    for number in range(60):
        rows = iter([THROTTLED, OK] if 20 <= number < 30 else [OK])

        def sender(send, reply, rows=rows):
            timeline.at(timeline.now + 0.1, lambda: reply(next(rows)))

        def end(ended, number=number):
            done[number] = (timeline.now, ended.outcome)

        driver.start(Call(number, TARGET, fail_fast=False), sender, end)
    timeline.run()
    assert [done[number][1] for number in range(60)] == [OK] * 60
    assert max(at for at, _ in done.values()) < 60  # five 429s in a row open the circuit for 30 s
    assert max(at for number, (at, _) in done.items() if number < 20) < 1


def test_the_sleep_of_rows_above_1024_overflows():
    async def theirs():
        rows = Batch(refusing([1025], {}))
        return await rows.run([None] * 1026)

    assert run(theirs)["failed"] == 1
    with pytest.raises(OverflowError):
        2**1025 * 0.5

    stage = Stage(for_batch(ARTICLE))
    call = stage.start(fail_fast=False).step(THROTTLED)
    assert 0.7 <= call.command.until - stage.now <= 1.3


def test_a_rejected_row_is_lost_after_its_sleep(batch_run, stormbreak_provider):
    ended = {}

    async def theirs():
        return await Batch(refusing([0, 1, 2], ended)).run(range(30))

    assert run(theirs)["failed"] == 3  # one attempt per row, whatever its sleep

    some_429s = {"kind": "429", "retry_after": 0.02, "retry_after_form": "ms", "share": 0.1}
    provider = stormbreak_provider(scenario(some_429s, service=0.001))
    code, summary, output = batch_run(provider, chat_rows(60))
    assert code == 0
    assert_answered(chat_rows(60, **ARTICLE_BODY), output)
    assert summary["retries"] > 0


# ------------------------------------------------------------ counts


def test_a_row_that_timed_out_counts_as_successful(batch_run, stormbreak_provider):
    async def hanging(index, row):
        raise TimeoutError

    async def theirs():
        return await Batch(hanging).run(range(30))

    counted = run(theirs)
    assert (counted["successful"], counted["results"]) == (30, [])

    provider = stormbreak_provider(scenario({"kind": "hang", "share": 0.3}, service=0.001))
    code, summary, output = batch_run(
        provider, chat_rows(30), "--timeout", "0.1", "--deadline", "0.3"
    )
    assert code == 1
    assert summary["successful"] == len(read(output)) == 30 - summary["failed"]
    assert summary["failed"] == len(read(output.with_name("in.out.failed.jsonl"))) > 0


def test_lost_rows_count_as_throughput(batch_run, stormbreak_provider):
    async def theirs():
        async def send(index, row):
            await asyncio.sleep(1.0)
            raise ConnectionError

        began = now()
        counted = await Batch(send).run(range(30))
        return counted["failed"], counted["total"] / (now() - began)

    assert run(theirs) == (30, pytest.approx(10.0))  # rows per second, none of them answered

    provider = stormbreak_provider(scenario({"kind": "400", "share": 0.5}, service=0.02))
    _, summary, output = batch_run(provider, chat_rows(60))
    assert summary["answered"] == len(read(output)) < 50
    assert summary["throughput"] == pytest.approx(
        summary["answered"] / summary["elapsed"], rel=0.05
    )


def test_results_of_the_previous_batch_are_returned_again(batch_run, stormbreak_provider):
    async def theirs():
        async def send(index, row):
            return row

        batch = Batch(send)
        await batch.run(["a", "b"])
        return (await batch.run(["c"]))["results"]

    assert run(theirs) == [(0, "a"), (1, "b"), (0, "c")]

    provider = stormbreak_provider(scenario())
    batch_run(provider, [chat_row(1), chat_row(2)], name="one")
    _, summary, output = batch_run(provider, [chat_row(3)], name="two")
    assert (summary["total"], [line["custom_id"] for line in read(output)]) == (1, ["row-3"])


# ------------------------------------------------------------ connections, tasks and the queue


async def test_each_row_opens_its_own_connection(stormbreak_provider, batch_run):
    provider = stormbreak_provider(scenario(service=0.001))

    async def send(index, row):
        async with aiohttp.ClientSession() as session:
            return await retrying(session, f"{provider.base_url}/chat/completions", row)

    rows = chat_rows(60)
    await Batch(send).run([row["body"] for row in rows])
    assert provider.stats()["connections"]["opened"] == 60

    provider = stormbreak_provider(scenario(service=0.001))
    code, _, _ = await asyncio.to_thread(batch_run, provider, rows)
    assert code == 0
    assert provider.stats()["connections"]["opened"] <= 10


async def test_all_rows_are_tasks_at_once(stormbreak_provider, tmp_path):
    theirs = []

    async def send(index, row):
        theirs.append(len(asyncio.all_tasks()))

    await Batch(send).run(range(500))
    assert max(theirs) > 500

    ours = []
    provider = stormbreak_provider(scenario(service=0.001))
    job = Job(
        source=write(tmp_path / "in.jsonl", chat_rows(500)),
        output=tmp_path / "out.jsonl",
        policy=for_batch(ARTICLE),
        options=BatchOptions(base_url=provider.base_url),
    )
    summary = await asyncio.to_thread(
        run_job, job, listeners=[lambda event: ours.append(len(asyncio.all_tasks()))]
    )
    assert summary.successful == 500
    assert max(ours) < 50 + 20  # ten in flight, forty that back off, and the tasks of the runner


def test_the_queue_timeout_is_never_read():
    async def theirs():
        async def send(index, row):
            await asyncio.sleep(200.0)
            return now()

        batch = Batch(send, at_once=1)
        batch.queue_timeout = 300.0
        return [at for _, at in (await batch.run(range(4)))["results"]]

    assert run(theirs)[-1] > 799  # served after 600 s in the queue

    stage = Stage(ARTICLE)
    for _ in range(10):
        stage.start()
    waiting = stage.start(patience=ARTICLE.patience)
    assert waiting.queued
    stage.pass_time(300.1)
    assert waiting.ended.attempts == 0
    assert waiting.ended.waited <= 300.0


# ------------------------------------------------------------ rows


def test_other_parameters_of_a_row_are_dropped(tmp_path):
    item = {
        "model": "large", "messages": SAY, "seed": 7, "response_format": {"type": "json_object"},
    }  # fmt: skip
    known = ("messages", "temperature", "max_tokens")
    theirs = {"model": "small"} | {key: item[key] for key in known if key in item}
    assert theirs == {"model": "small", "messages": SAY}

    with Rows.read(write(tmp_path / "in.jsonl", [item]), model="small") as rows:
        assert json.loads(rows.row_at(0).body) == item


async def test_a_row_without_messages_is_sent(tmp_path):
    async with served(answer()) as server, aiohttp.ClientSession() as session:

        async def send(index, row):
            payload = {"model": "m", "messages": row.get("messages", [])}
            return await retrying(session, f"{server.base_url}/chat/completions", payload)

        await Batch(send).run([{"text": "my messages have another name"}])
        assert json.loads(server.requests[0].body)["messages"] == []

    source = write(tmp_path / "in.jsonl", [chat_row(1), {"text": "likewise"}])
    with pytest.raises(ConfigurationError, match=":2: has none of"):
        Rows.read(source)


# ------------------------------------------------------------ a second run


def test_a_crash_loses_every_answer(tmp_path, stormbreak_provider):
    paid = []

    async def theirs():
        async def send(index, row):
            await asyncio.sleep(1.0)
            paid.append(index)
            return row

        async with asyncio.timeout(3.5):
            return await Batch(send).run(range(60))

    with pytest.raises(TimeoutError):
        run(theirs)
    assert len(paid) == 30  # and none of them is kept

    provider = stormbreak_provider(scenario(service=0.05))
    source, output = write(tmp_path / "in.jsonl", chat_rows(60)), tmp_path / "out.jsonl"
    command = ["batch", "run", source, "--output", output]
    command += ["--base-url", provider.base_url, "--policy", "article"]
    with started(*command) as process:
        wait_until(lambda: size_of(output) > 0)
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = len(read(output))
    assert 0 < kept < 60
    assert main([*map(str, command), "--quiet"]) == 0
    assert_answered(chat_rows(60, **ARTICLE_BODY), output)
    assert provider.stats()["arrivals"] <= 60 + 10 + 10  # in flight, or not yet on the disk


def test_rows_that_wait_fail_in_a_second_event_loop(stormbreak_provider):
    async def send(index, row):
        await asyncio.sleep(0.001)
        return row

    batch = Batch(send)
    assert asyncio.run(batch.run(range(15)))["failed"] == 0
    assert asyncio.run(batch.run(range(15)))["failed"] == 5  # the rows that had to wait

    provider = stormbreak_provider(scenario(service=0.01))
    client = AsyncClient(base_url=provider.base_url, model="m", policy="article")

    async def ours():
        async with client:
            return await asyncio.gather(*(client.chat(SAY, seed=n) for n in range(15)))

    for _ in range(2):
        assert len(asyncio.run(ours())) == 15
