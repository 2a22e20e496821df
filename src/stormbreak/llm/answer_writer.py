"""A text of our own as an answer in the format of an endpoint, for when no provider gives one."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from stormbreak.llm.models import Shape

ID = "stormbreak-degraded"
"""The `id` of such an answer: nobody has to take it for a model's."""

MOST = 128  # choices; no provider gives more, and who asks for more gets none here


def written(shape: Shape, text: str, model: str, *, choices: int = 1) -> bytes | None:
    """The body of an answer that says `text` in each of its choices, no tokens used; None where an answer is no text."""
    write = _WRITERS.get(shape)
    return (
        None
        if write is None or choices > MOST
        else msgspec.json.encode(write(text, model, choices))
    )


def _chat(text: str, model: str, choices: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": ID,
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {"index": index, "message": message, "finish_reason": "stop"}
            for index in range(choices)
        ],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


def _response(text: str, model: str, _: int) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    message = {"id": f"{ID}-1", "type": "message", "role": "assistant", "status": "completed"}
    return {
        "id": ID,
        "object": "response",
        "created_at": 0,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [message | {"content": content}],
        "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
    }


def _message(text: str, model: str, _: int) -> dict[str, Any]:
    return {
        "id": ID,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


_WRITERS: Mapping[Shape, Callable[[str, str, int], dict[str, Any]]] = MappingProxyType(
    {Shape.CHAT: _chat, Shape.RESPONSES: _response, Shape.MESSAGES: _message}
)
