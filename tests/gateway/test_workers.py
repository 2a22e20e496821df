"""`stormbreak gateway --workers 2`: one port, one account of money, one signal; a worker that dies costs its own calls alone."""

import asyncio
import json
import os
import re
import signal
import sys
import urllib.request
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError

import pytest
from gateways import ANSWER, CHAT, KEY, read_reply, request_bytes, settings, until, upstream

from stormbreak.http.h1.server_connection import ServerResponse
from stormbreak.http.pricing import list_price
from stormbreak.types import Usage

STREAM = {**CHAT, "stream": True}
PATIENCE = 60.0  # seconds; the machine may be busy
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


class Process:
    """`stormbreak gateway` with two workers, as a process of its own."""

    def __init__(self, running, url, admin):
        self.running = running
        self.port = int(url.rpartition(":")[2])
        self.admin = admin

    async def ask(self, payload=CHAT, path="/v1/chat/completions", **more):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request_bytes(path, payload, **more))
            return await read_reply(reader)
        finally:
            writer.close()

    async def page(self, path):
        return await asyncio.to_thread(get, self.admin + path)

    async def metric(self, name):
        _, text = await self.page("/metrics")
        found = re.findall(rf"^stormbreak_gateway_{re.escape(name)}\S* (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    @property
    def workers(self):
        found = Path(f"/proc/{self.running.pid}/task/{self.running.pid}/children").read_text()
        return [int(pid) for pid in found.split()]

    async def ended(self):
        """Wait for its end; return its status and its log."""
        _, log = await asyncio.wait_for(self.running.communicate(), PATIENCE)
        return self.running.returncode, log.decode()


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


@asynccontextmanager
async def gateway(path, text=None, workers=2):
    """Start one on a settings file; without `text`, on that of before."""
    if text is not None:
        path.write_text(text.replace('admin_port = "none"', "admin_port = 0"))
    program = (sys.executable, "-m", "stormbreak", "gateway", path, "--workers", str(workers))
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(*program, stdout=pipe, stderr=pipe)
    try:
        lines = [
            (await asyncio.wait_for(running.stdout.readline(), PATIENCE)).decode() for _ in range(2)
        ]
        assert all(lines), (await running.stderr.read()).decode()
        yield Process(running, *(line.split(" on ")[1].strip() for line in lines))
    finally:
        with suppress(ProcessLookupError):
            running.kill()
        await running.wait()


class Streams:
    """A provider whose streams go on until they may `end`."""

    def __init__(self):
        self.end = asyncio.Event()

    async def __call__(self, request, connection):
        if b'"stream"' not in request.body:
            return ServerResponse(200, json.dumps(ANSWER).encode())
        connection.begin(200, "text/event-stream", [])
        connection.send(EVENT)
        await self.end.wait()
        connection.send(LAST)
        connection.end()
        return None


async def test_two_workers_are_one_gateway(path):
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
            await wait_for(process.metric, 'reloads_total{result="ok"}')  # it watches the file
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


async def test_a_worker_that_dies_costs_its_own_calls_and_is_started_again(path):
    async with upstream() as provider:
        provider.reply = streams = Streams()
        async with gateway(path, settings(provider.url)) as process:
            await asyncio.gather(*(process.ask() for _ in range(6)))
            assert await process.metric("requests_total") == 6
            streaming = [asyncio.create_task(process.ask(STREAM)) for _ in range(12)]
            await until(lambda: len(provider.seen) == 18, PATIENCE)
            first, other = process.workers
            os.kill(first, signal.SIGKILL)
            await wait_for(one_worker, process)
            streams.end.set()
            ended = await asyncio.gather(*streaming, return_exceptions=True)
            whole = [each for each in ended if getattr(each, "body", b"").endswith(b"[DONE]\n\n")]
            assert 0 < len(whole) < 12
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


PRICED = '[targets.main]\nprovider = "openai"\nbase_url'
USED = {"prompt_tokens": 10, "completion_tokens": 90, "total_tokens": 100}
LIMIT = 0.02


def cost(calls):
    price = list_price("openai", "gpt-4.1").cost_of(Usage(input_tokens=10, output_tokens=90))
    return float(price) * calls


async def test_no_cent_more_is_spent_over_kills_and_restarts(path):
    async def reply(request, connection):
        await asyncio.sleep(0.02)
        return ServerResponse(200, json.dumps({**ANSWER, "usage": USED}).encode())

    asked = {**CHAT, "max_tokens": 90}
    async with upstream() as provider:
        provider.reply = reply
        text = settings(
            provider.url,
            gateway='ledger = "spent.db"',
            key=f"[keys.app.spend]\nmax_usd = {LIMIT}\n",
        )
        text = text.replace("[targets.main]\nbase_url", PRICED).replace("storm-1", "gpt-4.1")
        async with gateway(path, text) as process:
            asking = [asyncio.create_task(process.ask(asked)) for _ in range(10)]
            await until(lambda: len(provider.seen) >= 6, PATIENCE)
            workers = process.workers
            for pid in (*workers, process.running.pid):
                os.kill(pid, signal.SIGKILL)
            await asyncio.gather(*asking, return_exceptions=True)
        async with gateway(path) as process:
            statuses = {(await process.ask(asked)).status for _ in range(3)}
            assert statuses == {200}
            process.running.send_signal(signal.SIGTERM)
            assert (await process.ended())[0] == 0
        async with gateway(path, workers=1) as process:  # the ledger is that of one process, too
            spent = await process.metric("key_spent_usd")
            assert cost(len(provider.seen)) <= spent <= LIMIT / 2
        async with gateway(path) as process:
            assert await process.metric("key_spent_usd") == pytest.approx(spent)
            replies = await asyncio.gather(*(process.ask(asked) for _ in range(100)))
            assert 200 in {reply.status for reply in replies}
            assert LIMIT / 2 < await process.metric("key_spent_usd") <= LIMIT
    assert LIMIT / 2 < cost(len(provider.seen)) <= LIMIT


async def wait_for(value, *arguments):
    """Wait until it is at least the last argument, if that is a number; else until it is true."""
    *arguments, least = arguments if isinstance(arguments[-1], int) else (*arguments, 1)
    async with asyncio.timeout(PATIENCE):
        while await value(*arguments) < least:
            await asyncio.sleep(0.05)


async def one_worker(process):
    return len(process.workers) == 1


async def refused(process):
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", process.port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False
