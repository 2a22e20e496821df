"""What errors and the ends of streams look like, by example, and who documents what is in all these tables: data only.

Nothing here is read at run time. Tests give each example to the readers; `docs/background/answers.md` is made of what they make
of it, and of `error_tables` and `finish_reasons`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class ErrorShape(NamedTuple):
    """A form in which errors come, with an example of it.

    `needs_status`: only where the HTTP status, or the name of the event, says that it is an error.
    """

    example: str
    needs_status: bool
    providers: tuple[str, ...]


def _shapes(by_example: Mapping[str, str], *, needs_status: bool) -> tuple[ErrorShape, ...]:
    return tuple(
        ErrorShape(example, needs_status, tuple(providers.split()))
        for example, providers in by_example.items()
    )


ERROR_SHAPES: tuple[ErrorShape, ...] = (
    *_shapes(
        {
            '{"error": {"message": "...", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}': (
                "openai azure holysheep deepseek groq openrouter gemini xai together fireworks local"
            ),
            '{"error": {"message": "...", "code": "server_error"}, "status_code": 503}': "cerebras",
            '{"error": {"code": 502, "message": "...", "metadata": {"raw": "..."}}}': "openrouter",
            '{"code": "unauthenticated", "error": "..."}': "xai",
            '{"error": "..."}': "local together",
            '{"error": "...", "error_type": "overloaded"}': "local",
            '{"type": "error", "error": {"type": "overloaded_error", "message": "..."}}': "anthropic",
            '{"object": "error", "message": "...", "type": "invalid_request_error", "code": 429}': (
                "mistral local"
            ),
            '{"choices": [{"error": {"code": 502, "message": "..."}, "finish_reason": "error"}]}': (
                "openrouter"
            ),
            '{"choices": [{"finish_reason": "stop"}], "x_groq": {"error": "..."}}': "groq",
            '[{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "..."}}]': "gemini",
            '{"choices": null, "base_resp": {"status_code": 1002, "status_msg": "rate limit"}}': (
                "minimax"
            ),
        },
        needs_status=False,
    ),
    *_shapes(
        {
            '{"message": "...", "type": "too_many_requests_error", "code": "queue_exceeded"}': (
                "cerebras mistral"
            ),
            '{"detail": "..."}': "mistral local",
            '{"message": "...", "__type": "ThrottlingException"}': "bedrock",
        },
        needs_status=True,
    ),
)
"""What bodies of errors, and events of streams that are one, look like."""


class StreamEnding(NamedTuple):
    """A way in which a stream ends, as an example: the data of its events, the last of which is the end.

    `lead` is what stands before the data of that one in its event.
    """

    format: str  # of the path
    example: tuple[str, ...]
    providers: tuple[str, ...]
    lead: str = "data: "

    def blocks(self) -> tuple[str, ...]:
        """The events as they come."""
        *before, last = self.example
        return (*(f"data: {data}\n\n" for data in before), f"{self.lead}{last}\n\n")


_CHUNK = '{"choices": [{"index": 0, "delta": {"content": "Hi"}}]}'
_FINISH = '{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}'
_STOPPING = '{"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}'
_TEXT = '{"choices": [{"index": 0, "text": "Hi"}]}'
_TEXT_FINISH = '{"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}'
_ERROR = '{"error": {"message": "...", "code": 503}}'
_RESPONSE = '{"type": "response.output_text.delta", "delta": "Hi"}'
_START = '{"type": "message_start", "message": {"content": []}}'
_STOP = '{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}'
_CHATS = (
    *("openai", "azure", "holysheep", "deepseek", "groq", "openrouter", "gemini"),
    *("mistral", "xai", "together", "fireworks", "cerebras", "local"),
)
_TEXTS = ("openai", "deepseek", "together", "fireworks", "local")
_RESPONSES = ("openai", "azure", "groq", "openrouter", "xai", "local")
_MESSAGES = ("anthropic", "openrouter", "local")

STREAM_ENDINGS: tuple[StreamEnding, ...] = (
    StreamEnding("chat/completions", (_CHUNK, _FINISH, "[DONE]"), _CHATS),
    StreamEnding("chat/completions", (_CHUNK, _FINISH), ("gemini", "local")),
    StreamEnding("chat/completions", (_STOPPING, _STOPPING, "[DONE]"), ("gemini",)),
    StreamEnding("chat/completions", (_STOPPING, _STOPPING), ()),
    StreamEnding("chat/completions", (_CHUNK, "[DONE]"), ()),
    StreamEnding("chat/completions", (_CHUNK,), ()),
    StreamEnding("chat/completions", (_CHUNK, _ERROR), _CHATS),
    StreamEnding(
        "chat/completions",
        (_CHUNK, '{"message": "...", "code": 503}'),
        ("groq",),
        "event: error\ndata: ",
    ),
    StreamEnding(
        "chat/completions",
        (
            _CHUNK,
            (
                '{"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],'
                ' "error": {"code": 502, "message": "..."}}'
            ),
        ),
        ("openrouter",),
    ),
    StreamEnding(
        "chat/completions",
        (_CHUNK, '{"code": 400, "message": "the request exceeds the available context size"}'),
        ("local",),
        "error: ",  # a field of its own, of llama.cpp until September 2025
    ),
    StreamEnding("completions", (_TEXT, _TEXT_FINISH, "[DONE]"), _TEXTS),
    StreamEnding("completions", (_TEXT, _TEXT_FINISH), ("local",)),
    StreamEnding("completions", (_TEXT,), ()),
    StreamEnding(
        "responses",
        (
            _RESPONSE,
            '{"type": "response.completed", "response": {"status": "completed", "output": []}}',
        ),
        _RESPONSES,
    ),
    StreamEnding(
        "responses",
        (
            _RESPONSE,
            '{"type": "response.incomplete", "response": {"status": "incomplete", "output": []}}',
        ),
        _RESPONSES,
    ),
    StreamEnding(
        "responses",
        (
            _RESPONSE,
            '{"type": "response.failed", "response": {"error": {"code": "server_error"}}}',
        ),
        _RESPONSES,
    ),
    StreamEnding(
        "responses", (_RESPONSE, '{"type": "error", "code": "rate_limit_exceeded"}'), _RESPONSES
    ),
    StreamEnding("responses", (_RESPONSE, "[DONE]"), ()),
    StreamEnding("responses", (_RESPONSE,), ()),
    StreamEnding("messages", (_START, _STOP, '{"type": "message_stop"}'), _MESSAGES),
    StreamEnding("messages", (_START, _STOP), ()),
    StreamEnding("messages", (_START, '{"type": "message_stop"}'), ()),
    StreamEnding(
        "messages",
        (_START, '{"type": "error", "error": {"type": "overloaded_error", "message": "..."}}'),
        _MESSAGES,
        "event: error\ndata: ",
    ),
)
"""How streams end, in each format; those that nobody documents are the ways in which they break off."""

SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "openai": "https://developers.openai.com/api/docs/guides/error-codes; openai 3.57 for Python",
        "anthropic": "https://platform.claude.com/docs/en/api/errors; anthropic 2.13 for Python",
        "holysheep": "the API of OpenAI, as a relay answers it",
        "deepseek": "https://api-docs.deepseek.com/quick_start/error_codes; its reference of chat completions",
        "groq": "https://console.groq.com/docs/errors; groq 1.7 for Python",
        "openrouter": "https://openrouter.ai/docs/api-reference/errors",
        "gemini": "https://ai.google.dev/gemini-api/docs/openai; google-genai 3.6 for Python (`FinishReason`); BerriAI/litellm#2195",
        "mistral": "https://docs.mistral.ai (error glossary); mistralai 3.7 for Python",
        "xai": "https://docs.x.ai; xai-sdk 1.21 for Python; continuedev/continue#10373",
        "together": "together 3.1 for Python",
        "fireworks": "https://docs.fireworks.ai/guides/inference-error-codes; fireworks-ai 1.2 for Python",
        "cerebras": "cerebras-cloud-sdk 1.91 for Python",
        "local": (
            "the sources and issues of vLLM, SGLang, llama.cpp (ggml-org/llama.cpp#16109), Ollama and TGI;"
            " `stormbreak provider serve`"
        ),
        "azure": "https://learn.microsoft.com/azure/ai-services/openai/concepts/content-filter",
        "bedrock": "https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html",
        "minimax": "https://platform.minimax.io/docs/api-reference/errorcode",
        "cohere": "cohere 7.3 for Python",
        "zhipu": "litellm 1.110 for Python (`_FINISH_REASON_MAP`)",
    }
)
"""Who says what is in these tables."""

STATUSES_OF: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "openai": (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 503),
        "anthropic": (400, 401, 402, 403, 404, 413, 429, 500, 503, 504, 529),
        "holysheep": (400, 401, 403, 429, 500, 503),
        "deepseek": (400, 401, 402, 422, 429, 500, 503),
        "groq": (400, 401, 403, 404, 413, 422, 424, 429, 498, 499, 500, 502, 503),
        "openrouter": (400, 401, 402, 403, 408, 429, 502, 503),
        "gemini": (400, 403, 404, 429, 500, 503, 504),
        "mistral": (400, 401, 402, 403, 404, 422, 429, 500, 502, 503, 504),
        "xai": (400, 401, 403, 404, 405, 415, 422, 429),
        "together": (400, 401, 402, 403, 404, 429, 500, 503, 504, 524, 529),
        "fireworks": (400, 401, 402, 403, 404, 405, 408, 412, 413, 429, 500, 502, 503, 504),
        "cerebras": (400, 401, 402, 403, 404, 408, 422, 429, 500, 503),
        "local": (400, 401, 404, 408, 409, 425, 429, 498, 500, 501, 503, 504, 529),
    }
)
"""The HTTP statuses of errors that the provider of each preset documents."""
