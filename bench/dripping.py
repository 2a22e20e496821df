"""A server that writes the same stream to everybody who asks, piece by piece, in a process and on a core of its own."""

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import uvloop

import cores

CHUNKS = 200
PERIOD = 0.05  # seconds from one piece to the next
_EVENT = (
    b'data: {"id":"chatcmpl-9f2c","object":"chat.completion.chunk","created":1790000000,"model":"storm-1",'
    b'"system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":" tides"},"logprobs":null,'
    b'"finish_reason":null}]}\n\n'
)
_LAST = _EVENT.replace(b'{"content":" tides"}', b"{}").replace(b'reason":null', b'reason":"stop"')
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_PIECES = [*[_chunk(_EVENT)] * (CHUNKS - 1), _chunk(_LAST + b"data: [DONE]\n\n") + b"0\r\n\r\n"]


class _Writer(asyncio.Protocol):
    """Whoever asks anything gets the stream, with the next beats."""

    def __init__(self, open_: "dict[_Writer, int]") -> None:
        self._open = open_

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"}"):
            self._transport.write(_HEAD)
            self._open[self] = 0

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._open.pop(self, None)

    def beat(self, number: int) -> None:
        self._transport.write(_PIECES[number])


async def _serve(pipe: Connection) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    open_: dict[_Writer, int] = {}
    server = await loop.create_server(lambda: _Writer(open_), "127.0.0.1", 0, backlog=2048)
    loop.add_reader(pipe.fileno(), stopped.set)
    pipe.send(server.sockets[0].getsockname()[1])
    while not stopped.is_set():
        began = loop.time()
        for writer, number in list(open_.items()):
            writer.beat(number)
            if number + 1 < CHUNKS:
                open_[writer] = number + 1
            else:
                del open_[writer]
        await asyncio.sleep(max(0.0, began + PERIOD - loop.time()))
    loop.remove_reader(pipe.fileno())


def _run(pipe: Connection) -> None:
    cores.pin(cores.PROVIDER)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(pipe))


@contextmanager
def dripping() -> Iterator[str]:
    """Serve until the block ends; its base URL."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        ours.send("stop")
        process.join(10)
