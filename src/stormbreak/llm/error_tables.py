"""The verdict for every status, code and message of an LLM API: data only, `response_verdict` applies it.

`docs/verdicts.md` has the rules; `docs/background/answers.md` is made from these tables. A status that is in no table
gets a harmless default: an unknown 4xx is final, since a retry would fail again; an unknown 5xx is a server error.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from stormbreak.llm.finish_reasons import FINISH_REASONS
from stormbreak.types import Verdict

_V = Verdict


class Code(NamedTuple):
    """A code or type of error, in lower case, and the providers that document it."""

    name: str
    verdict: Verdict
    providers: tuple[str, ...]


def _codes(listed: Mapping[Verdict, Mapping[str, str]]) -> tuple[Code, ...]:
    return tuple(
        Code(name, verdict, tuple(providers.split()))
        for verdict, by_provider in listed.items()
        for providers, names in by_provider.items()
        for name in names.split()
    )


def _by_name(codes: tuple[Code, ...]) -> Mapping[str, Verdict]:
    return {code.name: code.verdict for code in codes}


STATUSES: Mapping[int, Verdict] = {
    401: _V.AUTH,
    402: _V.BILLING,
    403: _V.AUTH,
    404: _V.NOT_FOUND,
    405: _V.NOT_FOUND,  # the path exists, but it is not this API
    407: _V.AUTH,
    408: _V.TIMEOUT,
    409: _V.THROTTLED,  # a lock is held: worth a retry; the target is healthy
    410: _V.NOT_FOUND,
    424: _V.INVALID,
    425: _V.SERVER_ERROR,  # too early: the moment is wrong, not the request
    429: _V.THROTTLED,
    498: _V.OVERLOADED,  # Groq's flex tier: capacity exceeded
    499: _V.INVALID,  # the server saw a client hang up: it concerns another call
    501: _V.INVALID,
    503: _V.OVERLOADED,
    529: _V.OVERLOADED,
}

UNTOUCHED = frozenset({501, 505, 521, 522, 523, 525, 526, 529})
"""Statuses from 500 on that fail before any work: a refusal, or an edge that did not reach the model's server."""

CODES: tuple[Code, ...] = _codes(
    {
        _V.BILLING: {
            "openai": """
                insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded
                project_spend_limit_exceeded organization_usage_limit_exceeded
                billing_hard_limit_reached billing_not_active
            """,
            "anthropic": "billing_error enforced_spend_limit_reached contract_spend_limit_reached",
            "deepseek": "insufficient_balance",
            "holysheep": "insufficient_user_quota",
            "openrouter": "insufficient_credits",
            "gemini": "failed_precondition",
        },
        _V.TOO_LONG: {
            "openai azure deepseek groq together fireworks cerebras": "context_length_exceeded",
            "openrouter": "context_window_exceeded",
            "local": "exceed_context_size_error",
            "anthropic": "prompt_too_long",
        },
        _V.FILTERED: {
            "openai azure": "content_filter content_policy_violation",
            "openai": """
                moderation_blocked invalid_prompt bio_policy misalignment_policy_violation
                image_content_policy_violation
            """,
            "azure": "responsibleaipolicyviolation",
        },
        _V.AUTH: {
            "openai": "invalid_api_key incorrect_api_key account_deactivated",
            "gemini": "api_key_invalid",
            "cerebras": "wrong_api_key",
        },
        _V.NOT_FOUND: {
            "openai groq cerebras": "model_not_found",
            "deepseek": "model_not_exist",
            "groq": "model_decommissioned",
        },
        _V.THROTTLED: {
            "openai groq": "rate_limit_exceeded",
            "anthropic": "rate_limit_error ramp_limit_exceeded",
            "openai": "slow_down",
            "holysheep": "too_many_requests",
            "cerebras": """
                too_many_requests_error request_quota_exceeded token_quota_exceeded queue_exceeded
            """,
            "gemini": "resource_exhausted",
            "bedrock": "throttlingexception modelnotreadyexception",
        },
        _V.OVERLOADED: {
            "openai": "server_is_overloaded service_unavailable_error engine_overloaded",
            "anthropic": "overloaded_error",
            "local": "overloaded",
            "together fireworks": "service_unavailable engine_overloaded_error",
            "groq": "capacity_exceeded",
            "gemini": "unavailable",
            "bedrock": "serviceunavailableexception",
        },
        _V.UNREPEATABLE: {"anthropic": "change_outcome_unknown"},
    }
)
NAMED = _by_name(CODES)  # codes that are more specific than a status, in lower case
BROAD_CODES: tuple[Code, ...] = _codes(
    {
        _V.INVALID: {
            "openai anthropic deepseek groq mistral xai together fireworks": "invalid_request_error",
            "openai": """
                invalid_image invalid_image_format invalid_base64_image invalid_image_url
                invalid_image_mode image_too_large image_too_small image_parse_error
                image_file_too_large unsupported_image_media_type empty_image_file
                image_file_not_found failed_to_download_image data_residency_mismatch
            """,
            "anthropic": "request_too_large",
            "gemini": "invalid_argument",
            "fireworks": "invalid_request",
            "local": "badrequesterror validation",
            "bedrock": "validationexception",
        },
        _V.AUTH: {
            "anthropic": "authentication_error permission_error",
            "gemini": "permission_denied unauthenticated",
            "bedrock": "accessdeniedexception",
        },
        _V.NOT_FOUND: {
            "anthropic": "not_found_error",
            "gemini": "not_found",
            "local": "notfounderror",
            "bedrock": "resourcenotfoundexception",
        },
        _V.TIMEOUT: {
            "anthropic": "timeout_error",
            "openai": "vector_store_timeout",
            "holysheep": "timeout",
            "gemini": "deadline_exceeded",
            "bedrock": "modeltimeoutexception",
        },
    }
)
BROAD = _by_name(BROAD_CODES)
"""Types that are less specific than any status; they decide only if an error has no status."""

MINIMAX_CODES: Mapping[int, Verdict] = {
    1001: _V.TIMEOUT,
    1002: _V.THROTTLED,
    1004: _V.AUTH,
    1008: _V.BILLING,
    1026: _V.FILTERED,  # the prompt
    1027: _V.FILTERED,  # the answer
    1039: _V.THROTTLED,  # tokens per minute
    1041: _V.THROTTLED,  # connections
    1042: _V.INVALID,  # too many invisible characters
    2013: _V.INVALID,
    2045: _V.THROTTLED,  # requests grow too quickly
    2049: _V.AUTH,
    2056: _V.THROTTLED,  # the quota of a plan, for some hours
}
"""MiniMax's codes in `base_resp` of an HTTP 200: https://platform.minimax.io/docs/api-reference/errorcode."""

PAIRS: Mapping[tuple[int, str], Verdict] = {(424, "modelstreamerrorexception"): _V.SERVER_ERROR}
"""Pairs of status and code with a special meaning."""

_NUMBER = re.compile("[45][0-9][0-9]")


def is_known(code: str | None) -> bool:
    """Whether a code is in these tables, or is the number of a status: then it is not a secret."""
    names = (NAMED, BROAD, FINISH_REASONS, {name for _, name in PAIRS})
    return code is not None and (
        any(code.lower() in known for known in names) or _NUMBER.fullmatch(code) is not None
    )


class Phrase(NamedTuple):
    """Words in a message, in lower case, that refine a verdict in `on`."""

    pattern: re.Pattern[str]
    verdict: Verdict
    on: frozenset[Verdict]
    providers: tuple[str, ...]


_OF_REQUEST = frozenset({_V.INVALID, _V.SERVER_ERROR})
_OF_ACCOUNT = frozenset({_V.INVALID, _V.AUTH, _V.THROTTLED, _V.SERVER_ERROR})


_PHRASES: Mapping[tuple[Verdict, frozenset[Verdict]], Mapping[str, str]] = {
    (_V.TOO_LONG, _OF_REQUEST): {
        "maximum context length": "openai deepseek groq mistral local",
        "prompt is too long": "anthropic fireworks",
        "context (?:window|length|size)[^.]{0,40} exceeded": "openrouter together local",
        "exceeds? [^.]{0,40}context (?:window|length|size)": "mistral together local",
        "please reduce the length of the (?:messages|prompt)": "openai groq cerebras",
        "exceeds? context limit": "anthropic",
        "input token count[^.]{0,40} exceeds the maximum": "gemini",
        "input is too long": "bedrock",
    },
    (_V.BILLING, _OF_REQUEST): {"credit balance is too low": "anthropic"},
    (_V.BILLING, _OF_ACCOUNT): {
        "used all available credits or reached its monthly spending limit": "xai",
        "doesn't have any credits": "xai",
        "account [^.]{0,80}is suspended": "fireworks",
    },
    (_V.FILTERED, _OF_REQUEST): {
        "content exists risk": "deepseek",
        "output blocked by content filter": "anthropic",
    },
    (_V.FILTERED, _OF_REQUEST | {_V.AUTH}): {"content violates usage guidelines": "xai"},
    (_V.NOT_FOUND, _OF_REQUEST): {
        "model not exist": "deepseek",
        "is not a valid model id": "openrouter",
    },
}
PHRASES = tuple(
    Phrase(re.compile(pattern), verdict, on, tuple(providers.split()))
    for (verdict, on), by_pattern in _PHRASES.items()
    for pattern, providers in by_pattern.items()
)
"""Errors that only their message describes; used if no code or type decides."""

OVERSIZED = re.compile(
    r"request too large.{0,400}?limit:? (\d{1,18}), requested:? (\d{1,18})", re.DOTALL
)
"""A request larger than a per-minute limit: no wait makes it fit."""

DAILY = re.compile("per_?day")
"""In the id of a quota: it is refilled tomorrow, even if the error names a shorter wait."""

NONE_GRANTED = re.compile(r"\blimit: 0(?!\d|[.,]\d)")
"""In the message of a throttle: this account has no quota at all."""

RETRYABLE_BUDGET = "openrouter_in_flight_budget"
"""The one limit source for which OpenRouter's 402 means: retry soon."""
