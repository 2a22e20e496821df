"""Faults in the events of streamed answers."""

from collections.abc import Callable, Iterator
from functools import partial

from stormbreak.http.h1.request_parser import chunk
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.faults import bodies
from stormbreak.provider.faults.play import FaultContext
from stormbreak.provider.faults.refusals import THROTTLED
from stormbreak.provider.formats.base import Events
from stormbreak.provider.scripts import Ending, Piece, Script, chunked, paced

_FLUSHED = 0.02  # so that written bytes are sent before the reset
_LOST = 10  # bytes cut from an event
_ROUND = 64 * 1024
_BREATH = 0.002  # seconds between the pieces of an endless response
_BEAT = 0.01
_BIG_EVENTS = 64


def good(play: FaultContext) -> Script:
    return chunked(paced(play.head(), play.events, play.lasting))


def _slow_headers(play: FaultContext) -> Script:
    opening = play.head()
    cut = opening.index(b"\r\n") + 2
    first, *rest = paced(opening[cut:], play.events, play.lasting)
    return chunked([Piece(0, opening[:cut]), Piece(play.slower, first.data), *rest])


def _parts(play: FaultContext) -> Events:
    assert play.request.format.events is not None
    return play.request.format.events(play.request)


def _half(play: FaultContext) -> list[Piece]:
    """The first half of the events, with some words."""
    events = play.events
    return paced(play.head(), events[: len(events) // 2], play.lasting / 2)


def _opened(play: FaultContext) -> list[Piece]:
    """The events before the first word."""
    return paced(play.head(), _parts(play).opening, 0.0)


def _invalid_json(play: FaultContext) -> Script:
    broken = _parts(play).output[0].rstrip()[:-_LOST] + b"\n\n"
    return chunked([*_half(play), Piece(0, chunk(broken))])


def _rate_limit_in_200(play: FaultContext) -> Script:
    """Send the error of a 429 as the first event."""
    format_ = play.request.format
    name = b"event: error\n" if format_.late_event.startswith(b"event:") else b""
    event = b"%bdata: %b\n\n" % (name, format_.error(THROTTLED))
    return chunked([Piece(0, play.head()), Piece(0, chunk(event))])


def _no_done(play: FaultContext) -> Script:
    parts = _parts(play)._replace(end=[])
    return chunked(paced(play.head(), parts.all(), play.lasting))


def _comments(play: FaultContext) -> Script:
    """Send heartbeats between the events: comments, and blocks without data."""
    events = [b": PROCESSING\n\n:\n\n%bretry: 3000\n\n" % event for event in play.events]
    return chunked(paced(play.head(), events, play.lasting))


def _with_line_ends(play: FaultContext, *, end: bytes) -> Script:
    events = [event.replace(b"\n", end) for event in play.events]
    return chunked(paced(play.head(), events, play.lasting))


def _beating(play: FaultContext) -> Iterator[Piece]:
    """Send heartbeats forever, and no answer."""
    yield from _opened(play)
    while True:
        yield Piece(_BEAT, chunk(b": PROCESSING\n\n"))


def _line(play: FaultContext) -> Iterator[Piece]:
    yield from _opened(play)
    yield Piece(0, chunk(b"data: "))
    more = chunk(b"." * _ROUND)
    while True:
        yield Piece(_BREATH, more)


def _big_body(play: FaultContext) -> Script:
    """Send four megabytes of comments between the events, in lines of legal length."""
    events = play.events
    size = bodies.BIG // _BIG_EVENTS
    padding = [b":%b\n\n" % (b"." * (size - 3)) for _ in range(_BIG_EVENTS)]
    return chunked(paced(play.head(), [events[0], *padding, *events[1:]], play.lasting))


FAULTS: dict[Kind, Callable[[FaultContext], Script]] = {
    Kind.SLOW_HEADERS: _slow_headers,
    Kind.SLOW_BODY: lambda play: good(play._replace(lasting=play.lasting + play.slower)),
    Kind.STALL: lambda play: Script(_half(play), Ending.HANG, 200),
    Kind.STALL_EARLY: lambda play: Script(_opened(play), Ending.HANG, 200),
    Kind.CUT_BODY: lambda play: Script(_half(play), Ending.CLOSE, 200),
    Kind.EMPTY_BODY: lambda play: chunked([Piece(0, play.head())]),
    Kind.INVALID_JSON: _invalid_json,
    Kind.HTML_200: bodies.html_200,
    Kind.ERROR_IN_200: lambda play: chunked(
        [*_half(play), Piece(0, chunk(play.request.format.late_event))]
    ),
    Kind.RATE_LIMIT_IN_200: _rate_limit_in_200,
    Kind.ERROR_EARLY: lambda play: chunked(
        [*_opened(play), Piece(0, chunk(play.request.format.late_event))]
    ),
    Kind.BIG_BODY: _big_body,
    Kind.TINY_CHUNKS: bodies.tiny_chunks,
    Kind.CUT_STREAM: lambda play: chunked(_half(play)),
    Kind.STREAM_RESET: lambda play: Script([*_half(play), Piece(_FLUSHED, b"")], Ending.RESET, 200),
    Kind.HEARTBEATS: lambda play: Script(_beating(play), Ending.KEEP, 200),
    Kind.NO_DONE: _no_done,
    Kind.COMMENTS: _comments,
    Kind.CRLF: partial(_with_line_ends, end=b"\r\n"),
    Kind.CR: partial(_with_line_ends, end=b"\r"),
    Kind.ENDLESS_LINE: lambda play: Script(_line(play), Ending.KEEP, 200),
}
