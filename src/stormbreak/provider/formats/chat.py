"""`/v1/chat/completions`."""

from collections.abc import Mapping
from typing import Any

from stormbreak.provider.formats import base
from stormbreak.provider.formats.base import (
    BORN,
    TOKENS,
    Asked,
    Events,
    Format,
    encode,
    messages_complaint,
    text_for,
    whole_number,
    words_for,
)


def _output_tokens(payload: Mapping[str, Any]) -> int:
    older = whole_number(payload.get("max_tokens"), 0)
    most = whole_number(payload.get("max_completion_tokens"), older)
    return max(most, 0) or TOKENS


def _usage(asked: Asked) -> dict[str, Any]:
    return {
        "prompt_tokens": asked.input_tokens,
        "total_tokens": asked.input_tokens + asked.answer_tokens,
        "completion_tokens": asked.answer_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def _body(asked: Asked) -> bytes:
    message = {"role": "assistant", "content": text_for(asked.digest)}
    return encode(
        {
            "id": f"chatcmpl-{asked.digest}",
            "object": "chat.completion",
            "created": BORN,
            "model": asked.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": _usage(asked),
        }
    )


def _events(asked: Asked) -> Events:
    """Role, words, finish, usage if wanted, `[DONE]`."""
    finish = [_chunk(asked, [_choice({}, "stop")])]
    if _wants_usage(asked.payload):
        finish.append(_chunk(asked, [], usage=_usage(asked)))
    return Events(
        opening=[_chunk(asked, [_choice({"role": "assistant", "content": ""}, None)])],
        output=[
            _chunk(asked, [_choice({"content": word}, None)]) for word in words_for(asked.digest)
        ],
        finish=finish,
        end=[b"data: [DONE]\n\n"],
    )


def _wants_usage(payload: Mapping[str, Any]) -> bool:
    options = payload.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _choice(delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish}


def _chunk(asked: Asked, choices: list[dict[str, Any]], **more: Any) -> bytes:
    said = {
        "id": f"chatcmpl-{asked.digest}",
        "object": "chat.completion.chunk",
        "created": BORN,
        "model": asked.model,
        "choices": choices,
        **more,
    }
    return b"data: %b\n\n" % encode(said)


CHAT = Format(
    complaint=messages_complaint,
    output_tokens=_output_tokens,
    body=_body,
    events=_events,
    error=base.error,
    late_error=base.LATE_ERROR,
    late_event=base.LATE_EVENT,
)
