"""`/v1/chat/completions`."""

from collections.abc import Iterator, Mapping
from typing import Any

from stormbreak.provider.formats.base import (
    BORN,
    Choice,
    Events,
    Format,
    ParsedRequest,
    ToolUse,
    encode,
    pieces,
    whole_number,
)

_MAX_CHOICES = 128


def output_tokens(payload: Mapping[str, Any], default: int) -> int:
    older = whole_number(payload.get("max_tokens"), 0)
    most = whole_number(payload.get("max_completion_tokens"), older)
    return choice_count(payload) * (max(most, 0) or default)


def choice_count(payload: Mapping[str, Any]) -> int:
    return min(max(whole_number(payload.get("n"), 1), 1), _MAX_CHOICES)


def usage_of(request: ParsedRequest) -> dict[str, Any]:
    return {
        "prompt_tokens": request.input_tokens,
        "total_tokens": request.input_tokens + request.answer_tokens,
        "completion_tokens": request.answer_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def _body(request: ParsedRequest) -> bytes:
    choices = [
        {"index": place, "message": _message(choice), "finish_reason": _finish(choice)}
        for place, choice in enumerate(request.choices)
    ]
    return _document(request, "chat.completion", choices, usage=usage_of(request))


def _document(
    request: ParsedRequest, kind: str, choices: list[dict[str, Any]], **more: Any
) -> bytes:
    head = {"id": f"chatcmpl-{request.digest}", "object": kind, "created": BORN}
    return encode({**head, "model": request.model, "choices": choices, **more})


def _message(choice: Choice) -> dict[str, Any]:
    content = None if choice.tool_uses and not choice.text else choice.text
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.tool_uses:
        message["tool_calls"] = [_tool_call(use, use.arguments) for use in choice.tool_uses]
    return message


def _tool_call(use: ToolUse, arguments: str) -> dict[str, Any]:
    function = {"name": use.name, "arguments": arguments}
    return {"id": f"call_{use.identity}", "type": "function", "function": function}


def _finish(choice: Choice) -> str:
    return "tool_calls" if choice.tool_uses else "stop"


def _events(request: ParsedRequest) -> Events:
    """Role, reasoning, words, tool calls, finish reason, usage if requested, `[DONE]`."""
    choices = [*enumerate(request.choices)]

    def chunk(place: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return _chunk(request, [{"index": place, "delta": delta, "finish_reason": finish}])

    finish = [chunk(place, {}, _finish(choice)) for place, choice in choices]
    if wants_usage(request.payload):
        finish.append(_chunk(request, [], usage=usage_of(request)))
    return Events(
        opening=[chunk(place, {"role": "assistant", "content": ""}) for place, _ in choices],
        output=[chunk(place, delta) for place, choice in choices for delta in _deltas(choice)],
        finish=finish,
        end=[b"data: [DONE]\n\n"],
    )


def _deltas(choice: Choice) -> Iterator[dict[str, Any]]:
    if choice.reasoning:
        for piece in pieces(choice.reasoning):
            yield {"reasoning_content": piece}
    if choice.text or not choice.tool_uses:
        for piece in pieces(choice.text):
            yield {"content": piece}
    for index, use in enumerate(choice.tool_uses):
        yield {"tool_calls": [{"index": index, **_tool_call(use, "")}]}
        for piece in pieces(use.arguments):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def wants_usage(payload: Mapping[str, Any]) -> bool:
    options = payload.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _chunk(request: ParsedRequest, choices: list[dict[str, Any]], **more: Any) -> bytes:
    return b"data: %b\n\n" % _document(request, "chat.completion.chunk", choices, **more)


CHAT = Format(body=_body, events=_events, output_tokens=output_tokens, choice_count=choice_count)
