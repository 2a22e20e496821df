"""The common interface of the providers' batch APIs, and the code that all of them share."""

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple, TypeVar

import msgspec
from msgspec.json import Decoder

from stormbreak.batch.remote.caller import Caller, RemoteError
from stormbreak.batch.store.provider_batches import Counts, RemoteBatch
from stormbreak.errors import StormbreakError
from stormbreak.http.resource import Resource
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import HttpResponse
from stormbreak.types import Verdict

PIECE = 256 * 1024  # bytes of one write of an upload
_MAX_PAGES = 1_000  # of a list


class Listed(msgspec.Struct):
    """An entry of a list. A time of 0 or None is unknown."""

    id: str
    created_at: float | datetime | None = None


Found = TypeVar("Found", bound=Listed)
T = TypeVar("T")


class _Page(msgspec.Struct):
    data: list[msgspec.Raw]
    has_more: bool = False


_PAGE = Decoder(_Page)


class BatchError(NamedTuple):
    """Why a batch failed as a whole: a code, and the line of the request that caused it, from 1."""

    code: str
    message: str
    line: int | None = None


class RemoteStatus(NamedTuple):
    """The status of a batch, from the provider. `outputs` are the endpoints of its results."""

    id: str
    name: str
    ended: bool
    counts: Counts
    outputs: tuple[str, ...] = ()
    errors: tuple[BatchError, ...] = ()

    @property
    def changes(self) -> dict[str, object]:
        return {
            "id": self.id,
            "status": self.name,
            "counts": self.counts,
            "outputs": self.outputs,
        }


class RowResult(NamedTuple):
    """A line of results; a `response` of None means that the row was not processed."""

    custom_id: str
    response: HttpResponse | None


class UnsureError(StormbreakError):
    """A batch at the provider may be the wanted one; only its results can show that."""


class Content:
    """The requests of a batch as one body: encoded while it is sent, so that memory never holds all of it.

    Each iteration starts at the beginning. `size` is the bytes of the body, `lines_size` those of the requests in it.
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


class BatchApi(ABC):
    """The batch API of one provider; its batches are at `place`, and lists have pages of 100, newest first."""

    max_rows: int  # of a batch; of embeddings, texts
    max_bytes: int
    place: str
    dialect: Shape
    after: str  # the parameter that names the last entry of the previous page
    skew: float  # seconds by which clocks may differ, when a list is searched

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    @abstractmethod
    def encode(self, token: str, endpoint: str, index: int, body: bytes) -> bytes:
        """Encode the request of a row, with an id that its result will carry."""

    @abstractmethod
    def content(self, batch: RemoteBatch, lines: Callable[[], Iterator[bytes]]) -> Content:
        """Make the body that carries encoded requests."""

    async def create(
        self, batch: RemoteBatch, content: Content, known: frozenset[str]
    ) -> RemoteStatus:
        """Create the batch, never twice, even if the response is lost. Raises UnsureError as `find` does."""
        what = "create the batch"
        request = self._resource(
            "POST", self.place, body=self._creation(batch, content), key=batch.token
        )
        made = await self._caller.create(request, what, lambda: self.find(batch, known))
        return made if isinstance(made, RemoteStatus) else self._status(made, what)

    @abstractmethod
    def _creation(self, batch: RemoteBatch, content: Content) -> bytes | Content:
        """Make the body that creates a batch."""

    @abstractmethod
    async def find(self, batch: RemoteBatch, known: frozenset[str]) -> RemoteStatus | None:
        """Find a batch whose id was lost; `known` ids are of other batches. Raises UnsureError if a batch may be it."""

    async def status(self, batch: RemoteBatch) -> RemoteStatus:
        resource = self._resource("GET", f"{self.place}/{batch.id}")
        return await self._about(batch, resource, f"poll batch {batch.id}")

    async def cancel(self, batch: RemoteBatch) -> RemoteStatus:
        """Cancel the batch; the answers so far are kept."""
        place = f"{self.place}/{batch.id}/cancel"
        resource = self._resource("POST", place, key=f"{batch.token}-cancel")
        return await self._about(batch, resource, f"cancel batch {batch.id}")

    async def _about(self, batch: RemoteBatch, resource: Resource, what: str) -> RemoteStatus:
        status = self._status(await self._caller.send(resource, what), what)
        if status.id != batch.id:
            why = f"the answer about batch {batch.id} is about another one, {status.id}"
            raise RemoteError(why, Verdict.BROKEN)
        return status

    @abstractmethod
    def _status(self, body: bytes, what: str) -> RemoteStatus:
        """Read an answer about a batch."""

    async def download(self, endpoint: str, into: BinaryIO) -> None:
        """Append results to a file."""
        await self._caller.send(self._resource("GET", endpoint, into=into), "download results")

    @abstractmethod
    def result(self, line: bytes, now: float) -> RowResult:
        """Read a line of results. Raises ValueError if it is not one."""

    def _resource(self, method: str, place: str, **more: Any) -> Resource:
        return Resource(method, place, dialect=self.dialect, **more)

    async def _listed(
        self, decoder: Decoder[Found], place: str, batch: RemoteBatch
    ) -> AsyncIterator[Found]:
        """List entries not much older than the last step of `batch`, newest first; `place` ends in `?` or `&`."""
        what, after = "search the list", ""
        for _ in range(_MAX_PAGES):
            more = f"&{self.after}={after}" if after else ""
            body = await self._caller.send(self._resource("GET", f"{place}limit=100{more}"), what)
            page, last = decoded(_PAGE, body, what), after
            for raw in page.data:
                found = decoded(decoder, raw, what)
                last = path_part(found.id)
                created = found.created_at
                if isinstance(created, datetime):
                    created = created.timestamp()
                if created and created < batch.began - self.skew:
                    return
                yield found
            if not page.has_more or last == after:
                return
            after = last


def decoded(decoder: Decoder[T], body: bytes, what: str) -> T:
    """Decode a response of the API; raise RemoteError if it is malformed."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = str(error) if isinstance(error, msgspec.ValidationError) else "no JSON"
        raise RemoteError(
            f"cannot {what}: the provider's answer is malformed: {why}", Verdict.BROKEN
        ) from None


_PART = re.compile(r"[A-Za-z0-9_.:~-]{1,256}", re.ASCII)


def path_part(name: str) -> str:
    """Check an id from the provider that becomes part of a path. Raises RemoteError."""
    if not _PART.fullmatch(name) or set(name) == {"."}:
        raise RemoteError("the provider's answer has an invalid id", Verdict.BROKEN)
    return name
