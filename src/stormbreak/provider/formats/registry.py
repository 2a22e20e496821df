"""Parse the body of a request, or describe its error."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from stormbreak.provider.formats.base import Format, ParsedRequest, Refusal, text_for
from stormbreak.provider.formats.chat import CHAT
from stormbreak.provider.formats.completions import COMPLETIONS
from stormbreak.provider.formats.embeddings import EMBEDDINGS
from stormbreak.provider.formats.messages import COUNT_TOKENS, MESSAGES
from stormbreak.provider.formats.responses import RESPONSES

FORMATS: Mapping[str, Format] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": COUNT_TOKENS,
}
"""The formats by endpoint."""

_SCHEMAS = (
    ("response_format", "json_schema", "schema"),
    ("text", "format", "schema"),
    ("output_config", "format", "schema"),
)
_DELIVERY = ("stream", "stream_options")  # delivery options do not change the answer
_encode = msgspec.json.Encoder(order="sorted").encode


def understand(
    format_: Format, headers: Mapping[bytes, bytes], body: bytes
) -> ParsedRequest | Refusal:
    """Parse a request; `headers` by lower-case name."""
    for name in format_.demands:
        if name not in headers:
            return Refusal(400, f"{name.decode()}: header is required")
    try:
        payload = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return Refusal(400, "the body is not valid JSON")
    if not isinstance(payload, dict):
        return Refusal(400, "the body must be a JSON object")
    model = payload.get("model")
    if not isinstance(model, str):
        return Refusal(400, "you must provide a model")
    wrong = format_.find_error(payload)
    if wrong:
        return wrong
    essence = _essence(payload)
    return ParsedRequest(
        format=format_,
        model=model,
        digest=_digest(essence),
        essence=essence,
        payload=payload,
        streamed=payload.get("stream") is True and format_.events is not None,
        schema=_schema_of(payload),
    )


def _schema_of(payload: Mapping[str, Any]) -> Any:
    """Find the JSON schema of a request, in the format of each API; None if there is none."""
    for path in _SCHEMAS:
        found: Any = payload
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None:
            return found
    return None


def text_of(payload: Mapping[str, Any]) -> str:
    return text_for(request_digest(payload), _schema_of(payload))


def request_digest(payload: Mapping[str, Any]) -> str:
    return _digest(_essence(payload))


def _essence(payload: Mapping[str, Any]) -> bytes:
    return _encode({key: item for key, item in payload.items() if key not in _DELIVERY})


def _digest(essence: bytes) -> str:
    return blake2b(essence, digest_size=8).hexdigest()
