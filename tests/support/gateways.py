"""A gateway in the loop of a test, its settings file, and a provider that records requests."""

import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager
from decimal import Decimal
from hashlib import sha256
from unittest.mock import patch

from fork_server import PROGRAM, ForkedPopen

from stormbreak.config.gateway_settings import KeySettings
from stormbreak.gateway import usage_ledger
from stormbreak.gateway.keys import client_keys
from stormbreak.gateway.process import Gateway
from stormbreak.gateway.usage_ledger import UsageLedger
from stormbreak.http.h1.server import HttpServer
from stormbreak.http.h1.server_connection import ServerResponse
from stormbreak.types import Target, Usage

KEY, OTHER = "sb-first-client-key-0123456789", "sb-other-client-key-9876543210"
PROVIDER_KEY = "sk-provider-canary-key-5566778899"
CHAT = {"model": "main", "messages": [{"role": "user", "content": "tell me"}]}
QUICK = "[provider]\nservice = 0.001\nvariation = 0\n"

BASE = """
[targets.main]
base_url = "{provider}"
model = "storm-1"
api_key_env = "GATEWAY_TEST_KEY"

[gateway]
port = 0
admin_port = "none"
{gateway}

[keys.app]
sha256 = "{digest}"
{key}

[keys.other]
sha256 = "{other}"
{more}
"""


def settings(provider, *, gateway="", key="", more="", top=""):
    """The text of a settings file; `top` is the policy."""
    return top + BASE.format(
        provider=provider,
        gateway=gateway,
        digest=sha256(KEY.encode()).hexdigest(),
        other=sha256(OTHER.encode()).hexdigest(),
        key=key,
        more=more,
    )


class Reply:
    """An HTTP response as received, and the end of its connection: "kept", "closed" or "cut" (in the body)."""

    def __init__(self, status, headers, body, ending):
        self.status = status
        self.headers = headers
        self.body = body
        self.ending = ending

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def events(self):
        return [
            line.removeprefix("data: ")
            for line in self.body.decode().splitlines()
            if line.startswith("data: ")
        ]


async def read_reply(reader):
    """Read one response with a length or in chunks."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in lines[1:] if line)
    headers = {name.lower(): value for name, value in pairs}
    status = int(lines[0].split()[1])
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = b""
        while True:
            line = await reader.readline()
            if not line:
                return Reply(status, headers, body, "cut")
            size = int(line, 16)
            body += (await reader.readexactly(size + 2))[:-2]
            if not size:
                break
    return Reply(
        status, headers, body, "closed" if headers.get("connection") == "close" else "kept"
    )


def request_bytes(path, payload, *, key=KEY, method="POST", headers=()):
    body = (
        b""
        if payload is None
        else payload
        if isinstance(payload, bytes)
        else json.dumps(payload).encode()
    )
    lines = [f"{method} {path} HTTP/1.1", "host: test", f"content-length: {len(body)}", *headers]
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Running:
    """A listening gateway."""

    def __init__(self, gateway, path):
        self.gateway = gateway
        self.path = path
        self.url = f"http://127.0.0.1:{gateway.port}"

    async def ask(self, payload=CHAT, path="/v1/chat/completions", **more):
        """Send one request on a new connection, and read the response."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        try:
            writer.write(request_bytes(path, payload, **more))
            return await read_reply(reader)
        finally:
            writer.close()

    def metric(self, name):
        """The value of the metric line that starts with a text."""
        return sum(
            float(line.rpartition(" ")[2])
            for line in self.gateway.metrics_text().decode().splitlines()
            if line.startswith(f"stormbreak_gateway_{name}")
        )


@asynccontextmanager
async def running(path, text, *, prices=None):
    """Run a gateway in this loop."""
    path.write_text(text)
    gateway = Gateway(path, prices=prices)
    await gateway.start()
    try:
        yield Running(gateway, path)
    finally:
        await gateway.close()


ANSWER = {
    "id": "x", "object": "chat.completion", "created": 1, "model": "storm-1",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}  # fmt: skip


class Upstream:
    """A provider that records requests; `reply` is its response, or a function from request to response."""

    def __init__(self):
        self.seen = []
        self.reply = ServerResponse(200, json.dumps(ANSWER).encode())

    def refuse(self, head, connection):
        return None

    def unreadable(self, status, message, path):
        return ServerResponse(status, message.encode())

    async def answer(self, request, connection):
        self.seen.append(request)
        reply = self.reply(request, connection) if callable(self.reply) else self.reply
        if asyncio.iscoroutine(reply):
            reply = await reply
        if reply is not None:
            connection.respond(reply)

    @property
    def bodies(self):
        return [json.loads(request.body) for request in self.seen]


@asynccontextmanager
async def upstream():
    """Yield a listening `Upstream`; its `url` ends in /v1."""
    app = Upstream()
    server = HttpServer(app)
    await server.start("127.0.0.1", 0)
    app.url = f"http://127.0.0.1:{server.port}/v1"
    try:
        yield app
    finally:
        await server.close()


async def until(holds, patience=30.0):
    """Wait until a condition is true."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        await asyncio.sleep(0.005)


# ------------------------------------------------------------------ spend

LEDGER = 'ledger = "spent.db"'
USED = {"prompt_tokens": 10, "completion_tokens": 90, "total_tokens": 100}
TEN_CENTS = ServerResponse(200, json.dumps({**ANSWER, "usage": USED}).encode())
ASKED = {**CHAT, "max_tokens": 90}


class Prices:
    """Prices of the model; the default is a tenth of a cent per token."""

    def __init__(self, usd="0.001"):
        self._usd = Decimal(usd)

    def cost_of(self, usage):
        return self._usd * usage.total

    max_cost_of = max_cost_within = cost_of


def prices(*_):
    return Prices()


def spend(usd, period=None):
    """The spend limit of a key, in its settings."""
    text = f"[keys.app.spend]\nmax_usd = {usd}\n"
    return text if period is None else f"{text}period = {period}\n"


@asynccontextmanager
async def priced_process(path):
    """Run a gateway with these prices as a process, killed at the end; yield its port."""
    program = (*PROGRAM[:3], __file__, path)
    with patch("subprocess.Popen", ForkedPopen):
        process = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE)
    try:
        yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


async def _serve(path):
    usage_ledger.INTERVAL = 0.05
    gateway = Gateway(path, prices=prices)
    await gateway.start()
    print(gateway.port, flush=True)
    await asyncio.Event().wait()


APP = client_keys({"app": KeySettings(sha256="a" * 64)})["a" * 64]
TARGET = Target("openai", "gpt-4.1", name="main")
BOUND = Usage(input_tokens=50, output_tokens=50)
USAGE = Usage(input_tokens=10, output_tokens=5)


def opened(path, price_of=prices, **settings):
    """Open the ledger beside a settings file."""
    return UsageLedger(path.with_name("spent.db"), price_of, **settings)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
