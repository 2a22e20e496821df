"""The rows of the provider's own batch API: read from OpenAI's files and Anthropic's requests, written as results."""

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
from msgspec.json import decode

from stormbreak.provider.formats.base import ParsedRequest, Refusal, encode
from stormbreak.provider.formats.registry import FORMATS, understand

MESSAGES = "/v1/messages"
_MAX_MESSAGES = 100_000  # of a message batch
_MAX_LINES = 50_000  # of a file
_ANTHROPIC_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_HEADERS = {b"anthropic-version": b"2023-06-01"}  # the request for the batch has it


class Row(NamedTuple):
    """A row of a batch, or what is wrong with its request."""

    custom_id: str
    parsed: ParsedRequest | Refusal


class RowError(NamedTuple):
    """Why a whole batch is refused."""

    code: str
    message: str
    line: int


def read_line(line: bytes) -> Row:
    try:
        asked = decode(line, type=dict[str, Any])
        custom_id, url, body = asked["custom_id"], asked["url"], asked["body"]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        return Row("", Refusal(400, "the line is not a request", code="invalid_json_line"))
    if url not in FORMATS:
        return Row(
            str(custom_id), Refusal(400, "the url is not allowed in a batch", code="invalid_url")
        )
    parsed = understand(FORMATS[url], _HEADERS, encode(body))
    if isinstance(parsed, ParsedRequest) and parsed.streamed:
        parsed = Refusal(400, "batches do not stream", code="invalid_request")
    return Row(str(custom_id), parsed)


def errors_of(rows: list[Row], endpoint: str) -> list[RowError]:
    """Find why a whole batch is refused, as OpenAI does before it begins."""
    errors: list[RowError] = []
    seen, models = set(), set()
    for number, (custom_id, parsed) in enumerate(rows, 1):
        if not custom_id:
            errors.append(RowError("invalid_json_line", "the line is not a request", number))
        elif custom_id in seen:
            errors.append(RowError("duplicate_custom_id", "the custom_id is not unique", number))
        elif isinstance(parsed, ParsedRequest) and parsed.format is not FORMATS[endpoint]:
            errors.append(RowError("mismatched_url", "the url is not the batch's endpoint", number))
        seen.add(custom_id)
        if isinstance(parsed, ParsedRequest):
            models.add(parsed.model)
    if len(models) > 1:
        errors.append(RowError("mismatched_model", "all lines must name one model", 1))
    if not rows:
        errors.append(RowError("empty_file", "the file has no lines", 1))
    if len(rows) > _MAX_LINES:
        errors.append(RowError("too_many_tasks", "the file has too many lines", 1))
    return errors


def file_line(row: Row, fate: str) -> bytes:
    line: dict[str, Any] = {
        "id": f"batch_req_{row.custom_id}",
        "custom_id": row.custom_id,
        "response": None,
        "error": None,
    }
    parsed = row.parsed
    if fate in ("expired", "cancelled"):
        words = f"the batch was {fate} before this request was processed"
        line["error"] = {"code": f"batch_{fate}", "message": words}
    elif isinstance(parsed, Refusal):
        line["response"] = _response(parsed.status, FORMATS["/v1/chat/completions"].error(parsed))
    elif fate == "failed":
        refusal = Refusal(500, "the server had an error", kind="server_error")
        line["response"] = _response(500, parsed.format.error(refusal))
    else:
        line["response"] = _response(200, parsed.format.body(parsed))
    return encode(line) + b"\n"


def _response(status: int, body: bytes) -> dict[str, Any]:
    return {
        "status_code": status,
        "request_id": f"req_{blake2b(body, digest_size=8).hexdigest()}",
        "body": msgspec.Raw(body),
    }


def message_rows(asked: Mapping[str, Any]) -> list[Row] | Refusal:
    requests = asked.get("requests")
    if not isinstance(requests, list) or not requests:
        return Refusal(400, "requests: a list is required")
    if len(requests) > _MAX_MESSAGES:
        return Refusal(400, "requests: too many")
    rows, seen = [], set()
    for number, each in enumerate(requests):
        name = each.get("custom_id") if isinstance(each, dict) else None
        if not isinstance(name, str) or not _ANTHROPIC_ID.fullmatch(name) or name in seen:
            return Refusal(400, f"requests.{number}.custom_id: is invalid, or not unique")
        seen.add(name)
        rows.append(Row(name, understand(FORMATS[MESSAGES], _HEADERS, encode(each.get("params")))))
    return rows


def message_line(row: Row, fate: str) -> bytes:
    parsed = row.parsed
    result: dict[str, Any]
    if fate in ("expired", "cancelled"):
        result = {"type": "canceled" if fate == "cancelled" else "expired"}
    elif isinstance(parsed, Refusal):
        result = {"type": "errored", "error": msgspec.Raw(FORMATS[MESSAGES].error(parsed))}
    elif fate == "failed":
        error = FORMATS[MESSAGES].error(Refusal(500, "Internal server error"))
        result = {"type": "errored", "error": msgspec.Raw(error)}
    else:
        result = {"type": "succeeded", "message": msgspec.Raw(parsed.format.body(parsed))}
    return encode({"custom_id": row.custom_id, "result": result}) + b"\n"
