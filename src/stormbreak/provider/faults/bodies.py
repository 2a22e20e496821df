"""Faults in the bodies of plain answers."""

import math
from collections.abc import Callable

from stormbreak.http.h1.request_parser import chunk
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.faults.play import FaultContext
from stormbreak.provider.faults.refusals import THROTTLED
from stormbreak.provider.scripts import Ending, Piece, Script, chunked, once, plain

BIG = 4 * 1024 * 1024
TINY = 7
HTML = b"<!doctype html>\n<html><head><title>Sign in</title></head><body>Sign in</body></html>\n"
_PIECES = 10


def good(play: FaultContext) -> Script:
    return once(play.whole())


def _slow_headers(play: FaultContext) -> Script:
    whole = play.whole()
    cut = whole.index(b"\r\n") + 2
    return Script([Piece(0, whole[:cut]), Piece(play.slower, whole[cut:])], Ending.KEEP, 200)


def _slow_body(play: FaultContext) -> Script:
    body = play.body
    size = math.ceil(len(body) / _PIECES)
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    pieces = [Piece(play.slower / len(parts), part) for part in parts]
    return Script([Piece(0, play.head(len(body))), *pieces], Ending.KEEP, 200)


def _half(play: FaultContext) -> bytes:
    body = play.body
    return play.head(len(body)) + body[: len(body) // 2]


def _invalid_json(play: FaultContext) -> Script:
    body = play.body
    return plain(200, body[: len(body) * 2 // 3], play.headers)


def html_200(play: FaultContext) -> Script:
    return plain(200, HTML, play.headers, "text/html")


def padded(body: bytes, size: int) -> bytes:
    return b'%b,"padding":"%b"}' % (body[:-1], b"." * (size - len(b',"padding":""')))


def tiny_chunks(play: FaultContext) -> Script:
    body = play.body
    parts = [body[start : start + TINY] for start in range(0, len(body), TINY)]
    pause = play.lasting / len(parts)
    pieces = [Piece(pause if pause >= 0.001 else 0, chunk(part)) for part in parts]
    return chunked([Piece(0, play.head()), *pieces])


FAULTS: dict[Kind, Callable[[FaultContext], Script]] = {
    Kind.SLOW_HEADERS: _slow_headers,
    Kind.SLOW_BODY: _slow_body,
    Kind.STALL: lambda play: once(_half(play), ending=Ending.HANG),
    Kind.STALL_EARLY: lambda play: once(play.head(len(play.body)), ending=Ending.HANG),
    Kind.CUT_BODY: lambda play: once(_half(play), ending=Ending.CLOSE),
    Kind.EMPTY_BODY: lambda play: plain(200, b"", play.headers),
    Kind.INVALID_JSON: _invalid_json,
    Kind.HTML_200: html_200,
    Kind.ERROR_IN_200: lambda play: plain(200, play.request.format.late_error, play.headers),
    Kind.RATE_LIMIT_IN_200: lambda play: plain(
        200, play.request.format.error(THROTTLED), play.headers
    ),
    # Add an unknown field.
    Kind.BIG_BODY: lambda play: plain(200, padded(play.body, BIG), play.headers),
    Kind.TINY_CHUNKS: tiny_chunks,
}
