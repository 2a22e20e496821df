"""Clients of a gateway as people have them: the SDK of openai with its own two retries, and what it made of each call."""

import asyncio
import json
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import openai

from gateway_peers import KEY, Running

PATIENCE = 30.0  # seconds that a client waits for an answer, or for the next piece of one
_WORDS = "a call has one whole answer and whoever gets less than that must be told so"


@dataclass
class Score:
    """What clients got. `attempts` are those that reached a provider; None where they cannot be counted."""

    calls: int = 0
    whole: int = 0
    false: int = 0  # successes for the client, with another text than the answer
    joined: int = 0  # of these: a part of an answer, and then a whole one
    attempts: int | None = None
    over: float | None = None  # dollars spent over the cap
    saw: dict[str, int] = field(default_factory=dict)
    note: str = ""

    def add(self, expected: str, text: str | None, saw: str) -> None:
        """Count one call by the text of its success, None for a failure."""
        self.calls += 1
        if text == expected:
            self.whole += 1
        elif text is not None:
            self.false += 1
            self.joined += text.endswith(expected)
            saw = f"{saw}, wrong"
        self.saw[saw] = self.saw.get(saw, 0) + 1


def answer(number: int) -> str:
    """The answer to a call."""
    return f"The answer to call {number}: {_WORDS}."


def prompt(number: int) -> str:
    """The prompt of a call."""
    return f"This is call {number:03}, please."


def answers(calls: int) -> Mapping[str, str]:
    """The answers of a provider."""
    return {prompt(number): answer(number) for number in range(calls)}


async def ask(
    gateway: Running,
    model: str,
    numbers: Iterable[int],
    score: Score,
    *,
    stream: bool,
    max_tokens: int | None = None,
) -> None:
    """Make calls, all at once."""
    async with openai.AsyncOpenAI(
        base_url=gateway.base_url,
        api_key=KEY,
        default_headers=gateway.headers(model),
        timeout=PATIENCE,
    ) as client:
        more = {} if max_tokens is None else {"max_tokens": max_tokens}

        async def one(number: int) -> None:
            messages = [{"role": "user", "content": prompt(number)}]
            asked = {"model": model, "messages": messages, **more}
            text = None
            try:
                made = await client.chat.completions.create(**asked, stream=stream)  # type: ignore[call-overload]
                text = await _text(made) if stream else _choice(made)
                saw = "200"
            except openai.APIError as error:
                saw = _seen(error)
            except Exception as error:  # noqa: BLE001 - what an SDK lets through is a result, too
                saw = type(error).__name__
            score.add(answer(number), text, saw)

        async with asyncio.timeout(10 * PATIENCE):
            await asyncio.gather(*map(one, numbers))


def _choice(made: openai.types.chat.ChatCompletion) -> str:
    choices = getattr(made, "choices", None)  # an error in a 200 has none, and HTML is a str
    return (choices[0].message.content or "") if choices else ""


async def _text(stream: openai.AsyncStream[openai.types.chat.ChatCompletionChunk]) -> str:
    parts = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    return "".join(parts)


def _seen(error: openai.APIError) -> str:
    """A status, or how the SDK names what it raised."""
    if isinstance(error, openai.APIStatusError):
        return str(error.status_code)
    if isinstance(error, openai.APITimeoutError):
        return "timeout"
    return "broken connection" if isinstance(error, openai.APIConnectionError) else "error event"


# ---------------------------------------------------------------- clients that do not behave


async def open_stream(
    gateway: Running, model: str, number: int, *, window: int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request for a stream on a bare connection; `window` bounds what the kernel takes for a slow reader."""
    sock = socket.socket()
    if window is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", gateway.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=window or 2**16)
    payload = {"model": model, "messages": [{"role": "user", "content": prompt(number)}]}
    body = json.dumps({**payload, "stream": True}).encode()
    headers = {
        "host": "bench",
        "content-type": "application/json",
        "authorization": f"Bearer {KEY}",
        "content-length": str(len(body)),
        **gateway.headers(model),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + body)
    return reader, writer


async def read_slowly(
    reader: asyncio.StreamReader, piece: int, pause: float
) -> tuple[str, str | None]:
    """Read a chunked response in pieces, with a pause before each.

    Returns:
        What a client saw, and the text of the events if the stream ended well.
    """
    got = bytearray()
    while not got.endswith(b"\r\n0\r\n\r\n"):
        await asyncio.sleep(pause)
        data = await asyncio.wait_for(reader.read(piece), PATIENCE)
        if not data:
            return "broken connection", None
        got += data
        if b"\r\n\r\n" in got and not got.startswith(b"HTTP/1.1 200"):
            return got[9:12].decode(), None
    body = b"".join(_chunks(bytes(got).partition(b"\r\n\r\n")[2]))
    found = re.findall(rb"^data: (\{.*\})\s*$", body, re.MULTILINE)
    events = [json.loads(event) for event in found]
    if any("error" in event for event in events):
        return "error event", None
    deltas = [event["choices"][0]["delta"] for event in events if event.get("choices")]
    return "200", "".join(delta.get("content") or "" for delta in deltas)


def _chunks(body: bytes) -> Iterator[bytes]:
    """Undo the chunks of a body."""
    place = 0
    while (end := body.find(b"\r\n", place)) >= 0:
        size = int(body[place:end].partition(b";")[0] or b"0", 16)
        yield body[end + 2 : end + 2 + size]
        place = end + size + 4
