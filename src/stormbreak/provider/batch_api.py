"""The provider's own batch API: files and batches of OpenAI, message batches of Anthropic. It reads no clock.

A batch is processed at one point in scenario time, `batches.seconds` after it was created; before that it only runs. A
share of its rows expires or fails, chosen by their bodies. A cancelled batch has processed nothing.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from msgspec.json import decode

from stormbreak.http.h1.request_parser import Request
from stormbreak.provider.batch_rows import (
    MESSAGES,
    Row,
    RowError,
    errors_of,
    file_line,
    message_line,
    message_rows,
    read_line,
)
from stormbreak.provider.chance import mix, uniform
from stormbreak.provider.formats.base import ParsedRequest, Refusal, encode
from stormbreak.provider.formats.registry import FORMATS
from stormbreak.provider.scenario import Batches

_PAGE = 20
_SECONDS_A_DAY = 86_400
_NAME = re.compile(rb'[; ]name="([^"]*)"')
_FILE_NAME = re.compile(rb'filename="([^"]*)"')
_UNKNOWN = Refusal(404, "no such file or batch", code="not_found")


class _File(NamedTuple):
    id: str
    name: str
    purpose: str
    content: bytes
    created_at: int

    def facts(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_at,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


class _Batch:
    """A batch; `ends_at` is in scenario time, the other times are unix seconds."""

    def __init__(
        self, name: str, rows: list[Row], created_at: int, ends_at: float, **facts: Any
    ) -> None:
        self.id = name
        self.rows = rows
        self.created_at = created_at
        self.ends_at = ends_at
        self.facts: dict[str, Any] = facts
        self.errors: list[RowError] = []
        self.is_cancelled = False
        self.lines: dict[str, list[bytes]] | None = None  # by fate, once it has ended
        self.ended_at = 0
        self.outputs: dict[str, str] = {}


class BatchDesk:
    """The files and batches of one run of a scenario. `processed` is called with each row that is answered."""

    def __init__(
        self, batches: Batches, *, seed: int, processed: Callable[[ParsedRequest], None]
    ) -> None:
        self._settings = batches
        self._salt = mix(seed)
        self._processed = processed
        self._files: dict[str, _File] = {}
        self._batches: dict[str, _Batch] = {}
        self._count = 0

    @staticmethod
    def serves(request: Request) -> bool:
        return any(
            request.path == place or request.path.startswith(f"{place}/")
            for place in ("/v1/files", "/v1/batches", "/v1/messages/batches")
        )

    def act(self, request: Request, now: float, unix_time: float, base_url: str) -> bytes | Refusal:
        """Handle a request; `now` is the scenario time."""
        at = int(unix_time)
        self.advance(now, at)
        path = request.path.removeprefix("/v1/").rstrip("/")
        is_message = path.startswith("messages/")
        kind, _, rest = path.removeprefix("messages/").partition("/")
        name, _, action = rest.partition("/")
        if kind == "files":
            return self._files_answer(request, name, action, at)
        if name:
            return self._about(name, request.method, action, at, base_url, is_message=is_message)
        if request.method == "POST":
            return self._create(request, now, at, base_url, is_message=is_message)
        found = [b for b in self._batches.values() if _is_message(b) == is_message]
        return _listed([self._facts(b, base_url) for b in found], _query_of(request))

    def advance(self, now: float, at: int) -> None:
        for batch in self._batches.values():
            if batch.lines is None and (now >= batch.ends_at or batch.errors):
                self._end(batch, at)

    def _files_answer(self, request: Request, name: str, action: str, at: int) -> bytes | Refusal:
        if request.method == "POST" and not name:
            return self._upload(request, at)
        if request.method == "GET" and not name:
            return _listed([file.facts() for file in self._files.values()], _query_of(request))
        file = self._files.get(name)
        if file is None or request.method != "GET" or action not in ("", "content"):
            return _UNKNOWN
        return file.content if action else encode(file.facts())

    def _about(
        self, name: str, method: str, action: str, at: int, base_url: str, *, is_message: bool
    ) -> bytes | Refusal:
        batch = self._batches.get(name)
        if batch is None or _is_message(batch) != is_message:
            return _UNKNOWN
        match method, action:
            case "GET", "":
                pass
            case "GET", "results" if is_message and batch.lines is not None:
                return b"".join(line for lines in batch.lines.values() for line in lines)
            case "POST", "cancel" if batch.lines is None:
                batch.is_cancelled = True
                self._end(batch, at)
            case "POST", "cancel":
                return Refusal(400, "the batch has ended")
            case _:
                return _UNKNOWN
        return encode(self._facts(batch, base_url))

    # ------------------------------------------------------------ create

    def _next(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{mix(self._salt + self._count):016x}"

    def _keep(self, name: str, purpose: str, content: bytes, at: int) -> _File:
        file = _File(self._next("file-"), name, purpose, content, at)
        self._files[file.id] = file
        return file

    def _upload(self, request: Request, at: int) -> bytes | Refusal:
        parts = _form(request)
        purpose, file = parts.get("purpose"), parts.get("file")
        if purpose is None or file is None:
            return Refusal(400, "a form with 'purpose' and 'file' is needed")
        return encode(self._keep(file[0], purpose[1].decode(), file[1], at).facts())

    def _create(
        self, request: Request, now: float, at: int, base_url: str, *, is_message: bool
    ) -> bytes | Refusal:
        try:
            asked = decode(request.body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Refusal(400, "the body must be a JSON object")
        rows, facts = (message_rows(asked), {}) if is_message else self._file_rows(asked)
        if isinstance(rows, Refusal):
            return rows
        name = self._next("msgbatch_" if is_message else "batch_")
        batch = _Batch(name, rows, at, now + self._settings.seconds, **facts)
        if not is_message:
            batch.errors = errors_of(rows, asked["endpoint"])
        self._batches[name] = batch
        return encode(self._facts(batch, base_url))

    def _file_rows(self, asked: Mapping[str, Any]) -> tuple[list[Row] | Refusal, dict[str, Any]]:
        file, endpoint = self._files.get(str(asked.get("input_file_id"))), asked.get("endpoint")
        if file is None:
            return Refusal(404, "no such file", code="not_found"), {}
        if endpoint not in FORMATS or endpoint == MESSAGES:
            return Refusal(400, "'endpoint' is not allowed in a batch"), {}
        rows = [read_line(line) for line in file.content.splitlines() if line.strip()]
        facts = {
            "endpoint": endpoint,
            "input_file_id": file.id,
            "completion_window": asked.get("completion_window"),
            "metadata": asked.get("metadata"),
        }
        return rows, facts

    # ------------------------------------------------------------ end

    def _end(self, batch: _Batch, at: int) -> None:
        """Process the rows; results are in the order of their digests, which looks random to the client."""
        batch.ended_at = at
        batch.lines = {"succeeded": [], "failed": [], "unprocessed": []}
        if batch.errors:
            return
        write = message_line if _is_message(batch) else file_line
        for row in sorted(batch.rows, key=_order):
            fate = self._fate(batch, row)
            kind = fate if fate in ("succeeded", "failed") else "unprocessed"
            batch.lines[kind].append(write(row, fate))
            if fate == "succeeded":
                assert isinstance(row.parsed, ParsedRequest)
                self._processed(row.parsed)
        if not _is_message(batch):
            wrong = batch.lines["failed"] + batch.lines["unprocessed"]
            for key, lines in (
                ("output_file_id", batch.lines["succeeded"]),
                ("error_file_id", wrong),
            ):
                if lines:
                    file = self._keep(f"{batch.id}.jsonl", "batch_output", b"".join(lines), at)
                    batch.outputs[key] = file.id

    def _fate(self, batch: _Batch, row: Row) -> str:
        if batch.is_cancelled:
            return "cancelled"
        if isinstance(row.parsed, Refusal):
            return "failed"
        drawn = uniform(mix(self._salt ^ mix(row.parsed.key)))
        if drawn < self._settings.expired:
            return "expired"
        return "failed" if drawn < self._settings.expired + self._settings.failed else "succeeded"

    # ------------------------------------------------------------ describe

    def _facts(self, batch: _Batch, base_url: str) -> dict[str, Any]:
        counts = {kind: len(lines) for kind, lines in (batch.lines or {}).items()}
        if _is_message(batch):
            return _message_facts(batch, counts, base_url)
        has_ended, expired = batch.lines is not None, counts.get("unprocessed", 0)
        status = "in_progress"
        if has_ended and batch.errors:
            status = "failed"
        elif has_ended and batch.is_cancelled:
            status = "cancelled"
        elif has_ended:
            status = "expired" if expired else "completed"
        errors = [dict(error._asdict(), param=None) for error in batch.errors]
        return {
            "id": batch.id,
            "object": "batch",
            **batch.facts,
            "status": status,
            "errors": {"object": "list", "data": errors} if errors and has_ended else None,
            "created_at": batch.created_at,
            "expires_at": batch.created_at + _SECONDS_A_DAY,
            f"{status}_at": batch.ended_at or batch.created_at,
            "output_file_id": None,
            "error_file_id": None,
            **batch.outputs,
            "request_counts": {
                "total": len(batch.rows),
                "completed": counts.get("succeeded", 0),
                "failed": counts.get("failed", 0),
            },
        }


def _is_message(batch: _Batch) -> bool:
    return batch.id.startswith("msgbatch_")


def _order(row: Row) -> str:
    return row.parsed.digest if isinstance(row.parsed, ParsedRequest) else ""


def _form(request: Request) -> dict[str, tuple[str, bytes]]:
    """Read a form: the name of a file and the content of each part, by its name (RFC 7578)."""
    _, _, boundary = request.headers.get(b"content-type", b"").partition(b"boundary=")
    boundary = boundary.partition(b";")[0].strip(b'" ')
    parts = {}
    for part in request.body.split(b"--" + boundary)[1:-1] if boundary else []:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name, file = _NAME.search(head), _FILE_NAME.search(head)
        if name:
            file_name = file[1].decode(errors="replace") if file else ""
            parts[name[1].decode(errors="replace")] = file_name, content.removesuffix(b"\r\n")
    return parts


def _query_of(request: Request) -> dict[str, str]:
    return {
        name: value for name, _, value in (pair.partition("=") for pair in request.query.split("&"))
    }


def _listed(items: list[dict[str, Any]], query: Mapping[str, str]) -> bytes:
    """List items, newest first, from the one after `after` on (`after_id` with Anthropic)."""
    newest = [
        item
        for item in reversed(items)
        if not query.get("purpose") or item.get("purpose") == query["purpose"]
    ]
    after = query.get("after") or query.get("after_id")
    names = [item["id"] for item in newest]
    start = names.index(after) + 1 if after in names else 0
    limit = int(query["limit"]) if query.get("limit", "").isdecimal() else _PAGE
    page = newest[start : start + limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
    has_more = start + limit < len(newest)
    return encode({"object": "list", "data": page, "has_more": has_more, **ends})


def _message_facts(batch: _Batch, counts: Mapping[str, int], base_url: str) -> dict[str, Any]:
    has_ended = batch.lines is not None
    gone = counts.get("unprocessed", 0)
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if has_ended else "in_progress",
        "request_counts": {
            "processing": 0 if has_ended else len(batch.rows),
            "succeeded": counts.get("succeeded", 0),
            "errored": counts.get("failed", 0),
            "canceled": gone if batch.is_cancelled else 0,
            "expired": 0 if batch.is_cancelled else gone,
        },
        "created_at": _rfc3339(batch.created_at),
        "expires_at": _rfc3339(batch.created_at + _SECONDS_A_DAY),
        "ended_at": _rfc3339(batch.ended_at) if has_ended else None,
        "archived_at": None,
        "cancel_initiated_at": _rfc3339(batch.ended_at) if batch.is_cancelled else None,
        "results_url": f"{base_url}/messages/batches/{batch.id}/results" if has_ended else None,
    }


def _rfc3339(unix_time: int) -> str:
    return datetime.fromtimestamp(unix_time, UTC).isoformat().replace("+00:00", "Z")
