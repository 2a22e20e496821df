"""Faults of the connection: wrong framing, and unsolicited bytes.

The answer itself is good, plain or a stream. A stream is sent in one piece here, with its length.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache

from stormbreak.http.h1.request_parser import chunk
from stormbreak.provider.fault_kinds import Kind
from stormbreak.provider.faults.play import FaultContext
from stormbreak.provider.scripts import Ending, Idle, Piece, Script, once

BOMB = 128 * 1024 * 1024  # decompressed size of a bomb; on the wire it is a thousandth
LONG_HEADER = 1024 * 1024
_SHORT = 40  # bytes that a wrong length is short or long by
_ROUND = 256 * 1024
_BREATH = 0.002  # seconds between the pieces of an endless response
_NOTHING = 1024 * 1024
_GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_GZIP = ("content-encoding", "gzip")
_HINTS = (
    b"HTTP/1.1 102 Processing\r\n\r\n"
    b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"
)


def _someone_elses_answer(play: FaultContext) -> bytes:
    return play._replace(request=play.other).whole()


def _endless_headers(play: FaultContext) -> Script:
    opening = play.head(len(play.body))[:-2]
    more = b"".join(b"x-trace-%04d: %b\r\n" % (place, b"." * 100) for place in range(500))
    return Script(_endless(opening, more), Ending.KEEP, 200)


def _endless_body(play: FaultContext) -> Script:
    """Continue after the answer with white space or comments."""
    more = b":" + b"." * _ROUND + b"\n\n" if play.request.streamed else b" " * _ROUND
    body = play.body.removesuffix(b"data: [DONE]\n\n")
    return Script(_endless(play.head() + chunk(body), chunk(more)), Ending.KEEP, 200)


def _endless(opening: bytes, more: bytes) -> Iterator[Piece]:
    yield Piece(0, opening)
    while True:
        yield Piece(_BREATH, more)


def _gzip_cut(play: FaultContext) -> Script:
    packed = zlib.compress(play.body, wbits=31)
    cut = packed[: len(packed) * 2 // 3]
    return once(play.head(len(cut), _GZIP) + cut)


def _gzip_bomb(play: FaultContext) -> Script:
    packed = _bomb(play.body)
    return once(play.head(len(packed), _GZIP) + packed)


def _bomb(body: bytes) -> bytes:
    """Compress an answer after much white space, which JSON and streams ignore."""
    packed, check = _nothing(b"\n" if body.startswith((b"data:", b"event:")) else b" ")
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    trailer = struct.pack("<II", zlib.crc32(body, check), len(body) + BOMB)
    return _GZIP_HEAD + packed + packer.compress(body) + packer.flush() + trailer


@lru_cache(maxsize=2)
def _nothing(byte: bytes) -> tuple[bytes, int]:
    """Compress the white space once and repeat it; also return its checksum."""
    part = byte * _NOTHING
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH)
    check = 0
    for _ in range(BOMB // _NOTHING):
        check = zlib.crc32(part, check)
    return packed * (BOMB // _NOTHING), check


FAULTS: dict[Kind, Callable[[FaultContext], Script]] = {
    Kind.STALE: lambda play: once(_someone_elses_answer(play)),
    Kind.INTERIM: lambda play: once(_HINTS + play.whole()),
    Kind.TWICE: lambda play: once(play.whole() + _someone_elses_answer(play)),
    Kind.UNASKED: lambda play: once(play.whole())._replace(
        idle=Idle(play.after, _someone_elses_answer(play))
    ),
    Kind.QUIET_CLOSE: lambda play: once(play.whole())._replace(
        idle=Idle(play.after, b"", closes=True)
    ),
    Kind.CLOSE_RACE: lambda play: once(play.whole(), ending=Ending.RACE),
    Kind.SHORT_LENGTH: lambda play: once(play.head(len(play.body) - _SHORT) + play.body),
    Kind.LONG_LENGTH: lambda play: once(
        play.head(len(play.body) + _SHORT) + play.body, ending=Ending.HANG
    ),
    Kind.LONG_HEADER: lambda play: once(
        play.head(len(play.body), ("x-trace", "." * LONG_HEADER)) + play.body
    ),
    Kind.ENDLESS_HEADERS: _endless_headers,
    Kind.ENDLESS_BODY: _endless_body,
    Kind.GZIP_LIE: lambda play: once(play.head(len(play.body), _GZIP) + play.body),
    Kind.GZIP_CUT: _gzip_cut,
    Kind.GZIP_BOMB: _gzip_bomb,
}
