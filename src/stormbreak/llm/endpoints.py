"""The endpoints of LLM APIs: the shape of their answers, by path."""

from collections.abc import Mapping
from enum import Enum
from functools import lru_cache


class Shape(Enum):
    """The shape of a complete answer of an endpoint."""

    CHAT = "chat completion"
    COMPLETION = "text completion"
    EMBEDDINGS = "list of embeddings"
    RESPONSES = "response"
    MESSAGES = "message"
    JSON = "JSON object"
    RESOURCE = "resource"

    __hash__ = object.__hash__  # for look-ups in every attempt: an Enum's own is written in Python


_FIM = "/fim/completions"  # of Mistral

_SHAPES = {
    "/chat/completions": Shape.CHAT,
    _FIM: Shape.CHAT,
    "/completions": Shape.COMPLETION,
    "/embeddings": Shape.EMBEDDINGS,
    "/responses": Shape.RESPONSES,
    "/messages": Shape.MESSAGES,
}
OPERATIONS: Mapping[Shape, str] = {
    Shape.CHAT: "chat",
    Shape.COMPLETION: "text_completion",
    Shape.EMBEDDINGS: "embeddings",
    Shape.RESPONSES: "chat",
    Shape.MESSAGES: "chat",
}
"""The operation in the words of OpenTelemetry (gen_ai.operation.name), where it is known."""

FREE = ("/moderations", "/messages/count_tokens", "/responses/input_tokens")
"""Endpoints that are free, since no model answers."""

_ENDPOINTS = 64  # size of the cache; few users have more than three

_NOT_ANTHROPIC = "/threads/"  # the messages of a thread are OpenAI objects


@lru_cache(maxsize=_ENDPOINTS)
def shape_of(endpoint: str) -> Shape:
    """Return the shape by the end of a path or URL; an unknown endpoint returns any JSON object."""
    path = path_of(endpoint)
    end = None if _NOT_ANTHROPIC in path else known_end(path)
    return Shape.JSON if end is None else _SHAPES[end]


def known_end(path: str) -> str | None:
    """Return the end of a path that identifies the endpoint, such as "/chat/completions"."""
    return next((end for end in _SHAPES if path.endswith(end)), None)


def is_fim(endpoint: str) -> bool:
    """Whether it takes a prompt and a suffix instead of messages, and answers like a chat."""
    return path_of(endpoint).endswith(_FIM)


def path_of(endpoint: str) -> str:
    """Return the path of an endpoint, with one slash before and none after it."""
    return "/" + endpoint.partition("?")[0].strip("/")
