"""A gateway in the loop of a test, its settings file, and a provider that notes what comes."""

import asyncio
import json
import time
from contextlib import asynccontextmanager
from hashlib import sha256

from stormbreak.gateway.process import Gateway
from stormbreak.http.h1.server import HttpServer
from stormbreak.http.h1.server_connection import ServerResponse

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
    """An HTTP response as it came, and how the connection ended: "kept", "closed" or "cut" (in the body)."""

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
    """A gateway that listens."""

    def __init__(self, gateway, path):
        self.gateway = gateway
        self.path = path
        self.url = f"http://127.0.0.1:{gateway.port}"

    async def ask(self, payload=CHAT, path="/v1/chat/completions", **more):
        """Send one request on a connection of its own, and read the response."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        try:
            writer.write(request_bytes(path, payload, **more))
            return await read_reply(reader)
        finally:
            writer.close()

    def metric(self, name):
        """The value of a metric line, by its beginning."""
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
    """A provider that notes requests; `reply` is what it answers: a response, or a function of the request."""

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
    """Serve an `Upstream`; its `url` ends in /v1."""
    app = Upstream()
    server = HttpServer(app)
    await server.start("127.0.0.1", 0)
    app.url = f"http://127.0.0.1:{server.port}/v1"
    try:
        yield app
    finally:
        await server.close()


async def until(holds, patience=5.0):
    """Wait until something holds."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        await asyncio.sleep(0.005)
