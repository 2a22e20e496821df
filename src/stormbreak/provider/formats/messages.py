"""`/v1/messages`, as in Anthropic's API: from `message_start` to `message_stop`; and its count of tokens."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from stormbreak.provider.formats.base import (
    Block,
    CacheWrites,
    Events,
    Format,
    NamedEvent,
    ParsedRequest,
    Refusal,
    encode,
    find_message_error,
    in_turn,
    named_event,
    pieces,
    whole_number,
)

_TYPES: Mapping[int, str] = {
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

_DETAILED = frozenset(
    {
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "ramp_limit_exceeded",
        "change_outcome_unknown",
    }
)
"""The error codes that Anthropic sends; other errors have only a type."""


def _find_error(payload: Mapping[str, Any]) -> Refusal | None:
    if whole_number(payload.get("max_tokens"), 0) < 1:
        return Refusal(400, "max_tokens: a number of at least 1 is required")
    return find_message_error(payload)


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


def _content(request: ParsedRequest) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for choice in request.choices:
        if choice.reasoning:
            signature = f"signature-{request.digest}"
            thinking = {"type": "thinking", "thinking": choice.reasoning, "signature": signature}
            content.append(thinking)
        if choice.text or not choice.tool_uses:
            content.append({"type": "text", "text": choice.text})
        for use in choice.tool_uses:
            given = msgspec.Raw(use.arguments.encode())
            call = {"id": f"toolu_{use.identity}", "name": use.name, "input": given}
            content.append({"type": "tool_use", **call})
    return content


def _stop_reason(content: list[dict[str, Any]]) -> str:
    return "tool_use" if content and content[-1]["type"] == "tool_use" else "end_turn"


def _body(request: ParsedRequest) -> bytes:
    content = _content(request)
    return encode(_message(request, content, _stop_reason(content), request.answer_tokens))


def _events(request: ParsedRequest) -> Events:
    content = _content(request)
    opening, output, finish = in_turn([_block(*each) for each in enumerate(content)])
    start = ("message_start", {"message": _message(request, [], None, 1)})
    delta = {
        "delta": {"stop_reason": _stop_reason(content), "stop_sequence": None},
        "usage": {"output_tokens": request.answer_tokens},
    }
    return Events(
        opening=[*map(_event, (start, *opening, ("ping", {})))],
        output=[*map(_event, output)],
        finish=[*map(_event, (*finish, ("message_delta", delta)))],
        end=[_event(("message_stop", {}))],
    )


def _event(event: NamedEvent) -> bytes:
    name, fields = event
    return named_event(name, {"type": name, **fields})


def _block(index: int, content: dict[str, Any]) -> Block:
    match content["type"]:
        case "text":
            begun = {**content, "text": ""}
            deltas = [{"type": "text_delta", "text": each} for each in pieces(content["text"])]
        case "thinking":
            begun = {**content, "thinking": "", "signature": ""}
            deltas = [
                {"type": "thinking_delta", "thinking": each} for each in pieces(content["thinking"])
            ]
            deltas.append({"type": "signature_delta", "signature": content["signature"]})
        case _:
            begun = {**content, "input": {}}
            given = bytes(content["input"]).decode()
            deltas = [{"type": "input_json_delta", "partial_json": each} for each in pieces(given)]
    return Block(
        [("content_block_start", {"index": index, "content_block": begun})],
        [("content_block_delta", {"index": index, "delta": delta}) for delta in deltas],
        [("content_block_stop", {"index": index})],
    )


def _error(refusal: Refusal) -> bytes:
    """Encode an error: the type by status, and the code, if any, in the details."""
    kind = _TYPES.get(refusal.status)
    if kind is None:
        kind = "invalid_request_error" if refusal.status < 500 else "api_error"
    fields: dict[str, Any] = {"type": kind, "message": refusal.message}
    if refusal.code in _DETAILED:
        fields["details"] = {"error_code": refusal.code}
    return encode({"type": "error", "error": fields, "request_id": None})


_LATE = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}

COUNT_TOKENS = Format(
    body=lambda request: encode({"input_tokens": request.input_tokens}),
    error=_error,
    late_error=encode(_LATE),
    late_event=named_event("error", _LATE),
    demands=(b"anthropic-version",),
)
MESSAGES = COUNT_TOKENS._replace(
    body=_body,
    events=_events,
    find_error=_find_error,
    output_tokens=lambda payload, default: whole_number(payload.get("max_tokens"), default),
    written=_written,
)
