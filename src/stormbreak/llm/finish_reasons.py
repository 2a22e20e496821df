"""Why an answer ended: every finish reason that a provider documents, as data, and what it means for the answer.

An answer that is complete, reached its limit or ended at a tool call is a success. A *filtered* one is a success if it
has content, since its caller may want that; an empty one is `filtered`: final, since the same request would be filtered
again. The same holds for output that the model *malformed*. One that the server *aborted* is never a success.

An unknown reason counts as complete: a new word for an old thing is likelier than a failure without an error, and to
reject a good answer is to pay for it twice. Without a message the answer is broken anyway.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from stormbreak.types import Verdict


class FinishMeaning(Enum):
    """What a finish reason means for the answer."""

    COMPLETE = "complete"
    TRUNCATED = "cut at a limit"
    TOOL_CALL = "tool call"
    FILTERED = "filtered"
    MALFORMED = "malformed by the model"
    ABORTED = "aborted by the server"
    ERROR = "error"


_NEVER_SUCCESS = frozenset({FinishMeaning.ABORTED, FinishMeaning.ERROR})


class Reason(NamedTuple):
    """A finish reason, in lower case.

    `verdict` is that of an empty answer; of an aborted one, in any case.
    """

    name: str
    meaning: FinishMeaning
    verdict: Verdict
    providers: tuple[str, ...]


def _rows(
    meaning: FinishMeaning, verdict: Verdict, by_name: Mapping[str, str]
) -> tuple[tuple[str, Reason], ...]:
    return tuple(
        (name, Reason(name, meaning, verdict, tuple(providers.split())))
        for name, providers in by_name.items()
    )


_COMPATIBLE = (
    "openai azure holysheep deepseek groq openrouter gemini mistral xai together fireworks"
    " cerebras local"
)

FINISH_REASONS: Mapping[str, Reason] = MappingProxyType(
    dict(
        (
            *_rows(
                FinishMeaning.COMPLETE,
                Verdict.OK,
                {
                    "stop": _COMPATIBLE,
                    "completed": "openai xai",  # the status of a response
                    "end_turn": "anthropic xai",
                    "stop_sequence": "anthropic local cohere",
                    "eos": "together",
                    "eos_token": "local",
                    "reason_stop": "xai",
                    "finish_reason_unspecified": "gemini",
                    "complete": "cohere",
                },
            ),
            *_rows(
                FinishMeaning.TRUNCATED,
                Verdict.OK,
                {
                    "length": _COMPATIBLE,
                    "incomplete": "openai xai",  # the status of a response that names no reason
                    "max_output_tokens": "openai xai",
                    "max_messages": "openai",
                    "steered": "openai",
                    "max_tokens": "anthropic gemini cohere",
                    "model_context_window_exceeded": "anthropic bedrock",
                    "pause_turn": "anthropic",
                    "compaction": "anthropic",
                    "model_length": "mistral",
                    "continuation": "gemini",
                    "too_many_tool_calls": "gemini",
                    "reason_max_len": "xai",
                    "reason_max_context": "xai",
                    "reason_time_limit": "xai",
                    "repetition": "local",
                    "error_limit": "cohere",
                },
            ),
            *_rows(
                FinishMeaning.TOOL_CALL,
                Verdict.OK,
                {
                    "tool_calls": _COMPATIBLE,
                    "function_call": "openai azure groq together fireworks",
                    "tool_use": "anthropic",
                    "tool_call": "cohere",
                    "reason_tool_calls": "xai",
                },
            ),
            *_rows(
                FinishMeaning.FILTERED,
                Verdict.FILTERED,
                {
                    "content_filter": (
                        "openai azure holysheep deepseek groq openrouter gemini cerebras local"
                    ),
                    "refusal": "anthropic",
                    "safety": "gemini",
                    "recitation": "gemini",
                    "blocklist": "gemini",
                    "prohibited_content": "gemini",
                    "spii": "gemini",
                    "language": "gemini",
                    "other": "gemini",
                    "image_safety": "gemini",
                    "image_prohibited_content": "gemini",
                    "image_recitation": "gemini",
                    "image_other": "gemini",
                    "no_image": "gemini",
                    "escalation": "gemini",
                    "jailbreak": "gemini",
                    "model_armor": "gemini",
                    "content_filtered": "bedrock",
                    "guardrail_intervened": "bedrock",
                    "error_toxic": "cohere",
                    "sensitive": "zhipu",
                },
            ),
            *_rows(FinishMeaning.FILTERED, Verdict.AUTH, {"pup_limited_disabled": "gemini"}),
            *_rows(
                FinishMeaning.MALFORMED,
                Verdict.BROKEN,
                {
                    "malformed_function_call": "gemini",
                    "unexpected_tool_call": "gemini",
                    "malformed_response": "gemini",
                    "malformed_model_output": "bedrock",
                    "malformed_tool_use": "bedrock",
                },
            ),
            *_rows(
                FinishMeaning.MALFORMED, Verdict.INVALID, {"missing_thought_signature": "gemini"}
            ),
            *_rows(
                FinishMeaning.ABORTED,
                Verdict.OVERLOADED,
                {"insufficient_system_resource": "deepseek"},
            ),
            *_rows(
                FinishMeaning.ABORTED,
                Verdict.SERVER_ERROR,
                {
                    "abort": "local",  # vLLM, SGLang
                    "cancelled": "local",
                    "network_error": "zhipu",
                    "reason_invalid": "xai",
                    "user_cancel": "cohere",
                },
            ),
            *_rows(FinishMeaning.ABORTED, Verdict.TIMEOUT, {"timeout": "cohere"}),
            *_rows(
                FinishMeaning.ERROR,
                Verdict.SERVER_ERROR,
                {"error": "openrouter mistral together fireworks local cohere"},
            ),
        )
    )
)
"""Every known finish reason, stop reason and reason of an incomplete response, by its name."""


def reason_of(word: str) -> Reason | None:
    """Find a finish reason by the word of a provider, in any case; None if it is not listed.

    Gemini puts its own word after that of chat completions: ``content_filter: PROHIBITED_CONTENT``. Its own word counts,
    or else the other one.
    """
    found = FINISH_REASONS.get(word)
    if found is not None:
        return found
    kind, _, own = word.lower().partition(":")
    return FINISH_REASONS.get(own.strip()) or FINISH_REASONS.get(kind.strip())


def refused(words: Iterable[str | None], *, has_output: bool) -> Reason | None:
    """Return the finish reason that makes an answer no success; None if it is one.

    Args:
        words: the finish reason of every choice.
        has_output: whether any choice has text, reasoning, a refusal or a tool call.
    """
    empty: Reason | None = None
    for word in words:
        reason = reason_of(word) if word else None
        if reason is None or reason.verdict is Verdict.OK:
            has_output = True  # that is an answer, whatever its content
        elif reason.meaning in _NEVER_SUCCESS:
            return reason
        else:
            empty = empty or reason
    return None if has_output else empty
