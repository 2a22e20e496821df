"""Anthropic's Message Batches: `/messages/batches`.

The requests are the body that creates a batch. A batch has no metadata. One whose id was lost is found by the ids in its
results: until it has ended, it may be any that was created since then with as many requests.
https://platform.claude.com/docs/en/build-with-claude/batch-processing
"""

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from tempfile import TemporaryFile
from typing import BinaryIO

from msgspec import Raw, Struct
from msgspec.json import Decoder, encode

from stormbreak.batch.remote.api import (
    Content,
    RemoteStatus,
    RowResult,
    UnsureError,
    decoded,
    path_part,
    same,
)
from stormbreak.batch.remote.caller import Caller
from stormbreak.batch.store.provider_batches import Counts, RemoteBatch
from stormbreak.http.resource import Resource
from stormbreak.llm.models import HttpResponse, Shape

_PLACE = "messages/batches"
_SKEW = 600  # seconds that clocks may differ by
_MAX_PAGES = 1_000


class _Counts(Struct):
    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0

    @property
    def total(self) -> int:
        return self.processing + self.succeeded + self.errored + self.canceled + self.expired


class _Batch(Struct):
    id: str
    processing_status: str
    request_counts: _Counts
    created_at: datetime | None = None


class _Page(Struct):
    data: list[_Batch]
    has_more: bool = False
    last_id: str | None = None


class _Result(Struct):
    type: str
    message: Raw = Raw()
    error: Raw = Raw()


class _Line(Struct):
    custom_id: str
    result: _Result


_LINE = Decoder(_Line)


class MessageBatches:
    """Batches of messages."""

    max_rows = 100_000
    max_bytes = 256_000_000
    uploads = None

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def encode(self, token: str, endpoint: str, index: int, body: bytes) -> bytes:  # noqa: ARG002
        """Encode a request; ids may have 64 characters there."""
        return b'{"custom_id":%b,"params":%b}' % (encode(f"{token}-{index}"), body)

    def content(self, batch: RemoteBatch, lines: Callable[[], Iterator[bytes]]) -> Content:  # noqa: ARG002
        """Make the body that creates a batch."""
        return Content(lines, opening=b'{"requests":[', end=b"]}", separator=b",")

    async def create(
        self, batch: RemoteBatch, content: Content, known: frozenset[str]
    ) -> RemoteStatus:
        """Create the batch. Raises UnsureError as `find` does."""
        what = "create the batch"

        async def find() -> RemoteStatus | None:
            return await self.find(batch, known)

        made = await self._caller.create(
            self._resource("POST", "", body=content, key=batch.token), what, find
        )
        return made if isinstance(made, RemoteStatus) else _status(made, what)

    async def find(self, batch: RemoteBatch, known: frozenset[str]) -> RemoteStatus | None:
        """Find the batch by the ids in its results."""
        unsure = ""
        async for found in self._listed(batch):
            if found.id in known or found.request_counts.total != len(batch.ranges):
                continue
            if found.processing_status != "ended":
                unsure = found.id
            elif await self._has_token(found, batch.token):
                return _read(found)
        if unsure:
            raise UnsureError(unsure)
        return None

    async def status(self, batch: RemoteBatch) -> RemoteStatus:
        """Ask for the batch."""
        what = f"poll batch {batch.id}"
        body = await self._caller.send(self._resource("GET", f"/{batch.id}"), what)
        return same(batch, _status(body, what))

    async def cancel(self, batch: RemoteBatch) -> RemoteStatus:
        """Cancel it; answers so far are kept."""
        what = f"cancel batch {batch.id}"
        body = await self._caller.send(self._resource("POST", f"/{batch.id}/cancel"), what)
        return same(batch, _status(body, what))

    async def download(self, endpoint: str, into: BinaryIO) -> None:
        """Download the results."""
        resource = Resource("GET", endpoint, dialect=Shape.MESSAGES, into=into)
        await self._caller.send(resource, "download results")

    def result(self, line: bytes, now: float) -> RowResult:
        """Read a line: a message, an error, or why there is none."""
        found = _LINE.decode(line)
        result = found.result
        if result.type in ("expired", "canceled"):
            return RowResult(found.custom_id, None)
        body = bytes(result.message if result.type == "succeeded" else result.error)
        if not body:
            raise ValueError("neither a message nor an error")
        return RowResult(found.custom_id, HttpResponse(200, {}, body, now))

    def _resource(
        self, method: str, path: str, *, body: bytes | Content = b"", key: str = ""
    ) -> Resource:
        return Resource(method, _PLACE + path, body=body, dialect=Shape.MESSAGES, key=key)

    async def _has_token(self, found: _Batch, token: str) -> bool:
        with TemporaryFile() as file:
            await self.download(_results_of(found.id), file)
            file.seek(0)
            first = file.readline()
        try:
            return _LINE.decode(first).custom_id.startswith(f"{token}-")
        except ValueError:
            return False

    async def _listed(self, batch: RemoteBatch) -> AsyncIterator[_Batch]:
        """List the batches that were created since the last step of `batch`, newest first."""
        what, after = "search the list", ""
        for _ in range(_MAX_PAGES):
            place = "?limit=100" + (f"&after_id={after}" if after else "")
            page = decoded(_Page, await self._caller.send(self._resource("GET", place), what), what)
            for found in page.data:
                path_part(found.id)
                created = found.created_at
                if created is not None and created.timestamp() < batch.began - _SKEW:
                    return
                yield found
            if not page.has_more or not page.last_id or page.last_id == after:
                return
            after = path_part(page.last_id)


def _results_of(batch_id: str) -> str:
    return f"{_PLACE}/{path_part(batch_id)}/results"


def _status(body: bytes, what: str) -> RemoteStatus:
    return _read(decoded(_Batch, body, what))


def _read(batch: _Batch) -> RemoteStatus:
    ended, counted = batch.processing_status == "ended", batch.request_counts
    return RemoteStatus(
        path_part(batch.id),
        batch.processing_status,
        ended=ended,
        counts=Counts(
            total=counted.total,
            succeeded=counted.succeeded,
            failed=counted.errored,
            unprocessed=counted.canceled + counted.expired,
        ),
        outputs=(_results_of(batch.id),) if ended else (),
    )
