"""The script of one answer on a connection: pieces of bytes with pauses between them, and an ending.

Every answer is a script, good or faulty; the connection that plays it does not know about faults. Scripts are values
and can be tested without a socket. Pauses are real seconds.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from stormbreak.http.h1.request_parser import Headers, chunk, response_head

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"


class Ending(StrEnum):
    """How the connection ends.

    `half` closes the sending side and continues to read; `race` closes when the next request begins to arrive; `hang`
    sends nothing more until the client disconnects.
    """

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    HALF = "half"
    RACE = "race"
    HANG = "hang"


class Piece(NamedTuple):
    """Bytes to write after a pause."""

    pause: float
    data: bytes


class Idle(NamedTuple):
    """An unsolicited action on a connection that was idle for `pause` seconds."""

    pause: float
    data: bytes
    closes: bool = False


class Script(NamedTuple):
    """The script of one answer."""

    pieces: Iterable[Piece]  # may be endless
    ending: Ending
    status: int | None  # None: the client gets no status
    idle: Idle | None = None  # after it


def plain(status: int, body: bytes, headers: Headers, media: str = JSON) -> Script:
    """Send a body and keep the connection."""
    return once(response_head(status, media, len(body), headers) + body, status=status)


def once(data: bytes, *, ending: Ending = Ending.KEEP, status: int = 200) -> Script:
    """Send everything at once."""
    return Script([Piece(0, data)], ending, status)


def chunked(pieces: list[Piece]) -> Script:
    """End a chunked body and keep the connection."""
    return Script([*pieces, Piece(0, chunk(b""))], Ending.KEEP, 200)


def paced(opening: bytes, events: list[bytes], lasting: float) -> list[Piece]:
    """Send the first event with the head, and the others evenly over the time, as chunks."""
    pause = lasting / max(1, len(events) - 1)
    if pause < 0.001 or not events:
        return [Piece(0, opening + b"".join(map(chunk, events)))]
    first, *rest = map(chunk, events)
    return [Piece(0, opening + first), *(Piece(pause, data) for data in rest)]
