"""A raw client that shows the bytes on the wire, when they arrived, and how the connection ended."""

import json
import socket
import time
from typing import NamedTuple

import pytest

CHAT = {"model": "m", "messages": [{"role": "user", "content": "tell me"}]}
STREAM = {**CHAT, "stream": True}


class RawResponse(NamedTuple):
    status: int | None
    headers: dict[str, str]
    body: bytes  # as framed on the wire
    ending: str  # "open" (nothing more within the patience), "closed", "reset"
    times: list[float]  # seconds from the request to each piece

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def events(self):
        """The data of the server-sent events, unframed."""
        return [line[6:] for line in unchunk(self.body).split(b"\n") if line.startswith(b"data: ")]


def unchunk(data: bytes) -> bytes:
    whole = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        whole += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
    return whole


def body_of(data):
    """Return the body behind the head, without the frames of chunks."""
    head, _, body = data.partition(b"\r\n\r\n")
    return unchunk(body) if b"transfer-encoding: chunked" in head else body


def text_in(data):
    """Return the text of a plain answer."""
    return json.loads(body_of(data))["choices"][0]["message"]["content"]


def stream_text(events):
    """Return the text of the events of a chat completion, with any line ending."""
    text = ""
    for line in events.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        if line.startswith(b"data: {"):
            text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
    return text


def request_bytes(method="POST", path="/v1/chat/completions", payload=CHAT, headers=()) -> bytes:
    body = b"" if payload is None else json.dumps(payload).encode()
    lines = [f"{method} {path} HTTP/1.1", "host: test", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class RawClient:
    """One connection."""

    def __init__(self, port: int):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._rest = b""  # bytes after the last response

    def send(self, data: bytes):
        self.sock.sendall(data)

    def read_response(self, patience: float = 30.0) -> RawResponse:
        """Read one response: to the end of its framing, or until the connection or the patience ends."""
        start, data, times, ending = time.monotonic(), self._rest, [], "open"
        self.sock.settimeout(patience)
        try:
            while (end := _end_of(data)) is None:
                more = self.sock.recv(65536)
                if not more:
                    ending = "closed"
                    break
                times.append(time.monotonic() - start)
                data += more
        except ConnectionResetError:
            ending = "reset"
        except TimeoutError:
            ending = "silent"
        data, self._rest = (data, b"") if end is None else (data[:end], data[end:])
        return _parse(data, ending, times)

    def everything(
        self, patience: float = 30.0, max_bytes: int = 1 << 40, first: bytes = b""
    ) -> tuple[bytes, str]:
        """Read until the connection ends or there are `max_bytes`, or nothing comes for `patience` after the bytes `first`.

        Returns the bytes and how the connection ended.
        """
        data, self._rest = bytearray(self._rest), b""
        try:
            while len(data) < max_bytes:
                self.sock.settimeout(patience if first in data else 30.0)
                more = self.sock.recv(1 << 20)
                if not more:
                    return bytes(data), "closed"
                data += more
        except ConnectionResetError:
            return bytes(data), "reset"
        except TimeoutError:
            return bytes(data), "silent"
        return bytes(data), "endless"

    def ask(self, patience: float = 30.0, **kwargs) -> RawResponse:
        self.send(request_bytes(**kwargs))
        return self.read_response(patience)

    def closed(self, patience: float = 2.0) -> bool:
        self.sock.settimeout(patience)
        return self.sock.recv(1) == b""


def _end_of(data: bytes) -> int | None:
    """Return where the first response in `data` ends, or None if it is incomplete."""
    head, sep, body = data.partition(b"\r\n\r\n")
    if not sep:
        return None
    if b"transfer-encoding: chunked" in head:
        return len(data) if body.endswith(b"0\r\n\r\n") else None
    end = len(head) + 4 + int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    return end if len(data) >= end else None


def _parse(data: bytes, ending: str, times: list[float]) -> RawResponse:
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    status = int(lines[0].split(" ")[1]) if lines[0] else None
    headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    return RawResponse(status, headers, body, ending, times)


@pytest.fixture
def dial():
    """Open raw connections that are closed with the test."""
    opened = []

    def connect(provider) -> RawClient:
        opened.append(RawClient(provider.port))
        return opened[-1]

    yield connect
    for client in opened:
        client.sock.close()


@pytest.fixture
def faulty(stormbreak_provider):
    """Start a provider at which every request meets one fault."""

    def start(kind: str, extra: str = "", service: float = 0.0):
        return stormbreak_provider(
            f'[provider]\nservice = {service}\nvariation = 0\n[[faults]]\nkind = "{kind}"\n{extra}\n'
        )

    return start


@pytest.fixture
def played(faulty, dial):
    """Play a kind to one request, the only one of its connection; return all bytes and how the connection ended.

    A kind that ends in silence needs the bytes `first` that come before it.
    """

    def play(kind, payload=CHAT, *, headers=(), max_bytes=1 << 40, first=None, **more):
        client = dial(faulty(kind))
        client.send(request_bytes(payload=payload, headers=[*headers, "connection: close"], **more))
        return client.everything(30.0 if first is None else 0.3, max_bytes, first or b"")

    return play


def plays(kind):
    """Mark a test that plays this kind of fault: `test_every_fault_is_tested` searches the source for it."""
    return lambda test: test


@pytest.fixture
def eventually():
    """Wait until a condition holds that another thread brings about."""

    def wait(holds, patience: float = 30.0):
        end = time.monotonic() + patience
        while not holds():
            assert time.monotonic() < end, "the condition never held"
            time.sleep(0.005)

    return wait
