"""Unpack compressed bodies chunk by chunk; a body without the end of its format is cut (law 15).

A chunk is at most `PIECE` bytes, whatever its packed size, and a large body at most `MAX_RATIO` times its packed size.
"""

import zlib
from collections.abc import Callable, Iterator

from stormbreak.http.h1.connection import BODY_LIMIT, MALFORMED

ACCEPTED = "gzip, deflate"
_PACKING = frozenset(
    {
        "gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd", "dcb", "dcz", "exi",
        "pack200-gzip",
    }
)  # fmt: skip
"""The content codings that IANA has registered, apart from `identity`."""

PIECE = 1024 * 1024
MAX_MEMBERS = 1000
"""Maximum gzip members of one body. Many empty ones only cost time."""

MAX_RATIO = 600
"""Maximum ratio of unpacked to packed size, beyond `FREE_RATIO`. Deflate reaches 1,032. JSON and events of real text
reach 40, short equal events 294; only all-zero embeddings reach more, 700. Envoy allows 100, Apache 200."""

FREE_RATIO = 4 * 2**20
"""Unpacked bytes without a ratio limit. A model that repeats one word to its limit reaches 900, in at most 1.5 MiB."""

_GZIP = 16 + zlib.MAX_WBITS


class UndecodableError(ValueError):
    """A body that does not match its header, or ends early; the message has our own words."""


class UnacceptedCodingError(UndecodableError):
    """A body with an encoding that was not accepted; a retry would get the same."""

    def __init__(self) -> None:
        super().__init__("content encoding is not accepted: ask the provider for gzip or none")


class Decoder:
    """Unpacks one body. `windows` makes the window of each member from its first byte."""

    def __init__(self, windows: Callable[[int], int], *, several: bool) -> None:
        self._windows = windows
        self._several = several
        self._member: zlib._Decompress | None = None
        self._members = 0
        self._packed = 0
        self._unpacked = 0

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """Unpack the next bytes; raise UndecodableError if that fails."""
        self._packed += len(packed)
        if self._packed > BODY_LIMIT:  # the only bound on a body that unpacks to nothing
            raise UndecodableError(f"larger than {BODY_LIMIT >> 20} MiB")
        left = packed
        while left:
            member = self._member or self._begin(left[0])
            try:
                chunk = member.decompress(left, PIECE)
            except zlib.error:
                raise UndecodableError(MALFORMED) from None
            if member.eof:
                self._member = None
                left = member.unused_data
            else:
                left = member.unconsumed_tail
            if chunk:
                yield self._bounded(chunk, self._packed - len(left))
        while self._member is not None and (chunk := self._more(self._member)):
            yield self._bounded(chunk, self._packed)

    def end(self) -> None:
        """Check the end of the body; raise UndecodableError if something is missing. An empty body is complete."""
        if self._member is not None:
            raise UndecodableError("compressed body was cut")

    def _bounded(self, chunk: bytes, packed: int) -> bytes:
        """Return the chunk if its ratio is allowed; `packed` is the packed size so far."""
        self._unpacked += len(chunk)
        if self._unpacked > max(FREE_RATIO, MAX_RATIO * packed):
            raise UndecodableError(f"unpacks to more than {MAX_RATIO} times its size")
        return chunk

    def _more(self, member: "zlib._Decompress") -> bytes:
        """Return unpacked bytes that did not fit into the chunk before."""
        chunk = member.decompress(b"", PIECE)
        if member.eof:
            self._member = None
        return chunk

    def _begin(self, first: int) -> "zlib._Decompress":
        self._members += 1
        if self._members > (MAX_MEMBERS if self._several else 1):
            raise UndecodableError(MALFORMED)
        member = self._member = zlib.decompressobj(wbits=self._windows(first))
        return member


def decoder_of(encoding: str) -> Decoder | None:
    """Make the decoder of a ``Content-Encoding``; None if there is nothing to unpack.

    Names that pack nothing (`none`, `utf-8`) are ignored, as HTTP libraries do. A coding that is not `ACCEPTED`, or
    several of them, cannot be unpacked.
    """
    names = [name for each in encoding.split(",") if (name := each.strip().lower()) in _PACKING]
    if not names:
        return None
    if names in (["gzip"], ["x-gzip"]):
        return Decoder(lambda _: _GZIP, several=True)
    if names == ["deflate"]:
        return Decoder(_deflate, several=False)
    return Decoder(_unaccepted, several=False)


def _deflate(first: int) -> int:
    """Return the window of deflate: with a zlib header, as specified, or raw."""
    return zlib.MAX_WBITS if first & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS


def _unaccepted(_: int) -> int:
    raise UnacceptedCodingError
