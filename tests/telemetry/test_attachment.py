"""One way to listen, whatever the engine is in; and what a listener does wrong fails nobody, whoever drives."""

import asyncio
import logging

import anthropic
import httpx
import httpx2
import openai
import pytest
from batches import chat_rows, write
from clients import KEY, QUICK, SAY, client_of
from settings_file import FIRST_KEY, SettingsFile
from sockets import answer, failing, served
from stage import OK, SERVER_ERROR, TARGET, policy
from table_test import table_test
from thread_calls import run_call

import stormbreak.httpx
import stormbreak.httpx2
from stormbreak import Client, resilient
from stormbreak.batch.job import Job, run_job
from stormbreak.batch.run_options import BatchOptions
from stormbreak.core.backoff import Backoff
from stormbreak.core.engine import Engine
from stormbreak.core.hedge import HedgePolicy
from stormbreak.core.presets import BATCH
from stormbreak.core.retry import RetryPolicy
from stormbreak.drivers.asyncio_driver import AsyncioDriver
from stormbreak.drivers.thread_driver import ThreadDriver
from stormbreak.drivers.virtual_time import Timeline, VirtualDriver
from stormbreak.errors import ConfigurationError
from stormbreak.events import CallEnded, Returned, Sent
from stormbreak.telemetry import attach, name_of
from stormbreak.types import Call

SCRIPTS = [failing(503), answer()], [answer()]  # a connection each: some send again on the same
HEARD = ["attempt.sent", "attempt.ended", "retry.scheduled", "attempt.sent", "attempt.ended"]
HEARD += ["call.ended"]


class Ear:
    """Writes down the names of what it hears, and what it is given to watch."""

    def __init__(self):
        self.heard = []
        self.watched = []

    def watch(self, engine):
        self.watched.append(engine)

    def __call__(self, event):
        self.heard.append(name_of(event))


@pytest.fixture
def ear():
    return Ear()


async def test_a_client(ear):
    async with served(*SCRIPTS) as server, client_of(server) as client:
        attach(client, ear)
        await client.chat(SAY)

        assert (ear.heard, ear.watched) == (HEARD, [client.engine])


async def test_a_client_that_blocks(ear):
    async with served(*SCRIPTS) as server:

        def ask():
            given = {"base_url": server.base_url, "api_key": KEY, "model": "m"}
            with Client(**given, policy=QUICK) as client:
                attach(client, ear)
                client.chat(SAY)

        await asyncio.to_thread(ask)

    assert ear.heard == HEARD


async def test_clients_of_settings(ear, tmp_path, monkeypatch):
    monkeypatch.setenv("FIRST_KEY", FIRST_KEY)
    text = """
        retry_budget = "none"
        [retry]
        backoff = { kind = "constant", initial_delay = 0.01 }
        [targets.main]
        base_url = "{first}"
        model = "large"
        api_key_env = "FIRST_KEY"
    """
    async with served(*SCRIPTS) as server:
        file = SettingsFile(tmp_path / "s.toml", first=server).write(text)
        async with file.load() as settings:
            attach(settings, ear)
            attach(settings.client("main"), ear)  # of the same engine: makes no difference
            await settings.client("main").chat(SAY)
            settings.reload()
            await settings.client("main").chat(SAY)

    assert ear.heard == [*HEARD, "attempt.sent", "attempt.ended", "call.ended"]
    assert len(ear.watched) == 1


@pytest.mark.parametrize(
    ("library", "doors"), [(httpx, stormbreak.httpx), (httpx2, stormbreak.httpx2)]
)
@pytest.mark.parametrize("wrapped", [False, True])
async def test_transports_and_wrapped_clients(ear, library, doors, wrapped):
    headers = {"authorization": f"Bearer {KEY}"}
    async with served(*SCRIPTS) as server:
        transport = None if wrapped else doors.AsyncTransport(QUICK)
        async with library.AsyncClient(transport=transport, headers=headers) as http:
            attach(doors.wrap(http, QUICK) if wrapped else transport, ear)
            body = {"model": "m", "messages": SAY}
            await http.post(f"{server.base_url}/chat/completions", json=body)

    assert ear.heard == HEARD


@pytest.mark.parametrize("sdk", [openai, anthropic])
def test_sdks_that_were_wrapped(ear, sdk):
    kind = sdk.OpenAI if sdk is openai else sdk.Anthropic
    mounts = {"https://": httpx2.HTTPTransport()}
    with httpx2.Client(mounts=mounts) as http:
        client = stormbreak.httpx2.wrap(kind(api_key=KEY, http_client=http))
        attach(client, ear)
        attach(http, ear)

    assert len(ear.watched) == 1
    assert ear.watched[0].listeners == [ear]


def test_a_function(ear):
    guard = resilient(QUICK, on=OSError)
    attach(guard, ear)
    tries = iter([OSError(), None])

    @guard
    def work():
        failure = next(tries)
        if failure:
            raise failure

    work()

    assert ear.heard == HEARD


async def test_a_batch(ear, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    write(tmp_path / "in.jsonl", chat_rows(3))
    async with served([answer()] * 3) as server:
        job = Job(
            source=tmp_path / "in.jsonl", output=tmp_path / "out.jsonl", policy=BATCH,
            options=BatchOptions(base_url=server.base_url, api_key_env="MY_KEY", model="m"),
        )  # fmt: skip
        await asyncio.to_thread(run_job, job, listeners=[ear])

    assert ear.heard.count("call.ended") == 3
    assert len(ear.watched) == 1


def test_a_bare_engine(ear):
    engine = Engine(policy())
    attach(engine, ear, ear)

    assert (engine.listeners, ear.watched) == ([ear], [engine])


@table_test("what", [None, "sk-canary-0123456789", object(), {"engine": 1}])
def test_what_has_no_engine_is_named_by_its_kind_only(what):
    with pytest.raises(ConfigurationError, match="has no engine: attach to") as caught:
        attach(what, print)

    assert "canary" not in str(caught.value)


def test_a_client_that_was_not_wrapped_has_none():
    with httpx2.Client() as http, pytest.raises(ConfigurationError, match=r"^Client has no engine"):
        attach(http, print)


# ------------------------------------------------- a listener that fails, under every driver

RETRIED = policy(
    retry=RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.001))
)
HEDGED = policy(
    retry=RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.001)),
    hedge=HedgePolicy(delay=60.0, percentile=None),
)


def outcomes():
    told = iter([SERVER_ERROR, OK])
    return lambda _: next(told)


def under_asyncio(engine):
    answers = outcomes()

    async def sender(send):
        return answers(send)

    call = Call(1, TARGET, races=engine.races)
    return asyncio.run(AsyncioDriver(engine).run(call, sender))


def under_threads(engine):
    return run_call(ThreadDriver(engine), Call(1, TARGET), outcomes())


def in_virtual_time(engine):
    ends, answers, timeline = [], outcomes(), Timeline()
    driver = VirtualDriver(engine, timeline)
    driver.start(Call(1, TARGET), lambda send, reply: reply(answers(send)), ends.append)
    timeline.run()
    return ends[0]


def handed(engine):
    driver, answers = ThreadDriver(engine), outcomes()
    holder = driver.begin(Call(1, TARGET))
    while (send := driver.wait_to_send(holder)) is not None:
        holder.answer(answers(send))
    return holder.command


@pytest.mark.parametrize("kind", [Sent, Returned, CallEnded])
@pytest.mark.parametrize(
    ("drive", "chosen"),
    [
        (under_asyncio, RETRIED),
        (under_asyncio, HEDGED),
        (under_threads, RETRIED),
        (in_virtual_time, RETRIED),
        (handed, RETRIED),
    ],
)
def test_what_it_raises_is_logged_once_and_fails_no_call(ear, caplog, drive, chosen, kind):
    def broken(event):
        if type(event) is kind:
            raise LookupError

    engine = Engine(chosen)
    attach(engine, broken, ear)
    with caplog.at_level(logging.ERROR, "stormbreak"):
        ended = drive(engine)

    assert (ended.outcome, ended.attempts) == (OK, 2)
    assert ear.heard == HEARD
    assert [record.exc_info[0] for record in caplog.records] == [LookupError]
    assert engine.target_state(TARGET).idle
