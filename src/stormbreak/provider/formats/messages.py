"""`/v1/messages`, as in Anthropic's API: from `message_start` to `message_stop`."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from stormbreak.provider.formats.base import (
    TOKENS,
    CacheWrites,
    Events,
    Format,
    ParsedRequest,
    Refusal,
    encode,
    find_message_error,
    named_event,
    whole_number,
)

_TYPES: Mapping[int, str] = MappingProxyType(
    {
        400: "invalid_request_error",
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        504: "timeout_error",
        529: "overloaded_error",
    }
)

_DETAILED = frozenset(
    {
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "ramp_limit_exceeded",
        "change_outcome_unknown",
    }
)
"""The error codes that Anthropic sends; other errors have only a type."""


def _find_error(payload: Mapping[str, Any]) -> str | None:
    if whole_number(payload.get("max_tokens"), 0) < 1:
        return "max_tokens: a number of at least 1 is required"
    return find_message_error(payload)


def _output_tokens(payload: Mapping[str, Any]) -> int:
    return whole_number(payload.get("max_tokens"), TOKENS)


def _written(payload: Mapping[str, Any]) -> CacheWrites:
    """Count tokens of blocks with `cache_control`. Each request writes them; none reads them."""
    short = hour = 0
    for block in _blocks(payload):
        control = block.get("cache_control")
        if isinstance(control, dict):
            tokens = len(encode(block)) // 4
            if control.get("ttl") == "1h":
                hour += tokens
            else:
                short += tokens
    return CacheWrites(short, hour)


def _blocks(payload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    messages = (each for each in payload["messages"] if isinstance(each, dict))
    contents = [each.get("content") for each in messages]
    for several in (payload.get("tools"), payload.get("system"), *contents):
        if isinstance(several, list):
            yield from (block for block in several if isinstance(block, dict))


def _message(
    request: ParsedRequest, content: list[Any], stop: str | None, output_tokens: int
) -> dict[str, Any]:
    short, hour = request.written
    return {
        "id": f"msg_{request.digest}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {
            "input_tokens": request.input_tokens - short - hour,
            "cache_creation_input_tokens": short + hour,
            "cache_read_input_tokens": 0,
            "cache_creation": {
                "ephemeral_5m_input_tokens": short,
                "ephemeral_1h_input_tokens": hour,
            },
            "output_tokens": output_tokens,
        },
    }


def _body(request: ParsedRequest) -> bytes:
    content = [{"type": "text", "text": request.text}]
    return encode(_message(request, content, "end_turn", request.answer_tokens))


def _events(request: ParsedRequest) -> Events:
    def event(name: str, **more: Any) -> bytes:
        return named_event(name, {"type": name, **more})

    return Events(
        opening=[
            event("message_start", message=_message(request, [], None, 1)),
            event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            event("ping"),
        ],
        output=[
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
            for word in request.words
        ],
        finish=[
            event("content_block_stop", index=0),
            event(
                "message_delta",
                delta={"stop_reason": "end_turn", "stop_sequence": None},
                usage={"output_tokens": request.answer_tokens},
            ),
        ],
        end=[event("message_stop")],
    )


def _error(refusal: Refusal) -> bytes:
    """Encode an error: the type by status, and the code, if any, in the details."""
    kind = _TYPES.get(refusal.status)
    if kind is None:
        kind = "invalid_request_error" if refusal.status < 500 else "api_error"
    said: dict[str, Any] = {"type": kind, "message": refusal.message}
    if refusal.code in _DETAILED:
        said["details"] = {"error_code": refusal.code}
    return encode({"type": "error", "error": said, "request_id": None})


_LATE = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}

MESSAGES = Format(
    find_error=_find_error,
    output_tokens=_output_tokens,
    body=_body,
    events=_events,
    error=_error,
    late_error=encode(_LATE),
    late_event=named_event("error", _LATE),
    demands=(b"anthropic-version",),
    written=_written,
)
