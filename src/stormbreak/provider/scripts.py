"""What is played on the wire for one answer: pieces of bytes with pauses between them, and an ending.

Every answer is such a script, good ones and spoilt ones alike; the connection that plays it knows nothing of
troubles. Scripts are values and can be tested without a socket. Pauses are real seconds.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from stormbreak.provider.http1 import Headers, chunk, head

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"


class Ending(StrEnum):
    """What becomes of the connection.

    `half` says the end of what is sent, but goes on reading; `race` ends when the next request begins to come;
    `hang` says nothing more until the client leaves.
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
    """What happens on a connection on which nothing was asked for so long."""

    pause: float
    data: bytes
    closes: bool = False


class Script(NamedTuple):
    """One answer as it is played."""

    pieces: Iterable[Piece]  # they may never end
    ending: Ending
    status: int | None  # None: no status ever reaches the client
    idle: Idle | None = None  # after it


def plain(status: int, body: bytes, headers: Headers, media: str = JSON) -> Script:
    """Answer with a body and keep the connection."""
    return once(head(status, media, len(body), headers) + body, status=status)


def once(data: bytes, *, ending: Ending = Ending.KEEP, status: int = 200) -> Script:
    """Write everything at once."""
    return Script([Piece(0, data)], ending, status)


def chunked(pieces: list[Piece]) -> Script:
    """End a body that goes in chunks, and keep the connection."""
    return Script([*pieces, Piece(0, chunk(b""))], Ending.KEEP, 200)


def paced(opening: bytes, events: list[bytes], lasting: float) -> list[Piece]:
    """Send the first event, as a chunk, with the head, the others evenly over the time."""
    pause = lasting / max(1, len(events) - 1)
    if pause < 0.001 or not events:
        return [Piece(0, opening + b"".join(map(chunk, events)))]
    first, *rest = map(chunk, events)
    return [Piece(0, opening + first), *(Piece(pause, data) for data in rest)]
