"""Finish reasons: every one that a provider documents, as data, and its meaning for the answer.

An answer that is complete, reached its limit or ended at a tool call is a success. A *filtered* or *malformed* answer
is a success if it has content, since the caller may want it; if empty, it is a final failure, since the same request
would end the same way. An answer that the server *aborted* is never a success.

An unknown reason counts as complete: rejecting a good answer means paying for it twice. Without a message the answer
is broken anyway.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
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
    """A finish reason, in lower case. `verdict` applies to an empty answer, and to any aborted answer."""

    name: str
    meaning: FinishMeaning
    verdict: Verdict
    providers: tuple[str, ...]


_M, _V = FinishMeaning, Verdict
_COMPATIBLE = (
    "openai azure holysheep deepseek groq openrouter gemini mistral xai together fireworks"
    " cerebras local"
)

_MEANINGS: Mapping[tuple[FinishMeaning, Verdict], Mapping[str, str]] = {
    (_M.COMPLETE, _V.OK): {
        _COMPATIBLE: "stop",
        "openai xai": "completed",
        "anthropic xai": "end_turn",
        "anthropic local cohere": "stop_sequence",
        "together": "eos",
        "local": "eos_token",
        "xai": "reason_stop",
        "gemini": "finish_reason_unspecified",
        "cohere": "complete",
    },
    (_M.TRUNCATED, _V.OK): {
        _COMPATIBLE: "length",
        "openai xai": "incomplete max_output_tokens",
        "openai": "max_messages steered",
        "anthropic gemini cohere": "max_tokens",
        "anthropic bedrock": "model_context_window_exceeded",
        "anthropic": "pause_turn compaction",
        "mistral": "model_length",
        "gemini": "continuation too_many_tool_calls",
        "xai": "reason_max_len reason_max_context reason_time_limit",
        "local": "repetition",
        "cohere": "error_limit",
    },
    (_M.TOOL_CALL, _V.OK): {
        _COMPATIBLE: "tool_calls",
        "openai azure groq together fireworks": "function_call",
        "anthropic": "tool_use",
        "cohere": "tool_call",
        "xai": "reason_tool_calls",
    },
    (_M.FILTERED, _V.FILTERED): {
        "openai azure holysheep deepseek groq openrouter gemini cerebras local": "content_filter",
        "anthropic": "refusal",
        "gemini": """
            safety recitation blocklist prohibited_content spii language other image_safety
            image_prohibited_content image_recitation image_other no_image escalation jailbreak
            model_armor
        """,
        "bedrock": "content_filtered guardrail_intervened",
        "cohere": "error_toxic",
        "zhipu": "sensitive",
    },
    (_M.FILTERED, _V.AUTH): {"gemini": "pup_limited_disabled"},
    (_M.MALFORMED, _V.BROKEN): {
        "gemini": "malformed_function_call unexpected_tool_call malformed_response",
        "bedrock": "malformed_model_output malformed_tool_use",
    },
    (_M.MALFORMED, _V.INVALID): {"gemini": "missing_thought_signature"},
    (_M.ABORTED, _V.OVERLOADED): {"deepseek": "insufficient_system_resource"},
    (_M.ABORTED, _V.SERVER_ERROR): {
        "local": "abort cancelled",
        "zhipu": "network_error",
        "xai": "reason_invalid",
        "cohere": "user_cancel",
    },
    (_M.ABORTED, _V.TIMEOUT): {"cohere": "timeout"},
    (_M.ERROR, _V.SERVER_ERROR): {"openrouter mistral together fireworks local cohere": "error"},
}

FINISH_REASONS: Mapping[str, Reason] = {
    name: Reason(name, meaning, verdict, tuple(providers.split()))
    for (meaning, verdict), by_provider in _MEANINGS.items()
    for providers, names in by_provider.items()
    for name in names.split()
}
"""Every known finish reason, stop reason and reason of an incomplete response, by its name.

`completed` and `incomplete` are the status of a response; `abort` comes from vLLM and SGLang.
"""


def reason_of(word: str) -> Reason | None:
    """Find a finish reason by a provider's word, ignoring case; None if it is not listed.

    Gemini appends its own word to that of chat completions, and it has precedence: ``content_filter:
    PROHIBITED_CONTENT``.
    """
    found = FINISH_REASONS.get(word)
    if found is not None:
        return found
    kind, _, own = word.lower().partition(":")
    return FINISH_REASONS.get(own.strip()) or FINISH_REASONS.get(kind.strip())


def refused(words: Iterable[str | None], *, has_output: bool) -> Reason | None:
    """Return the finish reason of any choice that makes the answer a failure; None if the answer is a success.

    `has_output`: whether any choice has text, reasoning, a refusal or a tool call.
    """
    empty: Reason | None = None
    for word in words:
        reason = reason_of(word) if word else None
        if reason is None or reason.verdict is Verdict.OK:
            has_output = True  # an answer, even without content
        elif reason.meaning in _NEVER_SUCCESS:
            return reason
        else:
            empty = empty or reason
    return None if has_output else empty
