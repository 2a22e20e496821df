"""Anthropic's Message Batches: `/messages/batches`.

The requests are the body that creates a batch. A batch has no metadata. If its id was lost, it is found by the ids in
its results: before it ends, any batch with the same number of requests that was created since may be the one.
https://platform.claude.com/docs/en/build-with-claude/batch-processing
"""

from collections.abc import Callable, Iterator
from tempfile import TemporaryFile

from msgspec import Raw, Struct
from msgspec.json import Decoder, encode

from stormbreak.batch.remote.api import (
    BatchApi,
    Content,
    Listed,
    RemoteStatus,
    RowResult,
    UnsureError,
    decoded,
    path_part,
)
from stormbreak.batch.store.provider_batches import Counts, RemoteBatch
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import HttpResponse


class _Counts(Struct):
    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0

    @property
    def total(self) -> int:
        return self.processing + self.succeeded + self.errored + self.canceled + self.expired


class _Batch(Listed, kw_only=True):
    processing_status: str
    request_counts: _Counts


class _Result(Struct):
    type: str
    message: Raw = Raw()
    error: Raw = Raw()


class _Line(Struct):
    custom_id: str
    result: _Result


_BATCH = Decoder(_Batch)
_LINE = Decoder(_Line)


class MessageBatches(BatchApi):
    """Batches of messages."""

    max_rows = 100_000
    max_bytes = 256_000_000
    place = "messages/batches"
    dialect = Shape.MESSAGES
    after = "after_id"
    skew = 600

    def encode(self, token: str, endpoint: str, index: int, body: bytes) -> bytes:  # noqa: ARG002
        """Encode a request; the API allows ids of 64 characters."""
        return b'{"custom_id":%b,"params":%b}' % (encode(f"{token}-{index}"), body)

    def content(self, batch: RemoteBatch, lines: Callable[[], Iterator[bytes]]) -> Content:  # noqa: ARG002
        return Content(lines, opening=b'{"requests":[', end=b"]}", separator=b",")

    def _creation(self, batch: RemoteBatch, content: Content) -> Content:  # noqa: ARG002
        return content

    async def find(self, batch: RemoteBatch, known: frozenset[str]) -> RemoteStatus | None:
        unsure = ""
        async for found in self._listed(_BATCH, f"{self.place}?", batch):
            if found.id in known or found.request_counts.total != len(batch.ranges):
                continue
            if found.processing_status != "ended":
                unsure = found.id
            elif await self._has_token(found, batch.token):
                return self._read(found)
        if unsure:
            raise UnsureError(unsure)
        return None

    def result(self, line: bytes, now: float) -> RowResult:
        found = _LINE.decode(line)
        result = found.result
        if result.type in ("expired", "canceled"):
            return RowResult(found.custom_id, None)
        body = bytes(result.message if result.type == "succeeded" else result.error)
        if not body:
            raise ValueError("neither a message nor an error")
        return RowResult(found.custom_id, HttpResponse(200, {}, body, now))

    async def _has_token(self, found: _Batch, token: str) -> bool:
        with TemporaryFile() as file:
            await self.download(self._results_of(found), file)
            file.seek(0)
            first = file.readline()
        try:
            return _LINE.decode(first).custom_id.startswith(f"{token}-")
        except ValueError:
            return False

    def _status(self, body: bytes, what: str) -> RemoteStatus:
        return self._read(decoded(_BATCH, body, what))

    def _read(self, batch: _Batch) -> RemoteStatus:
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
            outputs=(self._results_of(batch),) if ended else (),
        )

    def _results_of(self, batch: _Batch) -> str:
        return f"{self.place}/{path_part(batch.id)}/results"
