"""`stormbreak gateway --workers 2`: workers share one port, one ledger and one signal; a crash loses only the calls of its worker."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest
from gateway_processes import (
    PATIENCE,
    Process,
    Streams,
    cost,
    gateway,
    priced,
    refused,
    wait_for,
)
from gateways import (
    ASKED,
    CHAT,
    KEY,
    LEDGER,
    TEN_CENTS,
    request_bytes,
    settings,
    spend,
    until,
    upstream,
)

from stormbreak.gateway import parent, workers
from stormbreak.gateway.parent import GatewayParent
from stormbreak.gateway.usage_ledger import read_usage
from stormbreak.gateway.worker import Ask, Reply, Worker, line_of
from stormbreak.gateway.workers import ANSWER_TIMEOUT
from stormbreak.http.pricing import list_price

STREAM = {**CHAT, "stream": True}
LIMIT = 0.02


async def test_two_workers_act_as_one_gateway(path):
    async with upstream() as provider:
        provider.reply = streams = Streams()
        async with gateway(path, settings(provider.url)) as process:
            assert await process.page("/ready") == (200, "ready\n")
            assert await process.page("/live") == (200, "live\n")
            replies = await asyncio.gather(*(process.ask() for _ in range(20)))
            assert [reply.status for reply in replies] == [200] * 20
            assert await process.metric("requests_total") == 20
            assert await process.metric("workers") == 2
            assert json.loads((await process.page("/state"))[1])["counts"]["calls"] == 20

            right = path.read_text()
            path.write_text(right + "\n[nonsense]\n")
            process.running.send_signal(signal.SIGHUP)
            await wait_for(process.metric, 'reloads_total{result="failed"}')
            assert (await process.ask()).status == 200
            path.write_text(right.replace("[gateway]\n", '[gateway]\nmodels = { new = "main" }\n'))
            await wait_for(process.metric, 'reloads_total{result="ok"}')  # by watching the file
            asked = [process.ask({**CHAT, "model": "new"}) for _ in range(10)]
            assert {reply.status for reply in await asyncio.gather(*asked)} == {200}

            before = len(provider.seen)
            streaming = [asyncio.create_task(process.ask(STREAM)) for _ in range(8)]
            await until(lambda: len(provider.seen) == before + 8, PATIENCE)
            process.running.send_signal(signal.SIGTERM)
            await wait_for(refused, process)
            assert (await process.page("/ready"))[0] == 503
            streams.end.set()
            replies = await asyncio.gather(*streaming)
            assert all(reply.body.endswith(b"data: [DONE]\n\n") for reply in replies)
            status, log = await process.ended()
    assert status == 0
    assert "unknown key nonsense" in log
    assert "Traceback" not in log
    for secret in (KEY, "tell me", "canary"):
        assert secret not in log


async def test_a_worker_that_is_slow_to_drain_is_not_killed(path):
    """Found on a busy machine: the worker was killed after two seconds, which cut its streams."""
    async with upstream() as provider:
        provider.reply = streams = Streams()
        async with gateway(path, settings(provider.url)) as process:
            streaming = [asyncio.create_task(process.ask(STREAM)) for _ in range(4)]
            await until(lambda: len(provider.seen) == 4, PATIENCE)
            for pid in process.workers:
                os.kill(pid, signal.SIGSTOP)
            process.running.send_signal(signal.SIGTERM)
            await asyncio.sleep(ANSWER_TIMEOUT + 1.0)
            for pid in process.workers:
                os.kill(pid, signal.SIGCONT)
            streams.end.set()
            replies = await asyncio.gather(*streaming)
            assert all(reply.body.endswith(b"data: [DONE]\n\n") for reply in replies)
            status, _ = await process.ended()
    assert status == 0


async def test_a_worker_that_does_not_respond_is_killed_after_the_grace(path, monkeypatch):
    """A supervisor kills the parent ten seconds after the grace, which would lose the exact spending of keys."""
    monkeypatch.setattr(workers, "AFTER_GRACE", 0.5)
    async with upstream() as provider:
        path.write_text(settings(provider.url, gateway="grace = 0.5"))
        whole = GatewayParent(path, workers=2)
        await whole.start()
        slow, _ = whole._workers.running
        os.kill(slow.process.pid, signal.SIGSTOP)
        began = time.monotonic()
        await whole.drain()
        assert time.monotonic() - began < workers.CHANGE_TIMEOUT
        assert slow.process.returncode == -signal.SIGKILL


async def test_a_killed_worker_loses_only_its_own_calls_and_is_restarted(path):
    async with upstream() as provider:
        provider.reply = streams = Streams()
        async with gateway(path, settings(provider.url)) as process:
            await asyncio.gather(*(process.ask() for _ in range(6)))
            assert await process.metric("requests_total") == 6
            opened = await streams_of_two(process)
            first, other = process.workers
            os.kill(first, signal.SIGKILL)
            await until(lambda: first not in process.workers, PATIENCE)
            streams.end.set()
            whole = {}
            for worker, (reader, writer) in opened:
                rest = await asyncio.gather(reader.read(), return_exceptions=True)
                whole.setdefault(worker, set()).add(
                    str(rest[0]).endswith("[DONE]\\n\\n\\r\\n0\\r\\n\\r\\n'")
                )
                writer.close()
            assert sorted(whole.values(), key=max) == [{False}, {True}]
            assert (await process.ask()).status == 200
            await wait_for(process.metric, "workers", 2)
            assert other in process.workers
            assert await process.metric("requests_total") >= 6 + 1
            replies = await asyncio.gather(*(process.ask() for _ in range(10)))
            assert {reply.status for reply in replies} == {200}

            workers = process.workers
            process.running.kill()
            _, log = await process.ended()
            await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), PATIENCE)
    assert re.search(rf"WARNING worker {first} has ended \(signal 9\)", log)


async def test_a_reload_applies_to_all_workers_or_to_none(path, monkeypatch, caplog):
    async with upstream() as provider:
        path.write_text(settings(provider.url))
        whole = GatewayParent(path, workers=2)
        await whole.start()
        try:
            process = Process(None, None, f"http://127.0.0.1:{whole.port}", None)

            async def statuses():
                asking = (process.ask({**CHAT, "model": "new"}) for _ in range(12))
                return {reply.status for reply in await asyncio.gather(*asking)}

            path.write_text(settings(provider.url, gateway='models = { new = "main" }'))
            slow, _ = whole._workers.running
            os.kill(slow.process.pid, signal.SIGSTOP)
            with monkeypatch.context() as impatient:
                impatient.setattr(parent, "CHANGE_TIMEOUT", 1.0)
                assert not await whole.reload()
            os.kill(slow.process.pid, signal.SIGCONT)
            assert await statuses() == {404}
            assert f"worker {slow.process.pid} does not answer" in caplog.text
            assert await whole.reload()
            assert await statuses() == {200}
            path.write_text(f"{settings(provider.url)}\n[fleet]\nurl = 'redis://127.0.0.1:1'\n")
            assert not await whole.reload()
            assert "[fleet] was added or removed: restart the gateway" in caplog.text
        finally:
            await whole.close()


async def test_a_worker_that_fails_at_a_command_continues_to_serve():
    """Found: the worker cut the answers of its clients and exited."""
    pages, gateway, replies = Mock(), Mock(drain_within=AsyncMock()), []
    pages.metrics.side_effect = ZeroDivisionError
    reader = asyncio.StreamReader()
    for number, do in enumerate(("look", "ping"), 1):
        reader.feed_data(line_of(Ask(number=number, do=do)))
    serving = asyncio.create_task(Worker(gateway, pages, replies.append).serve(reader))
    await until(lambda: len(replies) == 2)
    assert replies == [Reply(number=1, error="ZeroDivisionError"), Reply(number=2)]
    assert not gateway.drain_within.called
    reader.feed_eof()
    await serving


async def test_a_worker_that_cannot_report_metrics_keeps_its_last_ones(path):
    """Found: its counters fell to zero and then returned."""
    path.write_text(settings("http://127.0.0.1:9/v1"))
    whole, good, fails = GatewayParent(path, workers=2), Mock(), Mock()
    looks = [Reply(number=number, metrics=b"stormbreak_calls_total 3\n") for number in (1, 2)]
    good.last_look, fails.last_look = looks
    whole._workers.ask_all = AsyncMock(
        return_value={good: looks[0], fails: Reply(number=3, error="ZeroDivisionError")}
    )
    assert await whole.look() == looks


async def streams_of_two(process):
    """Open streams until each worker has one; return the worker of each, from the prefix of its request ids."""
    opened, workers = [], set()
    while len(workers) < 2:
        assert len(opened) < 500, "one worker takes all connections"
        reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
        writer.write(request_bytes("/v1/chat/completions", STREAM, headers=["connection: close"]))
        head = await reader.readuntil(b"\r\n\r\n")
        worker = re.search(rb"request-id: (gw_\w+)_", head)[1]
        opened.append((worker, (reader, writer)))
        workers.add(worker)
    return opened


async def test_kills_and_restarts_never_exceed_the_spend_limit(path):
    async def reply(request, connection):
        await asyncio.sleep(0.02)
        return TEN_CENTS

    async with upstream() as provider:
        provider.reply = reply
        text = priced(settings(provider.url, gateway=LEDGER, key=spend(LIMIT)))
        async with gateway(path, text) as process:
            # Seven calls in flight and three more may cost less than half the limit.
            asking = [asyncio.create_task(process.ask(ASKED)) for _ in range(7)]
            await until(lambda: len(provider.seen) >= 6, PATIENCE)
            workers = process.workers
            for pid in (*workers, process.running.pid):
                os.kill(pid, signal.SIGKILL)
            await asyncio.gather(*asking, return_exceptions=True)
        async with gateway(path) as process:
            statuses = {(await process.ask(ASKED)).status for _ in range(3)}
            assert statuses == {200}
            process.running.send_signal(signal.SIGTERM)
            assert (await process.ended())[0] == 0
        async with gateway(path, workers=1) as process:  # a single process can use the same ledger
            spent = await process.metric("key_spent_usd")
            assert cost(len(provider.seen)) <= spent <= LIMIT / 2
        async with gateway(path) as process:
            assert await process.metric("key_spent_usd") == pytest.approx(spent)
            replies = await asyncio.gather(*(process.ask(ASKED) for _ in range(100)))
            assert 200 in {reply.status for reply in replies}
            assert LIMIT / 2 < await process.metric("key_spent_usd") <= LIMIT
    assert LIMIT / 2 < cost(len(provider.seen)) <= LIMIT
    rows = read_usage(path.with_name("spent.db"), list_price)
    assert (
        len(provider.seen) <= sum(each.attempts for each in rows.values()) <= len(provider.seen) + 7
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_to_all_processes_does_not_end_a_worker_that_still_imports(tmp_path, number):
    """Found: `systemctl kill -s USR1` within the second of a start ended the whole gateway."""
    package = tmp_path / "stormbreak" / "gateway"
    package.mkdir(parents=True)
    lines = "import os", f"os.kill(os.getpid(), {int(number)})", "def main(): print('serves')"
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "worker.py").write_text("\n".join(lines))
    command = [sys.executable, "-c", workers.PROGRAM]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "serves\n"), ended.stderr
