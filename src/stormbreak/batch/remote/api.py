"""What a provider's batch API must offer, in one form for all of them."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, Protocol

import msgspec

from stormbreak.batch.remote.caller import RemoteError
from stormbreak.batch.store.provider_batches import Counts, RemoteBatch
from stormbreak.errors import StormbreakError
from stormbreak.llm.models import HttpResponse
from stormbreak.types import Verdict

PIECE = 256 * 1024  # bytes of an upload that are sent at once


class BatchError(NamedTuple):
    """Why a batch failed as a whole: a code, and the line of its requests that is to blame, from 1."""

    code: str
    message: str
    line: int | None = None


class RemoteStatus(NamedTuple):
    """What a provider says of a batch. `outputs` are the endpoints of its results."""

    id: str
    name: str
    ended: bool
    counts: Counts
    outputs: tuple[str, ...] = ()
    errors: tuple[BatchError, ...] = ()

    @property
    def changes(self) -> dict[str, object]:
        """What it changes in the fields of a batch."""
        return {
            "id": self.id,
            "status": self.name,
            "counts": self.counts,
            "outputs": self.outputs,
        }


class RowResult(NamedTuple):
    """A line of results; None as `response`: the row was not processed."""

    custom_id: str
    response: HttpResponse | None


class UnsureError(StormbreakError):
    """A batch at the provider may be the one that was looked for; its results will tell."""


class Content:
    """The requests of a batch as one body: encoded while it is sent, so that it is never in memory as a whole.

    Each iteration starts at the beginning. `size` is that of the body, `lines_size` that of the requests in it.
    """

    def __init__(
        self,
        lines: Callable[[], Iterator[bytes]],
        *,
        opening: bytes,
        end: bytes,
        separator: bytes = b"",
    ) -> None:
        self._lines = lines
        self._opening = opening
        self._end = end
        self._separator = separator
        self.lines_size = sum(map(len, self._separated()))

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self._opening) + self.lines_size + len(self._end)

    def _separated(self) -> Iterator[bytes]:
        before = b""
        for line in self._lines():
            yield before + line
            before = self._separator

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces, size = [self._opening], 0
        for line in self._separated():
            pieces.append(line)
            size += len(line)
            if size >= PIECE:
                yield b"".join(pieces)
                pieces, size = [], 0
        yield b"".join([*pieces, self._end])


class Uploads(Protocol):
    """The files of a provider whose batches are made of one."""

    async def upload(self, batch: RemoteBatch, content: Content) -> str:
        """Upload the requests; return the id of the file."""
        ...

    async def find_upload(self, batch: RemoteBatch, content: Content) -> str | None:
        """Find the uploaded file of a batch."""
        ...


class BatchApi(Protocol):
    """The batch API of one provider."""

    max_rows: int  # of a batch; of embeddings, texts
    max_bytes: int

    @property
    def uploads(self) -> Uploads | None:
        """Where the requests go before the batch is created; None: with it."""
        ...

    def encode(self, token: str, endpoint: str, index: int, body: bytes) -> bytes:
        """Encode the request of a row, by which its result is known again."""
        ...

    def content(self, batch: RemoteBatch, lines: Callable[[], Iterator[bytes]]) -> Content:
        """Make the body in which encoded requests are sent."""
        ...

    async def create(
        self, batch: RemoteBatch, content: Content, known: frozenset[str]
    ) -> RemoteStatus:
        """Create the batch. It is not created twice, whatever happens to the answer. Raises UnsureError as `find` does."""
        ...

    async def find(self, batch: RemoteBatch, known: frozenset[str]) -> RemoteStatus | None:
        """Find a batch whose id was lost; `known` ids are those of other batches.

        Raises:
            UnsureError: one may be it.
        """
        ...

    async def status(self, batch: RemoteBatch) -> RemoteStatus:
        """Ask how far the batch is."""
        ...

    async def cancel(self, batch: RemoteBatch) -> RemoteStatus:
        """Cancel the batch."""
        ...

    async def download(self, endpoint: str, into: BinaryIO) -> None:
        """Append results to a file."""
        ...

    def result(self, line: bytes, now: float) -> RowResult:
        """Read a line of results. Raises ValueError if it is none."""
        ...


def decoded(kind: type[Any], body: bytes, what: str) -> Any:
    """Decode an answer of the API; raise RemoteError if it is none."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = str(error) if isinstance(error, msgspec.ValidationError) else "no JSON"
        raise RemoteError(f"cannot {what}: the answer is none: {why}", Verdict.BROKEN) from None


def same(batch: RemoteBatch, status: RemoteStatus) -> RemoteStatus:
    """Check that an answer is about the batch that was asked for. Raises RemoteError."""
    if status.id != batch.id:
        what = f"the answer about batch {batch.id} is about another one, {status.id}"
        raise RemoteError(what, Verdict.BROKEN)
    return status


_PART = re.compile(r"[A-Za-z0-9_.:~-]{1,256}", re.ASCII)


def path_part(name: str) -> str:
    """Check an id of the provider that becomes a part of a path. Raises RemoteError."""
    if not _PART.fullmatch(name) or set(name) == {"."}:
        raise RemoteError("the provider's answer has an impossible id", Verdict.BROKEN)
    return name
