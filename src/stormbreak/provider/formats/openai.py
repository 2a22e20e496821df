"""Errors as the OpenAI API and nearly everybody else writes them."""

from typing import Any

from stormbreak.provider.formats.form import Refusal, encode

LATE_ERROR = b'{"error":{"message":"the upstream provider failed","code":502}}'
LATE_EVENT = b"data: %b\n\n" % LATE_ERROR


def error(refusal: Refusal) -> bytes:
    """Write an error."""
    said: dict[str, Any] = {
        "message": refusal.message,
        "type": refusal.kind,
        "param": None,
        "code": refusal.code,
    }
    if refusal.metadata is not None:
        said["metadata"] = refusal.metadata
    return encode({"error": said})
