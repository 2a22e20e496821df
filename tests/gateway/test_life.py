"""A gateway starts, reloads its file and drains, and no call fails."""

import asyncio
import gc
import json
import logging
import re
import signal
import subprocess
import sys
import threading
import urllib.request

import gateway_processes as processes
import pytest
from fork_server import PROGRAM, ForkedPopen
from gateways import (
    ANSWER,
    CHAT,
    KEY,
    OTHER,
    QUICK,
    read_reply,
    request_bytes,
    running,
    settings,
    until,
    upstream,
)
from sockets import free_port

from stormbreak.gateway.logs import RequestRecord, log_to_stderr
from stormbreak.gateway.metrics import GatewayMetrics
from stormbreak.gateway.process import Gateway
from stormbreak.http.h1.server_connection import ServerResponse

STREAM = {**CHAT, "stream": True}


async def test_a_reload_changes_keys_models_and_limits_at_once(path):
    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        assert (await gateway.ask({**CHAT, "model": "new"})).status == 404
        path.write_text(settings(provider.url, gateway='models = { new = "main" }', key="rpm = 60"))
        assert await gateway.gateway.reload()
        assert [(await gateway.ask({**CHAT, "model": "new"})).status for _ in range(1)] == [200]
        path.write_text(settings(provider.url).replace("[keys.other]", "[keys.third]"))
        assert await gateway.gateway.reload()
        assert (await gateway.ask(key=OTHER)).status == 200
        path.write_text(settings(provider.url).partition("[keys.other]")[0])
        assert await gateway.gateway.reload()
        assert (await gateway.ask(key=OTHER)).status == 401
        assert gateway.metric('reloads_total{result="ok"}') == 3


@pytest.mark.parametrize("is_half", [False, True])
async def test_a_removed_key_is_rejected_on_a_connection_that_used_it(path, is_half):
    request = request_bytes("/v1/chat/completions", CHAT, key=OTHER)
    early = request[:-9] if is_half else b""
    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
        writer.write(request)
        assert (await read_reply(reader)).status == 200
        writer.write(early)
        await asyncio.sleep(0.05)
        path.write_text(settings(provider.url).partition("[keys.other]")[0])
        assert await gateway.gateway.reload()
        writer.write(request[len(early) :])
        assert (await read_reply(reader)).status == 401
        writer.close()
    assert len(provider.seen) == 1


@pytest.mark.parametrize(
    "wrong",
    ["[targets.main", "[keys.app]\nsha256 = 7", "", "[targets.main]\napi_key_env = 'NOT_SET'"],
)
async def test_a_reload_of_an_invalid_file_changes_nothing_and_is_logged(path, caplog, wrong):
    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        path.write_text(wrong)
        assert not await gateway.gateway.reload()
        assert (await gateway.ask()).status == 200
        assert gateway.metric('reloads_total{result="failed"}') == 1
    assert "the settings stay as they were" in caplog.text
    assert str(path) in caplog.text


async def test_a_reload_to_a_fleet_without_its_package_changes_nothing(path, monkeypatch, caplog):
    """Found: the reload raised, and the gateway never read the file again."""
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "stormbreak.fleet.valkey", raising=False)
    text, number = settings("http://127.0.0.1:9/v1"), free_port()  # a store that has no thread yet
    async with running(path, text) as gateway:
        path.write_text(f"[fleet]\nurl = 'redis://127.0.0.1:{number}'\n{text}")
        assert not await gateway.gateway.reload()
        assert "a fleet needs the redis package" in caplog.text
        assert gateway.metric('reloads_total{result="failed"}') == 1


async def test_an_internal_error_in_a_reload_does_not_prevent_the_next(path, monkeypatch, caplog):
    async with running(path, settings("http://127.0.0.1:9/v1")) as gateway:
        with monkeypatch.context() as patched:
            patched.setattr(Gateway, "apply", lambda *_: 1 / 0)
            assert not await gateway.gateway.reload()
        assert "ZeroDivisionError" in caplog.text
        assert await gateway.gateway.reload()


async def test_a_gateway_logs_to_stderr_and_restores_logging_at_its_end(path, capsys, caplog):
    log = logging.getLogger("stormbreak")
    before = log.handlers[:], log.level, log.propagate, logging._srcfile, logging.logThreads
    async with upstream() as provider:
        path.write_text(settings(provider.url))
        with log_to_stderr() as write_line:
            gateway = Gateway(path, write_line=write_line)
            gateway.metrics.ended(RequestRecord("POST", "/v1/embeddings", status=200))
            gateway.metrics.reloaded(None)
            await gateway.close()
    access, reload = capsys.readouterr().err.splitlines()
    assert " INFO POST /v1/embeddings 200 " in access
    assert "the settings were read again" in reload
    assert before == (
        log.handlers, log.level, log.propagate, logging._srcfile, logging.logThreads,
    )  # fmt: skip
    caplog.set_level(logging.INFO)
    GatewayMetrics().ended(RequestRecord("POST", "/v1/embeddings", status=200))
    assert "POST /v1/embeddings 200 " in caplog.text


async def test_an_error_while_loading_prices_is_one_log_line(path, caplog):
    def broken(provider, model):
        raise ValueError("no such table")

    text = settings("http://127.0.0.1:9/v1", key="[keys.app.spend]\nmax_usd = 2\n")
    async with running(path, text, prices=broken):
        await until(lambda: caplog.messages)
    gc.collect()
    assert caplog.messages == ["the prices cannot be loaded: ValueError: no such table"]


async def test_no_call_fails_during_forty_reloads_by_signal(path, stormbreak_provider):
    provider = stormbreak_provider("[provider]\nservice = 0.02\nvariation = 0\n")

    def text(rpm):
        return settings(
            provider.base_url, key=f"rpm = {rpm}", gateway=f'models = {{ a{rpm} = "main" }}'
        )

    async with processes.gateway(path, text(60_000), workers=1) as gateway:
        statuses, done = [], False

        async def ask():
            while not done:
                for payload in (CHAT, STREAM):
                    reply = await gateway.ask(payload)
                    statuses.append(reply.status)
                await asyncio.sleep(0.05)

        asking = [asyncio.create_task(ask()) for _ in range(8)]
        for turn in range(40):
            new = path.with_suffix(".new")
            new.write_text(text(60_001 + turn).replace('admin_port = "none"', "admin_port = 0"))
            new.replace(path)
            gateway.running.send_signal(signal.SIGHUP)
            await processes.wait_for(gateway.metric, 'reloads_total{result="ok"}', turn + 1)
        last = await gateway.ask({**CHAT, "model": "a60040"})
        done = True
        await asyncio.gather(*asking)
        assert await gateway.metric('reloads_total{result="failed"}') == 0
    assert len(statuses) > 50
    assert last.status == 200
    assert set(statuses) == {200}


async def test_a_drain_finishes_streams_and_refuses_new_connections(path):
    go = asyncio.Event()

    async def reply(request, connection):
        connection.begin(200, "text/event-stream", [])
        connection.send(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
        await go.wait()
        connection.send(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n')
        connection.send(b"data: [DONE]\n\n")
        connection.end()

    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        provider.reply = reply
        asking = [asyncio.create_task(gateway.ask(STREAM)) for _ in range(3)]
        await until(lambda: len(provider.seen) == 3)
        draining = asyncio.create_task(gateway.gateway.drain())
        await asyncio.sleep(0.05)
        with pytest.raises(ConnectionRefusedError):
            await gateway.ask()
        go.set()
        replies = await asyncio.gather(*asking)
        assert all(each.body.endswith(b"data: [DONE]\n\n") for each in replies)
        assert {each.ending for each in replies} <= {"kept", "closed"}
        await asyncio.wait_for(draining, 60)


async def test_calls_beyond_the_grace_end_with_the_error_draining(path):
    async def reply(request, connection):
        if b'"stream"' in request.body:
            connection.begin(200, "text/event-stream", [])
            connection.send(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
        await asyncio.sleep(30)

    text = "grace = 0.1"
    async with (
        upstream() as provider,
        running(path, settings(provider.url, gateway=text)) as gateway,
    ):
        provider.reply = reply
        asking = [asyncio.create_task(gateway.ask(payload)) for payload in (CHAT, STREAM)]
        await until(lambda: len(provider.seen) == 2)
        await asyncio.wait_for(gateway.gateway.drain(), 60)
        plain, stream = await asyncio.gather(*asking)
    assert (plain.status, plain.json["error"]["code"]) == (503, "draining")
    assert plain.headers["retry-after"] == "1"
    assert (stream.status, stream.ending) == (200, "cut")
    assert json.loads(stream.events[-1])["error"]["code"] == "draining"


async def test_a_call_in_flight_ends_at_the_old_target_after_a_reload(path):
    go = asyncio.Event()

    async def slow(request, connection):
        await go.wait()
        return ServerResponse(200, json.dumps(ANSWER).encode())

    async with upstream() as one, upstream() as two, running(path, settings(one.url)) as gateway:
        one.reply = slow
        asking = asyncio.create_task(gateway.ask())
        await until(lambda: one.seen)
        path.write_text(settings(two.url))
        assert await gateway.gateway.reload()
        assert (await gateway.ask()).status == 200
        go.set()
        assert (await asking).status == 200
    assert (len(one.seen), len(two.seen)) == (1, 1)


async def test_a_reload_reads_the_api_key_file_again(path):
    secret = path.with_name("key.txt")
    secret.write_text("sk-first-key-of-the-file-1\n")
    async with upstream() as provider:
        text = settings(provider.url).replace(
            'api_key_env = "GATEWAY_TEST_KEY"', 'api_key_file = "key.txt"'
        )
        async with running(path, text) as gateway:
            await gateway.ask()
            secret.write_text("sk-second-key-of-the-file-2\n")
            assert await gateway.gateway.reload()
            await gateway.ask()
            secret.unlink()
            assert not await gateway.gateway.reload()
            assert (await gateway.ask()).status == 200
    keys = [request.headers[b"authorization"].decode()[7:] for request in provider.seen]
    assert keys == ["sk-first-key-of-the-file-1", *["sk-second-key-of-the-file-2"] * 2]


# ------------------------------------------------------------------ the process


@pytest.fixture
def process(path, stormbreak_provider):
    """Start `stormbreak gateway` on a provider or a URL; return it, and its two addresses."""
    started = []

    def start(scenario=QUICK, provider_url=None, **options):
        provider_url = provider_url or stormbreak_provider(scenario).base_url
        text = settings(provider_url, **options).replace('admin_port = "none"', "admin_port = 0")
        path.write_text(text)
        program = [*PROGRAM, "gateway", path]
        running = ForkedPopen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(running)
        urls = [running.stdout.readline().split(" on ")[1].strip() for _ in range(2)]
        return running, *urls

    yield start
    for each in started:
        each.kill()
        each.wait()
        each.stdout.close()
        each.stderr.close()


def test_the_process_serves_reloads_and_ends_on_signals(process, path):
    async def use(provider):
        gateway, url, admin = process(provider_url=provider.url)
        assert processes.get(f"{admin}/ready") == (200, "ready\n")
        assert processes.get(f"{admin}/live") == (200, "live\n")
        port = int(url.rpartition(":")[2])
        provider.reply = streams = processes.Streams()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes("/v1/chat/completions", CHAT))
        assert (await read_reply(reader)).status == 200
        path.write_text(path.read_text() + "\n[nonsense]\n")
        gateway.send_signal(signal.SIGHUP)
        await until(
            lambda: 'reloads_total{result="failed"} 1' in processes.get(f"{admin}/metrics")[1]
        )
        path.write_text(path.read_text().replace("[nonsense]", "# changed"))
        await until(
            lambda: 'reloads_total{result="ok"} 1' in processes.get(f"{admin}/metrics")[1]
        )  # the gateway watches the file
        writer.write(request_bytes("/v1/chat/completions", STREAM))
        await reader.readuntil(b"\r\n\r\n")
        gateway.send_signal(signal.SIGTERM)
        await until(lambda: processes.get(f"{admin}/ready")[0] == 503)
        streams.end.set()
        rest = await reader.read()
        writer.close()
        assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        return gateway

    async def main():
        async with upstream() as provider:
            return await use(provider)

    gateway = asyncio.run(main())
    assert gateway.wait(processes.PATIENCE) == 0
    log = gateway.stderr.read()
    assert re.search(
        r"INFO POST /v1/chat/completions 200 [\d.]+s key=app model=main target=main=", log
    )
    assert "the settings stay as they were" in log
    assert "unknown key nonsense" in log
    assert "Traceback" not in log
    for secret in (KEY, "tell me", "canary"):
        assert secret not in log


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_to_reopen_logs_does_not_end_the_gateway(process, number):
    gateway, _, admin = process()
    gateway.send_signal(number)
    assert f"{number.name} is ignored" in gateway.stderr.readline()
    assert processes.get(f"{admin}/ready") == (200, "ready\n")


def test_one_metrics_page_shows_the_gateway_and_its_engine(process):
    _, url, admin = process()
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(CHAT).encode(),
        {"authorization": f"Bearer {KEY}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=processes.PATIENCE) as answer:
        assert answer.status == 200
    status, text = processes.get(f"{admin}/metrics")
    assert status == 200
    labels = 'key="app",endpoint="/v1/chat/completions",status="200"'
    assert f"stormbreak_gateway_requests_total{{{labels}}} 1" in text
    assert "stormbreak_attempts_total" in text
    assert json.loads(processes.get(f"{admin}/state")[1])["counts"]["calls"] == 1


def test_a_second_signal_ends_the_gateway_at_once(process):
    gateway, url, admin = process(
        '[provider]\nservice = 0.001\nvariation = 0\n[[faults]]\nkind = "hang"\n'
    )
    port = int(url.rpartition(":")[2])

    async def use():
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes("/v1/chat/completions", CHAT))
        await until(
            lambda: "stormbreak_gateway_in_flight 1" in processes.get(f"{admin}/metrics")[1]
        )
        gateway.send_signal(signal.SIGTERM)
        await until(lambda: processes.get(f"{admin}/ready")[0] == 503)
        assert gateway.poll() is None
        gateway.send_signal(signal.SIGINT)
        writer.close()

    asyncio.run(use())
    assert gateway.wait(processes.PATIENCE) == 0


async def test_a_gateway_listens_before_the_prices_are_loaded(path, stormbreak_provider):
    """Loading prices takes half a second."""
    served, in_time = threading.Event(), []

    def slow(provider, model):
        in_time.append(served.wait(30))

    provider = stormbreak_provider("calm")
    text = settings(provider.base_url, gateway='ledger = "spent.db"')
    async with running(path, text, prices=slow) as gateway:
        reply = await gateway.ask(None, "/v1/models", method="GET")
        served.set()
        await until(lambda: in_time)
    assert reply.status == 200
    assert in_time == [True]


async def test_an_internal_error_is_a_500_and_not_an_invalid_request(path, monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError(CHAT["messages"])

    async with upstream() as provider, running(path, settings(provider.url)) as gateway:
        monkeypatch.setattr(gateway.gateway._app, "_call", fails)
        with caplog.at_level(logging.ERROR):
            reply = await gateway.ask()
    error = reply.json["error"]
    assert (reply.status, error["code"], provider.seen) == (500, "internal_error", [])
    assert "RuntimeError" in caplog.text
    assert "tell me" not in caplog.text + error["message"]
