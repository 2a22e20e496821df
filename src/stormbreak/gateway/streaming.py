"""Forward a stream to a client as it arrives, and show a failure as a failure: an error event, and no normal end."""

import re
from asyncio import CancelledError

import msgspec

from stormbreak.drivers.explain import AttemptHistory
from stormbreak.errors import StreamBrokenError
from stormbreak.gateway.client_call import GatewayCall
from stormbreak.gateway.errors import error_event
from stormbreak.gateway.response import our_headers, passed_headers
from stormbreak.http.h1.connection import with_repeats
from stormbreak.http.h1.server_connection import ServerConnection
from stormbreak.http.stream import Stream
from stormbreak.http.stream_source import EVENT_STREAM
from stormbreak.llm.stream_reader import HAS_USAGE
from stormbreak.llm.surrogates import UNREADABLE
from stormbreak.types import Outcome, Verdict

_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")  # of an event
_MAX_EVENT = 1 << 20  # bytes of an event that may be held


async def send_stream(
    stream: Stream,
    call: GatewayCall,
    connection: ServerConnection,
    request_id: str,
    history: AttemptHistory,
) -> str:
    """Send a stream; return "ok", or how it ended. If the client has disconnected, read the rest of the stream anyway.

    A cancel closes it.
    """
    tail = _Tail(without_usage=call.reports_usage)
    try:
        if not connection.begun:  # with comments
            head = stream.head
            headers = with_repeats(head.headers, head.repeated)
            passed = passed_headers(headers, limited=bool(call.key.holders))
            media = head.headers.get("content-type", EVENT_STREAM)
            connection.begin(head.status, media, (*passed, *our_headers(request_id, history)))
        while (chunk := await stream.next_chunk()) is not None:
            if stream.failed:  # it may contain an error about the account of the gateway
                continue
            connection.send(tail.pass_on(chunk))
            if connection.is_full:
                await connection.drained()
        connection.send(tail.rest())
    except StreamBrokenError as error:
        call.ended(Outcome(Verdict.BROKEN, maybe_processed=True))
        message = f"the stream broke: {error.ended.outcome.verdict}"
        _break(connection, call, tail, "stream_broken", message)
        return "broken"
    except CancelledError:
        if not connection.expired or connection.left:
            raise
        _break(connection, call, tail, "draining", "the gateway is shutting down")
        return "drained"
    finally:
        await stream.aclose()
    usage = stream.usage
    call.ended(Outcome(Verdict.OK, usage=usage if usage is not None and usage.total else None))
    connection.end()
    return "ok"


def _break(
    connection: ServerConnection, call: GatewayCall, tail: "_Tail", code: str, message: str
) -> None:
    """End a stream as broken. After an event that was sent only in part, send no other."""
    if tail.is_whole:
        connection.send(error_event(call.request.head.shape, 502, code, message))
    connection.break_off()


class _Tail:
    """Tracks whether the last event that was sent is complete. `without_usage` drops an event that has only usage."""

    def __init__(self, *, without_usage: bool) -> None:
        self._filter = without_usage
        self._held = b""  # of an event that is not yet complete
        self._last = b"\n\n"

    @property
    def is_whole(self) -> bool:
        return self._last.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))

    def pass_on(self, chunk: bytes) -> bytes:
        """Return the bytes to send, from a chunk and the held bytes."""
        if self._filter:
            chunk = self._without_usage(chunk)
        self._last = (self._last + chunk[-4:])[-4:]
        return chunk

    def rest(self) -> bytes:
        held, self._held = self._held, b""
        return held

    def _without_usage(self, chunk: bytes) -> bytes:
        data, start, kept = self._held + chunk, 0, []
        for end in _END.finditer(data, max(0, len(self._held) - 3)):
            event = data[start : end.end()]
            start = end.end()
            if not (HAS_USAGE.search(event) and _has_usage_alone(event)):
                kept.append(event)
        self._held = data[start:]
        if len(self._held) > _MAX_EVENT:
            kept.append(self.rest())
        return b"".join(kept)


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw]


_DECODE = msgspec.json.Decoder(_Chunk).decode


def _has_usage_alone(event: bytes) -> bool:
    data = b"".join(
        line.removeprefix(b"data:") for line in event.splitlines() if line.startswith(b"data:")
    )
    try:
        return not _DECODE(data).choices
    except UNREADABLE:
        return False
