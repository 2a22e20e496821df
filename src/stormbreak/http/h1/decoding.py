"""Bodies that come compressed, unpacked piece by piece, and complete only with the end that their format has.

The HTTP library would unpack them, too, but takes a gzip body without its trailer for a whole one: an answer that was cut
there could not be told from a good one (law 15). A piece is at most `PIECE` bytes, whatever it was packed into.
"""

import zlib
from collections.abc import Callable, Iterator

from stormbreak.http.h1.connection import BODY_LIMIT, MALFORMED

ACCEPTED = "gzip, deflate"
_PACKING = frozenset(
    {
        "gzip",
        "x-gzip",
        "deflate",
        "compress",
        "x-compress",
        "br",
        "zstd",
        "dcb",
        "dcz",
        "exi",
        "pack200-gzip",
    }
)
"""The content codings that IANA has registered, apart from `identity`."""

PIECE = 1024 * 1024
MAX_MEMBERS = 1000
"""A body may be several gzip members in a row. Empty ones cost time and bring nothing."""

_GZIP = 16 + zlib.MAX_WBITS


class UndecodableError(ValueError):
    """A body that is not what its header says, or ends early; the message says which, in our words."""


class UnacceptedCodingError(UndecodableError):
    """A body that is packed in a way that was not accepted: asked for again, it comes in the same."""

    def __init__(self) -> None:
        super().__init__("packed in a way that was not accepted: ask the provider for gzip or none")


class Decoder:
    """Unpacks one body. `windows` makes the window of each member from its first byte."""

    def __init__(self, windows: Callable[[int], int], *, several: bool) -> None:
        self._windows = windows
        self._several = several
        self._member: zlib._Decompress | None = None
        self._members = 0
        self._packed = 0

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """Unpack what came; raises UndecodableError where it cannot be."""
        self._packed += len(packed)
        if self._packed > BODY_LIMIT:  # what unpacks to nothing has no other bound
            raise UndecodableError(f"larger than {BODY_LIMIT >> 20} MiB")
        left = packed
        while left:
            member = self._member or self._begin(left[0])
            try:
                piece = member.decompress(left, PIECE)
            except zlib.error:
                raise UndecodableError(MALFORMED) from None
            if piece:
                yield piece
            if member.eof:
                self._member = None
                left = member.unused_data
            else:
                left = member.unconsumed_tail
        while self._member is not None and (piece := self._more(self._member)):
            yield piece

    def end(self) -> None:
        """Nothing more comes; raises UndecodableError if something is missing. An empty body is whole."""
        if self._member is not None:
            raise UndecodableError("compressed body was cut")

    def _more(self, member: "zlib._Decompress") -> bytes:
        """What was unpacked already, and did not fit into the piece before."""
        piece = member.decompress(b"", PIECE)
        if member.eof:
            self._member = None
        return piece

    def _begin(self, first: int) -> "zlib._Decompress":
        self._members += 1
        if self._members > (MAX_MEMBERS if self._several else 1):
            raise UndecodableError(MALFORMED)
        member = self._member = zlib.decompressobj(wbits=self._windows(first))
        return member


def decoder_of(encoding: str) -> Decoder | None:
    """Make what unpacks a body with this ``Content-Encoding``; None where there is nothing to unpack.

    What packs nothing (`none`, `utf-8`) is passed over, as HTTP libraries do. Of a coding that packs, but is not one of the
    `ACCEPTED`, or of several, nothing can be unpacked.
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
    """The window of what is called deflate: that with a zlib header, as it should be, or the bare form."""
    return zlib.MAX_WBITS if first & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS


def _unaccepted(_: int) -> int:
    raise UnacceptedCodingError
