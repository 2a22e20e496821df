"""`/v1/responses`: from `response.created` to `response.completed`."""

from collections.abc import Mapping
from itertools import count
from typing import Any

from stormbreak.provider.formats import base
from stormbreak.provider.formats.base import (
    BORN,
    TOKENS,
    Events,
    Format,
    ParsedRequest,
    encode,
    named_event,
    whole_number,
)


def _find_error(payload: Mapping[str, Any]) -> str | None:
    given = payload.get("input")
    fits = isinstance(given, str | list) and bool(given)
    return None if fits else "'input' must be a string or a list that is not empty"


def _output_tokens(payload: Mapping[str, Any]) -> int:
    return max(whole_number(payload.get("max_output_tokens"), 0), 0) or TOKENS


def _response(request: ParsedRequest, status: str) -> dict[str, Any]:
    done = status == "completed"
    usage = {
        "input_tokens": request.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": request.answer_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": request.input_tokens + request.answer_tokens,
    }
    return {
        "id": f"resp_{request.digest}",
        "object": "response",
        "created_at": BORN,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": request.model,
        "output": [_item(request, done=True)] if done else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage if done else None,
    }


def _item(request: ParsedRequest, *, done: bool) -> dict[str, Any]:
    return {
        "id": f"msg_{request.digest}",
        "type": "message",
        "status": "completed" if done else "in_progress",
        "role": "assistant",
        "content": [_part(request.text)] if done else [],
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _body(request: ParsedRequest) -> bytes:
    return encode(_response(request, "completed"))


def _events(request: ParsedRequest) -> Events:
    numbers = count()
    place = {"item_id": f"msg_{request.digest}", "output_index": 0, "content_index": 0}
    text = request.text

    def event(name: str, **more: Any) -> bytes:
        return named_event(name, {"type": name, "sequence_number": next(numbers), **more})

    begun = _response(request, "in_progress")
    return Events(
        opening=[
            event("response.created", response=begun),
            event("response.in_progress", response=begun),
            event("response.output_item.added", output_index=0, item=_item(request, done=False)),
            event("response.content_part.added", **place, part=_part("")),
        ],
        output=[event("response.output_text.delta", **place, delta=word) for word in request.words],
        finish=[
            event("response.output_text.done", **place, text=text),
            event("response.content_part.done", **place, part=_part(text)),
            event("response.output_item.done", output_index=0, item=_item(request, done=True)),
        ],
        end=[event("response.completed", response=_response(request, "completed"))],
    )


_LATE = {"type": "error", "code": "server_error", "message": "the model failed", "param": None}

RESPONSES = Format(
    find_error=_find_error,
    output_tokens=_output_tokens,
    body=_body,
    events=_events,
    error=base.error,
    late_error=base.LATE_ERROR,
    late_event=named_event("error", _LATE),
)
