"""OpenAI's Batch API, and compatible ones: `/files` and `/batches`.

The requests are a file in JSON lines; so are the results, one file for answers and one for errors. The token is in the
name of the file and in the metadata of the batch. https://developers.openai.com/api/docs/guides/batch
"""

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Raw, Struct
from msgspec.json import Decoder, encode

from stormbreak.batch.remote.api import (
    BatchApi,
    BatchError,
    Content,
    Listed,
    RemoteStatus,
    RowResult,
    decoded,
    path_part,
)
from stormbreak.batch.store.provider_batches import Counts, RemoteBatch
from stormbreak.llm.endpoints import Shape
from stormbreak.llm.parsed_response import HttpResponse

LABEL = "stormbreak"  # of our metadata
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_UNPROCESSED = frozenset({"batch_expired", "batch_cancelled"})
_WINDOW = "24h"


class _Counts(Struct):
    total: int | None = 0
    completed: int | None = 0
    failed: int | None = 0


class _RowError(Struct):
    code: str | None = None
    message: str | None = None


class _Error(_RowError):
    line: int | None = None


class _Errors(Struct):
    data: list[_Error] | None = None


class _Batch(Listed, kw_only=True):
    status: str
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: _Errors | None = None
    request_counts: _Counts | None = None
    metadata: dict[str, Any] | None = None


class _File(Listed):
    filename: str = ""
    bytes: int | None = None


class _Response(Struct):
    status_code: int
    body: Raw
    request_id: str | None = None


class _Line(Struct):
    custom_id: str
    response: _Response | None = None
    error: _RowError | None = None


_BATCH = Decoder(_Batch)
_FILE = Decoder(_File)
_LINE = Decoder(_Line)


class FileBatches(BatchApi):
    """Batches whose requests are a file, uploaded before the batch is created."""

    max_rows = 50_000
    max_bytes = 200_000_000
    place = "batches"
    dialect = Shape.RESOURCE
    after = "after"
    skew = 86_400

    def encode(self, token: str, endpoint: str, index: int, body: bytes) -> bytes:
        head = encode({"custom_id": f"{token}-{index}", "method": "POST", "url": f"/v1{endpoint}"})
        return b'%b,"body":%b}\n' % (head[:-1], body)

    def content(self, batch: RemoteBatch, lines: Callable[[], Iterator[bytes]]) -> Content:
        """Make a form with the file (RFC 7578)."""
        boundary = _boundary(batch)
        part = f'--{boundary}\r\nContent-Disposition: form-data; name="'
        opening = (
            f'{part}purpose"\r\n\r\nbatch\r\n'
            f'{part}file"; filename="{_name(batch)}"\r\nContent-Type: application/jsonl\r\n\r\n'
        )
        return Content(lines, opening=opening.encode(), end=f"\r\n--{boundary}--\r\n".encode())

    async def upload(self, batch: RemoteBatch, content: Content) -> str:
        """Upload the file; return its id. A second upload is a second file, which costs nothing."""
        form = f"multipart/form-data; boundary={_boundary(batch)}"
        upload = self._resource(
            "POST", "files", body=content, content_type=form, key=f"{batch.token}-file"
        )
        body = await self._caller.send(upload, "upload the requests")
        return path_part(decoded(_FILE, body, "upload the requests").id)

    async def find_upload(self, batch: RemoteBatch, content: Content) -> str | None:
        """Find a complete file of that name; return its id."""
        async for file in self._listed(_FILE, "files?purpose=batch&order=desc&", batch):
            if file.filename == _name(batch) and file.bytes in (None, content.lines_size):
                return path_part(file.id)
        return None

    def _creation(self, batch: RemoteBatch, content: Content) -> bytes:  # noqa: ARG002
        request = {
            "input_file_id": batch.file,
            "endpoint": f"/v1{batch.endpoint}",
            "completion_window": _WINDOW,
            "metadata": {LABEL: batch.token},
        }
        return encode(request)

    async def find(
        self,
        batch: RemoteBatch,
        known: frozenset[str],  # noqa: ARG002
    ) -> RemoteStatus | None:
        async for found in self._listed(_BATCH, f"{self.place}?", batch):
            ours = (found.metadata or {}).get(LABEL) == batch.token
            if ours or found.input_file_id == batch.file:  # some servers drop metadata
                return _read(found)
        return None

    def result(self, line: bytes, now: float) -> RowResult:
        found = _LINE.decode(line)
        if found.response is not None:
            name = found.response.request_id
            ids = {} if name is None else {"x-request-id": name}
            status, body = found.response.status_code, bytes(found.response.body)
            return RowResult(found.custom_id, HttpResponse(status, ids, body, now))
        if found.error is None:
            raise ValueError("neither a response nor an error")
        if found.error.code in _UNPROCESSED:
            return RowResult(found.custom_id, None)
        body = encode({"error": found.error})
        return RowResult(found.custom_id, HttpResponse(200, {}, body, now))

    def _status(self, body: bytes, what: str) -> RemoteStatus:
        return _read(decoded(_BATCH, body, what))


def _name(batch: RemoteBatch) -> str:
    return f"stormbreak-{batch.token}.jsonl"


def _boundary(batch: RemoteBatch) -> str:
    return f"stormbreak-{batch.token}-form"


def _read(batch: _Batch) -> RemoteStatus:
    counted = batch.request_counts or _Counts()
    files = (batch.output_file_id, batch.error_file_id)  # some servers write "" for none
    errors = (batch.errors.data if batch.errors else None) or []
    return RemoteStatus(
        path_part(batch.id),
        batch.status,
        ended=batch.status in _ENDED,
        counts=Counts(
            total=counted.total or 0, succeeded=counted.completed or 0, failed=counted.failed or 0
        ),
        outputs=tuple(f"files/{path_part(name)}/content" for name in files if name),
        errors=tuple(BatchError(e.code or "", e.message or "", e.line) for e in errors),
    )
