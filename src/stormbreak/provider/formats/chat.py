"""`/v1/chat/completions`."""

from collections.abc import Mapping
from typing import Any

from stormbreak.provider.formats import base
from stormbreak.provider.formats.base import (
    BORN,
    TOKENS,
    Events,
    Format,
    ParsedRequest,
    encode,
    find_message_error,
    whole_number,
)


def _output_tokens(payload: Mapping[str, Any]) -> int:
    older = whole_number(payload.get("max_tokens"), 0)
    most = whole_number(payload.get("max_completion_tokens"), older)
    return max(most, 0) or TOKENS


def _usage(request: ParsedRequest) -> dict[str, Any]:
    return {
        "prompt_tokens": request.input_tokens,
        "total_tokens": request.input_tokens + request.answer_tokens,
        "completion_tokens": request.answer_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def _body(request: ParsedRequest) -> bytes:
    message = {"role": "assistant", "content": request.text}
    return encode(
        {
            "id": f"chatcmpl-{request.digest}",
            "object": "chat.completion",
            "created": BORN,
            "model": request.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": _usage(request),
        }
    )


def _events(request: ParsedRequest) -> Events:
    """Role, words, finish reason, usage if requested, `[DONE]`."""
    finish = [_chunk(request, [_choice({}, "stop")])]
    if _wants_usage(request.payload):
        finish.append(_chunk(request, [], usage=_usage(request)))
    return Events(
        opening=[_chunk(request, [_choice({"role": "assistant", "content": ""}, None)])],
        output=[_chunk(request, [_choice({"content": word}, None)]) for word in request.words],
        finish=finish,
        end=[b"data: [DONE]\n\n"],
    )


def _wants_usage(payload: Mapping[str, Any]) -> bool:
    options = payload.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _choice(delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish}


def _chunk(request: ParsedRequest, choices: list[dict[str, Any]], **more: Any) -> bytes:
    said = {
        "id": f"chatcmpl-{request.digest}",
        "object": "chat.completion.chunk",
        "created": BORN,
        "model": request.model,
        "choices": choices,
        **more,
    }
    return b"data: %b\n\n" % encode(said)


CHAT = Format(
    find_error=find_message_error,
    output_tokens=_output_tokens,
    body=_body,
    events=_events,
    error=base.error,
    late_error=base.LATE_ERROR,
    late_event=base.LATE_EVENT,
)
