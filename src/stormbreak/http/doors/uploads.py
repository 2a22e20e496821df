"""The body of a request that passes: sent once, piece by piece, and exactly as long as was announced."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator


class WrongLengthError(Exception):
    """A body is not as long as its `Content-Length` says: a server would wait for the rest, or miss it."""


class Upload:
    """The pieces of a body, as it is sent.

    Of a length that was announced, the last piece is sent without a look for more, since a server may answer before that
    has been taken; `finish` looks. `failure` is what went wrong, if anything did: what a body raises is for whoever made it,
    and whoever carries it would only tell of a lost connection.
    """

    def __init__(self, pieces: AsyncIterable[bytes], length: int | None) -> None:
        """`length` is what was announced, if anything was."""
        self.failure: Exception | None = None
        self._pieces = pieces
        self._length = length
        self._sent: AsyncIterator[bytes] | None = None  # all that was announced

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = aiter(self._pieces)
        try:
            async for piece in pieces if self._length is None else _measured(pieces, self._length):
                yield piece
            if self._length:
                self._sent = pieces
        except Exception as error:
            self.failure = error
            raise
        finally:
            if self._sent is None:
                await _close(pieces)

    async def finish(self) -> None:
        """Let a body that was sent whole come to its end; with more of it, `failure` says so."""
        pieces, self._sent = self._sent, None
        if pieces is None:
            return
        try:
            async for piece in pieces:
                if piece:
                    self.failure = _longer()
                    break
        except Exception as error:  # noqa: BLE001 - it is looked at
            self.failure = error
        finally:
            await _close(pieces)


async def _measured(pieces: AsyncIterator[bytes], left: int) -> AsyncIterator[bytes]:
    while left:
        piece = await anext(pieces, None)
        if piece is None:
            raise WrongLengthError("the body is shorter than its Content-Length says")
        left -= len(piece)
        if left < 0:
            raise _longer()
        yield piece


def _longer() -> WrongLengthError:
    return WrongLengthError("the body is longer than its Content-Length says")


async def _close(pieces: AsyncIterator[bytes]) -> None:
    if isinstance(pieces, AsyncGenerator):
        await pieces.aclose()
