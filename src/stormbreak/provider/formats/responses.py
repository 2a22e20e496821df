"""`/v1/responses`: from `response.created` to `response.completed`."""

from collections.abc import Mapping
from itertools import count
from typing import Any

from stormbreak.provider.formats import base
from stormbreak.provider.formats.base import (
    BORN,
    TOKENS,
    Asked,
    Events,
    Format,
    encode,
    named_event,
    text_for,
    whole_number,
    words_for,
)


def _complaint(payload: Mapping[str, Any]) -> str | None:
    asked = payload.get("input")
    fits = isinstance(asked, str | list) and bool(asked)
    return None if fits else "'input' must be a string or a list that is not empty"


def _output_tokens(payload: Mapping[str, Any]) -> int:
    return max(whole_number(payload.get("max_output_tokens"), 0), 0) or TOKENS


def _response(asked: Asked, status: str) -> dict[str, Any]:
    done = status == "completed"
    usage = {
        "input_tokens": asked.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": asked.answer_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": asked.input_tokens + asked.answer_tokens,
    }
    return {
        "id": f"resp_{asked.digest}",
        "object": "response",
        "created_at": BORN,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": asked.model,
        "output": [_item(asked, done=True)] if done else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage if done else None,
    }


def _item(asked: Asked, *, done: bool) -> dict[str, Any]:
    return {
        "id": f"msg_{asked.digest}",
        "type": "message",
        "status": "completed" if done else "in_progress",
        "role": "assistant",
        "content": [_part(text_for(asked.digest))] if done else [],
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _body(asked: Asked) -> bytes:
    return encode(_response(asked, "completed"))


def _events(asked: Asked) -> Events:
    numbers = count()
    place = {"item_id": f"msg_{asked.digest}", "output_index": 0, "content_index": 0}
    text = text_for(asked.digest)

    def event(name: str, **more: Any) -> bytes:
        return named_event(name, {"type": name, "sequence_number": next(numbers), **more})

    begun = _response(asked, "in_progress")
    return Events(
        opening=[
            event("response.created", response=begun),
            event("response.in_progress", response=begun),
            event("response.output_item.added", output_index=0, item=_item(asked, done=False)),
            event("response.content_part.added", **place, part=_part("")),
        ],
        output=[
            event("response.output_text.delta", **place, delta=word)
            for word in words_for(asked.digest)
        ],
        finish=[
            event("response.output_text.done", **place, text=text),
            event("response.content_part.done", **place, part=_part(text)),
            event("response.output_item.done", output_index=0, item=_item(asked, done=True)),
        ],
        end=[event("response.completed", response=_response(asked, "completed"))],
    )


_LATE = {"type": "error", "code": "server_error", "message": "the model failed", "param": None}

RESPONSES = Format(
    complaint=_complaint,
    output_tokens=_output_tokens,
    body=_body,
    events=_events,
    error=base.error,
    late_error=base.LATE_ERROR,
    late_event=named_event("error", _LATE),
)
