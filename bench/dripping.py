"""A server that writes the same stream to everybody who asks, piece by piece, in a process and on a core of its own.

A piece takes a system call and little else: 50,000 a second leave room on the core. It speaks as OpenAI does, and at /messages as Anthropic.
"""

import asyncio
import multiprocessing
import os
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


def _event(kind: bytes, more: bytes = b"") -> bytes:
    return b'event: %b\ndata: {"type":"%b"%b}\n\n' % (kind, kind, more)


_START = _event(
    b"message_start",
    b',"message":{"id":"msg_9f2c","type":"message","role":"assistant","model":"storm-1","content":[],'
    b'"stop_reason":null,"usage":{"input_tokens":9,"output_tokens":1}}',
) + _event(b"content_block_start", b',"index":0,"content_block":{"type":"text","text":""}')
_DELTA = _event(b"content_block_delta", b',"index":0,"delta":{"type":"text_delta","text":" tides"}')
_STOP = (
    _event(b"content_block_stop", b',"index":0')
    + _event(b"message_delta", b',"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":200}')
    + _event(b"message_stop")
)


def _pieces(first: bytes, middle: bytes, last: bytes, chunks: int) -> list[bytes]:
    """A body of so many writes."""
    all_ = [first, *[middle] * (chunks - 2), last]
    return [*map(_chunk, all_[:-1]), _chunk(last) + b"0\r\n\r\n"]


class _Writer(asyncio.Protocol):
    """Whoever asks anything gets the stream, with the next beats."""

    def __init__(self, open_: "dict[_Writer, int]", chunks: int) -> None:
        self._open = open_
        self._chats = _pieces(_EVENT, _EVENT, _LAST + b"data: [DONE]\n\n", chunks)
        self._messages = _pieces(_START, _DELTA, _STOP, chunks)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._descriptor = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"POST"):
            path = data.partition(b" HTTP")[0]
            self._said = self._messages if path.endswith(b"/messages") else self._chats
        if data.endswith(b"}"):
            self._transport.write(_HEAD)
            self._open[self] = 0

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._open.pop(self, None)

    def beat(self, number: int) -> bool:
        """Write a piece; return whether there was room for it."""
        piece = self._said[number]
        try:
            written = os.write(self._descriptor, piece)
        except BlockingIOError:
            return False
        except OSError:  # the reader has gone; its transport will notice
            return True
        if written < len(piece):
            self._transport.write(piece[written:])
        return True


async def _serve(pipe: Connection, chunks: int, period: float, groups: int) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    open_: dict[_Writer, int] = {}
    server = await loop.create_server(lambda: _Writer(open_, chunks), "127.0.0.1", 0, backlog=2048)
    loop.add_reader(pipe.fileno(), stopped.set)
    pipe.send(server.sockets[0].getsockname()[1])
    turn, due_at = 0, loop.time()
    while not stopped.is_set():
        for writer in list(open_)[turn::groups]:
            number = open_[writer]
            if not writer.beat(number):
                continue
            if number + 1 < chunks:
                open_[writer] = number + 1
            else:
                del open_[writer]
        turn, due_at = (turn + 1) % groups, max(due_at + period / groups, loop.time() - 1.0)
        await asyncio.sleep(max(0.0, due_at - loop.time()))
    loop.remove_reader(pipe.fileno())


def _run(pipe: Connection, chunks: int, period: float, groups: int) -> None:
    cores.pin(cores.PROVIDER)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(pipe, chunks, period, groups))


@contextmanager
def dripping(chunks: int = CHUNKS, period: float = PERIOD, *, groups: int = 1) -> Iterator[str]:
    """Serve until the block ends, a piece every `period` seconds; its base URL.

    The streams take turns in `groups`, so that they do not all have a piece at the same moment.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs, chunks, period, groups), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        ours.send("stop")
        process.join(10)
