"""A raw client for what well-behaved clients cannot show: how the bytes really came, and how they ended."""

import json
import socket
import time
from typing import NamedTuple

import pytest

CHAT = {"model": "m", "messages": [{"role": "user", "content": "tell me"}]}
STREAM = {**CHAT, "stream": True}


class Heard(NamedTuple):
    status: int | None
    headers: dict[str, str]
    body: bytes  # as framed on the wire
    ending: str  # "open" (nothing more within the patience), "closed", "reset"
    times: list[float]  # when pieces came, from the moment of sending

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
    """What state behind the head; unframed where it is in chunks."""
    head, _, body = data.partition(b"\r\n\r\n")
    return unchunk(body) if b"transfer-encoding: chunked" in head else body


def said_in(data):
    """The text of a plain answer."""
    return json.loads(body_of(data))["choices"][0]["message"]["content"]


def words_in(events):
    """The text of the events of a chat completion, whatever ends their lines."""
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
        self._rest = b""  # came behind the last answer

    def send(self, data: bytes):
        self.sock.sendall(data)

    def hear(self, patience: float = 30.0) -> Heard:
        """Read one answer: to its end by its own framing, or until the connection ends or patience does."""
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

    def everything(self, patience: float = 0.3, most: int = 1 << 40) -> tuple[bytes, str]:
        """Read until the connection ends, nothing comes for so long, or there are `most` bytes; and how it ended."""
        data, self._rest = bytearray(self._rest), b""
        self.sock.settimeout(patience)
        try:
            while len(data) < most:
                more = self.sock.recv(1 << 20)
                if not more:
                    return bytes(data), "closed"
                data += more
        except ConnectionResetError:
            return bytes(data), "reset"
        except TimeoutError:
            return bytes(data), "silent"
        return bytes(data), "endless"

    def ask(self, patience: float = 30.0, **kwargs) -> Heard:
        self.send(request_bytes(**kwargs))
        return self.hear(patience)

    def closed(self, patience: float = 2.0) -> bool:
        self.sock.settimeout(patience)
        return self.sock.recv(1) == b""


def _end_of(data: bytes) -> int | None:
    """Where the answer ends that `data` begins with; None if it goes on."""
    head, sep, body = data.partition(b"\r\n\r\n")
    if not sep:
        return None
    if b"transfer-encoding: chunked" in head:
        return len(data) if body.endswith(b"0\r\n\r\n") else None
    end = len(head) + 4 + int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    return end if len(data) >= end else None


def _parse(data: bytes, ending: str, times: list[float]) -> Heard:
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    status = int(lines[0].split(" ")[1]) if lines[0] else None
    headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    return Heard(status, headers, body, ending, times)


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
def trouble(stormbreak_provider):
    """Start a provider at which every request meets one trouble."""

    def start(kind: str, extra: str = "", service: float = 0.0):
        return stormbreak_provider(
            f'[provider]\nservice = {service}\nvariation = 0\n[[faults]]\nkind = "{kind}"\n{extra}\n'
        )

    return start


@pytest.fixture
def played(trouble, dial):
    """Play a kind to one request; return all bytes and how the connection ended."""

    def play(kind, payload=CHAT, *, extra="", patience=0.3, most=1 << 40, **more):
        client = dial(trouble(kind, extra))
        client.send(request_bytes(payload=payload, **more))
        return client.everything(patience, most)

    return play


def plays(kind):
    """Say that a test plays this kind of fault: `test_every_fault_is_tested` reads it in the text."""
    return lambda test: test


@pytest.fixture
def eventually():
    """Wait until something holds; for what another thread does."""

    def wait(holds, patience: float = 30.0):
        end = time.monotonic() + patience
        while not holds():
            assert time.monotonic() < end, "it never came to hold"
            time.sleep(0.005)

    return wait
