"""`stormbreak gateway` as a process with workers, and a provider whose streams can be held open."""

import asyncio
import json
import re
import time
import urllib.request
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from unittest.mock import patch
from urllib.error import HTTPError

from fork_server import PROGRAM, ForkedPopen
from gateways import ANSWER, CHAT, read_reply, request_bytes

from stormbreak.http.h1.server_connection import ServerResponse
from stormbreak.http.pricing import list_price
from stormbreak.types import Usage

PATIENCE = 60.0  # seconds; the machine may be busy
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


class Process:
    """A process `stormbreak gateway` with two workers."""

    def __init__(self, running, reading, url, admin):
        self.running = running
        self._reading = reading
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
        """Wait until the process ends; return its status and its log."""
        log = await asyncio.wait_for(self._reading, PATIENCE)
        return await self.running.wait(), log.decode()


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


@asynccontextmanager
async def gateway(path, text=None, workers=2):
    """Start a gateway with the settings `text`; without `text`, with the file of the last start."""
    if text is not None:
        path.write_text(text.replace('admin_port = "none"', "admin_port = 0"))
    program = (*PROGRAM, "gateway", path, "--workers", str(workers))
    pipe = asyncio.subprocess.PIPE
    with patch("subprocess.Popen", ForkedPopen):
        running = await asyncio.create_subprocess_exec(*program, stdout=pipe, stderr=pipe)
    reading = asyncio.create_task(running.stderr.read())  # a full pipe would stop it
    try:
        lines = [
            (await asyncio.wait_for(running.stdout.readline(), PATIENCE)).decode() for _ in range(2)
        ]
        assert all(lines), (await reading).decode()
        yield Process(running, reading, *(line.split(" on ")[1].strip() for line in lines))
    finally:
        with suppress(ProcessLookupError):
            running.kill()
        await running.wait()
        await reading


class Streams:
    """A provider whose streams continue until `end` is set."""

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


def cost(calls):
    price = list_price("openai", "gpt-4.1").cost_of(Usage(input_tokens=10, output_tokens=90))
    return float(price) * calls


def priced(text):
    """A settings file whose target has list prices."""
    text = text.replace("[targets.main]\nbase_url", '[targets.main]\nprovider = "openai"\nbase_url')
    return text.replace("storm-1", "gpt-4.1")


async def wait_for(value, *arguments):
    """Wait until the value is at least the last argument, if that is a number; else until it is true."""
    *arguments, least = arguments if isinstance(arguments[-1], int) else (*arguments, 1)
    end = time.monotonic() + PATIENCE
    while await value(*arguments) < least:
        assert time.monotonic() < end, "it never came to hold"
        await asyncio.sleep(0.05)


async def refused(process):
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", process.port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False
