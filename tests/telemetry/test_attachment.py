"""`attach` works for every object with an engine, and a failing listener fails no call under any driver."""

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

# One connection each, since some clients retry on the same connection.
SCRIPTS = [failing(503), answer()], [answer()]
EXPECTED = ["attempt.sent", "attempt.ended", "retry.scheduled", "attempt.sent", "attempt.ended"]
EXPECTED += ["call.ended"]


class Recorder:
    """Records the names of events and the watched engines."""

    def __init__(self):
        self.events = []
        self.watched = []

    def watch(self, engine):
        self.watched.append(engine)

    def __call__(self, event):
        self.events.append(name_of(event))


@pytest.fixture
def recorder():
    return Recorder()


async def test_attach_listens_to_an_async_client(recorder):
    async with served(*SCRIPTS) as server, client_of(server) as client:
        attach(client, recorder)
        await client.chat(SAY)

        assert (recorder.events, recorder.watched) == (EXPECTED, [client.engine])


async def test_attach_listens_to_a_blocking_client(recorder):
    async with served(*SCRIPTS) as server:

        def ask():
            given = {"base_url": server.base_url, "api_key": KEY, "model": "m"}
            with Client(**given, policy=QUICK) as client:
                attach(client, recorder)
                client.chat(SAY)

        await asyncio.to_thread(ask)

    assert recorder.events == EXPECTED


async def test_attach_listens_to_all_clients_of_settings(recorder, tmp_path, monkeypatch):
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
            attach(settings, recorder)
            attach(settings.client("main"), recorder)  # the same engine: no effect
            await settings.client("main").chat(SAY)
            settings.reload()
            await settings.client("main").chat(SAY)

    assert recorder.events == [*EXPECTED, "attempt.sent", "attempt.ended", "call.ended"]
    assert len(recorder.watched) == 1


@pytest.mark.parametrize(
    ("library", "module"), [(httpx, stormbreak.httpx), (httpx2, stormbreak.httpx2)]
)
@pytest.mark.parametrize("wrapped", [False, True])
async def test_attach_listens_to_transports_and_wrapped_clients(recorder, library, module, wrapped):
    headers = {"authorization": f"Bearer {KEY}"}
    async with served(*SCRIPTS) as server:
        transport = None if wrapped else module.AsyncTransport(QUICK)
        async with library.AsyncClient(transport=transport, headers=headers) as http:
            attach(module.wrap(http, QUICK) if wrapped else transport, recorder)
            body = {"model": "m", "messages": SAY}
            await http.post(f"{server.base_url}/chat/completions", json=body)

    assert recorder.events == EXPECTED


@pytest.mark.parametrize("sdk", [openai, anthropic])
def test_attach_listens_to_wrapped_sdks(recorder, sdk):
    kind = sdk.OpenAI if sdk is openai else sdk.Anthropic
    mounts = {"https://": httpx2.HTTPTransport()}
    with httpx2.Client(mounts=mounts) as http:
        client = stormbreak.httpx2.wrap(kind(api_key=KEY, http_client=http))
        attach(client, recorder)
        attach(http, recorder)

    assert len(recorder.watched) == 1
    assert recorder.watched[0].listeners == [recorder]


def test_attach_listens_to_a_guarded_function(recorder):
    guard = resilient(QUICK, on=OSError)
    attach(guard, recorder)
    tries = iter([OSError(), None])

    @guard
    def work():
        failure = next(tries)
        if failure:
            raise failure

    work()

    assert recorder.events == EXPECTED


async def test_run_job_attaches_its_listeners(recorder, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    write(tmp_path / "in.jsonl", chat_rows(3))
    async with served([answer()] * 3) as server:
        job = Job(
            source=tmp_path / "in.jsonl", output=tmp_path / "out.jsonl", policy=BATCH,
            options=BatchOptions(base_url=server.base_url, api_key_env="MY_KEY", model="m"),
        )  # fmt: skip
        await asyncio.to_thread(run_job, job, listeners=[recorder])

    assert recorder.events.count("call.ended") == 3
    assert len(recorder.watched) == 1


def test_attach_listens_once_to_an_engine(recorder):
    engine = Engine(policy())
    attach(engine, recorder, recorder)

    assert (engine.listeners, recorder.watched) == ([recorder], [engine])


@table_test("what", [None, "sk-canary-0123456789", object(), {"engine": 1}])
def test_an_object_without_an_engine_is_an_error_with_its_type_only(what):
    with pytest.raises(ConfigurationError, match="has no engine: attach to") as caught:
        attach(what, print)

    assert "canary" not in str(caught.value)


def test_a_client_that_is_not_wrapped_is_rejected():
    with httpx2.Client() as http, pytest.raises(ConfigurationError, match=r"^Client has no engine"):
        attach(http, print)


# ------------------------------------------------- a failing listener under every driver

RETRIED = policy(
    retry=RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.001))
)
HEDGED = policy(
    retry=RetryPolicy(max_attempts=2, backoff=Backoff(kind="constant", initial_delay=0.001)),
    hedge=HedgePolicy(delay=60.0, percentile=None),
)


def outcomes():
    answers = iter([SERVER_ERROR, OK])
    return lambda _: next(answers)


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
def test_an_exception_of_a_listener_is_logged_once_and_fails_no_call(
    recorder, caplog, drive, chosen, kind
):
    def broken(event):
        if type(event) is kind:
            raise LookupError

    engine = Engine(chosen)
    attach(engine, broken, recorder)
    with caplog.at_level(logging.ERROR, "stormbreak"):
        ended = drive(engine)

    assert (ended.outcome, ended.attempts) == (OK, 2)
    assert recorder.events == EXPECTED
    assert [record.exc_info[0] for record in caplog.records] == [LookupError]
    assert engine.target_state(TARGET).idle
