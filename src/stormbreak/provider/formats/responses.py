"""`/v1/responses`: from `response.created` to `response.completed`."""

from collections.abc import Mapping
from itertools import count
from typing import Any

from stormbreak.provider.formats.base import (
    BORN,
    Block,
    Events,
    Format,
    NamedEvent,
    ParsedRequest,
    Refusal,
    ToolUse,
    encode,
    in_turn,
    invalid,
    named_event,
    pieces,
    whole_number,
)


def _find_error(payload: Mapping[str, Any]) -> Refusal | None:
    given = payload.get("input")
    fits = isinstance(given, str | list) and bool(given)
    return None if fits else invalid("input", "must be a string or a list that is not empty")


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
        "output": _items(request) if done else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage if done else None,
    }


def _items(request: ParsedRequest) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for choice in request.choices:
        if choice.reasoning:
            summary = [_summary(choice.reasoning)]
            items.append({"id": f"rs_{request.digest}", "type": "reasoning", "summary": summary})
        if choice.text or not choice.tool_uses:
            items.append(_message(request, choice.text))
        items += map(_function_call, choice.tool_uses)
    return items


def _message(request: ParsedRequest, text: str) -> dict[str, Any]:
    return {
        "id": f"msg_{request.digest}",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [_part(text)],
    }


def _function_call(use: ToolUse) -> dict[str, Any]:
    return {
        "id": f"fc_{use.identity}",
        "type": "function_call",
        "status": "completed",
        "call_id": f"call_{use.identity}",
        "name": use.name,
        "arguments": use.arguments,
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _summary(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


def _events(request: ParsedRequest) -> Events:
    numbers = count()

    def events(named: list[NamedEvent]) -> list[bytes]:
        return [
            named_event(name, {"type": name, "sequence_number": next(numbers), **more})
            for name, more in named
        ]

    begun = {"response": _response(request, "in_progress")}
    done = {"response": _response(request, "completed")}
    opening, output, finish = in_turn([_block(*each) for each in enumerate(_items(request))])
    return Events(
        opening=events([("response.created", begun), ("response.in_progress", begun), *opening]),
        output=events(output),
        finish=events(finish),
        end=events([("response.completed", done)]),
    )


def _block(index: int, item: dict[str, Any]) -> Block:
    place: dict[str, Any] = {"item_id": item["id"], "output_index": index}
    match item["type"]:
        case "message":
            added = {**item, "status": "in_progress", "content": []}
            place["content_index"] = 0
            part, empty, kind, text = "response.content_part", _part(""), "output_text", "text"
            whole = item["content"][0]
        case "reasoning":
            added = {**item, "summary": []}
            place["summary_index"] = 0
            part, empty = "response.reasoning_summary_part", _summary("")
            kind, text, whole = "reasoning_summary_text", "text", item["summary"][0]
        case _:
            added = {**item, "status": "in_progress", "arguments": ""}
            part, empty, kind, text, whole = "", {}, "function_call_arguments", "arguments", item
    opening = [("response.output_item.added", {"output_index": index, "item": added})]
    finish = [(f"response.{kind}.done", {**place, text: whole[text]})]
    if part:
        opening.append((f"{part}.added", {**place, "part": empty}))
        finish.append((f"{part}.done", {**place, "part": whole}))
    finish.append(("response.output_item.done", {"output_index": index, "item": item}))
    deltas = [(f"response.{kind}.delta", {**place, "delta": each}) for each in pieces(whole[text])]
    return Block(opening, deltas, finish)


_LATE = {"type": "error", "code": "server_error", "message": "the model failed", "param": None}

RESPONSES = Format(
    body=lambda request: encode(_response(request, "completed")),
    events=_events,
    find_error=_find_error,
    output_tokens=lambda payload, default: (
        max(whole_number(payload.get("max_output_tokens"), 0), 0) or default
    ),
    late_event=named_event("error", _LATE),
)
