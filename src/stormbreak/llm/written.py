"""A text of our own as an answer in the format of an endpoint, for when no provider gives one."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from stormbreak.llm.reading import Shape

ID = "stormbreak-degraded"
"""The `id` of such an answer: nobody has to take it for a model's."""


def written(shape: Shape, text: str, model: str) -> bytes | None:
    """The body of an answer that says `text`, no tokens used; None where an answer is no text."""
    write = _WRITERS.get(shape)
    return None if write is None else msgspec.json.encode(write(text, model))


def _chat(text: str, model: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": ID,
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


_WRITERS: Mapping[Shape, Callable[[str, str], dict[str, Any]]] = MappingProxyType(
    {Shape.CHAT: _chat}
)
